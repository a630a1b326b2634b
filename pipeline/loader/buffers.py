"""Memory for batches, used again when nobody looks at it any more."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray


class Buffers:
    """Pageable buffers of one size. Each `take` gives one that no tensor views.

    What is handed out is a new numpy array over the buffer's memory, which every tensor made of it
    keeps alive: so when the array goes, all of them have gone, and the memory is free. A person
    who keeps every batch gets new memory for every batch.
    """

    def __init__(self, shape: tuple[int, ...], *, keep: int) -> None:
        """Allocate nothing yet.

        Args:
            shape: Shape of the buffers, uint8.
            keep: Number of free buffers that are kept; more go back to the system.
        """
        self._shape = shape
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=keep)

    def take(self) -> NDArray[np.uint8]:
        """Return a buffer to write to, which holds anything."""
        try:
            memory = self._free.pop()  # the one that came back last: a cache may still hold it
        except IndexError:
            memory = np.empty(self._shape, np.uint8)  # in huge pages, where there are such
        array = memory[:]
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array

    def take_tensor(self) -> torch.Tensor:
        """Return a buffer as a tensor."""
        return torch.from_numpy(self.take())


class PinnedBuffers:
    """Page-locked buffers of one size, from which a GPU copies by itself while the CPU goes on.

    A copy may still be under way when the last tensor that views its source has gone, and only
    torch knows on which streams copies were made: it notes each of them with the memory, if the
    memory is its own. So the memory comes from torch's allocator each time and goes back to it,
    and what is handed out are views of just that storage. The allocator keeps page-locked memory
    for the next request, and gives it out again when the copies of all streams have ended.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Allocate nothing yet.

        Args:
            shape: Shape of the buffers, uint8.
        """
        self._shape = shape

    def take_tensor(self) -> torch.Tensor:
        """Return a buffer as a tensor, which holds anything."""
        return pinned_memory(self._shape)


def pinned_memory(shape: tuple[int, ...]) -> torch.Tensor:
    """Return page-locked memory of torch's caching allocator."""
    return torch.empty(shape, dtype=torch.uint8, device="cpu", pin_memory=True)
