"""The interface of readers of rows, and the choice of one for a split."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError
from pipeline.loader.chunk_reader import ChunkReader
from pipeline.loader.framework import CopyRows, copy_rows
from pipeline.loader.row_reader import RowReader
from pipeline.store.document import REPAIR
from pipeline.store.layout import UPSCALED
from pipeline.store.local import LocalObjects
from pipeline.store.split import Split


class RowSource(Protocol):
    """An object that gathers rows of one array of a split. It is safe for many threads."""

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any], disk: Executor) -> str:
        """Put *rows* into *out*.

        Args:
            rows: The rows of the split, (n,) int64, in any order, also repeated; that they are 0 to
                the split's number of rows - 1 is not checked.
            out: (n, ...), contiguous; element i becomes row i. After an error its contents are
                arbitrary. Of pixels it is (n, size, size, 3) uint8; of encoded rows (n,) of
                objects, which become buffers of the bytes of the rows.
            disk: The threads that may block on reads from the store, such as a
                `ThreadPoolExecutor`; they have ended their reads when this returns or raises.

        Returns:
            The method of reading: `mapped`, `preadv`, `direct` or `chunks`.

        Raises:
            StoreDamagedError: A shard is missing or damaged.
            StoreError: A shard cannot be read.
        """

    def chunks_to_prefetch(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of *chunks* that `prefetch` should read ahead; nothing is read.

        Args:
            chunks: The numbers of the chunks of a window, (n,) int64, counted from 0 over the whole
                split: chunk k is the rows from k * `chunk_rows` of the recipe on.

        Returns:
            (m,) int64, m <= n, in any order: empty if all of them are in memory, or if reading
            ahead would not pay.
        """

    def prefetch(self, chunk: int, disk: Executor) -> None:
        """Read one chunk ahead, or make the system start to, so that `gather` finds it in memory.

        It may block the calling thread until the chunk is read.

        Args:
            chunk: A number that `chunks_to_prefetch` returned; its range is not checked.
            disk: The threads that may block on reads from the store.

        Raises:
            StoreError: The chunk cannot be read, or, in a reader of whole chunks, is damaged.
        """


class UpscaledSource:
    """A `RowSource` of upscaled images, whose errors say how those are repaired."""

    def __init__(self, source: RowSource, name: str) -> None:
        """Wrap a reader.

        Args:
            source: The reader of the images.
            name: The name of the set of upscaled images.
        """
        self._source = source
        self._folder = UPSCALED.set_folder(name)

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any], disk: Executor) -> str:
        """Put the images of *rows* into *out*, as `RowSource.gather` does."""
        with self._named_damage():
            return self._source.gather(rows, out, disk)

    def chunks_to_prefetch(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of *chunks* that `prefetch` should read ahead; nothing is read."""
        return self._source.chunks_to_prefetch(chunks)

    def prefetch(self, chunk: int, disk: Executor) -> None:
        """Read one chunk ahead, as `RowSource.prefetch` does."""
        with self._named_damage():
            self._source.prefetch(chunk, disk)

    @contextlib.contextmanager
    def _named_damage(self) -> Iterator[None]:
        try:
            yield
        except StoreDamagedError as e:
            advice = "Run the same `tesserae upscale` with --repair."
            raise StoreDamagedError(f"{self._folder}/{str(e).replace(REPAIR, advice)}") from e


def open_reader(
    split: Split,
    size: int,
    *,
    cache_bytes: int,
    check: bool | None = False,
    cached: float = 1.0,
    windows: bool = False,
    checked: NDArray[np.bool_] | None = None,
    copy_rows: CopyRows = copy_rows,
) -> RowSource:
    """Return a reader for rows of one size of *split*; nothing is read yet.

    Args:
        split: The split, as `pipeline.store.split.open_split` returns it.
        size: The side of the square images in pixels, one of the split's sizes; of another, the
            first read raises StoreDamagedError.
        cache_bytes: The maximum bytes of decoded chunks in the cache of a reader of whole chunks.
        check: True compares each chunk with its checksum when single rows of it are read, False
            does not, None does so for the chunks that memory can hold (default: False). A reader
            of whole chunks always compares.
        cached: The share of the split that memory can hold; 1 or more is all of it (default: 1).
        windows: True if all rows of a chunk are read soon after each other (default: False).
        checked: (number of shards * chunks of a full shard,) bool, True where a chunk was verified
            before; a reader of single rows updates it, a reader of whole chunks ignores it
            (default: none were).
        copy_rows: The function that copies rows of mapped shards (default: that of numpy).

    Returns:
        A `RowReader`, which reads single rows, for an uncompressed local store; not if *windows* is
        True and *cached* less than 1. Otherwise a `ChunkReader`, which reads whole chunks. Both
        copy the pixels of rows by `gather(rows, out, disk)`.
    """
    # Rows of an uncompressed local store lie at computable offsets, so each is read by itself.
    # Windows over a store larger than memory read whole chunks: fewer, larger requests.
    local = isinstance(split.objects, LocalObjects)
    if local and split.recipe.codec == "none" and (cached >= 1 or not windows):
        return RowReader(
            split,
            size,
            Path(split.objects.url),
            check=check,
            cached=cached,
            checked=checked,
            copy_rows=copy_rows,
        )
    return ChunkReader(split, size, cache_bytes=cache_bytes, page_cache=cached >= 1)
