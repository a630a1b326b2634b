"""Rows of finished features, read from mapped files.

Of a store that is no folder, shards are downloaded whole at their first use and kept in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.store import derived, features, layout, records
from pipeline.store.checksum import has_valid_checksum
from pipeline.store.features import FeatureRecipe
from pipeline.store.geometry import Geometry
from pipeline.store.local import LocalObjects
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.split import Split, open_split


class Features:
    """The features of one split, row for row; `open_features` opens them.

    Each file is opened when one of its rows is first read.
    """

    def __init__(
        self, objects: Objects, recipe: FeatureRecipe, split: Split, kinds: tuple[str, ...]
    ) -> None:
        """Wrap the records of finished features, which `open_features` reads and checks.

        Args:
            objects: The store.
            recipe: The recipe of the features.
            split: The split with the images' plan, labels and status.
            kinds: The kinds that all shards have, of `plain` and `mirrored`.
        """
        self.recipe = recipe
        self.split = split
        self.kinds = kinds
        self._objects = objects
        self._geometry = Geometry(
            recipe.row_bytes, recipe.shard_rows, recipe.chunk_rows, split.plan.num_rows
        )
        self._shards: dict[tuple[str, int], _Shard] = {}

    def __len__(self) -> int:
        return self.split.plan.num_rows

    @property
    def dim(self) -> int:
        """The number of features of an image, d."""
        return self.recipe.dim

    @property
    def readable(self) -> NDArray[np.int64]:
        """(n,) int64: the rows that are not in quarantine, ascending."""
        return self.split.readable_rows

    def rows(self, rows: NDArray[np.int64], kind: str = "plain") -> NDArray[np.float32]:
        """Return the features of some rows.

        Shards are opened and chunks compared with their checksums when they are first read.

        Args:
            rows: The rows of the split, (n,) int64 or a list of such numbers, in any order, also
                repeated.
            kind: `plain` for the features of the images (the default), or `mirrored` for those of
                their mirror images.

        Returns:
            (n, d) float32, a copy, in the order of *rows*, as the network computed them: they are
            not scaled. They are zeros for rows in quarantine.

        Raises:
            ValueError: A row is out of range; negative numbers are, too.
            StoreError: There are no features of that kind, or the request to an object store
                failed.
            StoreDamagedError: A shard is missing or damaged.
        """
        if kind not in self.kinds:
            raise StoreError(
                f"features {self.recipe.name} of split {self.split.plan.split!r} are of kind"
                f" {' and '.join(self.kinds)}: those of kind {kind} are missing. Compute them with"
                " `tesserae features --mirrored`."
            )
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise ValueError(
                f"rows are {rows.min()} to {rows.max()}: expected 0 to {len(self) - 1}."
            )
        shards, row_in_shard = np.divmod(rows, self._geometry.shard_rows)
        chunks, row_in_chunk = np.divmod(row_in_shard, self._geometry.chunk_rows)
        values = np.empty((len(rows), self.dim), np.float32)
        for number in np.unique(shards).tolist():
            selected = shards == number
            shard = self._shard(kind, number)
            shard.check(chunks[selected])
            values[selected] = shard.rows[chunks[selected], row_in_chunk[selected]]
        return values

    def _shard(self, kind: str, number: int) -> _Shard:
        shard = self._shards.get((kind, number))
        if shard is None:
            name = layout.FEATURES.shard(self.recipe.name, self.split.plan.split, kind, number)
            shard = self._shards[kind, number] = _Shard(
                self._bytes(name), self._geometry, number, self.recipe.dtype, name
            )
        return shard

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        try:
            if isinstance(self._objects, LocalObjects):
                with suppress(OSError):  # it is missing, or on a file system without mapping
                    return np.memmap(Path(self._objects.url) / name, np.uint8, "r")
            return np.frombuffer(self._objects.get(name), np.uint8)
        except (FileNotFoundError, ValueError):  # ValueError: an empty file
            raise StoreDamagedError(
                f"{name} is missing. Run the same `tesserae features` again to compute it."
            ) from None


class _Shard:
    """A view of one shard's rows in its file. Each chunk is compared with its checksum once."""

    def __init__(
        self, data: NDArray[np.uint8], geometry: Geometry, shard: int, dtype: str, name: str
    ) -> None:
        self.rows = _rows_of(data, geometry, shard, dtype, name)
        """(chunks, rows of a chunk, d) float32 or float16."""
        framed = geometry.framed_bytes
        self._frames = data[: len(self.rows) * framed].reshape(-1, framed)
        self._checked = np.zeros(len(self.rows), bool)
        self._name = name

    def check(self, chunks: NDArray[np.int64]) -> None:
        """Compare *chunks*, (n,) int64, with their checksums unless that was done before.

        Raises:
            StoreDamagedError: A chunk does not match its checksum.
        """
        for chunk in np.unique(chunks[~self._checked[chunks]]).tolist():
            if not has_valid_checksum(self._frames[chunk]):
                raise StoreDamagedError(
                    f"{self._name} is damaged (chunk {chunk}). `tesserae verify` lists all damage"
                    " and how to repair it."
                )
            self._checked[chunk] = True


def _rows_of(
    data: NDArray[np.uint8], geometry: Geometry, shard: int, dtype: str, name: str
) -> NDArray[np.floating]:
    chunks, framed = geometry.num_chunks(shard), geometry.framed_bytes
    if data[chunks * framed :].tobytes() != geometry.index(shard):
        raise StoreDamagedError(
            f"{name} is damaged. `tesserae verify` lists all damage and how to repair it."
        )
    bodies = data[: chunks * framed].reshape(chunks, framed)[:, : geometry.chunk_bytes]
    item = np.dtype(dtype).newbyteorder("<")
    shape = (chunks, geometry.chunk_rows, geometry.row_bytes // item.itemsize)
    strides = (framed, geometry.row_bytes, item.itemsize)
    return np.lib.stride_tricks.as_strided(bodies.view(item), shape, strides, writeable=False)


def open_features(store: str | os.PathLike[str], name: str, split: str) -> Features:
    """Open a split's features for reading; only their records are read now.

    Args:
        store: The path or URL of the store.
        name: The name of the features, that of their folder in `features/` of the store.
        split: The name of the split.

    Returns:
        The features: `rows(rows, kind)` reads those of some rows, `dim` is their number for an
        image, `kinds` has those of `plain` and `mirrored` that exist, `readable` the rows that are
        not in quarantine, and `len` gives the number of all rows. Files that it has read stay open
        until it is garbage-collected.

    Raises:
        StoreError: There are no such features, or they are not finished, or the images of the split
            are not.
        StoreMismatchError: They are of other images than the store has now.
        StoreDamagedError: A record is damaged.
    """
    objects = open_objects(os.fspath(store))
    recipe = features.load_feature_recipe(objects, name)
    done = derived.load_finish_record(objects, FeatureRecipe, name, split)
    if done is None:
        raise StoreError(
            f"features {name} of split {split!r} are not finished. Run the same `tesserae"
            " features` again to continue."
        )
    # Labels and statuses alone are read: features need no places of encoded rows.
    opened = open_split(objects, split, [recipe.stored_size] if recipe.encoded is None else [])
    images = records.load_finish_record(objects, split)
    parts = None if images is None else images.parts
    current = (recipe.digest, opened.plan.digest, opened.recipe.digest, parts)
    if current != (done.recipe, done.plan, recipe.images, done.parts):
        raise StoreMismatchError(
            f"features {name} of split {split!r} belong to images that have changed since. Run the"
            " same `tesserae features` again: it recomputes them."
        )
    return Features(objects, recipe, opened, done.kinds)


def finished_features(objects: Objects, split: str) -> Iterable[str]:
    """Return the names of the features of a split that are complete.

    Args:
        objects: The objects of the store.
        split: The name of the split.

    Returns:
        A sorted list of the names, those of folders in `features/`; empty if there are none.
        Whether the images have changed since is not checked.

    Raises:
        StoreDamagedError: A record is damaged.
        StoreError: A record has a format that this version does not read.
    """
    return [
        name
        for name in features.names(objects)
        if derived.load_finish_record(objects, FeatureRecipe, name, split) is not None
    ]
