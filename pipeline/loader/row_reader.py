"""Rows of an uncompressed store on a local disk, gathered into one buffer.

Two readers behind one face. Where the pages are in memory, rows are copied out of a mapping: no
system call, nothing but a copy. Where they are not, a mapping would fault page by page, and a
thread waits at each; `preadv` asks for a whole row at once, from many threads. Which of the two is
asked of the kernel (mincore) for a few rows of each batch.

Of a split that is larger than memory, full random order would find few rows in the page cache, and
keeping that up takes a quarter of the processor's time. So only so many shards as fit go through
the page cache, always the same ones, which soon are in it whole. All others are read past it.

Reading a mapping beyond the end of a file kills the process. So the size of a shard is checked
when it is opened, and again whenever rows of it are copied.
"""

from __future__ import annotations

import errno
import os
import resource
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future, wait
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.loader.mmap import Mapping
from pipeline.store import layout
from pipeline.store.checksum import is_framed
from pipeline.store.objects import ALIGNMENT, open_direct, read_direct
from pipeline.store.split import Geometry, Split, geometry

OTHER_FILES = 512
"""Files that a process may want to open beside shards."""

PIECE_ROWS = 8
"""Rows that one thread reads from a disk before another takes the next."""

_STEP = 0x9E3779B97F4A7C15


class Shard:
    """One shard object, open. Closed when nobody holds it."""

    def __init__(
        self, path: Path, name: str, geometry: Geometry, shard: int, *, cached: bool = True
    ) -> None:
        """Open it, and check that rows lie where they are computed to lie.

        Args:
            path: Where it is.
            name: What errors call it.
            geometry: Of the split.
            shard: Its number.
            cached: Whether the page cache is to hold it.

        Raises:
            StoreDamagedError: It is missing, of another size, or its index says otherwise.
        """
        self.name = name
        self.num_bytes = geometry.num_bytes(shard)
        try:
            self.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # no pipe waits
        except FileNotFoundError:
            raise StoreDamagedError(f"{name} is missing. Run `tesserae repair`.") from None
        except OSError as e:
            hint = ""
            if e.errno == errno.EMFILE:
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                hint = (
                    f": this process may have {limit:,}; raise that with `ulimit -n {2 * limit}`"
                    " before it starts"
                )
            raise StoreError(f"cannot read {path}: {e.strerror or e}{hint}") from e
        weakref.finalize(self, os.close, self.file).atexit = False
        self.check_size()
        self._check_index(geometry, shard)
        if hasattr(os, "posix_fadvise"):  # a row in one request to the disk, and no more than it
            os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_RANDOM)
        self.direct = None if cached else open_direct(path)
        """The same file, for reads past the page cache; None where there are none."""
        if self.direct is not None:
            weakref.finalize(self, os.close, self.direct).atexit = False
        self._framed = geometry.chunk_bytes + 4
        info = os.fstat(self.file)
        self.identity = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
        """What tells this file from another one of the same name."""

    def read_chunk(self, chunk: int, memory: NDArray[np.uint8]) -> None:
        """Read a chunk and the checksum behind it, for `check_chunk`.

        Args:
            chunk: Its number.
            memory: (bytes of a chunk + 4,) uint8, where it is read to.

        Raises:
            StoreDamagedError: The file ends before it.
            StoreError: It cannot be read.
        """
        _fill(self, memory.data, chunk * self._framed)

    def check_chunk(self, chunk: int, data: NDArray[np.uint8]) -> None:
        """Compare a chunk with the checksum behind it.

        Raises:
            StoreDamagedError: The checksum is that of other bytes.
        """
        if not is_framed(data):
            raise StoreDamagedError(
                f"{self.name} is damaged (chunk {chunk}). Run `tesserae repair`."
            )

    def check_size(self) -> None:
        """Make sure that all of it is there.

        Raises:
            StoreDamagedError: The file is shorter or longer than it was.
        """
        found = os.lseek(self.file, 0, os.SEEK_END)  # a quarter of fstat's time
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

    def __init__(
        self,
        split: Split,
        size: int,
        root: Path,
        *,
        check: bool | None = False,
        cached: float = 1.0,
        checked: NDArray[np.bool_] | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            split: An uncompressed split.
            size: Side of the squares in pixels.
            root: The store's folder, or another that holds its image arrays.
            check: Whether to compare each chunk with its checksum when a row of it is first wanted.
                None for the chunks of shards that the page cache is to hold: a random order wants
                the rows of a chunk one after the other, and would read any other chunk anew for
                each of its rows.
            cached: Share of the shards that the page cache is to hold.
            checked: Which chunks of the split were compared already, (chunks of the split,) bool;
                it is written to, and may be shared by processes.
        """
        self._check = check
        numbers = range(split.plan.num_shards)
        self._is_cached = np.array([n * _STEP % 2**64 < cached * 2**64 for n in numbers], bool)
        """(shards,) bool: those that the page cache is to hold."""
        per_shard = split.recipe.shard_rows // split.recipe.chunk_rows
        self._checked = (
            np.zeros(split.plan.num_shards * per_shard, bool) if checked is None else checked
        )
        self._per_shard = per_shard
        self._identities: dict[int, tuple[int, ...]] = {}
        self._chunk = threading.local()
        self._aligned = threading.local()
        self._geometry = geometry(split, size)
        self._split = split.plan.split
        self._size = size
        self._root = root
        self._lock = threading.Lock()
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        try:
            self._mapping: Mapping | None = Mapping(self._geometry)
        except OSError:
            self._mapping = None

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        """See `pipeline.loader.reader.Reader`; `direct` if any row was read past the page cache."""
        numbers, offsets = self._geometry.places(rows)
        shards = self._open(set(numbers.tolist()), disk)
        found, places = [shards[number] for number in numbers.tolist()], offsets.tolist()
        if self._check is not False:
            self._check_chunks(shards, rows, disk)
        flat = out.reshape(len(rows), self._geometry.row_bytes)
        if self._mapping is not None and self._mapping.resident(numbers, offsets):
            for shard in shards.values():
                shard.check_size()
            self._mapping.copy(numbers, offsets, flat)
            return "mapped"
        pieces = range(0, len(found), PIECE_ROWS)
        reads = [
            disk.submit(
                self._read,
                found[at : at + PIECE_ROWS],
                places[at : at + PIECE_ROWS],
                flat[at : at + PIECE_ROWS],
            )
            for at in pieces
        ]
        finish_all(reads)
        return "preadv" if all(shard.direct is None for shard in shards.values()) else "direct"

    def missing(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of *chunks*, (n,) int64, that are worth reading ahead: all, or none."""
        geometry = self._geometry
        shards, offsets = geometry.places(chunks * geometry.chunk_rows)
        there = self._mapping is not None and self._mapping.resident(shards, offsets)
        return chunks[:0] if there or not hasattr(os, "posix_fadvise") else chunks

    def expect(self, chunk: int, disk: Executor) -> None:
        """Have the disk begin to read all of chunk number *chunk* of the split."""
        per_shard = self._geometry.shard_rows // self._geometry.chunk_rows
        number, inside = divmod(chunk, per_shard)
        shard = self._open([number], disk)[number]
        num_bytes = self._geometry.chunk_bytes
        os.posix_fadvise(shard.file, inside * (num_bytes + 4), num_bytes, os.POSIX_FADV_WILLNEED)

    def _check_chunks(
        self, shards: dict[int, Shard], rows: NDArray[np.int64], disk: Executor
    ) -> None:
        """Compare those chunks of *rows*, (n,) int64, that were not compared before."""
        waiting = []
        for chunk in self._to_check(rows // self._geometry.chunk_rows):
            number, inside = divmod(chunk, self._per_shard)
            shard = shards[number]
            data = None if self._mapping is None else self._mapping.chunk(number, inside)
            if data is None:
                waiting.append(disk.submit(self._check_from_disk, shard, chunk, inside))
                continue
            shard.check_size()  # a mapping that is cut off kills the process
            shard.check_chunk(inside, data)
            self._checked[chunk] = True
        finish_all(waiting)

    def _to_check(self, chunks: NDArray[np.int64]) -> list[int]:
        """Those of *chunks*, (n,) int64, that are to be compared now, each once."""
        chunks = chunks[~self._checked[chunks]]
        if self._check is None:  # chunks that are never compared must not cost a step of a loop
            chunks = chunks[self._is_cached[chunks // self._per_shard]]
        return np.unique(chunks).tolist() if len(chunks) else []

    def _check_from_disk(self, shard: Shard, chunk: int, inside: int) -> None:
        """Read a chunk from its file, which leaves it in the page cache, and compare it."""
        memory = getattr(self._chunk, "memory", None)
        if memory is None:  # each thread's own
            memory = self._chunk.memory = np.empty(self._geometry.chunk_bytes + 4, np.uint8)
        shard.read_chunk(inside, memory)
        shard.check_chunk(inside, memory)
        self._checked[chunk] = True

    def _read(
        self, shards: Sequence[Shard], offsets: Sequence[int], flat: NDArray[np.uint8]
    ) -> None:
        for shard, offset, to in zip(shards, offsets, flat, strict=True):
            if not self._read_direct(shard, offset, to):
                _fill(shard, memoryview(to), offset)

    def _read_direct(self, shard: Shard, offset: int, to: NDArray[np.uint8]) -> bool:
        """Read a row past the page cache; False where that is not to be done, or cannot be."""
        if shard.direct is None:
            return False
        memory = getattr(self._aligned, "memory", None)
        if memory is None:  # each thread's own
            memory = self._aligned.memory = np.empty(len(to) + 3 * ALIGNMENT, np.uint8)
        try:
            data = read_direct(shard.direct, offset, len(to), memory)
        except OSError:  # not on this file system; or else the other way fails too
            shard.direct = None
            return False
        if len(data) < len(to):
            return False
        to[:] = np.frombuffer(data, np.uint8)
        return True

    def _open(self, numbers: Iterable[int], disk: Executor) -> dict[int, Shard]:
        with self._lock:
            found = {number: self._shards.get(number) for number in numbers}
            for number, shard in found.items():
                if shard is not None:
                    self._shards.move_to_end(number)
        opened = {
            number: disk.submit(self._open_one, number)
            for number, shard in found.items()
            if shard is None
        }
        finish_all(list(opened.values()))
        return {n: opened[n].result() if shard is None else shard for n, shard in found.items()}

    def _open_one(self, number: int) -> Shard:
        name = layout.shard(self._split, self._size, number)
        cached = bool(self._is_cached[number])
        opened = Shard(self._root / name, name, self._geometry, number, cached=cached)
        with self._lock:
            if self._identities.setdefault(number, opened.identity) != opened.identity:
                # The file is another one than when it was last open.
                self._identities[number] = opened.identity
                self._checked[number * self._per_shard : (number + 1) * self._per_shard] = False
            found = self._shards.setdefault(number, opened)
            if found is opened and self._mapping is not None:
                self._mapping.add(number, found.file)
            if not _may_open_more(opened.file):  # those that were wanted longest ago are closed
                for _ in range(-(-len(self._shards) // 2)):
                    self._shards.popitem(last=False)
        return found


def _fill(shard: Shard, to: memoryview, offset: int) -> None:
    while to:
        try:
            got = os.preadv(shard.file, [to], offset)
        except OSError as e:
            raise StoreError(f"cannot read {shard.name}: {e.strerror or e}") from e
        if not got:
            shard.check_size()
            raise StoreDamagedError(f"{shard.name} ends at byte {offset}. Run `tesserae repair`.")
        to, offset = to[got:], offset + got


def finish_all(parts: Sequence[Future[Any]]) -> None:
    """Wait for all of *parts*, and raise what the first that failed raised.

    For all of them, since those that are left would go on writing to a buffer that is given back.
    """
    wait(parts)
    for part in parts:
        part.result()


def _may_open_more(file: int) -> bool:
    """Whether files can be kept open by a process that has just opened *file*.

    Files are numbered from the lowest number that is free, so the number says how many there are.
    The process's limit is raised as far as it may be: 1,024 is usual, and a random order wants
    1,252 shards of ImageNet open.
    """
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or file + OTHER_FILES < limit:
        return True
    if limit == most:
        return False
    raised = 2 * limit if most == resource.RLIM_INFINITY else min(2 * limit, most)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, most))
    except (OSError, ValueError):  # more than the system lets any process have
        return False
    return True
