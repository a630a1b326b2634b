"""Rows of an uncompressed store on a local disk, gathered into one buffer.

Two readers behind one face. Where the pages are in memory, rows are copied out of a mapping: no
system call, nothing but a copy. Where they are not, a mapping would fault page by page, and a
thread waits at each; `preadv` asks for a whole row at once, from many threads. Which of the two is
asked of the kernel (mincore) for a few rows of each batch.

Reading a mapping beyond the end of a file kills the process. So the size of a shard is checked
when it is opened, and again whenever rows of it are copied.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor, Future, wait
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import layout
from pipeline.store.split import Geometry, Split, geometry

OPEN_SHARDS = 4096
"""Shards that are kept open and mapped, at most; fewer where fewer files may be open."""

PROBED_ROWS = 8
"""Rows of a batch that mincore is asked for."""

PIECE_ROWS = 8
"""Rows that one thread reads from a disk before another takes the next."""

_PAGE = mmap.PAGESIZE


class Shard:
    """One shard object, open and mapped. Closed when nobody holds it."""

    def __init__(self, path: Path, name: str, geometry: Geometry, shard: int) -> None:
        """Open it, and check that rows lie where they are computed to lie.

        Raises:
            StoreDamagedError: It is missing, of another size, or its index says otherwise.
        """
        self.name = name
        self.num_bytes = geometry.num_bytes(shard)
        try:
            self.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StoreDamagedError(f"{name} is missing. Run `tesserae repair`.") from None
        except OSError as e:
            raise StoreError(f"cannot read {path}: {e.strerror or e}") from e
        weakref.finalize(self, os.close, self.file).atexit = False
        self.check_size()
        self._check_index(geometry, shard)
        if hasattr(os, "posix_fadvise"):  # a row in one request to the disk, and no more than it
            os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_RANDOM)
        self._map = mmap.mmap(self.file, self.num_bytes, prot=mmap.PROT_READ)
        if hasattr(mmap, "MADV_RANDOM"):  # no page that was not asked for
            self._map.madvise(mmap.MADV_RANDOM)
        self.bytes = np.frombuffer(self._map, np.uint8)
        """All of it, read-only."""
        self._chunk_bytes = geometry.chunk_bytes
        self.checked = bytearray(geometry.num_chunks(shard))
        """1 for each chunk whose checksum was found right."""

    def check_chunk(self, chunk: int) -> None:
        """Compare a chunk with the checksum behind it.

        Raises:
            StoreDamagedError: It is another.
        """
        framed = self._chunk_bytes + 4
        data = np.frombuffer(os.pread(self.file, framed, chunk * framed), np.uint8)
        found = google_crc32c.value(data[:-4]).to_bytes(4, "little")
        if len(data) != framed or found != data[-4:].tobytes():
            raise StoreDamagedError(
                f"{self.name} is damaged (chunk {chunk}). Run `tesserae repair`."
            )
        self.checked[chunk] = 1

    def check_size(self) -> None:
        """Make sure that all of the mapping is there.

        Raises:
            StoreDamagedError: The file is shorter or longer than it was.
        """
        found = os.fstat(self.file).st_size
        if found != self.num_bytes:
            raise StoreDamagedError(
                f"{self.name} has {found:,} bytes: expected {self.num_bytes:,}. Run `tesserae"
                " repair`."
            )

    def _check_index(self, geometry: Geometry, shard: int) -> None:
        data = os.pread(self.file, geometry.index_bytes, self.num_bytes - geometry.index_bytes)
        index = np.full((geometry.shard_rows // geometry.chunk_rows, 2), 2**64 - 1, "<u8")
        framed = geometry.chunk_bytes + 4
        num_chunks = geometry.num_chunks(shard)
        index[:num_chunks, 0] = np.arange(num_chunks, dtype=np.uint64) * np.uint64(framed)
        index[:num_chunks, 1] = framed
        expected = index.tobytes()
        if data != expected + google_crc32c.value(expected).to_bytes(4, "little"):
            raise StoreDamagedError(f"{self.name} has a damaged index. Run `tesserae repair`.")


class Gatherer:
    """Gathers rows of one size. Used by many threads at once."""

    def __init__(self, split: Split, size: int, root: Path, *, check: bool = False) -> None:
        """Open nothing yet.

        Args:
            split: An uncompressed split.
            size: Side of the squares in pixels.
            root: The store's folder, or another that holds its image arrays.
            check: Compare each chunk with its checksum when a row of it is first wanted.
        """
        self._check = check
        self._geometry = geometry(split, size)
        self._split = split.plan.split
        self._size = size
        self._root = root
        self._lock = threading.Lock()
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._most = min(OPEN_SHARDS, _files_limit() // 4)

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        """Copy *rows*, (n,) int64, into *out*, (n, size, size, 3) uint8 contiguous.

        Args:
            rows: Which.
            out: Where to.
            disk: Threads that wait for the disk, where it is asked.

        Returns:
            `mapped` or `preadv`: how it was done.

        Raises:
            StoreDamagedError: A shard is not what it should be.
        """
        numbers, offsets = (found.tolist() for found in self._geometry.places(rows))
        shards = {number: self._shard(number) for number in set(numbers)}
        found = [shards[number] for number in numbers]
        if self._check:
            self._check_chunks(found, offsets, disk)
        flat = out.reshape(len(rows), self._geometry.row_bytes)
        if self._resident(found, offsets):
            for shard in shards.values():
                shard.check_size()
            self._copy(found, offsets, flat)
            return "mapped"
        pieces = range(0, len(found), PIECE_ROWS)
        reads = [
            disk.submit(
                self._read,
                found[at : at + PIECE_ROWS],
                offsets[at : at + PIECE_ROWS],
                flat[at : at + PIECE_ROWS],
            )
            for at in pieces
        ]
        finish_all(reads)
        return "preadv"

    def _check_chunks(
        self, shards: Sequence[Shard], offsets: Sequence[int], disk: Executor
    ) -> None:
        framed = self._geometry.chunk_bytes + 4
        touched = {(shard, at // framed) for shard, at in zip(shards, offsets, strict=True)}
        fresh = [(shard, chunk) for shard, chunk in touched if not shard.checked[chunk]]
        finish_all([disk.submit(shard.check_chunk, chunk) for shard, chunk in fresh])

    def _copy(
        self, shards: Sequence[Shard], offsets: Sequence[int], flat: NDArray[np.uint8]
    ) -> None:
        row_bytes = self._geometry.row_bytes
        for shard, offset, to in zip(shards, offsets, flat, strict=True):
            to[:] = shard.bytes[offset : offset + row_bytes]  # numpy lets go of the interpreter

    def _read(
        self, shards: Sequence[Shard], offsets: Sequence[int], flat: NDArray[np.uint8]
    ) -> None:
        for shard, offset, to in zip(shards, offsets, flat, strict=True):
            left = memoryview(to)
            while left:
                try:
                    got = os.preadv(shard.file, [left], offset)
                except OSError as e:
                    raise StoreError(f"cannot read {shard.name}: {e.strerror or e}") from e
                if not got:
                    shard.check_size()
                    raise StoreDamagedError(f"{shard.name} ends at byte {offset}.")
                left, offset = left[got:], offset + got

    def _shard(self, number: int) -> Shard:
        with self._lock:
            found = self._shards.get(number)
            if found is None:
                name = layout.shard(self._split, self._size, number)
                found = Shard(self._root / name, name, self._geometry, number)
                self._shards[number] = found
                if len(self._shards) > self._most:
                    self._shards.popitem(last=False)
            else:
                self._shards.move_to_end(number)
            return found

    def _resident(self, shards: Sequence[Shard], offsets: Sequence[int]) -> bool:
        step = max(1, len(shards) // PROBED_ROWS)
        row_bytes = self._geometry.row_bytes
        return all(
            _in_memory(shards[at].bytes, offsets[at], row_bytes)
            for at in range(0, len(shards), step)
        )


def finish_all(parts: Sequence[Future[None]]) -> None:
    """Wait for all of *parts*, and raise what the first that failed raised.

    For all of them, since those that are left would go on writing to a buffer that is given back.
    """
    wait(parts)
    for part in parts:
        part.result()


_libc = ctypes.CDLL(None, use_errno=True)


def _in_memory(mapped: NDArray[np.uint8], offset: int, num_bytes: int) -> bool:
    """Whether a stretch of a mapping can be read without the disk; no, where nobody can say."""
    if not hasattr(_libc, "mincore"):
        return False
    start = offset // _PAGE * _PAGE
    pages = -(-(offset + num_bytes - start) // _PAGE)
    found = (ctypes.c_ubyte * pages)()
    address = ctypes.c_void_p(mapped.ctypes.data + start)
    if _libc.mincore(address, ctypes.c_size_t(pages * _PAGE), found) != 0:
        return False
    return all(page & 1 for page in found)


def _files_limit() -> int:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 4 * OPEN_SHARDS if limit == resource.RLIM_INFINITY else limit
