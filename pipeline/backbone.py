"""A trained network that says what is in a picture: its features, given by name or folder.

Any vision model of `transformers`, in safetensors; no code that comes with a model is run. A name
is looked up in the local cache and, where there is a network, fetched from the model hub.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import TesseraeError

BATCH = 32
"""Pictures that go through it at once."""


class Backbone:
    """Features of pictures, without gradients."""

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        size: int,
        mean: Tensor,
        std: Tensor,
        pooler: bool = True,
    ) -> None:
        """Take a model as it is.

        Args:
            model: `transformers`: (n, 3, size, size) -> `pooler_output`, or `last_hidden_state`.
            name: What it is called wherever a figure from it stands.
            size: Side of the pictures that it takes, in pixels.
            mean: (3,) float32, subtracted from each channel, as a share of 255.
            std: (3,) float32, what each is divided by then.
            pooler: Whether its `pooler_output`, where it has one, was trained; otherwise the mean
                of `last_hidden_state` is taken.
        """
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.size = size
        self._pooler = pooler
        self._mean = mean.view(1, 3, 1, 1)
        self._std = std.view(1, 3, 1, 1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What it makes of pictures.

        Args:
            images: (n, 3, h, w) uint8 RGB, of any size: squeezed or enlarged to what it takes.

        Returns:
            (n, d) float32, on the device of *images*.
        """
        return torch.cat([self._some(part) for part in torch.split(images, BATCH)])

    def _some(self, images: Tensor) -> Tensor:
        pixels = images.float()
        if pixels.shape[2:] != (self.size, self.size):
            pixels = functional.interpolate(
                pixels, (self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 255)
        mean, std = self._mean.to(pixels.device), self._std.to(pixels.device)
        found = self.model((pixels / 255 - mean) / std)
        pooled: Tensor | None = getattr(found, "pooler_output", None) if self._pooler else None
        if pooled is None:
            hidden: Tensor = found.last_hidden_state
            # (n, d, h, w) of convolutions, (n, places, d) of transformers
            pooled = hidden.mean((2, 3)) if hidden.dim() == 4 else hidden.mean(1)
        return pooled.flatten(1).float()


def open_backbone(where: str | os.PathLike[str], device: torch.device | None = None) -> Backbone:
    """Open a model.

    Args:
        where: A folder with `config.json` and `model.safetensors`, or a name of the model hub.
        device: Where it shall be (the processor).

    Raises:
        TesseraeError: It is not there, is no vision model, or `transformers` is not installed.
    """
    try:
        from transformers import AutoModel
        from transformers import logging as said
    except ImportError as e:
        raise TesseraeError(
            f"a backbone needs the package transformers ({e}): run `make setup EXTRAS=features`."
        ) from e
    folder = Path(where)
    said.set_verbosity(logging.CRITICAL)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # what it says, we say
    said.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, loaded = AutoModel.from_pretrained(
                str(where),
                output_loading_info=True,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=folder.is_dir(),
            )
    except (OSError, ValueError, ImportError) as e:
        first = (str(e).strip().splitlines() or [""])[0]
        raise TesseraeError(
            f"{where} is no backbone ({first}): expected a folder with config.json and"
            " model.safetensors, or a name of the model hub."
        ) from e
    missing = [name for name in loaded["missing_keys"] if not name.startswith("pooler.")]
    if missing:  # they would be random ones
        raise TesseraeError(f"{where} has no weights for {missing[0]}: it is of another model.")
    size, mean, std = _transform(str(where), model.config)
    name = f"{type(model).__name__} ({folder.name})"
    return Backbone(
        model.to(device or "cpu"),
        name=name,
        size=size,
        mean=mean,
        std=std,
        pooler=not loaded["missing_keys"],
    )


def _transform(where: str, config: Any) -> tuple[int, Tensor, Tensor]:
    from transformers.utils.hub import cached_file

    local = Path(where).is_dir()
    file = cached_file(
        where,
        "preprocessor_config.json",
        local_files_only=local,
        _raise_exceptions_for_missing_entries=False,
    )
    if file is None:
        raise TesseraeError(
            f"{where} has no preprocessor_config.json: nothing says how pictures are to be"
            " normalised for it."
        )
    found = json.loads(Path(file).read_text())
    crop = found.get("crop_size") or found.get("size") or {}
    side = crop if isinstance(crop, int) else crop.get("height") or crop.get("shortest_edge")
    size = int(side) if side else int(getattr(config, "image_size", 224))
    mean = torch.tensor(found.get("image_mean", [0.5] * 3), dtype=torch.float32)
    std = torch.tensor(found.get("image_std", [0.5] * 3), dtype=torch.float32)
    return size, mean, std
