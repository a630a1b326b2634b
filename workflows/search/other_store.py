"""A model with the images of a store that it was not trained on.

The images of another store need not have the size that the model takes, or any class of its own.
Those that suit the model best are read and resized, and classes of the two are matched by wnid.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError, TesseraeError
from pipeline.images.resize import resize_squares
from pipeline.loader import Loader
from pipeline.loader.crops import Crop
from pipeline.store import records
from pipeline.store.encoding import parse_encoding
from pipeline.store.open import open_objects
from workflows.search.model import TextImageModel
from workflows.terminal.formatting import printable

BATCH_ROWS = 64
"""The number of images that are read and embedded at once."""
LOCATION_DIGITS = 8
"""The number of hexadecimal digits that tell locations of the same name apart."""


class OtherStoreModel:
    """A model that embeds the images of any store; it implements `workflows.search.model.Model`."""

    def __init__(
        self,
        model: TextImageModel,
        store: str,
        splits: Sequence[str] = (),
        *,
        stream: TextIO | None = None,
    ) -> None:
        """Select the images of the store that suit the model best.

        Args:
            model: The model of images and words.
            store: The path or URL of the store.
            splits: The splits that must have these images (default: all finished ones; if these
                have none in common, some are left out with a notice).
            stream: The stream of notices (default: standard error).

        Raises:
            StoreError: There is no such store, or it has no finished split of images; or the splits
                that are named have no images in common.
        """
        self._model = model
        self._stream = stream or sys.stderr
        self.store = store
        self.vectors_folder = vectors_folder_of(store)
        self.dim = model.dim
        self.size = model.size
        self.classes = model.classes
        self.class_vectors = model.class_vectors
        self.embed_images = model.embed_images
        self.embed_stored_features = model.embed_stored_features
        self.phrase_vector = model.phrase_vector
        self.name_vector = model.name_vector
        self.knows = model.knows
        self.suggest = model.suggest
        self.vocabulary = model.vocabulary
        objects = open_objects(store)
        self._filter = records.load_recipe(objects).filter
        encoded, self.crop_share = self._trained_images()
        arrays = _arrays_of_splits(store, splits)
        common = set.intersection(*arrays.values())
        if splits and not common:
            listed = "; ".join(f"{name} has {', '.join(sorted(arrays[name]))}" for name in arrays)
            raise StoreError(
                f"the splits have no images in common ({listed}): search one of them with --split,"
                " or add a size with `tesserae prepare ... --sizes`."
            )
        choice = common or set.union(*arrays.values())
        array = best_array(choice, self.size, encoded, self.crop_share)
        for name in arrays:
            if array not in arrays[name]:
                self._print(f"notice: {name} is not searched, as it has no images {array}")
        self.encoded = None if array.isdecimal() else array
        self.stored_size = int(array) if array.isdecimal() else self.size

    def _trained_images(self) -> tuple[str | None, float]:
        """Return the encoded rows that the model was trained on, and its crop of them."""
        try:
            return self._model.encoded, self._model.crop_share
        except TesseraeError as e:  # the store of the run is not there, or has no such features
            self._print(
                "notice: the model is taken as one of whole squares, and its trunk as it is now,"
                f" since there is nothing to compare them with: {e}"
            )
            return None, 1.0

    @property
    def _array_name(self) -> str:
        return self.encoded or str(self.stored_size)

    @cached_property
    def image_digest(self) -> str:
        """The identity of all that decides the vectors of the images of this store."""
        identity = (self._model.image_digest, self._array_name, self.crop_share, self._filter)
        return hashlib.sha256(repr(identity).encode()).hexdigest()

    @property
    def digest(self) -> str:
        """The identity of the model and of the images that it takes."""
        return self.image_digest

    def embed_split(self, split: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield the vectors of all readable rows of a split, in blocks, each row once.

        Features of the model's own network that the store has of these images are read, and
        otherwise the images.

        Args:
            split: The name of a finished split of the store that has these images.

        Yields:
            The n rows of a block, (n,) int64, and their unit vectors, (n, dim) float32.

        Raises:
            TesseraeError: There is no such split, or the network cannot be opened.
        """
        embedded: set[int] = set()
        stored = self.embed_stored_features(self.store, split, self._array_name, self.crop_share)
        if stored is not None:
            try:
                for rows, vectors in stored:
                    yield rows, vectors
                    embedded.update(rows.tolist())
            except StoreDamagedError as e:
                self._print(f"notice: {split}: the images are read, since {e}")
            else:
                return
        self._print_enlarged(split)
        loader = Loader(
            self.store, split, size=self.stored_size, encoded=self.encoded,
            crop=Crop(share=self.crop_share) if self.encoded else None, batch_size=BATCH_ROWS,
            order="sequential", drop_last=False, rank=0, world=1, framework="numpy",
        )  # fmt: skip
        share = 1.0 if self.encoded else self.crop_share
        for batch in loader:
            squares = np.asarray(batch.images)
            images = resize_squares(squares, self.size, filter=self._filter, crop_share=share)
            wanted = np.array([row not in embedded for row in batch.rows.tolist()])
            if wanted.any():
                yield batch.rows[wanted], self.embed_images(np.ascontiguousarray(images[wanted]))

    def _print_enlarged(self, split: str) -> None:
        if self.encoded is None and self.stored_size < round(self.size / self.crop_share):
            self._print(
                f"notice: {split}: the images of {self.stored_size} px are enlarged to"
                f" {self.size} px, which the model takes"
            )

    def _print(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)


def vectors_folder_of(store: str) -> str:
    """Return the name of the folder that has the vectors of a store, other than the run's own.

    Args:
        store: The path or URL of the store.

    Returns:
        `search-`, the last part of the location, and a digest of the whole of it, such as
        `search-photos-1a2b3c4d`: a store that has moved has other vectors.

    Raises:
        StoreError: The URL is not valid.
    """
    return _name_of_location("search", open_objects(store).url.rstrip("/"))


def vectors_root(path: Path, vectors: Path | None) -> Path:
    """Return the folder that has the folders of vectors of a run or model.

    Args:
        path: The folder of the run or model.
        vectors: The folder, of the user's choice, of vectors of any runs and models, which has a
            subfolder for each, with its name and a digest of its path (default: *path*).
    """
    if vectors is None:
        return path
    return vectors / _name_of_location("", str(path.resolve()))


def _name_of_location(prefix: str, location: str) -> str:
    """Return the last part of a path or URL as a plain name, with a digest of the whole."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", location.rpartition("/")[2])[:40].strip("-.")
    digest = hashlib.sha256(location.encode()).hexdigest()[:LOCATION_DIGITS]
    return "-".join(filter(None, (prefix, name, digest)))


def _arrays_of_splits(store: str, splits: Sequence[str]) -> dict[str, set[str]]:
    """Return the names of the arrays of images of each split that is finished.

    Raises:
        StoreError: A split that is named is not finished, or none has images.
    """
    objects = open_objects(store)
    arrays = {}
    for name in splits or records.stored_splits(objects):
        done = records.load_finish_record(objects, name)
        if done is not None and done.array_names:
            arrays[name] = {*done.array_names}
        elif splits:
            raise StoreError(
                f"split {name!r} of {store} is not finished, or has no images: run `tesserae"
                " prepare`."
            )
    if not arrays:
        raise StoreError(f"{store} has no finished split with images: run `tesserae prepare`.")
    return arrays


def best_array(arrays: set[str], size: int, encoded: str | None, crop_share: float) -> str:
    """Return the array whose images suit a model best.

    It is the one that the model was trained on, or else the smallest that need not be enlarged, or
    else the largest. Of two of the same side, squares are preferred if the model takes squares.

    Args:
        arrays: The names of the arrays, at least one, such as `224` and `jpeg256@90`.
        size: The side, in pixels, of the squares that the model takes.
        encoded: The encoded rows that it was trained on; None for squares.
        crop_share: The side of the centre crop that it takes of them.
    """
    own = encoded or (str(size) if crop_share == 1 else None)
    required = round(size / crop_share)  # a recipe has the share to seven digits

    def rank(name: str) -> tuple[bool, bool, float, bool, str]:
        """Return a key by which the most suitable array comes first."""
        if name.isdecimal():
            side = float(name)
        else:
            encoding = parse_encoding(name)
            side = math.inf if encoding.is_original else float(encoding.short_side)
        is_enough = side >= required
        distance = side if is_enough else -side
        return name != own, not is_enough, distance, name.isdecimal() == bool(encoded), name

    return min(arrays, key=rank)
