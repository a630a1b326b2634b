"""Reads the bytes of encoded rows: rows alone from a local store, or else whole chunks.

A local store is read row by row, each with one system call. The gathering thread itself reads what
is in the page cache; the rest is read on threads that may block. Nothing is mapped: a system call
costs nothing beside decoding, and a file that was truncated cannot end the process.

A row that crosses the border of a chunk contains its checksum, which is removed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError
from pipeline.loader.chunk_cache import ChunkCache
from pipeline.loader.chunk_reader import reading
from pipeline.loader.futures import finish_all
from pipeline.loader.pixel_reader import RowSource
from pipeline.loader.shard_file import ShardFile
from pipeline.loader.shard_files import ShardFiles
from pipeline.store import layout
from pipeline.store.checksum import CHECKSUM_BYTES, has_valid_checksum
from pipeline.store.local import LocalObjects
from pipeline.store.split import Split

ROWS_PER_TASK = 8
"""The number of rows that one task on a disk thread reads."""

MAX_REQUEST_CHUNKS = 64
"""The maximum number of adjacent chunks in one request: 8 MiB."""


def open_encoded_reader(
    split: Split,
    name: str,
    *,
    cache_bytes: int,
    check: bool | None = False,
    cached: float = 1.0,
    windows: bool = False,
) -> RowSource:
    """Return a reader for the bytes of encoded rows of *split*; nothing is read yet.

    Args:
        split: The split, opened with these encoded rows.
        name: The name of the encoded rows, such as `jpeg256@90`.
        cache_bytes: The maximum bytes of chunks in the cache of a reader of whole chunks.
        check: True compares each chunk with its checksum at the first read of one of its rows,
            False does not, None does so if memory can hold the rows (default: False). A reader of
            whole chunks always compares.
        cached: The share of the rows that memory can hold; 1 or more is all of it (default: 1).
        windows: True if all rows of a chunk are read soon after each other (default: False).

    Returns:
        An `EncodedRowReader`, which reads single rows, for a local store; not if *windows* is True
        and *cached* less than 1. Otherwise an `EncodedChunkReader`, which reads whole chunks. Both
        put the bytes of rows into an array of objects by `gather(rows, out, disk)`.
    """
    if isinstance(split.objects, LocalObjects) and (cached >= 1 or not windows):
        # A random order over more rows than memory holds would read a chunk again for each row.
        check = cached >= 1 if check is None else check
        return EncodedRowReader(split, name, Path(split.objects.url), check=check)
    return EncodedChunkReader(split, name, cache_bytes=cache_bytes)


class EncodedRowReader:
    """A `RowSource` of the bytes of single rows of a local store. It is thread-safe."""

    def __init__(self, split: Split, name: str, root: Path, *, check: bool) -> None:
        """Prepare to read; shards are opened on demand.

        Args:
            split: The split, opened with these encoded rows.
            name: The name of the encoded rows.
            root: The folder of the store, or another folder with its image arrays.
            check: True compares each chunk with its checksum at the first read of one of its rows.
        """
        self._split = split.plan.split
        self._rows = split.encoded[name]
        self._chunk_rows = split.recipe.chunk_rows
        self._root = root
        self._check = check
        self._checked = np.zeros(int(self._rows.first_chunk[-1]) if check else 0, bool)
        self._files = ShardFiles(self._open_file, self._on_open)
        self._scratch = threading.local()

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.object_], disk: Executor) -> str:
        """Put the bytes of *rows* into *out*, read by one call for each row.

        Shards are opened, and chunks compared with their checksums, as far as that is still to be
        done.

        Args:
            rows: Readable rows of the split, (n,) int64, in any order, also repeated.
            out: (n,) of objects; object i becomes a buffer of the bytes of row i.
            disk: The threads that may block on reads from the store; they have ended their reads
                when this returns or raises.

        Returns:
            The method of reading, always `preadv`.

        Raises:
            StoreDamagedError: A shard is missing or damaged.
            StoreError: A shard cannot be read.
        """
        shards, starts, stops = self._rows.locate(rows)
        files = self._files.get(set(shards.tolist()), disk)
        if self._check:
            self._check_chunks(files, rows, disk)
        geometry = self._rows.geometry
        offsets = _object_offsets(geometry.chunk_bytes, starts)
        lengths = _object_offsets(geometry.chunk_bytes, stops - 1) + 1 - offsets
        # One allocation for all rows, of which each gets a part.
        ends = np.cumsum(lengths)
        memory = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        parts = [memory[low:high] for low, high in pairwise([0, *ends.tolist()])]
        reads = [
            (files[shard], part, offset)
            for shard, part, offset in zip(shards.tolist(), parts, offsets.tolist(), strict=True)
        ]
        waiting = [
            (file, part, offset)
            for file, part, offset in reads
            if not file.read_cached(part.data, offset)
        ]
        finish_all(
            [
                disk.submit(_read_all, waiting[start : start + ROWS_PER_TASK])
                for start in range(0, len(waiting), ROWS_PER_TASK)
            ]
        )
        for index, (part, start) in enumerate(zip(parts, starts.tolist(), strict=True)):
            out[index] = _without_checksums(part, start, geometry.chunk_bytes)
        return "preadv"

    def chunks_to_prefetch(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return all of *chunks*, or none where the system cannot be told to read ahead.

        Args:
            chunks: The numbers of the chunks of a window, (n,) int64: chunk k is the rows from
                k * `chunk_rows` of the recipe on.
        """
        return chunks if hasattr(os, "posix_fadvise") else chunks[:0]

    def prefetch(self, chunk: int, disk: Executor) -> None:
        """Make the kernel start to read the rows of one chunk; do not wait for them.

        Args:
            chunk: The number of the chunk, in rows of the recipe's chunks.
            disk: The threads on which its shard is opened if it is not open yet.

        Raises:
            StoreDamagedError: The shard is missing or damaged.
            StoreError: The shard cannot be opened.
        """
        rows = _rows_of_chunk(chunk, self._chunk_rows, self._rows.num_rows)
        shards, starts, stops = self._rows.locate(rows[[0, -1]])
        if starts[0] == stops[1]:  # a length of 0 would mean the rest of the file
            return
        first, last = _object_offsets(
            self._rows.geometry.chunk_bytes, np.array([starts[0], stops[1]])
        ).tolist()
        # Held until then: other threads may drop the shard, whose descriptor is closed with it.
        shard = self._files.get([int(shards[0])], disk)[int(shards[0])]
        os.posix_fadvise(shard.file, first, last - first, os.POSIX_FADV_WILLNEED)

    def _check_chunks(
        self, files: dict[int, ShardFile], rows: NDArray[np.int64], disk: Executor
    ) -> None:
        """Verify those chunks of *rows*, (n,) int64, that were not verified before."""
        chunks = self._rows.chunks(rows)
        pending = []
        for chunk in chunks[~self._checked[chunks]].tolist():
            shard, chunk_in_shard = self._rows.locate_chunk(chunk)
            file, memory = files[shard], self._chunk_memory()
            if file.read_cached(memory.data, chunk_in_shard * self._rows.framed_bytes):
                file.check_chunk(chunk_in_shard, memory)
                # Without a lock: if two threads verify one chunk, only time is lost.
                self._checked[chunk] = True
            else:
                pending.append(disk.submit(self._check_from_disk, file, chunk, chunk_in_shard))
        finish_all(pending)

    def _check_from_disk(self, file: ShardFile, chunk: int, chunk_in_shard: int) -> None:
        """Read a chunk through the page cache, which then holds its rows, and verify it."""
        memory = self._chunk_memory()
        file.read_chunk(chunk_in_shard, memory)
        file.check_chunk(chunk_in_shard, memory)
        self._checked[chunk] = True

    def _chunk_memory(self) -> NDArray[np.uint8]:
        """Return memory for one chunk with its checksum, of which each thread has its own."""
        memory: NDArray[np.uint8] | None = getattr(self._scratch, "memory", None)
        if memory is None:
            memory = self._scratch.memory = np.empty(self._rows.framed_bytes, np.uint8)
        return memory

    def _open_file(self, number: int) -> ShardFile:
        name = layout.encoded_shard(self._split, self._rows.name, number)
        return ShardFile(self._root / name, name, self._rows, number)

    def _on_open(self, number: int, file: ShardFile, is_replaced: bool) -> None:
        if is_replaced and self._check:  # its chunks are unverified again
            first, last = self._rows.first_chunk[number : number + 2].tolist()
            self._checked[first:last] = False


class EncodedChunkReader:
    """A `RowSource` of the bytes of rows that reads whole chunks of any store. It is thread-safe.

    Chunks are compared with their checksums and stay in a bounded cache for the next batches.
    """

    def __init__(self, split: Split, name: str, *, cache_bytes: int) -> None:
        """Prepare to read; nothing is read yet.

        Args:
            split: The split, opened with these encoded rows.
            name: The name of the encoded rows.
            cache_bytes: Maximum bytes of chunks in the cache.
        """
        self._split = split.plan.split
        self._rows = split.encoded[name]
        self._chunk_rows = split.recipe.chunk_rows
        self._objects = split.objects
        self._cache: ChunkCache[int, NDArray[np.uint8]] = ChunkCache(
            max(1, cache_bytes // self._rows.geometry.chunk_bytes)
        )

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.object_], disk: Executor) -> str:
        """Put the bytes of *rows* into *out*, from the cache or from chunks that are read now.

        Args:
            rows: Readable rows of the split, (n,) int64, in any order, also repeated.
            out: (n,) of objects; object i becomes a buffer of the bytes of row i.
            disk: The threads that may block on reads from the store; they have ended their reads
                when this returns or raises.

        Returns:
            The method of reading, always `chunks`.

        Raises:
            StoreDamagedError: A shard is missing or damaged.
            StoreError: The disk reports an error, or the request to an object store failed.
        """
        chunks = self._read(self._rows.chunks(rows), disk)
        shards, starts, stops = self._rows.locate(rows)
        chunk_bytes = self._rows.geometry.chunk_bytes
        bases = self._rows.first_chunk[shards].tolist()
        for index, (base, start, stop) in enumerate(
            zip(bases, starts.tolist(), stops.tolist(), strict=True)
        ):
            pieces = []
            while start < stop:
                chunk, inside = divmod(start, chunk_bytes)
                piece = chunks[base + chunk][inside : inside + stop - start]
                pieces.append(piece)
                start += len(piece)
            out[index] = (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).data
        return "chunks"

    def chunks_to_prefetch(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of *chunks* whose rows are not all in the cache; nothing is read.

        The result is empty if the cache cannot hold twice as much, because reading ahead would
        evict the rows of the current window.

        Args:
            chunks: The numbers of the chunks of a window, (n,) int64: chunk k is the rows from
                k * `chunk_rows` of the recipe on.

        Returns:
            (m,) int64, m <= n, in the order of *chunks*.
        """
        needed = [self._chunks_of_rows(chunk) for chunk in chunks.tolist()]
        if 2 * sum(map(len, needed)) > self._cache.capacity:
            return chunks[:0]
        is_missing = [any(each not in self._cache for each in each_of) for each_of in needed]
        missing: NDArray[np.int64] = chunks[np.array(is_missing, bool)]
        return missing

    def prefetch(self, chunk: int, disk: Executor) -> None:
        """Read the rows of one chunk into the cache, in the calling thread, and wait for them.

        Args:
            chunk: The number of the chunk, in rows of the recipe's chunks.
            disk: Unused; part of the interface `RowSource`.

        Raises:
            StoreError: The rows are missing or damaged, the disk reports an error, or the request
                to an object store failed.
        """
        for run in _runs(self._chunks_of_rows(chunk), self._rows.first_chunk):
            self._cache.get_or_make_all(run, self._fetch)

    def _chunks_of_rows(self, chunk: int) -> list[int]:
        """Return the chunks of the array that hold the rows of one chunk of the recipe."""
        rows = _rows_of_chunk(chunk, self._chunk_rows, self._rows.num_rows)
        shards, starts, stops = self._rows.locate(rows[[0, -1]])
        first, last = np.array([starts[0], stops[1] - 1]) // self._rows.geometry.chunk_bytes
        base = int(self._rows.first_chunk[shards[0]])
        return list(range(base + int(first), base + int(last) + 1))

    def _read(self, chunks: NDArray[np.int64], disk: Executor) -> dict[int, NDArray[np.uint8]]:
        """Return the contents of chunks, reading those at once that are not in the cache."""
        contents: dict[int, NDArray[np.uint8]] = {}
        absent = []
        for chunk in chunks.tolist():
            data = self._cache.get(chunk)
            if data is None:
                absent.append(chunk)
            else:
                contents[chunk] = data
        runs = _runs(absent, self._rows.first_chunk)
        reads = [disk.submit(self._cache.get_or_make_all, run, self._fetch) for run in runs]
        finish_all(reads)
        for run, read in zip(runs, reads, strict=True):
            contents.update(zip(run, read.result(), strict=True))
        return contents

    def _fetch(self, chunks: list[int]) -> list[NDArray[np.uint8]]:
        """Read and verify chunks of one shard, ascending: adjacent ones by one request."""
        return [
            data for run in _runs(chunks, self._rows.first_chunk) for data in self._fetch_run(run)
        ]

    def _fetch_run(self, run: list[int]) -> list[NDArray[np.uint8]]:
        shard, first = self._rows.locate_chunk(run[0])
        name = layout.encoded_shard(self._split, self._rows.name, shard)
        framed = self._rows.framed_bytes
        with reading(name):
            data = self._objects.read(name, first * framed, len(run) * framed)
        chunks = []
        for index in range(len(run)):
            chunk = np.frombuffer(data, np.uint8)[index * framed : (index + 1) * framed]
            if len(chunk) < framed or not has_valid_checksum(chunk):
                raise StoreDamagedError(
                    f"{name} is damaged (chunk {first + index}). Run `tesserae repair`."
                )
            # A copy: a view would keep the whole request in memory after the others are evicted.
            chunks.append(chunk[:-CHECKSUM_BYTES].copy())
        return chunks


def _runs(chunks: Sequence[int], first_chunk: NDArray[np.int64]) -> list[list[int]]:
    """Split ascending chunks where they are not adjacent, or a shard or the longest run ends."""
    starts_shard = np.isin(chunks, first_chunk).tolist()
    runs: list[list[int]] = []
    for chunk, is_first in zip(chunks, starts_shard, strict=True):
        run = runs[-1] if runs else []
        if run and run[-1] + 1 == chunk and not is_first and len(run) < MAX_REQUEST_CHUNKS:
            run.append(chunk)
        else:
            runs.append([chunk])
    return runs


def _rows_of_chunk(chunk: int, chunk_rows: int, num_rows: int) -> NDArray[np.int64]:
    return np.arange(chunk * chunk_rows, min((chunk + 1) * chunk_rows, num_rows))


def _read_all(reads: Sequence[tuple[ShardFile, NDArray[np.uint8], int]]) -> None:
    for file, part, offset in reads:
        file.read(part.data, offset)


def _object_offsets(chunk_bytes: int, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where bytes of a shard lie in its object, (n,) int64, before which checksums lie."""
    return offsets + offsets // chunk_bytes * CHECKSUM_BYTES


def _without_checksums(data: NDArray[np.uint8], start: int, chunk_bytes: int) -> memoryview:
    """Return the bytes of a row without the checksums of chunks that end in it.

    Args:
        data: The bytes of the row in its object, (n,) uint8.
        start: The offset of its first byte in the span of the shard.
        chunk_bytes: The bytes of a chunk without its checksum.
    """
    room = chunk_bytes - start % chunk_bytes
    if len(data) <= room:  # within one chunk, as most rows are: without a copy
        return data.data
    step = chunk_bytes + CHECKSUM_BYTES
    later = [data[at : at + chunk_bytes] for at in range(room + CHECKSUM_BYTES, len(data), step)]
    return np.concatenate([data[:room], *later]).data
