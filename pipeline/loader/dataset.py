"""A split as torch's own `DataLoader` wants it, for who has one already.

`Loader` is several times as fast: a `DataLoader` moves every batch between processes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipeline.loader.loader import CACHE_BYTES, CACHE_SHARE, CHECKSUMS, side
from pipeline.loader.reader import reader_of
from pipeline.memory import free_bytes
from pipeline.store.objects import open_objects
from pipeline.store.split import Split, open_split

SHARED_MARKS = 2**24
"""Number of chunks of which forked workers tell each other whether they were compared."""

Item = tuple[torch.Tensor, int, int]
"""(3, size, size) uint8 RGB; the label; the row of the split."""


class SplitDataset(Dataset[Item]):
    """The readable rows of a split, in the order of the store. Whoever reads opens them."""

    def __init__(
        self,
        store: str | os.PathLike[str],
        split: str = "train",
        *,
        size: int = 224,
        partial: bool = False,
        checksum: str = "auto",
    ) -> None:
        """Open nothing yet.

        Args:
            store: Folder or URL of the store.
            split: Which split.
            size: Side of the squares in pixels.
            partial: Show what is committed of a split that is not finished.
            checksum: `once` compares each chunk with its checksum when a row of it is first wanted;
                workers that are forked tell each other which were compared. `never` leaves that to
                `tesserae verify`. `auto` is `once` if memory can hold the pixels of the split, and
                `never` otherwise.

        Raises:
            ValueError: An argument makes no sense.
        """
        if checksum not in CHECKSUMS:
            expected = ", ".join(CHECKSUMS)
            raise ValueError(f"checksum is {checksum!r}: expected one of {expected}.")
        self.store = os.fspath(store)
        self.split = split
        self.size = side("size", size)
        self.partial = partial
        self.checksum = checksum
        self._opened: _Opened | None = None
        # Now, since workers may be forked before anything is opened.
        self._checked: NDArray[np.bool_] | None = _shared_marks(SHARED_MARKS)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but open files."""
        return {**vars(self), "_opened": None, "_checked": None}

    def __repr__(self) -> str:
        """Return what tells this set from others; opens nothing."""
        return f"SplitDataset({self.store!r}, {self.split!r}, size={self.size})"

    def __len__(self) -> int:
        """Return the number of rows that can be read."""
        return len(self._open().rows)

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """The classes of the store, as (wnid, words), in the order of their labels 0, 1, ..."""
        return self._open().split.recipe.classes

    def __getitem__(self, index: int) -> Item:
        """The picture at place *index*."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several pictures at once; `DataLoader` asks for a batch so."""
        opened = self._open()
        rows = opened.rows[np.asarray(indices, np.int64)]
        out = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        with ThreadPoolExecutor(1) as disk:
            opened.reader.gather(rows, out, disk)
        images = torch.from_numpy(out).permute(0, 3, 1, 2)
        labels = opened.split.labels[rows]
        return list(zip(images, labels.tolist(), rows.tolist(), strict=True))

    def _open(self) -> _Opened:
        if self._opened is None or self._opened.process != os.getpid():
            # A child that was forked has none of the threads, and shares the marks.
            self._opened = _Opened(self, self._checked)
        return self._opened


class _Opened:
    def __init__(self, data: SplitDataset, checked: NDArray[np.bool_] | None) -> None:
        self.process = os.getpid()
        objects = open_objects(data.store)
        self.split: Split = open_split(objects, data.split, [data.size], partial=data.partial)
        readable = np.ones(self.split.plan.num_rows, bool)
        readable[self.split.absent] = False
        self.rows: NDArray[np.int64] = np.flatnonzero(readable)
        recipe, plan = self.split.recipe, self.split.plan
        num_chunks = plan.num_shards * (recipe.shard_rows // recipe.chunk_rows)
        if checked is None or len(checked) < num_chunks:
            checked = np.zeros(num_chunks, np.bool_)
        check = CHECKSUMS[data.checksum]
        if check is None:
            check = plan.num_rows * data.size**2 * 3 <= CACHE_SHARE * free_bytes()
        self.reader = reader_of(
            self.split, data.size, cache_bytes=CACHE_BYTES, check=check, checked=checked
        )


def _shared_marks(count: int) -> NDArray[np.bool_]:
    """Return (count,) bool, False, that children which are forked from now on share.

    A page of it takes memory when something in it is marked.
    """
    return np.frombuffer(mmap.mmap(-1, count), np.bool_)
