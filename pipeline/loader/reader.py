"""What reads rows of one size of a split: which of the readers, and why."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.loader.chunk_reader import ChunkReader
from pipeline.loader.row_reader import Gatherer
from pipeline.store.objects import LocalObjects
from pipeline.store.split import Split


class Reader(Protocol):
    """Gathers rows of one size. Used by many threads at once."""

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        """Copy *rows*, (n,) int64, into *out*, (n, size, size, 3) uint8 contiguous.

        Args:
            rows: Which.
            out: Where to.
            disk: Threads that wait for the store.

        Returns:
            `mapped`, `preadv`, `direct` or `chunks`: how it was done.

        Raises:
            StoreDamagedError: A shard is not what it should be.
        """

    def missing(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of *chunks*, (n,) int64, that are worth reading ahead."""

    def expect(self, chunk: int, disk: Executor) -> None:
        """Have chunk number *chunk* of the split read, to be kept."""


def reader_of(
    split: Split,
    size: int,
    *,
    cache_bytes: int,
    check: bool | None = False,
    cached: float = 1.0,
    windows: bool = False,
    checked: NDArray[np.bool_] | None = None,
) -> Reader:
    """What reads rows of one size of *split*.

    Args:
        split: Any split.
        size: Side of the squares in pixels.
        cache_bytes: Most bytes of pixels that are kept, if they are read by whole chunks.
        check: Whether to compare each chunk with its checksum where rows are read one by one; None
            for those chunks that memory can hold. Where whole chunks are read they always are.
        cached: Share of the split that memory can hold.
        windows: Whether all rows of a chunk are wanted soon after each other.
        checked: Which chunks were compared already (`Gatherer`).
    """
    local = isinstance(split.objects, LocalObjects)
    if local and split.recipe.codec == "none" and (cached >= 1 or not windows):
        return Gatherer(
            split, size, Path(split.objects.url), check=check, cached=cached, checked=checked
        )
    return ChunkReader(split, size, cache_bytes=cache_bytes, page_cache=cached >= 1)
