"""The interface of pixel readers, and the choice of one for a split."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.loader.chunk_reader import ChunkReader
from pipeline.loader.row_reader import RowReader
from pipeline.store.local import LocalObjects
from pipeline.store.split import Split


class PixelReader(Protocol):
    """An object that gathers rows of one size of a split. It is safe for many threads."""

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        """Copy the pixels of *rows* to *out*.

        Args:
            rows: (n,) int64 rows of the split.
            out: (n, size, size, 3) uint8, contiguous; it is overwritten.
            disk: Threads that may block on reads from the store.

        Returns:
            The method of reading: `mapped`, `preadv`, `direct` or `chunks`.

        Raises:
            StoreDamagedError: A shard is missing or damaged.
        """

    def chunks_to_prefetch(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of *chunks* that `prefetch` should read ahead.

        Args:
            chunks: (n,) int64 numbers of chunks, counted from 0 over the whole split.

        Returns:
            (m,) int64, m <= n: empty if all of them are in memory, or if reading ahead would not
            pay.
        """

    def prefetch(self, chunk: int, disk: Executor) -> None:
        """Read one chunk ahead, so that a later `gather` of its rows finds it in memory.

        Args:
            chunk: Number of the chunk, counted from 0 over the whole split.
            disk: Threads that may block on reads from the store.

        Raises:
            StoreError: The chunk cannot be read, or is damaged.
        """


def open_reader(
    split: Split,
    size: int,
    *,
    cache_bytes: int,
    check: bool | None = False,
    cached: float = 1.0,
    windows: bool = False,
    checked: NDArray[np.bool_] | None = None,
) -> PixelReader:
    """Return a reader for rows of one size of *split*.

    Args:
        split: Any split.
        size: Side of the square images in pixels.
        cache_bytes: Maximum bytes of decoded chunks in the cache of a reader of whole chunks.
        check: True compares each chunk with its checksum when single rows of it are read, False
            does not, None does so for the chunks that memory can hold (default: False). A reader
            of whole chunks always compares.
        cached: Share of the split that memory can hold; 1 or more is all of it (default: 1).
        windows: True if all rows of a chunk are read soon after each other (default: False).
        checked: (chunks of the split,) bool, True where a chunk was verified before; the reader
            updates it (default: none were).
    """
    # Rows of an uncompressed local store lie at computable offsets, so each is read by itself.
    # Windows over a store larger than memory read whole chunks: fewer, larger requests.
    local = isinstance(split.objects, LocalObjects)
    if local and split.recipe.codec == "none" and (cached >= 1 or not windows):
        return RowReader(
            split, size, Path(split.objects.url), check=check, cached=cached, checked=checked
        )
    return ChunkReader(split, size, cache_bytes=cache_bytes, page_cache=cached >= 1)
