"""All shards of one size, mapped side by side, so that one call copies the rows of a batch.

Copying row by row from Python lets go of the interpreter and asks for it back at every row, and
threads that gather wait there for each other: at 224 px that is a quarter of the speed. Here the
shards lie at fixed places of one stretch of addresses, so a row is a number, and torch copies all
rows of a batch in one call without the interpreter.

Shards are mapped when they are first wanted and stay mapped. A kernel allows a process so many
mappings; shards beyond a quarter of that, and all shards where nothing can be mapped, are left to
who reads files.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import weakref
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.store.split import Geometry

PROBED_ROWS = 16
"""Rows of a batch that the kernel is asked for."""

PIECE_BYTES = 2**15
"""torch copies pieces shorter than this with memcpy, and longer ones element by element: a fifth
slower."""

HUGE_PAGE = 2**21
"""Shards begin at multiples of this: so a large page of the page cache can be mapped as one."""

_PAGE = mmap.PAGESIZE
_PROT_NONE = 0
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
if sys.platform == "linux":
    _libc.mmap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    ]  # fmt: skip
    _libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    _libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    _libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


class Mapping:
    """The addresses of all rows of one size. `add` is called by one thread at a time."""

    def __init__(self, geometry: Geometry) -> None:
        """Set the addresses aside; no memory is taken.

        Raises:
            OSError: They cannot be had here.
        """
        if sys.platform != "linux":
            raise OSError("shards are mapped on Linux only.")
        self._geometry = geometry
        self._slot = -(-geometry.num_bytes(0) // HUGE_PAGE) * HUGE_PAGE
        num_bytes = self._slot * geometry.num_shards + HUGE_PAGE
        found = _mapped(0, num_bytes, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        weakref.finalize(self, _libc.munmap, found, num_bytes).atexit = False
        self._base = -(-found // HUGE_PAGE) * HUGE_PAGE
        num_bytes -= HUGE_PAGE
        self._left = _mappings_limit() // 4
        self._there = np.zeros(geometry.num_shards, bool)
        # Piece i of the rows as torch sees them is the bytes from base + i on.
        piece = _piece_bytes(geometry.row_bytes)
        area = np.ctypeslib.as_array((ctypes.c_ubyte * num_bytes).from_address(self._base))
        self._area: NDArray[np.uint8] = area
        self._pieces = torch.from_numpy(area).as_strided((num_bytes - piece + 1, piece), (1, 1))
        self._inside = torch.arange(0, geometry.row_bytes, piece, device="cpu")
        self._piece = piece

    def add(self, shard: int, file: int) -> None:
        """Map *shard*, an open file of the size that it should have, if it may be mapped.

        One that was mapped already is mapped anew: its file may be another.
        """
        if not self._there[shard] and not self._left:
            return
        at, num_bytes = self._base + shard * self._slot, self._geometry.num_bytes(shard)
        try:
            _mapped(at, num_bytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, file)
        except OSError:  # no more can be mapped, or none of this file system
            self._left = 0
            return
        _libc.madvise(at, num_bytes, mmap.MADV_RANDOM)  # no page that was not asked for
        self._left -= not self._there[shard]
        self._there[shard] = True

    def resident(self, shards: NDArray[np.int64], offsets: NDArray[np.int64]) -> bool:
        """Whether rows can be copied without the disk: they are mapped, and some are in memory.

        Args:
            shards: (n,) int64.
            offsets: (n,) int64, of each row in its shard, in bytes.
        """
        if not self._there[shards].all():
            return False
        step = max(1, len(shards) // PROBED_ROWS)
        middles = self._base + shards[::step] * self._slot + offsets[::step]
        middles += self._geometry.row_bytes // 2
        found = ctypes.create_string_buffer(1)
        for address in (middles // _PAGE * _PAGE).tolist():
            if _libc.mincore(address, _PAGE, found) != 0 or not found.raw[0] & 1:
                return False
        return True

    def chunk(self, shard: int, chunk: int) -> NDArray[np.uint8] | None:
        """Return a chunk with the checksum behind it; None if that would wait for the disk.

        The file must be as long as it was while the array is read, or the process dies.
        """
        if not self._there[shard]:
            return None
        framed = self._geometry.chunk_bytes + 4
        start = shard * self._slot + chunk * framed
        first = (self._base + start) // _PAGE * _PAGE
        num_pages = -(-(self._base + start + framed - first) // _PAGE)
        pages = ctypes.create_string_buffer(num_pages)
        if _libc.mincore(first, num_pages * _PAGE, pages) != 0:
            return None
        if not (np.frombuffer(pages.raw, np.uint8) & 1).all():
            return None
        return self._area[start : start + framed]

    def copy(
        self, shards: NDArray[np.int64], offsets: NDArray[np.int64], flat: NDArray[np.uint8]
    ) -> None:
        """Copy rows of mapped shards to *flat*, (n, row_bytes) uint8 contiguous.

        The files must be as long as they were, or the process dies. Without the interpreter, and
        in one thread, if OpenMP has one for the caller.

        Args:
            shards: (n,) int64.
            offsets: (n,) int64, of each row in its shard, in bytes.
            flat: Where to.
        """
        rows = torch.from_numpy(shards * self._slot + offsets)
        pieces = (rows[:, None] + self._inside).flatten()
        out = torch.from_numpy(flat).view(len(pieces), self._piece)
        torch.index_select(self._pieces, 0, pieces, out=out)


def _piece_bytes(row_bytes: int) -> int:
    """Bytes of the longest part of a row, of equal parts, that is copied with memcpy."""
    return next(
        row_bytes // parts
        for parts in range(1, row_bytes + 1)
        if row_bytes % parts == 0 and row_bytes // parts < PIECE_BYTES
    )


def _mapped(address: int, num_bytes: int, protection: int, flags: int, file: int = -1) -> int:
    found = _libc.mmap(address, num_bytes, protection, flags | _MAP_NORESERVE, file, 0)
    if found is None or found == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot map {num_bytes:,} bytes")
    return int(found)


def _mappings_limit() -> int:
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 65_530  # Linux's own
