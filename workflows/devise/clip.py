"""What a CLIP model says of the same pictures: it has read captions of the whole web.

No rival on equal terms, whose training set may hold every class and every picture; but the first
that everybody asks about (Radford et al.: Learning transferable visual models from natural language
supervision, ICML 2021).
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.backbone.files import check_folder, check_opened
from pipeline.errors import TesseraeError
from pipeline.loader import Loader
from pipeline.wordvectors.vectors import split_names

PROMPT = "a photo of a {}."
"""That the paper finds to be a good default (section 3.1.4)."""
BATCH = 32
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of its training pictures, as a share of 255."""


class Clip:
    """Pictures and names, by one model."""

    def __init__(self, where: str | os.PathLike[str], device: torch.device | None = None) -> None:
        """Open a folder, or a name of the model hub, in safetensors.

        Raises:
            TesseraeError: It is no CLIP model, or has no tokenizer.
        """
        from transformers import AutoTokenizer, CLIPModel
        from transformers import logging as said

        said.set_verbosity(logging.CRITICAL)
        said.disable_progress_bar()  # type: ignore[no-untyped-call]
        local: dict[str, Any] = {
            "local_files_only": Path(where).is_dir(),
            "trust_remote_code": False,
        }
        if local["local_files_only"]:
            check_folder(Path(where))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                opened: Any = CLIPModel.from_pretrained(
                    str(where),
                    use_safetensors=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # they are refused below, by name
                    **local,
                )
                model, loaded = opened
                self._tokens: Any = AutoTokenizer.from_pretrained(str(where), **local)
        except Exception as e:  # a broken tokenizer.json is raised as nothing more special
            first = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise TesseraeError(f"{where} is no CLIP model with its tokenizer ({first}).") from e
        check_opened(str(where), model, loaded["mismatched_keys"])
        if loaded["missing_keys"]:  # they would be random ones
            raise TesseraeError(f"{where} has no weights for {min(loaded['missing_keys'])}.")
        self._device = device or torch.device("cpu")
        self._model: Any = model.to(self._device).eval()
        self._size = int(model.config.vision_config.image_size)
        self._longest = int(model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def names(self, classes: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """(C, d) float32 of length 1: the first name of each class, as a caption."""
        captions = [PROMPT.format((split_names(words) or [wnid])[0]) for wnid, words in classes]
        found = self._tokens(
            captions, padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(self._device)
        made = self._model.text_projection(self._model.text_model(**found).pooler_output)
        return _unit(made)

    @torch.no_grad()
    def images(self, images: Tensor) -> NDArray[np.float32]:
        """(n, d) float32 of length 1, of (n, 3, h, w) uint8 RGB."""
        pixels = functional.interpolate(
            images.to(self._device).float(), (self._size,) * 2, mode="bicubic", antialias=True
        ).clamp(0, 255)
        mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        seen = self._model.vision_model(pixel_values=(pixels / 255 - mean) / std)
        return _unit(self._model.visual_projection(seen.pooler_output))

    def scores(
        self, store: str, split: str, size: int, classes: Sequence[tuple[str, str]]
    ) -> NDArray[np.float32]:
        """(n, C) float32, of all readable rows of a split, in their order."""
        loader = Loader(
            store, split, size=size, batch_size=BATCH, order="sequential", drop_last=False,
            rank=0, world=1,
        )  # fmt: skip
        made = []
        for batch in loader:
            assert isinstance(batch.images, Tensor)  # of one size
            made.append(self.images(batch.images))
        return np.concatenate(made) @ self.names(classes).T


def _unit(made: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = functional.normalize(made.float(), dim=-1).cpu().numpy()
    return found
