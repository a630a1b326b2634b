"""Gathers rows of a compressed or remote store by whole chunks, through a cache.

A chunk is the smallest unit that a compressed store can read, and the smallest that is worth a
request to a remote store. Decoded chunks stay in a bounded cache for the next batches: a windowed
order finds most of its rows there, a random one few. A chunk of one row is decoded directly into
the batch, and cached only if the cache can hold all rows.

The gathering thread itself reads and decodes chunks that are in the page cache. All other chunks
are requested at once, on threads that may block.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.loader.buffers import Buffers
from pipeline.loader.chunk_cache import ChunkCache
from pipeline.loader.futures import finish_all
from pipeline.store import layout
from pipeline.store.checksum import CHECKSUM_BYTES, has_valid_checksum
from pipeline.store.codecs import decompressor
from pipeline.store.direct import ALIGNMENT
from pipeline.store.objects import Objects
from pipeline.store.shard import ABSENT, decode_index
from pipeline.store.split import Split

MAX_SPARE_CHUNKS = 64
"""The maximum number of free chunk buffers that are kept for reads around the page cache."""

ChunkId = tuple[int, int]
"""The number of a shard, and of a chunk in it."""

RowCopies = list[tuple[int, int]]
"""The rows to copy from one chunk, as (index in the batch, row in the chunk)."""


class ChunkReader:
    """A `RowSource` that reads whole chunks of any store. It is thread-safe."""

    def __init__(
        self, split: Split, size: int, *, cache_bytes: int, page_cache: bool = True
    ) -> None:
        """Prepare to read; nothing is read yet.

        Args:
            split: Any split.
            size: Side of the square images in pixels.
            cache_bytes: Maximum bytes of decoded chunks in the cache.
            page_cache: False if reads bypass the page cache where the store supports it (default:
                True).
        """
        self._geometry = split.geometry(size)
        self._size = size
        self._objects: Objects = split.objects
        self._split = split.plan.split
        self._decompress = decompressor(split.recipe.codec)
        # Indexes are never evicted: one has 16 bytes a chunk, and reading it costs a round trip.
        self._indexes: ChunkCache[int, NDArray[np.uint64]] = ChunkCache(split.plan.num_shards)
        capacity = cache_bytes // self._geometry.chunk_bytes
        keep = self._geometry.chunk_rows > 1 or capacity >= split.plan.num_rows
        self._chunks: ChunkCache[ChunkId, NDArray[np.uint8]] | None = (
            ChunkCache(max(1, capacity)) if keep else None
        )
        self._scratch = threading.local()
        self._direct_buffers: Buffers | None = None
        if not page_cache:
            num_bytes = self._geometry.framed_bytes + 3 * ALIGNMENT
            self._direct_buffers = Buffers((num_bytes,), max_free=MAX_SPARE_CHUNKS)

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        """Copy the pixels of *rows* to *out*, from the cache or from chunks that are read now.

        Args:
            rows: The rows of the split, (n,) int64, in any order, also repeated; that they are 0 to
                the split's number of rows - 1 is not checked.
            out: (n, size, size, 3) uint8, contiguous; image i becomes that of row i. After an error
                its contents are arbitrary.
            disk: The threads that may block on reads from the store, such as a
                `ThreadPoolExecutor`; they have ended their reads when this returns or raises.

        Returns:
            The method of reading, always `chunks`.

        Raises:
            StoreDamagedError: A shard is missing or damaged.
            StoreError: The disk reports an error, or the request to an object store failed.
        """
        rows_of_chunk: dict[ChunkId, RowCopies] = defaultdict(list)
        for index, row in enumerate(rows.tolist()):
            shard, row_in_shard = divmod(row, self._geometry.shard_rows)
            chunk, row_in_chunk = divmod(row_in_shard, self._geometry.chunk_rows)
            rows_of_chunk[shard, chunk].append((index, row_in_chunk))
        flat = out.reshape(len(rows), self._geometry.row_bytes)
        # The chunks in memory first, on this thread; then all others at once, on threads that wait.
        uncached = {
            chunk_id: copies
            for chunk_id, copies in rows_of_chunk.items()
            if not self._copy(chunk_id, flat, copies, wait=False)
        }
        # All are awaited, also after an error: they write to a buffer that is reused.
        finish_all(
            [
                disk.submit(self._copy, chunk_id, flat, copies, wait=True)
                for chunk_id, copies in uncached.items()
            ]
        )
        return "chunks"

    def chunks_to_prefetch(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of *chunks* that are not in the cache; nothing is read.

        The result is empty if the cache cannot hold twice as many chunks, because reading ahead
        would evict those of the current window, and if this reader keeps no chunks.

        Args:
            chunks: The numbers of the chunks of a window, (n,) int64, counted from 0 over the whole
                split.

        Returns:
            (m,) int64, m <= n, in the order of *chunks*.
        """
        cache = self._chunks
        if cache is None or 2 * len(chunks) > cache.capacity:
            return chunks[:0]
        chunks_per_shard = self._geometry.chunks_per_shard
        return np.array(
            [c for c in chunks.tolist() if divmod(c, chunks_per_shard) not in cache], np.int64
        )

    def prefetch(self, chunk: int, disk: Executor) -> None:
        """Read one chunk into the cache, in the calling thread, and wait for it.

        Nothing is read if the cache holds it, and nothing kept if this reader has no cache.

        Args:
            chunk: The number of the chunk, counted from 0 over the whole split.
            disk: Unused; part of the interface `RowSource`.

        Raises:
            StoreError: The chunk is missing or damaged, the disk reports an error, or the request
                to an object store failed.
        """
        chunks_per_shard = self._geometry.chunks_per_shard
        self._copy(divmod(chunk, chunks_per_shard), np.empty((0, 0), np.uint8), [], wait=True)

    def _copy(
        self, chunk_id: ChunkId, flat: NDArray[np.uint8], rows: RowCopies, *, wait: bool
    ) -> bool:
        """Copy rows of one chunk into a batch.

        Args:
            chunk_id: The chunk.
            flat: (rows of the batch, row_bytes) uint8; the rows' elements are overwritten.
            rows: The rows to copy.
            wait: False to copy only from the caches.

        Returns:
            True if the rows were copied.
        """
        pixels = None if self._chunks is None else self._chunks.get(chunk_id)
        data = None
        if pixels is None and not wait:
            data = self._read_if_cached(chunk_id)
            if data is None:
                return False
        if self._chunks is None:
            # One row per chunk, and no cache: decode into the batch, without a copy.
            data = self._read_chunk(chunk_id) if data is None else data
            for index, _ in rows:
                self._decode(chunk_id, data, flat[index])
            return True
        if pixels is None:
            pixels = self._chunks.get_or_make(chunk_id, lambda: self._decoded_chunk(chunk_id, data))
        for index, row_in_chunk in rows:
            flat[index] = pixels[row_in_chunk]
        return True

    def _read_chunk(self, chunk_id: ChunkId) -> memoryview:
        """Return the stored bytes of a chunk, verified, without the checksum."""
        index = self._indexes.get_or_make(chunk_id[0], lambda: self._read_index(chunk_id[0]))
        start, num_bytes = (int(number) for number in index[chunk_id[1]])
        return self._verified(
            chunk_id, self._fetch(self._name(chunk_id[0]), start, num_bytes), num_bytes
        )

    def _read_if_cached(self, chunk_id: ChunkId) -> memoryview | None:
        """Return a chunk's stored bytes if the page cache holds them, otherwise None.

        They are valid until this thread calls the method again.
        """
        index = self._indexes.get(chunk_id[0])
        if index is None or self._direct_buffers is not None:
            return None
        start, num_bytes = (int(number) for number in index[chunk_id[1]])
        # Each thread has its own scratch memory, so no lock is needed.
        scratch = getattr(self._scratch, "bytes", b"")
        if len(scratch) < num_bytes:
            scratch = self._scratch.bytes = bytearray(2 * num_bytes)
        data = memoryview(scratch)[:num_bytes]
        if not self._objects.read_cached(self._name(chunk_id[0]), start, data):
            return None
        return self._verified(chunk_id, data, num_bytes)

    def _verified(self, chunk_id: ChunkId, data: memoryview, num_bytes: int) -> memoryview:
        if len(data) != num_bytes or not has_valid_checksum(data):
            raise _damaged_chunk_error(self._name(chunk_id[0]), f"chunk {chunk_id[1]}")
        return data[:-CHECKSUM_BYTES]

    def _fetch(self, name: str, start: int, num_bytes: int) -> memoryview:
        # Compression may make noise longer than its pixels: such a chunk does not fit the buffers.
        if self._direct_buffers is not None and num_bytes <= self._geometry.framed_bytes:
            data = self._objects.read_direct(name, start, num_bytes, self._direct_buffers.take())
            if data is not None:
                return data
        return memoryview(self._read(name, start, num_bytes))

    def _decode(self, chunk_id: ChunkId, data: memoryview, out: NDArray[np.uint8]) -> None:
        try:
            if self._decompress is not None:
                self._decompress(data, out)
            else:
                out[:] = np.frombuffer(data, np.uint8)
        # The checksum matched, so the chunk was written wrong: codecs raise any of these.
        except (IndexError, RuntimeError, ValueError):
            raise _damaged_chunk_error(self._name(chunk_id[0]), f"chunk {chunk_id[1]}") from None

    def _decoded_chunk(self, chunk_id: ChunkId, data: memoryview | None) -> NDArray[np.uint8]:
        data = self._read_chunk(chunk_id) if data is None else data
        if (
            self._direct_buffers is not None and self._decompress is None
        ):  # uncompressed: cache the buffer itself
            pixels = np.frombuffer(data, np.uint8)
            if len(pixels) != self._geometry.chunk_bytes:
                raise _damaged_chunk_error(self._name(chunk_id[0]), f"chunk {chunk_id[1]}")
        else:
            pixels = np.empty(self._geometry.chunk_bytes, np.uint8)
            self._decode(chunk_id, data, pixels)
        return pixels.reshape(self._geometry.chunk_rows, -1)

    def _name(self, shard: int) -> str:
        return layout.shard(self._split, self._size, shard)

    def _read_index(self, shard: int) -> NDArray[np.uint64]:
        name = self._name(shard)
        with reading(name):
            size = self._objects.size(name)
        if size is None:
            raise StoreDamagedError(f"{name} is missing. Run `tesserae repair`.")
        index_bytes = self._geometry.index_bytes
        # A truncated object may be shorter than its index, which the check of the length reports.
        data = self._read(name, max(0, size - index_bytes), index_bytes)
        index = decode_index(data) if len(data) == index_bytes else None
        if index is None or (index[: self._geometry.num_chunks(shard)] == ABSENT).any():
            raise _damaged_chunk_error(name, "its index")
        return index

    def _read(self, name: str, start: int, num_bytes: int) -> bytes:
        with reading(name):
            return self._objects.read(name, start, num_bytes)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn an error of the disk inside the block into a `StoreError` that names the object.

    Args:
        name: The name of the object, relative to the store.

    Raises:
        StoreDamagedError: The block raised FileNotFoundError.
        StoreError: The block raised any other OSError.
    """
    try:
        yield
    except FileNotFoundError:
        raise StoreDamagedError(f"{name} is missing. Run `tesserae repair`.") from None
    except OSError as e:
        raise StoreError(f"cannot read {name}: {e.strerror or e}") from e


def _damaged_chunk_error(name: str, part: str) -> StoreDamagedError:
    return StoreDamagedError(f"{name} is damaged ({part}). Run `tesserae repair`.")
