"""Reads of files that bypass the page cache (O_DIRECT)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 4096
"""The alignment in bytes of direct reads: a multiple of what any file system requires."""


def open_direct(path: Path) -> int | None:
    """Open a file for `read_direct`, without the page cache (O_DIRECT).

    Args:
        path: The path of the file.

    Returns:
        A read-only descriptor, which the caller closes; None if the file cannot be opened with
        O_DIRECT: it is missing or not readable, or the file system does not support this.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT)
    except (AttributeError, OSError):
        return None


def read_direct(file: int, start: int, num_bytes: int, memory: NDArray[np.uint8]) -> memoryview:
    """Read a part of a file without the page cache, or less if the file ends first.

    Args:
        file: A descriptor from `open_direct`.
        start: The offset of the first byte in the file, of any alignment.
        num_bytes: The number of bytes to read.
        memory: A writable buffer of any alignment, (at least num_bytes + 12,288,) uint8: 3 *
            `ALIGNMENT` more. It is overwritten, also outside of the part that is returned.

    Returns:
        The bytes, at most *num_bytes*, none if the file ends before *start*: a view of *memory*,
        valid until that is overwritten.

    Raises:
        OSError: The file cannot be read, or not with O_DIRECT; or *memory* is too small.
    """
    # O_DIRECT requires an aligned offset, length and address, so the read covers the requested
    # range rounded out to whole blocks, into the aligned part of the buffer.
    first = start // ALIGNMENT * ALIGNMENT
    stop = start + num_bytes - first
    skipped = -memory.ctypes.data % ALIGNMENT
    to = memory.data[skipped : skipped - (-stop // ALIGNMENT) * ALIGNMENT]
    done = 0
    while done < stop and (got := os.preadv(file, [to[done:]], first + done)):
        done += got
    return to[start - first : min(stop, max(done, start - first))]
