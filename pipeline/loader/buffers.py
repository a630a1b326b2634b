"""Memory for batches, used again when nobody looks at it any more."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Buffers:
    """Buffers of one size. Each `take` gives one that no tensor views.

    What is handed out is a new numpy array over the buffer's memory, which every tensor made of it
    keeps alive: so when the array goes, all of them have gone, and the memory is free. A person
    who keeps every batch gets new memory for every batch.
    """

    def __init__(self, shape: tuple[int, ...], *, pinned: bool, keep: int) -> None:
        """Allocate nothing yet.

        Args:
            shape: Of the buffers, uint8.
            pinned: In page-locked memory, from which a GPU copies by itself.
            keep: Free buffers that are kept; more go back to the system.
        """
        self._shape = shape
        self._pinned = pinned
        self._free: deque[tuple[NDArray[np.uint8], Any]] = deque(maxlen=keep)

    def take(self) -> NDArray[np.uint8]:
        """A buffer to write to. Holds anything."""
        memory = self._memory()
        array = memory[:]
        weakref.finalize(array, self._give_back, memory).atexit = False
        return array

    def _memory(self) -> NDArray[np.uint8]:
        # The last that came back first: a cache may still hold it.
        for _ in range(len(self._free)):
            try:
                memory, copied = self._free.pop()
            except IndexError:  # another thread was faster
                break
            if copied is None or copied.query():
                return memory
            self._free.appendleft((memory, copied))
        if self._pinned:
            pinned: NDArray[np.uint8] = torch.empty(
                self._shape, dtype=torch.uint8, device="cpu", pin_memory=True
            ).numpy()
            return pinned
        return np.empty(self._shape, np.uint8)  # in huge pages, where there are such

    def _give_back(self, memory: NDArray[np.uint8]) -> None:
        copied = None
        if self._pinned:  # the last copy to the GPU may still be under way
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._free.append((memory, copied))
