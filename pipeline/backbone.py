"""A trained network that says what is in a picture: its features, given by name or folder.

Any vision model of `transformers`, in safetensors; no code that comes with a model is run. A name
is looked up in the local cache and, where there is a network, fetched from the model hub. `new` is
a small residual network that has learned nothing yet.

Features are what comes out at the end, or behind any block of it, the cut, pooled over the picture:

    end     as the model pools it itself, if it learned to; else the mean
    mean    over places                   grid    over each quarter of the picture, side by side
    max     over places                   token   the first, of a transformer
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import TesseraeError

BATCH = 32
"""Pictures that go through it at once."""

POOLINGS = ("end", "mean", "max", "grid", "token")

NEW = "new"
"""The name of a network that has learned nothing yet."""


class Backbone:
    """Features of pictures."""

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        size: int,
        mean: Tensor,
        std: Tensor,
        pooler: bool = True,
        cut: str | None = None,
        pooling: str = "end",
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
            cut: The block whose output is taken, by its name in the model; None = the end.
            pooling: How that is pooled.

        Raises:
            TesseraeError: It has no such block, or there is no such pooling.
        """
        if pooling not in POOLINGS:
            expected = ", ".join(POOLINGS)
            raise TesseraeError(f"pooling is {pooling!r}: expected one of {expected}.")
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.size = size
        self.mean = tuple(round(float(value), 6) for value in mean)
        self.std = tuple(round(float(value), 6) for value in std)
        self.cut = cut
        self.pooling = pooling
        self._pooler = pooler
        self._cut = None if cut is None else _block(model, name, cut)

    @cached_property
    def dim(self) -> int:
        """Numbers of a picture's features."""
        device = next(self.model.parameters()).device
        with torch.no_grad():
            return int(self.pooled(torch.zeros(1, 3, self.size, self.size, device=device)).shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of names, kinds, shapes and values of all weights that count."""
        seen = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            if name.startswith("pooler.") and not self._pooler:
                continue  # never trained: others each time it is opened
            seen.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            seen.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return seen.hexdigest()

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What it makes of pictures, without gradients.

        Args:
            images: (n, 3, h, w) uint8 RGB, of any size: squeezed or enlarged to what it takes.

        Returns:
            (n, d) float32, on the device of *images*.
        """
        return torch.cat(
            [self.pooled(self.normal(part)).float() for part in torch.split(images, BATCH)]
        )

    def normal(self, images: Tensor) -> Tensor:
        """Pictures as it takes them.

        Args:
            images: (n, 3, h, w) uint8 RGB.

        Returns:
            (n, 3, size, size) float32.
        """
        pixels = images.float()
        if pixels.shape[2:] != (self.size, self.size):
            pixels = functional.interpolate(
                pixels, (self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 255)
        mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (pixels / 255 - mean) / std

    def pooled(self, pixels: Tensor) -> Tensor:
        """Features of normalised pictures, with gradients if its weights have them.

        Args:
            pixels: (n, 3, size, size), as `normal` makes them.

        Returns:
            (n, d).
        """
        if self._cut is not None:
            return self._pool(_output_of(self.model, self._cut, pixels))
        found = self.model(pixels)
        own: Tensor | None = getattr(found, "pooler_output", None)
        if self.pooling == "end" and self._pooler and own is not None:
            return own.flatten(1)
        return self._pool(found.last_hidden_state)

    def _pool(self, hidden: Tensor) -> Tensor:
        # (n, d, h, w) of convolutions, (n, places, d) of transformers, (n, d)
        if hidden.dim() == 2:
            return hidden
        if self.pooling == "grid":
            if hidden.dim() != 4:
                raise TesseraeError(f"{self.name} has no map to pool by quarters: use mean.")
            return functional.adaptive_avg_pool2d(hidden, 2).flatten(1)
        if self.pooling == "token":
            if hidden.dim() != 3:
                raise TesseraeError(f"{self.name} has no tokens: use mean.")
            return hidden[:, 0]
        places = (2, 3) if hidden.dim() == 4 else (1,)
        return hidden.amax(places) if self.pooling == "max" else hidden.mean(places)


class _Reached(Exception):
    """The cut has its output: the rest of the model need not be computed."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def _output_of(model: nn.Module, block: nn.Module, pixels: Tensor) -> Tensor:
    def stop(module: nn.Module, inputs: Any, output: Any) -> NoReturn:
        if not isinstance(output, Tensor):  # of some, with attention weights
            output = getattr(output, "last_hidden_state", None) or output[0]
        raise _Reached(output)

    handle = block.register_forward_hook(stop)
    try:
        model(pixels)
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    raise TesseraeError("the block of the cut is not part of what the model computes.")


def _block(model: nn.Module, name: str, cut: str) -> nn.Module:
    blocks: dict[str, nn.Module] = dict(model.named_modules())
    if not cut or cut not in blocks:
        close = [known for known in blocks if known and known.count(".") <= cut.count(".")]
        shown = ", ".join(close[:30]) + (", ..." if len(close) > 30 else "")
        raise TesseraeError(f"{name} has no block {cut!r}: expected one of {shown}.")
    return blocks[cut]


def open_backbone(
    where: str | os.PathLike[str],
    device: torch.device | None = None,
    *,
    cut: str | None = None,
    pooling: str = "end",
) -> Backbone:
    """Open a model.

    Args:
        where: A folder with `config.json` and `model.safetensors`, or a name of the model hub.
        device: Where it shall be (the processor).
        cut: The block whose output is taken; None = the end.
        pooling: How that is pooled.

    Raises:
        TesseraeError: It is not there, is no vision model, has no such block, or `transformers` is
            not installed.
    """
    try:
        from transformers import AutoModel
        from transformers import logging as said
    except ImportError as e:
        raise TesseraeError(
            f"a backbone needs the package transformers ({e}): run `make setup EXTRAS=features`."
        ) from e
    if where == NEW:
        return new_backbone(device, cut=cut, pooling=pooling)
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
        cut=cut,
        pooling=pooling,
    )


def new_backbone(
    device: torch.device | None = None,
    *,
    size: int = 64,
    width: int = 32,
    cut: str | None = None,
    pooling: str = "end",
) -> Backbone:
    """A residual network of eight convolutions whose weights torch draws now.

    Args:
        device: Where it shall be (the processor).
        size: Side of the pictures that it takes, in pixels: 32 at least.
        width: Channels of its first layers; its features are 8 times as many.
        cut: As of `open_backbone`.
        pooling: As of `open_backbone`.
    """
    from transformers import ResNetConfig, ResNetModel

    widths = [width * factor for factor in (1, 2, 4, 8)]
    config = ResNetConfig(
        embedding_size=width, hidden_sizes=widths, depths=[1, 1, 1, 1], layer_type="basic"
    )
    half = torch.full((3,), 0.5)
    model: nn.Module = ResNetModel(config)
    model.to(device or "cpu")
    return Backbone(model, name=NEW, size=size, mean=half, std=half, cut=cut, pooling=pooling)


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
