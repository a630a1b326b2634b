"""CRC-32C checksums, and the trailers that hold them: 4 bytes little-endian behind the data.

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

CHECKSUM_BYTES = 4
"""The bytes of a checksum in a store."""


def crc32c(data: NDArray[np.uint8]) -> int:
    """Return the CRC-32C of an array of bytes, an unsigned 32-bit number.

    The GIL is released meanwhile, unless the installed google_crc32c has no function for that.

    Args:
        data: The bytes, (n,) uint8, contiguous; n may be 0.
    """
    native = _native_crc32c()
    if native is None:
        return int(google_crc32c.value(data))
    return native(data.ctypes.data, data.nbytes)


def append_checksum(data: bytes) -> bytes:
    """Return a copy of *data* with its CRC-32C behind it, in 4 bytes, little-endian.

    Args:
        data: Any number of bytes.
    """
    return data + crc32c(np.frombuffer(data, np.uint8)).to_bytes(CHECKSUM_BYTES, "little")


def has_valid_checksum(data: bytes | memoryview | NDArray[np.uint8]) -> bool:
    """Return True if *data* ends with the CRC-32C, 4 bytes little-endian, of all bytes before it.

    Args:
        data: Contiguous bytes; as an array, (n,) uint8. Fewer than 4 bytes give False.
    """
    array = np.frombuffer(data, np.uint8)
    body, checksum = array[:-CHECKSUM_BYTES], array[-CHECKSUM_BYTES:].tobytes()
    return crc32c(body).to_bytes(CHECKSUM_BYTES, "little") == checksum


@cache
def _native_crc32c() -> Callable[[int, int], int] | None:
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
