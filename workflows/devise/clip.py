"""CLIP-like models, which map images and texts into one space.

Contrastive pretraining on pairs of images and captions is that of Radford et al.: Learning
transferable visual models from natural language supervision, ICML 2021. A comparison with such a
model is not on equal terms: it was trained on captions from the whole web, which may include every
class and every image.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.backbone.check_files import PREPROCESSOR_CONFIG, check_folder, check_opened
from pipeline.backbone.load import silence_transformers
from pipeline.backbone.network import hash_weights, settings_text
from pipeline.backbone.transform import Transform, read_transform
from pipeline.errors import TesseraeError
from pipeline.loader import Loader
from pipeline.wordvectors.vectors import split_names

PROMPT = "a photo of a {}."
"""The prompt that the paper recommends as a default (section 3.1.4)."""
BATCH_ROWS = 32
"""The number of images or texts that are read and mapped at once."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""The mean and standard deviation of CLIP's training images per channel, as shares of 255."""
FULL_LENGTH_KINDS = ("siglip", "siglip2")
"""The kinds of models that were trained on texts padded to the full length, without a mask."""


class Clip:
    """A CLIP-like model: one of `transformers` that computes vectors of images and of texts.

    Among these are CLIP, SigLIP, SigLIP 2 of a fixed image size, AltCLIP and Chinese-CLIP. It is
    thread-safe.
    """

    def __init__(self, model: str | os.PathLike[str], device: torch.device | None = None) -> None:
        """Open a model and its tokenizer.

        In the whole process it switches off the progress bars of `transformers`, and its messages
        except critical ones.

        Args:
            model: The path of a folder, or a name on the model hub. Weights are in safetensors.
            device: The device that computes vectors (default: the CPU).

        Raises:
            TesseraeError: It is no CLIP-like model of square images of one size, or has no
                tokenizer.
        """
        from transformers import AutoModel, AutoTokenizer

        silence_transformers()
        local: dict[str, Any] = {
            "local_files_only": Path(model).is_dir(),
            "trust_remote_code": False,
        }
        if local["local_files_only"]:
            check_folder(Path(model))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                opened: Any = AutoModel.from_pretrained(
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
        if not hasattr(network, "get_text_features") or not hasattr(network, "get_image_features"):
            raise TesseraeError(
                f"{model} is not a CLIP model: {type(network).__name__} has no vectors of both"
                " images and texts."
            )
        check_opened(str(model), network, loaded["mismatched_keys"])
        if loaded["missing_keys"]:  # transformers would initialise these at random
            raise TesseraeError(f"{model} has no weights for {min(loaded['missing_keys'])}.")
        self._name = str(model)
        self._device = device or torch.device("cpu")
        self._model: Any = network.float().to(self._device).eval()
        try:
            self._transform = _read_transform(str(model), network.config)
            longest = int(network.config.text_config.max_position_embeddings)
            self._max_tokens = min(longest, int(self._tokens.model_max_length))
        except (AttributeError, TypeError, ValueError) as e:
            raise TesseraeError(
                f"{model} is not a CLIP-like model of square images of one size ({e})."
            ) from e
        _check_tokenizer(str(model), self._tokens)
        full_length = network.config.model_type in FULL_LENGTH_KINDS
        self._padding = "max_length" if full_length else "longest"
        self._lock = threading.Lock()  # a fast tokenizer refuses calls of two threads at once

    @property
    def size(self) -> int:
        """The side in pixels of the square images that the model takes."""
        return self._transform.size

    @property
    def crop_share(self) -> float:
        """The side of the centre crop that its preprocessing cuts out of the short side."""
        return self._transform.crop_share

    @cached_property
    def dim(self) -> int:
        """The dimension of the vectors."""
        return int(self.embed_texts(["a"]).shape[1])

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of kind, settings and weights, in hexadecimal."""
        kind, settings = type(self._model).__name__, settings_text(self._model)
        hasher = hashlib.sha256(f"{kind} {settings} {self._transform}\n".encode())
        hash_weights(hasher, self._model.state_dict())
        return hasher.hexdigest()

    @cached_property
    def text_digest(self) -> str:
        """The SHA-256 of all that decides the vectors of texts: `digest` and the tokenizer."""
        backend = getattr(self._tokens, "backend_tokenizer", None)
        rules = (
            repr(sorted(self._tokens.get_vocab().items())) if backend is None else backend.to_str()
        )
        facts = (self.digest, rules, self._max_tokens, self._padding)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors of texts, such as captions.

        Args:
            texts: n texts, at least 1. Of a text longer than the model takes (CLIP: 77 tokens) the
                end is ignored, and bytes that are no text (lone surrogates) become question marks.

        Returns:
            (n, d) float32, as an array in main memory.

        Raises:
            TesseraeError: The tokenizer is that of another model.
        """
        valid = [text.encode(errors="replace").decode() for text in texts]
        vectors = []
        for start in range(0, len(texts), BATCH_ROWS):
            with self._lock:
                tokens = self._tokens(
                    valid[start : start + BATCH_ROWS], padding=self._padding,
                    truncation=True, max_length=self._max_tokens, return_tensors="pt",
                )  # fmt: skip
            if self._padding == "max_length":
                tokens.pop("attention_mask", None)
            try:
                features = self._model.get_text_features(**tokens.to(self._device))
            except IndexError as e:
                raise TesseraeError(
                    f"the tokenizer of {self._name} has more tokens than the model: it belongs to"
                    " another one."
                ) from e
            vectors.append(_unit_rows(features))
        return np.concatenate(vectors)

    def embed_class_names(self, classes: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return the unit vectors of captions with each class's first name, "a photo of a NAME.".

        Args:
            classes: The (wnid, names) of the C classes, with names separated by commas; a class
                without names is called by its wnid. C is at least 1.

        Returns:
            (C, d) float32.
        """
        return self.embed_texts(
            [PROMPT.format((split_names(words) or [wnid])[0]) for wnid, words in classes]
        )

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> NDArray[np.float32]:
        """Return the unit vectors of images.

        Args:
            images: (n, 3, h, w) uint8 RGB of any size, on any device, which are stretched to the
                square that the model takes; n is at least 1.

        Returns:
            (n, d) float32, as an array in main memory.

        Raises:
            TesseraeError: The model takes other images than squares of one size.
            torch.OutOfMemoryError: The GPU has too little memory.
        """
        pixels = self._transform.apply(images.to(self._device))
        if self._transform.channels == "BGR":
            pixels = pixels.flip(1)
        try:
            return _unit_rows(self._model.get_image_features(pixel_values=pixels))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError) as e:
            first = (str(e).strip().splitlines() or [""])[0]
            raise TesseraeError(
                f"{self._name} fails on images of {self.size} px ({type(e).__name__}: {first}):"
                " expected a model of squares of one size."
            ) from e

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
            store, split, size=size if encoded is None else self.size, encoded=encoded,
            batch_size=BATCH_ROWS, order="sequential", drop_last=False, rank=0, world=1,
        )  # fmt: skip
        vectors = []
        for batch in loader:
            assert isinstance(batch.images, Tensor)  # of one size
            vectors.append(self.embed_images(batch.images))
        return np.concatenate(vectors) @ self.embed_class_names(classes).T


def _check_tokenizer(model: str, tokenizer: Any) -> None:
    """Refuse a tokenizer for which all texts are alike.

    For a folder without the files of its vocabulary `transformers` makes an empty one.
    """
    try:
        known = {*tokenizer(PROMPT, add_special_tokens=False)["input_ids"]}
    except Exception as e:  # a tokenizer without a token for unknown text raises a plain Exception
        raise TesseraeError(f"the tokenizer of {model} is not usable ({e}).") from e
    if known <= {*tokenizer.all_special_ids}:
        raise TesseraeError(
            f"{model} has no tokenizer: expected its vocabulary, as in tokenizer.json, beside the"
            " weights."
        )


def _read_transform(model: str, config: Any) -> Transform:
    """Return the preprocessing of a model; that of CLIP for a folder that does not say it."""
    local = Path(model).is_dir()
    if local and not (Path(model) / PREPROCESSOR_CONFIG).exists():
        return Transform(size=int(config.vision_config.image_size), mean=MEAN, std=STD)
    return read_transform(model, config.vision_config, local=local)


def _unit_rows(output: Any) -> NDArray[np.float32]:
    """Return the pooled output of a model as unit vectors, (n, d) float32, in main memory."""
    vectors: Tensor = getattr(output, "pooler_output", output)  # a tensor before transformers 5
    normalised: NDArray[np.float32] = functional.normalize(vectors.float(), dim=-1).cpu().numpy()
    return normalised
