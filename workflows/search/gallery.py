"""Pictures of a store and their keys, by split and row; any other, made as those of the store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import DecodeError, StoreDamagedError, StoreError
from pipeline.images import formats
from pipeline.images.sandbox import IsolatedDecoder
from pipeline.loader.reader import Reader, reader_of
from pipeline.store import layout, records
from pipeline.store.arrow_files import open_parquet
from pipeline.store.objects import Objects, open_objects
from pipeline.store.recipe import Recipe
from pipeline.store.split import Split, open_split
from pipeline.store.table import GROUP_ROWS
from pipeline.urls import is_url
from workflows.search.query import QueryError

CACHE_BYTES = 64 * 2**20
"""Of unpacked chunks, of each size of each split of a store that is compressed or remote."""
KEPT_GROUPS = 64
"""Row groups of a split's table whose keys stay in memory: 4.2 million keys, some 150 MB."""

MOST_BYTES = 20 * 2**20
"""Of a picture that is handed in."""
SECONDS = 5.0
"""That decoding it may take."""
MEMORY = 1024 * 2**20
"""Bytes that decoding it may take: 179 million pixels, beyond which Pillow sees a bomb."""
FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF")


# --- of the store --------------------------------------------------------------------------------


class Gallery:
    """The finished splits of a store. Any number of threads may read at once."""

    def __init__(self, store: str, size: int) -> None:
        """Open them.

        Args:
            store: Path or URL of the store.
            size: Side in pixels that a split must have to count.

        Raises:
            StoreError: There is no such store, or it has no such split.
        """
        self.objects: Objects = open_objects(store)
        self.recipe: Recipe = records.load_recipe(self.objects)
        self.splits: dict[str, Split] = {}
        for name in records.splits(self.objects):
            done = records.load_done(self.objects, name)
            if done is not None and size in done.sizes:
                self.splits[name] = open_split(self.objects, name, done.sizes)
        if not self.splits:
            raise StoreError(
                f"{store} has no finished split of {size} px, which is what the model takes. Make"
                f" it with `tesserae prepare --sizes {size}`."
            )
        self._size = size
        self._keys = {name: _Keys(self.objects, name) for name in self.splits}
        self._readers: dict[tuple[str, int], Reader] = {}
        self._lock = threading.Lock()
        self._disk = ThreadPoolExecutor(4, "pictures")

    def split(self, name: str) -> Split:
        """One of them.

        Raises:
            StoreError: There is no such split, or it is not finished.
        """
        return self.splits.get(name) or open_split(self.objects, name, [self._size])

    def check(self, split: str, row: int) -> None:
        """See that there is such a picture.

        Raises:
            QueryError: There is none.
        """
        opened = self.splits.get(split)
        if opened is None:
            raise QueryError(f"there is no split {split!r} here: expected {self.names}.")
        if not 0 <= row < opened.plan.num_rows:
            raise QueryError(
                f"{split} has no row {row:,}: expected 0 to {opened.plan.num_rows - 1:,}."
            )
        place = np.searchsorted(opened.absent, row)
        if place < len(opened.absent) and opened.absent[place] == row:
            raise QueryError(
                f"row {row:,} of {split} is in quarantine: it has no picture. Choose another."
            )

    @property
    def names(self) -> str:
        """The splits, as words of a sentence."""
        return ", ".join(self.splits)

    def nearest_size(self, split: str, size: int) -> int:
        """The stored size that is nearest to *size*; of two the larger."""
        return min(self.splits[split].sizes, key=lambda there: (abs(there - size), -there))

    def rows(self, split: str, size: int, rows: Iterable[int]) -> NDArray[np.uint8]:
        """Pictures of one size.

        Args:
            split: Which.
            size: One of its sizes.
            rows: n rows that `check` has passed.

        Returns:
            (n, size, size, 3) uint8 RGB.

        Raises:
            StoreDamagedError: A shard is not what it should be.
        """
        wanted = np.fromiter(rows, np.int64)
        out = np.empty((len(wanted), size, size, 3), np.uint8)
        self._reader(split, size).gather(wanted, out, self._disk)
        return out

    def _reader(self, split: str, size: int) -> Reader:
        with self._lock:
            reader = self._readers.get((split, size))
            if reader is None:
                opened = self.splits[split]
                reader = reader_of(opened, size, cache_bytes=CACHE_BYTES, check=True)
                self._readers[split, size] = reader
            return reader

    def key(self, split: str, row: int) -> str:
        """The key of a picture's sample.

        Raises:
            StoreDamagedError: The table cannot be read.
        """
        return self._keys[split].key(row)

    def read_keys(self) -> None:
        """Have all keys in memory that will stay there: the first searches would wait for them.

        Raises:
            StoreDamagedError: A table cannot be read.
        """
        for name, split in self.splits.items():
            groups = -(-split.plan.num_rows // GROUP_ROWS)
            for group in range(min(groups, KEPT_GROUPS)):
                self.key(name, group * GROUP_ROWS)

    def close(self) -> None:
        """Let go of threads and files."""
        self._disk.shutdown()
        for keys in self._keys.values():
            keys.close()


class _Keys:
    """Keys of a split, read by row groups when they are first wanted."""

    def __init__(self, objects: Objects, split: str) -> None:
        self._objects = objects
        self._name = layout.table(split)
        self._file: Any = None
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()  # one file, with one place in it

    def key(self, row: int) -> str:
        """Of a row; StoreDamagedError where it cannot be read."""
        group, place = divmod(row, GROUP_ROWS)
        try:
            with self._lock:
                keys = self._group(group)
            return str(keys[place].as_py())
        except (OSError, pa.ArrowException, IndexError) as e:
            first = (str(e).splitlines() or [type(e).__name__])[0]
            raise StoreDamagedError(
                f"{self._name} cannot be read ({first[:120]}). Run `tesserae repair`."
            ) from e

    def _group(self, group: int) -> Any:
        if group not in self._groups:
            if self._file is None:
                self._file = self._open()
            read = self._file.read_row_group(group, columns=["key"], use_threads=False)
            self._groups[group] = read.column("key").combine_chunks()
            if len(self._groups) > KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return self._groups[group]

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


# --- from elsewhere ------------------------------------------------------------------------------


def read_picture(where: str) -> bytes:
    """The bytes of a picture's file.

    Raises:
        QueryError: There is no such file, or it is none that could be a picture.
    """
    if is_url(where):
        raise QueryError(f"{where} is a URL: expected a file. Save the picture, and pass its name.")
    path = Path(where).expanduser()
    try:
        if not path.is_file():
            raise QueryError(f"there is no file {where}: expected a picture.")
        if path.stat().st_size > MOST_BYTES:
            raise QueryError(_too_large(where, path.stat().st_size))
        return path.read_bytes()
    except OSError as e:
        raise QueryError(f"{where} cannot be read: {e.strerror or e}.") from e


def _too_large(what: str, num_bytes: int) -> str:
    return f"{what} has {num_bytes:,} bytes: expected at most {MOST_BYTES:,}."


def unreadable(what: str, data: bytes) -> str:
    """Say why a file that begins like none of `FORMATS` cannot be searched with."""
    read = ", ".join(FORMATS)
    found = formats.format_of(data)
    if found is None or found.kind == formats.OTHER:
        told = "" if found is None else f" ({found.phrase})"
        return f"{what} is no picture{told}: expected {read}."
    advice = found.advice or "convert it to JPEG or PNG"
    return f"{what} is {found.phrase}, which is not read here: {advice}. Expected {read}."


def format_of(data: bytes) -> str | None:
    """Return which of `FORMATS` the bytes begin like; None: another, or nothing that is known."""
    found = formats.format_of(data)
    return found.name if found is not None and found.name in FORMATS else None


class Squarer:
    """Makes a square of any picture just as those of a store were made, in a child process.

    Belongs to the thread that first uses it.
    """

    def __init__(self, recipe: Recipe, size: int) -> None:
        """Start nothing yet.

        Args:
            recipe: Of the store.
            size: Side of the square in pixels.
        """
        self._recipe = recipe
        self._size = size
        self._decoder = IsolatedDecoder(timeout_seconds=SECONDS, memory_limit=MEMORY)

    def square(self, data: bytes) -> NDArray[np.uint8]:
        """(size, size, 3) uint8 RGB of an image file.

        Raises:
            QueryError: It is no readable picture of a format that is taken.
        """
        if format_of(data) is None:
            raise QueryError(unreadable("the file", data))
        recipe = self._recipe
        try:
            made = self._decoder.decode_resize(
                data,
                sizes=[self._size],
                filter=recipe.filter,
                **recipe.decoding,
            )
        except DecodeError as e:
            raise QueryError(f"the picture cannot be read: {e}. Choose another.") from e
        pixels = np.frombuffer(made.pixels[self._size], np.uint8)
        return pixels.reshape(self._size, self._size, 3).copy()  # torch warns of what is read-only

    def close(self) -> None:
        """End the child."""
        self._decoder.close()
