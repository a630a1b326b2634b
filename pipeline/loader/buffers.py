"""Buffers that are reused as soon as no array and no tensor views them."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray


class Buffers:
    """A pool of pageable buffers of one shape. Each `take` returns one that nothing else views.

    `take` returns a new numpy array over the buffer's memory, and every view and every tensor made
    from it keeps that array alive. So when the array is collected, nothing views the memory, and
    the buffer is free. A caller who keeps every batch gets new memory for every batch.
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
        # A view of a view refers to the array that owns the memory, not to the view between them,
        # unless what owns the memory is no array.
        array = np.asarray(memory.data)
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array
