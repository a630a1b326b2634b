"""A split as a `torch.utils.data.Dataset`, for code that already uses a `DataLoader`.

`Loader` is several times as fast: a `DataLoader` copies every batch between processes.
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

from pipeline.loader.arguments import side
from pipeline.loader.loader import CACHE_BYTES, CACHE_SHARE
from pipeline.loader.pixel_reader import open_reader
from pipeline.loader.reading_options import CHECKSUMS, Reading
from pipeline.memory import free_bytes
from pipeline.store.open import open_objects
from pipeline.store.split import Split, open_split

MAX_SHARED_MARKS = 2**24
"""The number of chunks whose verification status forked workers can share, one byte each."""

Item = tuple[torch.Tensor, int, int]
"""An image, (3, size, size) uint8 RGB; its label; its row in the split."""


class SplitDataset(Dataset[Item]):
    """The readable rows of a split, in store order. Files are opened by the process that reads.

    Examples:
        >>> dataset = tesserae.SplitDataset("store", size=72)
        >>> image, label, row = dataset[0]
        >>> image.shape, image.dtype
        (torch.Size([3, 72, 72]), torch.uint8)
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        split: str = "train",
        *,
        size: int = 224,
        allow_partial: bool = False,
        checksum: str = "auto",
    ) -> None:
        """Check the arguments without opening the store.

        Args:
            store: Folder or URL of the store.
            split: Name of the split (default: train).
            size: Side of the square images in pixels (default: 224).
            allow_partial: Accept an unfinished split and read its committed rows (default: False).
            checksum: When chunks are compared with their checksums. `once` does so at the first
                read from each chunk; forked workers share the record of verified chunks. `never`
                leaves verification to `tesserae verify`. `auto` means `once` if memory can hold
                the pixels of the split, and `never` otherwise (default: auto).

        Raises:
            ValueError: An argument is invalid.
        """
        self.store = os.fspath(store)
        self.split = split
        self.size = side("size", size)
        self.allow_partial = allow_partial
        self.checksum = Reading(checksum=checksum).checksum  # refuses any other value
        self._opened: _OpenDataset | None = None
        # Allocated now: workers may be forked before the store is opened, and must share it.
        self._checked: NDArray[np.bool_] | None = _shared_verification_marks(MAX_SHARED_MARKS)

    def __getstate__(self) -> dict[str, Any]:
        """Return the pickled state, without open files and shared memory."""
        return {**vars(self), "_opened": None, "_checked": None}

    def __repr__(self) -> str:
        """Return store, split and size, without opening the store."""
        return f"SplitDataset({self.store!r}, {self.split!r}, size={self.size})"

    def __len__(self) -> int:
        """Return the number of readable rows."""
        return len(self._open().split.readable_rows)

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """The classes of the store as (wnid, words), in label order: 0, 1, ..."""
        return self._open().split.recipe.classes

    def __getitem__(self, index: int) -> Item:
        """Return the image, label and row at *index*, from 0 to len - 1."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return the items at several *indices*; `DataLoader` calls this once for each batch."""
        opened = self._open()
        rows = opened.split.readable_rows[np.asarray(indices, np.int64)]
        out = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        # A pool for this call alone: threads that outlived it would be missing in forked workers.
        with ThreadPoolExecutor(1) as disk:
            opened.reader.gather(rows, out, disk)
        images = torch.from_numpy(out).permute(0, 3, 1, 2)
        labels = opened.split.labels[rows]
        return list(zip(images, labels.tolist(), rows.tolist(), strict=True))

    def _open(self) -> _OpenDataset:
        if self._opened is None or self._opened.process != os.getpid():
            # A forked child has no threads of its parent, so it opens its own readers. The marks
            # are in shared memory and stay valid.
            self._opened = _OpenDataset(self, self._checked)
        return self._opened


class _OpenDataset:
    def __init__(self, data: SplitDataset, checked: NDArray[np.bool_] | None) -> None:
        self.process = os.getpid()
        """The process that opened the files: a forked child must open its own."""
        objects = open_objects(data.store)
        self.split: Split = open_split(
            objects, data.split, [data.size], allow_partial=data.allow_partial
        )
        plan = self.split.plan
        num_chunks = plan.num_shards * self.split.geometry(data.size).chunks_per_shard
        if checked is None or len(checked) < num_chunks:
            # Unpickled, or more chunks than shared marks: each process verifies for itself.
            checked = np.zeros(num_chunks, np.bool_)
        check = CHECKSUMS[data.checksum]
        if check is None:
            check = plan.num_rows * data.size**2 * 3 <= CACHE_SHARE * free_bytes()
        self.reader = open_reader(
            self.split, data.size, cache_bytes=CACHE_BYTES, check=check, checked=checked
        )


def _shared_verification_marks(count: int) -> NDArray[np.bool_]:
    """Return a (count,) bool array of False that later forked children share.

    Its pages take memory only once an element in them is set.
    """
    return np.frombuffer(mmap.mmap(-1, count), np.bool_)
