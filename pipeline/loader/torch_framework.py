"""What a loader needs of torch: memory for batches, and one call that copies many rows."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from pipeline.loader.buffers import Buffers
from pipeline.loader.framework import Framework, Pool

MAX_PIECE_BYTES = 2**15
"""The length from which torch copies element by element, a fifth slower than by memcpy."""


class TorchFramework(Framework[torch.Tensor]):
    """The operations of torch, whose images are (n, 3, size, size), channels last in memory."""

    def pool(
        self, shape: tuple[int, ...], *, max_free: int, pin_memory: bool | None
    ) -> Pool[torch.Tensor]:
        """Return a pool of page-locked memory, or of pageable memory without a GPU."""
        # The system cannot swap page-locked memory out, so it is used only for copies to a GPU.
        pinned = torch.cuda.is_available() if pin_memory is None else pin_memory
        return PinnedBuffers(shape) if pinned else TensorBuffers(shape, max_free=max_free)

    def memory(self, buffer: torch.Tensor) -> NDArray[np.uint8]:
        """Return an array of numpy that shares the memory of *buffer*."""
        array: NDArray[np.uint8] = buffer.numpy()
        return array

    def images(self, buffer: torch.Tensor, count: int) -> torch.Tensor:
        """Return a view of the first *count* images of *buffer*, with the channels before sides."""
        return buffer[:count].permute(0, 3, 1, 2)

    def from_numpy(self, values: NDArray[Any]) -> torch.Tensor:
        """Return a tensor that shares the memory of *values*."""
        return torch.from_numpy(values)

    def copy_rows(
        self, area: NDArray[np.uint8], starts: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> None:
        """Copy rows of bytes that lie anywhere in *area* to *out*, in one call without the GIL.

        It runs in one thread if OpenMP is limited to one for the caller.

        Args:
            area: (bytes,) uint8, of which only the named rows are read.
            starts: The position of the first byte of each row, (n,) int64.
            out: (n, bytes of a row) uint8, contiguous; it is overwritten with the rows.
        """
        row_bytes = out.shape[1]
        piece = _copy_piece_bytes(row_bytes)
        # Row i is the piece of bytes that begins at i. Rows overlap, so any offset is an index.
        windows = torch.from_numpy(area).as_strided((len(area) - piece + 1, piece), (1, 1))
        offsets = torch.arange(0, row_bytes, piece, device="cpu")
        pieces = (torch.from_numpy(starts)[:, None] + offsets).flatten()
        torch.index_select(windows, 0, pieces, out=torch.from_numpy(out).view(len(pieces), piece))

    def prepare_thread(self) -> None:
        """Limit OpenMP to one thread for calls from this thread: others gather on other cores."""
        # torch sets its default at a thread's first call: the limit goes last.
        torch.get_num_threads()
        _openmp_controller().limit(limits=1, user_api="openmp")


class TensorBuffers:
    """A pool of pageable tensors of one shape, which are used again once nothing views them."""

    def __init__(self, shape: tuple[int, ...], *, max_free: int) -> None:
        """Create an empty pool; buffers are allocated on demand.

        Args:
            shape: Shape of each buffer; the dtype is uint8.
            max_free: Maximum number of free buffers in the pool; further ones are released.
        """
        self._buffers = Buffers(shape, max_free=max_free)

    def take(self) -> torch.Tensor:
        """Return a uint8 tensor of the pool's shape with arbitrary contents."""
        return torch.from_numpy(self._buffers.take())


class PinnedBuffers:
    """Page-locked buffers of one shape, from which a GPU can copy asynchronously.

    A copy may still be running when the last tensor that views its source is gone, and only torch
    knows on which streams copies were made: it records them with the memory if its own allocator
    provided it. So each buffer comes from torch's allocator, and callers get views of exactly that
    storage. The allocator caches page-locked memory, and reuses it once the copies on all streams
    have finished.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Remember the shape; buffers are allocated on demand.

        Args:
            shape: Shape of each buffer; the dtype is uint8.
        """
        self._shape = shape

    def take(self) -> torch.Tensor:
        """Return a uint8 tensor of the pool's shape with arbitrary contents."""
        return pinned_memory(self._shape)


def pinned_memory(shape: tuple[int, ...]) -> torch.Tensor:
    """Return a page-locked uint8 CPU tensor of *shape* from torch's caching allocator.

    Its contents are arbitrary. When no tensor views it any more, the allocator may hand its memory
    out again.

    Args:
        shape: The shape of the tensor.

    Raises:
        RuntimeError: There is no GPU with its driver, which page-locked memory needs.
    """
    return torch.empty(shape, dtype=torch.uint8, device="cpu", pin_memory=True)


@cache
def _copy_piece_bytes(row_bytes: int) -> int:
    """Return the bytes of the largest equal part of a row that torch copies with memcpy."""
    return next(
        row_bytes // parts
        for parts in range(1, row_bytes + 1)
        if row_bytes % parts == 0 and row_bytes // parts < MAX_PIECE_BYTES
    )


@cache
def _openmp_controller() -> ThreadpoolController:
    # Cached, because the controller examines every library of the process.
    return ThreadpoolController()
