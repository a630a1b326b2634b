"""A split as torch's own `DataLoader` wants it, for who has one already.

`Loader` is several times as fast: a `DataLoader` moves every batch between processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipeline.loader.loader import CACHE_BYTES
from pipeline.loader.reader import reader_of
from pipeline.store.objects import open_objects
from pipeline.store.split import Split, open_split

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
    ) -> None:
        """Open nothing yet.

        Args:
            store: Folder or URL of the store.
            split: Which split.
            size: Side of the squares in pixels.
            partial: Show what is committed of a split that is not finished.
        """
        self.store = os.fspath(store)
        self.split = split
        self.size = size
        self.partial = partial
        self._opened: _Opened | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but open files."""
        return {**vars(self), "_opened": None}

    def __len__(self) -> int:
        """Rows that can be read."""
        return len(self._open().rows)

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
            self._opened = _Opened(self)  # a child that was forked has none of the threads
        return self._opened


class _Opened:
    def __init__(self, data: SplitDataset) -> None:
        self.process = os.getpid()
        objects = open_objects(data.store)
        self.split: Split = open_split(objects, data.split, [data.size], partial=data.partial)
        there = np.ones(self.split.plan.num_rows, bool)
        there[self.split.absent] = False
        self.rows: NDArray[np.int64] = np.flatnonzero(there)
        self.reader = reader_of(self.split, data.size, cache_bytes=CACHE_BYTES)
