"""All shards of one size mapped into one address range, so that one call copies a whole batch.

Copying row by row from Python releases and acquires the GIL at every row, and gathering threads
wait there for each other: at 224 px that costs a quarter of the speed. Here every shard has a fixed
offset in one range of addresses, so a row is an offset, and torch, where it is used, copies all
rows of a batch in one call without the GIL (`pipeline.loader.torch_framework`).

A shard is mapped when it is first read, and stays mapped. A kernel limits the mappings of a
process. Shards beyond a quarter of that limit, and all shards where mapping fails, are read with
system calls instead.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.loader.framework import CopyRows, copy_rows
from pipeline.store.geometry import Geometry

PROBED_ROWS = 16
"""The approximate number of rows of a batch whose residency is checked (mincore)."""

HUGE_PAGE_BYTES = 2**21
"""The alignment of shards in memory, which lets large pages of the page cache be mapped whole."""

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


class MappedShards:
    """An address range with all rows of one size. `add` must be called by one thread at a time."""

    def __init__(self, geometry: Geometry, *, copy_rows: CopyRows = copy_rows) -> None:
        """Reserve the address range; no memory is allocated.

        Args:
            geometry: The places of the rows in the shards.
            copy_rows: The function with which `copy` copies rows (default: that of numpy).

        Raises:
            OSError: The system cannot map that many addresses.
        """
        if sys.platform != "linux":
            raise OSError("shards are mapped on Linux only.")
        self._geometry = geometry
        self._copy_rows = copy_rows
        self._slot_bytes = -(-geometry.num_bytes(0) // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        # One huge page more than needed, so that the base can be rounded up to its alignment.
        num_bytes = self._slot_bytes * geometry.num_shards + HUGE_PAGE_BYTES
        address = _map_memory(0, num_bytes, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # Not unmapped at exit: threads that still copy would crash, and the system does it anyway.
        weakref.finalize(self, _libc.munmap, address, num_bytes).atexit = False
        self._base = -(-address // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        num_bytes -= HUGE_PAGE_BYTES
        # The rest is for libraries, thread stacks and other loaders, which cannot do without.
        self._mappings_left = _mappings_limit() // 4
        self._mapped_shards = np.zeros(geometry.num_shards, bool)
        area = np.ctypeslib.as_array((ctypes.c_ubyte * num_bytes).from_address(self._base))
        self._area: NDArray[np.uint8] = area

    def add(self, shard: int, file: int) -> None:
        """Map a shard if the limit of mappings allows it; map it again if it was mapped.

        The limit is a quarter of the mappings that the system allows to a process. No error is
        raised if a new shard cannot be mapped; then `resident` is False for its rows, and no
        further shard is mapped.

        Args:
            shard: The number of the shard in the split, from 0.
            file: The descriptor of its open file, whose size the caller has checked: with a shorter
                one, reading would kill the process by SIGBUS. It is not kept: the caller may close
                it afterwards.
        """
        if not self._mapped_shards[shard] and not self._mappings_left:
            return
        start, num_bytes = self._base + shard * self._slot_bytes, self._geometry.num_bytes(shard)
        # In place of the reserved addresses, so that the offset of a row never changes.
        try:
            _map_memory(start, num_bytes, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, file)
        except OSError:  # the limit is reached, or the file system supports no mappings
            self._mappings_left = 0
            return
        _libc.madvise(start, num_bytes, mmap.MADV_RANDOM)  # disables the kernel's readahead
        self._mappings_left -= not self._mapped_shards[shard]
        self._mapped_shards[shard] = True

    def resident(self, shards: NDArray[np.int64], offsets: NDArray[np.int64]) -> bool:
        """Return True if all rows are mapped and a sample of at most 31 of them is in memory.

        Nothing is read. For no rows the result is True, and False for a shard that was not added.

        Args:
            shards: The number of the shard of each row, (n,) int64.
            offsets: The offset of each row in its shard in bytes, (n,) int64.
        """
        if not self._mapped_shards[shards].all():
            return False
        # The page in the middle of a row: those at its ends are also in memory for its neighbours.
        step = max(1, len(shards) // PROBED_ROWS)
        middles = self._base + shards[::step] * self._slot_bytes + offsets[::step]
        middles += self._geometry.row_bytes // 2
        pages = ctypes.create_string_buffer(1)
        for address in (middles // _PAGE * _PAGE).tolist():
            if _libc.mincore(address, _PAGE, pages) != 0 or not pages.raw[0] & 1:
                return False
        return True

    def chunk(self, shard: int, chunk: int) -> NDArray[np.uint8] | None:
        """Return one chunk and the checksum behind it, without a copy, if all of it is in memory.

        The file must not shrink while the array is read: the process would die of SIGBUS.

        Args:
            shard: The number of the shard in the split, from 0.
            chunk: The number of the chunk in the shard, from 0; that there is one is not checked.

        Returns:
            (bytes of a chunk + 4,) uint8, a view of the mapped file that must only be read, and
            only while this object exists; None if the shard is not mapped or a page of the chunk is
            not in memory.
        """
        if not self._mapped_shards[shard]:
            return None
        framed = self._geometry.framed_bytes
        start = shard * self._slot_bytes + chunk * framed
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
        """Copy rows of mapped shards to *flat*.

        The files must not shrink meanwhile: the process would die of SIGBUS. It would die,
        too, for a shard that is not mapped, so `resident` must have returned True for these rows.

        Args:
            shards: The number of the shard of each row, (n,) int64.
            offsets: The offset of each row in its shard in bytes, (n,) int64.
            flat: (n, row_bytes) uint8, contiguous; it is overwritten with the rows in this order.
        """
        self._copy_rows(self._area, shards * self._slot_bytes + offsets, flat)


def _map_memory(hint: int, num_bytes: int, protection: int, flags: int, file: int = -1) -> int:
    address = _libc.mmap(hint, num_bytes, protection, flags | _MAP_NORESERVE, file, 0)
    if address is None or address == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot map {num_bytes:,} bytes")
    return int(address)


def _mappings_limit() -> int:
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 65_530  # the default of Linux
