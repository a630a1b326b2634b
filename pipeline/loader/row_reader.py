"""Gathers rows of an uncompressed store on a local disk into one buffer.

There are two methods. If the pages are in memory, rows are copied from a mapping, without a system
call. If they are not, a mapping would fault page by page and block the thread at each; `preadv`
requests a whole row at once, from many threads. The kernel (mincore) is asked about a few rows of
each batch to choose between them.

If a split is larger than memory, a full random order finds few rows in the page cache, and
maintaining the cache takes a quarter of the processor time. So only as many shards as fit use the
page cache, always the same ones, and soon they are entirely in it. All others bypass it (O_DIRECT).

Reading a mapping beyond the end of a file kills the process (SIGBUS). So the size of a shard is
checked when it is opened (`ShardFile`), and again whenever rows of it are copied.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.loader.framework import CopyRows, copy_rows
from pipeline.loader.futures import finish_all
from pipeline.loader.mmap import MappedShards
from pipeline.loader.shard_file import ShardFile
from pipeline.loader.shard_files import ShardFiles
from pipeline.store import layout
from pipeline.store.direct import ALIGNMENT, read_direct
from pipeline.store.split import Split

ROWS_PER_TASK = 8
"""The number of rows that one task on a disk thread reads."""

_HASH_MULTIPLIER = 0x9E3779B97F4A7C15


class RowReader:
    """A `RowSource` that reads single rows of an uncompressed local store. It is thread-safe."""

    def __init__(
        self,
        split: Split,
        size: int,
        root: Path,
        *,
        check: bool | None = False,
        cached: float = 1.0,
        checked: NDArray[np.bool_] | None = None,
        copy_rows: CopyRows = copy_rows,
    ) -> None:
        """Prepare to read; shards are opened on demand.

        Args:
            split: An uncompressed split.
            size: Side of the square images in pixels.
            root: Folder of the store, or another folder with its image arrays.
            check: True compares each chunk with its checksum at the first read of one of its rows,
                False does not. None does so only in shards that use the page cache: a random order
                reads the rows of a chunk at different times, and would read a chunk that bypasses
                the cache again for each of them (default: False).
            cached: Share of the shards that use the page cache, 0 to 1 (default: 1).
            checked: (chunks of the split,) bool, True where a chunk was verified before. It is
                updated, and may be in memory shared by processes (default: none were).
            copy_rows: The function that copies rows of mapped shards (default: that of numpy).
        """
        self._check = check
        # Shards are chosen by a hash of their number, so every process and epoch chooses the same.
        numbers = range(split.plan.num_shards)
        self._is_cached = np.array(
            [n * _HASH_MULTIPLIER % 2**64 < cached * 2**64 for n in numbers], bool
        )
        """The shards that use the page cache, (shards,) bool."""
        self._geometry = split.geometry(size)
        self._chunks_per_shard = self._geometry.chunks_per_shard
        num_chunks = split.plan.num_shards * self._chunks_per_shard
        self._checked = np.zeros(num_chunks, bool) if checked is None else checked
        self._chunk_buffers = threading.local()
        self._aligned_buffers = threading.local()
        self._split = split.plan.split
        self._size = size
        self._root = root
        self._files = ShardFiles(self._open_file, self._on_open)
        try:
            self._mapping: MappedShards | None = MappedShards(self._geometry, copy_rows=copy_rows)
        except OSError:  # too many addresses, or not Linux: every row is read by a system call
            self._mapping = None

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        """Copy the pixels of *rows* to *out*, from mapped shards or by one read for each row.

        Shards are opened, and chunks compared with their checksums, as far as that is still to be
        done. The soft limit of open files of the process is raised if the shards need it.

        Args:
            rows: The rows of the split, (n,) int64, in any order, also repeated; that they are 0 to
                the split's number of rows - 1 is not checked.
            out: (n, size, size, 3) uint8, contiguous; image i becomes that of row i. After an error
                its contents are arbitrary.
            disk: The threads that may block on reads from the store, such as a
                `ThreadPoolExecutor`; they have ended their reads when this returns or raises.

        Returns:
            The method of reading: `mapped`, `preadv`, or `direct` if any row may have bypassed the
            page cache.

        Raises:
            StoreDamagedError: A shard is missing or damaged.
            StoreError: A shard cannot be read.
        """
        numbers, offsets = self._geometry.locate(rows)
        shards = self._files.get(set(numbers.tolist()), disk)
        row_shards, row_offsets = [shards[number] for number in numbers.tolist()], offsets.tolist()
        if self._check is not False:
            self._check_chunks(shards, rows, disk)
        flat = out.reshape(len(rows), self._geometry.row_bytes)
        if self._mapping is not None and self._mapping.resident(numbers, offsets):
            # Immediately before the copy: a file that has shrunk would kill the process (SIGBUS).
            for shard in shards.values():
                shard.check_size()
            self._mapping.copy(numbers, offsets, flat)
            return "mapped"
        starts = range(0, len(row_shards), ROWS_PER_TASK)
        reads = [
            disk.submit(
                self._read,
                row_shards[start : start + ROWS_PER_TASK],
                row_offsets[start : start + ROWS_PER_TASK],
                flat[start : start + ROWS_PER_TASK],
            )
            for start in starts
        ]
        finish_all(reads)
        return "preadv" if all(shard.direct is None for shard in shards.values()) else "direct"

    def chunks_to_prefetch(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return none of *chunks* if they are mapped and a sample is in memory, otherwise all.

        Nothing is read.

        Args:
            chunks: The numbers of chunks, (n,) int64, counted from 0 over the whole split.

        Returns:
            *chunks* itself, or an empty view of it, (0,) int64; (0,) also on systems without
            `posix_fadvise`.
        """
        geometry = self._geometry
        shards, offsets = geometry.locate(chunks * geometry.chunk_rows)
        resident = self._mapping is not None and self._mapping.resident(shards, offsets)
        return chunks[:0] if resident or not hasattr(os, "posix_fadvise") else chunks

    def prefetch(self, chunk: int, disk: Executor) -> None:
        """Make the kernel start to read one chunk into the page cache; do not wait for it.

        Args:
            chunk: The number of the chunk, counted from 0 over the whole split.
            disk: The threads on which its shard is opened if it is not open yet.

        Raises:
            StoreDamagedError: The shard is missing or damaged.
            StoreError: The shard cannot be opened.
        """
        number, chunk_in_shard = divmod(chunk, self._chunks_per_shard)
        # Held until then: other threads may drop the shard, whose descriptor is closed with it.
        shard = self._files.get([number], disk)[number]
        start = chunk_in_shard * self._geometry.framed_bytes
        os.posix_fadvise(shard.file, start, self._geometry.chunk_bytes, os.POSIX_FADV_WILLNEED)

    def _check_chunks(
        self, shards: dict[int, ShardFile], rows: NDArray[np.int64], disk: Executor
    ) -> None:
        """Verify those chunks of *rows*, (n,) int64, that were not verified before."""
        pending = []
        for chunk in self._unchecked(rows // self._geometry.chunk_rows):
            number, chunk_in_shard = divmod(chunk, self._chunks_per_shard)
            shard = shards[number]
            data = None if self._mapping is None else self._mapping.chunk(number, chunk_in_shard)
            if data is None:
                pending.append(disk.submit(self._check_from_disk, shard, chunk, chunk_in_shard))
                continue
            shard.check_size()  # reading a mapping beyond the end of the file kills the process
            shard.check_chunk(chunk_in_shard, data)
            # Without a lock: if two threads verify one chunk, only time is lost.
            self._checked[chunk] = True
        finish_all(pending)

    def _unchecked(self, chunks: NDArray[np.int64]) -> list[int]:
        """Return those of *chunks*, (n,) int64, that must be verified now, each once."""
        chunks = chunks[~self._checked[chunks]]
        if self._check is None:  # filtered as an array: unverified chunks must not cost a loop
            chunks = chunks[self._is_cached[chunks // self._chunks_per_shard]]
        return np.unique(chunks).tolist() if len(chunks) else []

    def _check_from_disk(self, shard: ShardFile, chunk: int, chunk_in_shard: int) -> None:
        """Read a chunk through the page cache, which then holds its rows, and verify it."""
        buffer = getattr(self._chunk_buffers, "memory", None)
        if buffer is None:  # each thread has its own
            buffer = self._chunk_buffers.memory = np.empty(self._geometry.framed_bytes, np.uint8)
        shard.read_chunk(chunk_in_shard, buffer)
        shard.check_chunk(chunk_in_shard, buffer)
        self._checked[chunk] = True

    def _read(
        self, shards: Sequence[ShardFile], offsets: Sequence[int], flat: NDArray[np.uint8]
    ) -> None:
        for shard, offset, row in zip(shards, offsets, flat, strict=True):
            if not self._read_direct(shard, offset, row):
                shard.read(memoryview(row), offset)

    def _read_direct(self, shard: ShardFile, offset: int, row: NDArray[np.uint8]) -> bool:
        """Read a row around the page cache; return False if the shard or file system does not."""
        if shard.direct is None:
            return False
        buffer = getattr(self._aligned_buffers, "memory", None)
        if buffer is None:  # each thread has its own
            buffer = self._aligned_buffers.memory = np.empty(len(row) + 3 * ALIGNMENT, np.uint8)
        try:
            data = read_direct(shard.direct, offset, len(row), buffer)
        except OSError:  # not supported here; a real read error recurs in the buffered read
            shard.direct = None
            return False
        if len(data) < len(row):
            return False
        row[:] = np.frombuffer(data, np.uint8)
        return True

    def _open_file(self, number: int) -> ShardFile:
        name = layout.shard(self._split, self._size, number)
        cached = bool(self._is_cached[number])
        return ShardFile(self._root / name, name, self._geometry, number, cached=cached)

    def _on_open(self, number: int, file: ShardFile, is_replaced: bool) -> None:
        if is_replaced:  # its chunks are unverified again
            first = number * self._chunks_per_shard
            self._checked[first : first + self._chunks_per_shard] = False
        if self._mapping is not None:
            self._mapping.add(number, file.file)
