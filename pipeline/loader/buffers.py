"""Batch buffers that are reused as soon as no tensor views them."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


class Buffers:
    """A pool of pageable buffers of one shape. Each `take` returns one that no tensor views.

    `take` returns a new numpy array over the buffer's memory, and every tensor made from it keeps
    that array alive. So when the array is collected, no tensor views the memory, and the buffer is
    free. A caller who keeps every batch gets new memory for every batch.
    """

    def __init__(self, shape: tuple[int, ...], *, max_free: int) -> None:
        """Create an empty pool; buffers are allocated on demand.

        Args:
            shape: Shape of each buffer; the dtype is uint8.
            max_free: Maximum number of free buffers in the pool; further ones are released.
        """
        self._shape = shape
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=max_free)

    def take(self) -> NDArray[np.uint8]:
        """Return a uint8 buffer of the pool's shape with arbitrary contents."""
        try:
            memory = self._free.pop()  # the last one returned: CPU caches may still hold it
        except IndexError:
            memory = np.empty(self._shape, np.uint8)  # numpy uses huge pages where available
        array = memory[:]
        # Tensors hold the view, not `memory`; so its finalizer runs when the last of them is gone.
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array

    def take_tensor(self) -> torch.Tensor:
        """Return a buffer as a uint8 tensor of the pool's shape."""
        return torch.from_numpy(self.take())


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

    def take_tensor(self) -> torch.Tensor:
        """Return a uint8 tensor of the pool's shape with arbitrary contents."""
        return pinned_memory(self._shape)


class BatchBuffers:
    """The buffer pools for one rank's part of batches, one pool for each size."""

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        max_rows: int,
        prefetch_bytes: int,
        threads: int,
        pin_memory: bool | None,
    ) -> None:
        """Create empty pools; buffers are allocated on demand.

        Args:
            sizes: The sides of the images in pixels.
            max_rows: The maximum number of rows of a rank's part of a batch.
            prefetch_bytes: The bytes of batches that are gathered ahead.
            threads: The number of threads that gather batches.
            pin_memory: True for page-locked buffers, which need a GPU; False for pageable ones;
                None for page-locked ones if there is a GPU.
        """
        shapes = [(max_rows, size, size, 3) for size in sizes]
        self.batch_bytes = sum(math.prod(shape) for shape in shapes)
        """The bytes of one buffer of every size."""
        # Enough for all prefetched batches, those being gathered, and the one that the caller has.
        keep = max(2, prefetch_bytes // self.batch_bytes) + threads + 1
        # The system cannot swap page-locked memory out, so it is used only for copies to a GPU.
        pinned = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.pools: list[Buffers | PinnedBuffers] = [
            PinnedBuffers(shape) if pinned else Buffers(shape, max_free=keep) for shape in shapes
        ]
        """The pool of each size, in the order of *sizes*."""


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
