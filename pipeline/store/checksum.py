"""CRC-32C of memory, computed without the GIL so that other threads can run.

`google_crc32c.value` holds the GIL: a chunk of 16 images of 224 px would stop every other thread,
the training step included, for a third of a millisecond. Its extension module is linked with a C
library that any thread can call directly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import google_crc32c
import numpy as np
from numpy.typing import NDArray


def crc32c(data: NDArray[np.uint8]) -> int:
    """Return the CRC-32C of an array.

    Args:
        data: The bytes, (n,) uint8, contiguous.
    """
    native = _native()
    if native is None:
        return int(google_crc32c.value(data))
    return native(data.ctypes.data, data.nbytes)


def is_framed(data: NDArray[np.uint8]) -> bool:
    """Return True if the last four bytes of *data*, (n,) uint8, are the CRC-32C of all others."""
    return len(data) >= 4 and crc32c(data[:-4]).to_bytes(4, "little") == data[-4:].tobytes()


@cache
def _native() -> Callable[[int, int], int] | None:
    """Return the C function, or None if the library was built differently."""
    try:
        from google_crc32c import _crc32c

        value = ctypes.CDLL(_crc32c.__file__).crc32c_value
    except (ImportError, AttributeError, OSError):
        return None
    value.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    value.restype = ctypes.c_uint32
    probe = np.frombuffer(b"123456789", np.uint8)
    if value(probe.ctypes.data, probe.nbytes) != 0xE3069283:  # the check value of RFC 3720
        return None
    function: Callable[[int, int], int] = value
    return function
