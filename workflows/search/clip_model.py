"""A CLIP-like model for search: every text has a vector, also a whole sentence."""

from __future__ import annotations

import functools
import hashlib
import io
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TextIO
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import confined
from pipeline.errors import StoreError
from pipeline.filesystem import write_file
from workflows.devise.clip import PROMPT, Clip

CLASS_VECTORS = "class-names.npz"
"""The file with the vectors of the class names, in the folder of the vectors of a store."""
MAX_CACHED_TEXTS = 4_096
"""The number of texts whose vectors are kept in memory."""


class ClipModel:
    """A CLIP-like model; it implements `workflows.search.model.TextImageModel`.

    Texts are embedded as they are typed, and classes by the caption "a photo of a NAME.".
    """

    encoded: str | None = None

    def __init__(
        self,
        model: Path,
        classes: Sequence[tuple[str, str]],
        folder: Path,
        *,
        stream: TextIO | None = None,
    ) -> None:
        """Open the model on a GPU if there is one, else on the CPU.

        Args:
            model: The folder of the model, as `transformers` saves it with its tokenizer.
            classes: The (wnid, names) of the classes of the store to search, with names separated
                by commas; it may be empty.
            folder: The folder that keeps the vectors of class names, which need not exist.
            stream: The stream of progress messages (default: standard error).

        Raises:
            TesseraeError: It is no CLIP-like model, or has no tokenizer.
            AssertionError, RuntimeError: Torch cannot use the GPU.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._clip = Clip(model, device)
        self._folder = folder
        self._stream = stream or sys.stderr
        self.classes = tuple(classes)
        self.dim = self._clip.dim
        self.size = self._clip.size
        self.crop_share = self._clip.crop_share
        self._text_vector = functools.lru_cache(MAX_CACHED_TEXTS)(self._embed_text)

    @property
    def digest(self) -> str:
        """The identity of the weights."""
        return self._clip.digest

    @property
    def image_digest(self) -> str:
        """The identity of the weights."""
        return self._clip.digest

    @cached_property
    def class_vectors(self) -> NDArray[np.float32]:
        """The unit vectors of the class names, (C, dim) float32, which are kept in a file.

        Raises:
            StoreError: The file cannot be written, or its folder is a link to elsewhere.
        """
        if not self.classes:
            return np.empty((0, self.dim), np.float32)
        file = self._folder / CLASS_VECTORS
        facts = (self._clip.text_digest, PROMPT, self.classes)
        identity = hashlib.sha256(repr(facts).encode()).hexdigest()
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                if str(arrays["identity"]) == identity:
                    return np.asarray(arrays["vectors"], np.float32)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            pass  # missing or damaged: computed again
        print(f"{len(self.classes):,} class names: vectors", file=self._stream, flush=True)
        vectors = self._clip.embed_class_names(self.classes)
        data = io.BytesIO()
        np.savez(data, identity=np.array(identity), vectors=vectors)
        confined.check_inside(self._folder, self._folder.parent)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_file(file, [data.getvalue()], durable=False)
        except OSError as e:
            raise StoreError(
                f"cannot write vectors to {self._folder}: {e.strerror or e}. Pass another folder"
                " with --vectors."
            ) from e
        return vectors

    def embed_images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the unit vectors of images, (n, dim) float32.

        Args:
            images: (n, size, size, 3) uint8 RGB, n > 0, where size is `self.size`.
        """
        return self._clip.embed_images(torch.from_numpy(images).permute(0, 3, 1, 2))

    def embed_stored_features(
        self, store: str, split: str, array_name: str, crop_share: float
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]] | None:
        """Return None: stored features lack the model's map into the space of texts."""
        return None

    def phrase_vector(self, text: str) -> NDArray[np.float32] | None:
        """Return the unit vector of a text, (dim,) float32, which must only be read.

        Args:
            text: A word, a name or a sentence, as typed.
        """
        return self._text_vector(text)

    def name_vector(self, text: str) -> NDArray[np.float32] | None:
        """Return the unit vector of a text, as `phrase_vector` does."""
        return self._text_vector(text)

    def knows(self, text: str) -> bool:
        """Return True: every text has a vector."""
        return True

    def suggest(self, text: str) -> list[str]:
        """Return no words of similar spelling: no text is unknown."""
        return []

    def vocabulary(self) -> tuple[list[str], NDArray[np.float32]]:
        """Return no further words: only classes are answers in words."""
        return [], np.empty((0, self.dim), np.float32)

    def _embed_text(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self._clip.embed_texts([text])[0]
        return vector
