"""The images of a store, and their keys, by split and row."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from cachetools import LRUCache
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.loader.pixel_reader import RowSource, open_reader
from pipeline.store import layout, records
from pipeline.store.arrow_files import open_parquet
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.recipe import Recipe
from pipeline.store.split import Split, open_split
from pipeline.store.table import GROUP_ROWS
from workflows.search.query import QueryError

CACHE_BYTES = 64 * 2**20
"""The bytes of cached chunks for each size of each split of a compressed or remote store."""
MAX_CACHED_GROUPS = 64
"""The number of a table's row groups whose keys are cached: 4.2 million keys, about 150 MB."""


class Gallery:
    """The images and keys of the finished splits of a store. It is thread-safe."""

    def __init__(self, store: str, size: int) -> None:
        """Open all finished splits that have a size.

        Args:
            store: The path or URL of the store.
            size: The stored size, in pixels, that a split must have.

        Raises:
            StoreError: There is no such store, or it has no such split.
        """
        self.objects: Objects = open_objects(store)
        self.recipe: Recipe = records.load_recipe(self.objects)
        self.splits: dict[str, Split] = {}
        for name in records.stored_splits(self.objects):
            done = records.load_finish_record(self.objects, name)
            if done is not None and size in done.sizes:
                self.splits[name] = open_split(self.objects, name, done.sizes)
        if not self.splits:
            raise StoreError(
                f"{store} has no finished split of {size} px, the input size of the model. Add it"
                f" with `tesserae prepare ... --sizes {size}`."
            )
        self._size = size
        self._keys = {name: _Keys(self.objects, name) for name in self.splits}
        self._readers: dict[tuple[str, int], RowSource] = {}
        self._lock = threading.Lock()
        self._disk = ThreadPoolExecutor(4, "images")

    def split(self, name: str) -> Split:
        """Return a finished split that has the size of the gallery.

        A split that has finished after the gallery was opened is opened now, but not added to the
        gallery, whose other methods do not know it.

        Args:
            name: The name of the split.

        Returns:
            The split, with its `plan`, `labels`, `sizes` that can be read and mask `readable`.

        Raises:
            StoreError: There is no such split, it is not finished, or it lacks that size.
        """
        return self.splits.get(name) or open_split(self.objects, name, [self._size])

    def check(self, split: str, row: int) -> None:
        """Check that a split and row name a readable image.

        Args:
            split: The name of the split.
            row: The number of the row in the split, from 0.

        Raises:
            QueryError: There is no such split or row, or the row is in quarantine.
        """
        opened = self.splits.get(split)
        if opened is None:
            raise QueryError(f"there is no split {split!r} here: expected {self.names}.")
        if not 0 <= row < opened.plan.num_rows:
            raise QueryError(
                f"{split} has no row {row:,}: expected 0 to {opened.plan.num_rows - 1:,}."
            )
        if not opened.readable[row]:
            raise QueryError(
                f"row {row:,} of {split} is quarantined and has no image. Choose another."
            )

    @property
    def names(self) -> str:
        """The names of the splits, separated by commas."""
        return ", ".join(self.splits)

    def nearest_size(self, split: str, size: int) -> int:
        """Return the stored size nearest to a requested one; the larger of two equally near.

        Args:
            split: The name of a split of the gallery.
            size: The requested side in pixels.

        Returns:
            A side in pixels.

        Raises:
            KeyError: The gallery has no such split.
        """
        return min(self.splits[split].sizes, key=lambda stored: (abs(stored - size), -stored))

    def rows(self, split: str, size: int, rows: Iterable[int]) -> NDArray[np.uint8]:
        """Read images of one stored size.

        Args:
            split: The name of a split of the gallery.
            size: The side in pixels, one of the stored sizes of the split.
            rows: The n rows to read, in any order, which `check` has accepted; n may be 0.

        Returns:
            The images in the order of *rows*, (n, size, size, 3) uint8 RGB.

        Raises:
            StoreDamagedError: A shard is damaged, or the size is not stored.
            KeyError: The gallery has no such split.
        """
        row_numbers = np.fromiter(rows, np.int64)
        out = np.empty((len(row_numbers), size, size, 3), np.uint8)
        self._reader(split, size).gather(row_numbers, out, self._disk)
        return out

    def _reader(self, split: str, size: int) -> RowSource:
        with self._lock:
            reader = self._readers.get((split, size))
            if reader is None:
                opened = self.splits[split]
                reader = open_reader(opened, size, cache_bytes=CACHE_BYTES, check=True)
                self._readers[split, size] = reader
            return reader

    def key(self, split: str, row: int) -> str:
        """Return the key of the sample of a row, `<wnid>/<file name>`.

        Args:
            split: The name of a split of the gallery.
            row: The number of a row that exists in the split, quarantined or not, from 0.

        Raises:
            StoreDamagedError: The table is unreadable, or has no such row.
            KeyError: The gallery has no such split.
        """
        return self._keys[split].key(row)

    def read_keys(self) -> None:
        """Read all keys that fit in the cache, so that the first searches need not wait for them.

        Raises:
            StoreDamagedError: A table is unreadable.
        """
        for name, split in self.splits.items():
            groups = -(-split.plan.num_rows // GROUP_ROWS)
            for group in range(min(groups, MAX_CACHED_GROUPS)):
                self.key(name, group * GROUP_ROWS)

    def close(self) -> None:
        """Release threads and files."""
        self._disk.shutdown()
        for keys in self._keys.values():
            keys.close()


class _Keys:
    """The keys of a split, read and cached by row group on demand."""

    def __init__(self, objects: Objects, split: str) -> None:
        self._objects = objects
        self._name = layout.table(split)
        self._file: Any = None
        self._groups: LRUCache[int, Any] = LRUCache(MAX_CACHED_GROUPS)
        self._lock = threading.Lock()  # threads share one file and its position

    def key(self, row: int) -> str:
        """Return the key of a row; raise StoreDamagedError if the table is unreadable."""
        group, position = divmod(row, GROUP_ROWS)
        try:
            with self._lock:
                keys = self._group(group)
            return str(keys[position].as_py())
        except (OSError, pa.ArrowException, IndexError) as e:
            first = (str(e).splitlines() or [type(e).__name__])[0]
            raise StoreDamagedError(
                f"{self._name} cannot be read ({first[:120]}). Run `tesserae repair`."
            ) from e

    def _group(self, group: int) -> Any:
        keys = self._groups.get(group)
        if keys is None:
            if self._file is None:
                self._file = self._open()
            read = self._file.read_row_group(group, columns=["key"], use_threads=False)
            keys = self._groups[group] = read.column("key").combine_chunks()
        return keys

    def _open(self) -> Any:
        file = self._objects.open(self._name)
        try:
            return open_parquet(file)
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close(force=True)
                self._file = None
