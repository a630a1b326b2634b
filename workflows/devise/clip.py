"""The zero-shot scores of a CLIP model on the same images, for comparison.

The comparison is not on equal terms: CLIP was trained on captions from the whole web, which may
include every class and every image (Radford et al.: Learning transferable visual models from
natural language supervision, ICML 2021).
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

from pipeline.backbone.check_files import check_folder, check_opened
from pipeline.errors import TesseraeError
from pipeline.loader import Loader
from pipeline.wordvectors.vectors import split_names

PROMPT = "a photo of a {}."
"""The prompt that the paper recommends as a default (section 3.1.4)."""
BATCH_ROWS = 32
"""The number of images that are read and mapped at once."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""The mean and standard deviation of CLIP's training images per channel, as shares of 255."""


class Clip:
    """A CLIP model, which maps images and class names into one space."""

    def __init__(self, model: str | os.PathLike[str], device: torch.device | None = None) -> None:
        """Open a CLIP model and its tokenizer.

        In the whole process it switches off the progress bars of `transformers`, and its messages
        except critical ones.

        Args:
            model: The path of a folder, or a name on the model hub. Weights are in safetensors.
            device: The device that computes vectors (default: the CPU).

        Raises:
            TesseraeError: It is no CLIP model, or has no tokenizer.
        """
        from transformers import AutoTokenizer, CLIPModel
        from transformers import logging as transformers_logging

        transformers_logging.set_verbosity(logging.CRITICAL)
        transformers_logging.disable_progress_bar()
        local: dict[str, Any] = {
            "local_files_only": Path(model).is_dir(),
            "trust_remote_code": False,
        }
        if local["local_files_only"]:
            check_folder(Path(model))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                opened: Any = CLIPModel.from_pretrained(
                    str(model),
                    use_safetensors=True,
                    output_loading_info=True,
                    # Mismatched weights are refused below, with their names.
                    ignore_mismatched_sizes=True,
                    **local,
                )
                network, loaded = opened
                self._tokens: Any = AutoTokenizer.from_pretrained(str(model), **local)
        except Exception as e:  # a broken tokenizer.json raises a plain Exception
            first = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise TesseraeError(f"{model} is not a CLIP model with a tokenizer ({first}).") from e
        check_opened(str(model), network, loaded["mismatched_keys"])
        if loaded["missing_keys"]:  # transformers would initialise these at random
            raise TesseraeError(f"{model} has no weights for {min(loaded['missing_keys'])}.")
        self._device = device or torch.device("cpu")
        self._model: Any = network.to(self._device).eval()
        self._size = int(network.config.vision_config.image_size)
        self._longest = int(network.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def embed_class_names(self, classes: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return the unit vectors of captions with each class's first name, "a photo of a NAME.".

        Args:
            classes: The (wnid, names) of the C classes, with names separated by commas; a class
                without names is called by its wnid. C is at least 1.

        Returns:
            (C, d) float32.
        """
        captions = [PROMPT.format((split_names(words) or [wnid])[0]) for wnid, words in classes]
        tokens = self._tokens(
            captions, padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(self._device)
        vectors = self._model.text_projection(self._model.text_model(**tokens).pooler_output)
        return _unit_rows(vectors)

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> NDArray[np.float32]:
        """Return the unit vectors of images.

        Args:
            images: (n, 3, h, w) uint8 RGB of any size, on any device, which are stretched to the
                square that the model takes; n is at least 1.

        Returns:
            (n, d) float32, as an array in main memory.
        """
        pixels = functional.interpolate(
            images.to(self._device).float(), (self._size,) * 2, mode="bicubic", antialias=True
        ).clamp(0, 255)
        mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        outputs = self._model.vision_model(pixel_values=(pixels / 255 - mean) / std)
        return _unit_rows(self._model.visual_projection(outputs.pooler_output))

    def scores(
        self,
        store: str,
        split: str,
        size: int,
        classes: Sequence[tuple[str, str]],
        encoded: str | None = None,
    ) -> NDArray[np.float32]:
        """Return the cosines of all readable rows of a split and the class names.

        Args:
            store: The path or URL of the store.
            split: The name of a finished split with at least one readable row.
            size: The side of the stored images to read, in pixels; the model resizes them. Of
                encoded rows the centre square is read, resized to the side that the model takes.
            classes: The (wnid, names) of the C classes, with names separated by commas; a class
                without names is called by its wnid.
            encoded: The encoded rows to read in place of squares, such as `jpeg256@90` (default:
                squares).

        Returns:
            (n, C) float32, for the n readable rows in ascending order.

        Raises:
            StoreError: The split is not finished or has no such images.
        """
        loader = Loader(
            store, split, size=size if encoded is None else self._size, encoded=encoded,
            batch_size=BATCH_ROWS, order="sequential", drop_last=False, rank=0, world=1,
        )  # fmt: skip
        vectors = []
        for batch in loader:
            assert isinstance(batch.images, Tensor)  # of one size
            vectors.append(self.embed_images(batch.images))
        return np.concatenate(vectors) @ self.embed_class_names(classes).T


def _unit_rows(vectors: Tensor) -> NDArray[np.float32]:
    normalised: NDArray[np.float32] = functional.normalize(vectors.float(), dim=-1).cpu().numpy()
    return normalised
