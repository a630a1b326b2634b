"""Rows of finished features, out of files that are mapped.

Of a store that is no folder the shards of which rows are wanted are fetched whole, and kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.store import features, layout, records
from pipeline.store.checksum import is_framed
from pipeline.store.features import FeatureRecipe
from pipeline.store.objects import LocalObjects, Objects, open_objects
from pipeline.store.split import Geometry, Split, open_split


class Features:
    """The features of one split. Files are opened when rows of them are first wanted."""

    def __init__(
        self, objects: Objects, recipe: FeatureRecipe, split: Split, kinds: tuple[str, ...]
    ) -> None:
        """See `open_features`."""
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
        """Numbers of a picture."""
        return self.recipe.dim

    @cached_property
    def readable(self) -> NDArray[np.int64]:
        """(n,) int64: the rows that are not in quarantine."""
        return np.setdiff1d(np.arange(len(self)), self.split.absent)

    def rows(self, rows: NDArray[np.int64], kind: str = "plain") -> NDArray[np.float32]:
        """Features of some rows.

        Args:
            rows: (n,) int64.
            kind: `plain` or `mirrored`.

        Returns:
            (n, d) float32; zeros for those in quarantine.

        Raises:
            ValueError: There are no such rows.
            StoreError: There are none of that kind.
            StoreDamagedError: A shard is not what it should be.
        """
        if kind not in self.kinds:
            raise StoreError(
                f"features {self.recipe.name} of split {self.split.plan.split!r} are"
                f" {' and '.join(self.kinds)} ones: {kind} ones are missing. Make them with"
                " `tesserae features --mirrored`."
            )
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise ValueError(
                f"rows are {rows.min()} to {rows.max()}: expected 0 to {len(self) - 1}."
            )
        shards, inside = np.divmod(rows, self._geometry.shard_rows)
        chunks, at = np.divmod(inside, self._geometry.chunk_rows)
        found = np.empty((len(rows), self.dim), np.float32)
        for number in np.unique(shards).tolist():
            inside = shards == number
            shard = self._shard(kind, number)
            shard.check(chunks[inside])
            found[inside] = shard.rows[chunks[inside], at[inside]]
        return found

    def _shard(self, kind: str, number: int) -> _Shard:
        shard = self._shards.get((kind, number))
        if shard is None:
            name = layout.features_shard(self.recipe.name, self.split.plan.split, kind, number)
            shard = self._shards[kind, number] = _Shard(
                self._bytes(name), self._geometry, number, self.recipe.dtype, name
            )
        return shard

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        try:
            if isinstance(self._objects, LocalObjects):
                with suppress(OSError):  # a file system that maps no files, or there is none
                    return np.memmap(Path(self._objects.url) / name, np.uint8, "r")
            return np.frombuffer(self._objects.get(name), np.uint8)
        except (FileNotFoundError, ValueError):  # ValueError: an empty file
            raise StoreDamagedError(
                f"{name} is missing. Run the same `tesserae features` again to make it."
            ) from None


class _Shard:
    """One shard's rows, in the file itself. Each chunk is compared with its checksum once."""

    def __init__(
        self, data: NDArray[np.uint8], geometry: Geometry, shard: int, dtype: str, name: str
    ) -> None:
        self.rows = _rows_of(data, geometry, shard, dtype, name)
        """(chunks, rows of a chunk, d)."""
        framed = geometry.chunk_bytes + 4
        self._frames = data[: len(self.rows) * framed].reshape(-1, framed)
        self._checked = np.zeros(len(self.rows), bool)
        self._name = name

    def check(self, chunks: NDArray[np.int64]) -> None:
        """Compare those of *chunks*, (n,) int64, that were not compared before.

        Raises:
            StoreDamagedError: One of them is not what was written.
        """
        for chunk in np.unique(chunks[~self._checked[chunks]]).tolist():
            if not is_framed(self._frames[chunk]):
                raise StoreDamagedError(
                    f"{self._name} is damaged (chunk {chunk}). `tesserae verify` says what else is,"
                    " and how to make it anew."
                )
            self._checked[chunk] = True


def _rows_of(
    data: NDArray[np.uint8], geometry: Geometry, shard: int, dtype: str, name: str
) -> NDArray[np.floating]:
    chunks, framed = geometry.num_chunks(shard), geometry.chunk_bytes + 4
    index = data[chunks * framed :]
    expected = np.full((geometry.shard_rows // geometry.chunk_rows, 2), 2**64 - 1, "<u8")
    expected[:chunks, 0] = np.arange(chunks) * framed
    expected[:chunks, 1] = framed
    text = expected.tobytes()
    if index.tobytes() != text + google_crc32c.value(text).to_bytes(4, "little"):
        raise StoreDamagedError(
            f"{name} is damaged. `tesserae verify` says what else is, and how to make it anew."
        )
    bodies = data[: chunks * framed].reshape(chunks, framed)[:, : geometry.chunk_bytes]
    item = np.dtype(dtype).newbyteorder("<")
    shape = (chunks, geometry.chunk_rows, geometry.row_bytes // item.itemsize)
    strides = (framed, geometry.row_bytes, item.itemsize)
    return np.lib.stride_tricks.as_strided(bodies.view(item), shape, strides, writeable=False)


def open_features(store: str | os.PathLike[str], name: str, split: str) -> Features:
    """Open a split's features.

    Args:
        store: The store.
        name: Of the features.
        split: Which split.

    Raises:
        StoreError: There are none, or they are not finished.
        StoreMismatchError: They are of other images than the store has now.
        StoreDamagedError: A record is damaged.
    """
    objects = open_objects(os.fspath(store))
    recipe = features.load_recipe(objects, name)
    done = features.load_done(objects, name, split)
    if done is None:
        raise StoreError(
            f"features {name} of split {split!r} are not finished. Run the same `tesserae features`"
            " again to go on."
        )
    opened = open_split(objects, split, [recipe.stored_size])
    images = records.load_done(objects, split)
    parts = None if images is None else images.parts
    here = (recipe.digest, opened.plan.digest, opened.recipe.digest, parts)
    if here != (done.features, done.plan, recipe.images, done.parts):
        raise StoreMismatchError(
            f"features {name} of split {split!r} are of other images than the store holds now."
            " Run the same `tesserae features` again: it makes anew what is of others."
        )
    return Features(objects, recipe, opened, done.kinds)


def finished(objects: Objects, split: str) -> Iterable[str]:
    """The names of features of a split that are finished."""
    return [n for n in features.names(objects) if features.load_done(objects, n, split) is not None]
