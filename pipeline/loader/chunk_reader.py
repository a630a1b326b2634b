"""Rows of a store that is compressed, or not on a local disk: by whole chunks, through a cache.

A chunk is the least that can be read of a compressed store, and of a remote one the least that is
worth a request. What was unpacked is kept for the next batches, within a limit: an order in windows
finds most of its rows there, a random one few. A chunk of one row is unpacked where it is wanted,
and kept only if all of them can be.

What the page cache holds is read and unpacked by the thread that gathers. All else is asked for by
many threads at once, which wait.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar, overload

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError
from pipeline.loader.buffers import Buffers
from pipeline.loader.row_reader import finish_all
from pipeline.store import layout
from pipeline.store.checksum import is_framed
from pipeline.store.objects import ALIGNMENT, Objects
from pipeline.store.shard import ABSENT, decompressor
from pipeline.store.split import Split, geometry

SPARE_CHUNKS = 64
"""Memory of so many chunks is kept for the next, where chunks are read past the page cache."""

Where = tuple[int, int]
"""The numbers of a shard and of a chunk in it."""

Rows = list[tuple[int, int]]
"""Places in the batch, and in the chunk."""


class ChunkReader:
    """Gathers rows of one size. Used by many threads at once."""

    def __init__(
        self, split: Split, size: int, *, cache_bytes: int, page_cache: bool = True
    ) -> None:
        """Read nothing yet.

        Args:
            split: Any split.
            size: Side of the squares in pixels.
            cache_bytes: Most bytes of pixels that are kept.
            page_cache: Whether what is read may stay in the page cache.
        """
        self._geometry = geometry(split, size)
        self._size = size
        self._objects: Objects = split.objects
        self._split = split.plan.split
        self._decompress = decompressor(split.recipe.codec)
        self._indexes: _Kept[int, NDArray[np.uint64]] = _Kept(split.plan.num_shards)
        most = cache_bytes // self._geometry.chunk_bytes
        keep = self._geometry.chunk_rows > 1 or most >= split.plan.num_rows
        self._chunks: _Kept[Where, NDArray[np.uint8]] | None = _Kept(max(1, most)) if keep else None
        self._scratch = threading.local()
        self._memory: Buffers | None = None
        if not page_cache:
            num_bytes = self._geometry.chunk_bytes + 4 + 3 * ALIGNMENT
            self._memory = Buffers((num_bytes,), keep=SPARE_CHUNKS)

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        """See `pipeline.loader.reader.Reader`."""
        wanted: dict[Where, Rows] = defaultdict(list)
        for place, row in enumerate(rows.tolist()):
            shard, inside = divmod(row, self._geometry.shard_rows)
            chunk, at = divmod(inside, self._geometry.chunk_rows)
            wanted[shard, chunk].append((place, at))
        flat = out.reshape(len(rows), self._geometry.row_bytes)
        missing = {w: at for w, at in wanted.items() if not self._copy(w, flat, at, wait=False)}
        finish_all([disk.submit(self._copy, w, flat, at, wait=True) for w, at in missing.items()])
        return "chunks"

    def missing(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of *chunks*, (n,) int64, that are worth reading ahead.

        None, if the chunks that are wanted now and these are more than are kept.
        """
        kept = self._chunks
        if kept is None or 2 * len(chunks) > kept.most:
            return chunks[:0]
        per_shard = self._geometry.shard_rows // self._geometry.chunk_rows
        return np.array([c for c in chunks.tolist() if divmod(c, per_shard) not in kept], np.int64)

    def expect(self, chunk: int, disk: Executor) -> None:
        """Read chunk number *chunk* of the split, and keep it; this waits for it."""
        per_shard = self._geometry.shard_rows // self._geometry.chunk_rows
        self._copy(divmod(chunk, per_shard), np.empty((0, 0), np.uint8), [], wait=True)

    def _copy(self, where: Where, flat: NDArray[np.uint8], rows: Rows, *, wait: bool) -> bool:
        """Copy the rows of one chunk, as (place, place in the chunk), if it need not be waited for.

        Returns:
            Whether it was done.
        """
        pixels = None if self._chunks is None else self._chunks.get(where)
        data = None
        if pixels is None and not wait:
            data = self._at_hand(where)
            if data is None:
                return False
        if self._chunks is None:
            data = self._wait_for(where) if data is None else data
            for place, _ in rows:
                self._unpack(where, data, flat[place])
            return True
        if pixels is None:
            pixels = self._chunks.get(where, lambda: self._unpacked(where, data))
        for place, at in rows:
            flat[place] = pixels[at]
        return True

    def _wait_for(self, where: Where) -> memoryview:
        """A chunk as it is stored."""
        index = self._indexes.get(where[0], lambda: self._read_index(where[0]))
        start, num_bytes = (int(number) for number in index[where[1]])
        return self._checked(where, self._fetch(self._name(where[0]), start, num_bytes), num_bytes)

    def _at_hand(self, where: Where) -> memoryview | None:
        """The same, until this thread asks for another; None where it must be waited for."""
        index = self._indexes.get(where[0])
        if index is None or self._memory is not None:
            return None
        start, num_bytes = (int(number) for number in index[where[1]])
        scratch = getattr(self._scratch, "bytes", b"")
        if len(scratch) < num_bytes:
            scratch = self._scratch.bytes = bytearray(2 * num_bytes)
        data = memoryview(scratch)[:num_bytes]
        if not self._objects.read_cached(self._name(where[0]), start, data):
            return None
        return self._checked(where, data, num_bytes)

    def _checked(self, where: Where, data: memoryview, num_bytes: int) -> memoryview:
        if len(data) != num_bytes or not is_framed(np.frombuffer(data, np.uint8)):
            raise _damaged(self._name(where[0]), f"chunk {where[1]}")
        return data[:-4]

    def _fetch(self, name: str, start: int, num_bytes: int) -> memoryview:
        if self._memory is not None and num_bytes <= self._geometry.chunk_bytes + 4:
            data = self._objects.read_direct(name, start, num_bytes, self._memory.take())
            if data is not None:
                return data
        return memoryview(self._read(name, start, num_bytes))

    def _unpack(self, where: Where, data: memoryview, out: NDArray[np.uint8]) -> None:
        try:
            if self._decompress is not None:
                self._decompress(data, out)
            else:
                out[:] = np.frombuffer(data, np.uint8)
        except (IndexError, RuntimeError, ValueError):
            raise _damaged(self._name(where[0]), f"chunk {where[1]}") from None

    def _unpacked(self, where: Where, data: memoryview | None) -> NDArray[np.uint8]:
        data = self._wait_for(where) if data is None else data
        if self._memory is not None and self._decompress is None:  # nobody else will write there
            pixels = np.frombuffer(data, np.uint8)
            if len(pixels) != self._geometry.chunk_bytes:
                raise _damaged(self._name(where[0]), f"chunk {where[1]}")
        else:
            pixels = np.empty(self._geometry.chunk_bytes, np.uint8)
            self._unpack(where, data, pixels)
        return pixels.reshape(self._geometry.chunk_rows, -1)

    def _name(self, shard: int) -> str:
        return layout.shard(self._split, self._size, shard)

    def _read_index(self, shard: int) -> NDArray[np.uint64]:
        name = self._name(shard)
        size = self._objects.size(name)
        if size is None:
            raise StoreDamagedError(f"{name} is missing. Run `tesserae repair`.")
        index_bytes = self._geometry.index_bytes
        data = self._read(name, max(0, size - index_bytes), index_bytes)
        body = data[:-4]
        if len(data) != index_bytes or google_crc32c.value(body) != int.from_bytes(
            data[-4:], "little"
        ):
            raise _damaged(name, "its index")
        index = np.frombuffer(body, "<u8").reshape(-1, 2).astype(np.uint64)
        if (index[: self._geometry.num_chunks(shard)] == ABSENT).any():
            raise _damaged(name, "its index")
        return index

    def _read(self, name: str, start: int, num_bytes: int) -> bytes:
        try:
            return self._objects.read(name, start, num_bytes)
        except FileNotFoundError:
            raise StoreDamagedError(f"{name} is missing. Run `tesserae repair`.") from None


def _damaged(name: str, part: str) -> StoreDamagedError:
    return StoreDamagedError(f"{name} is damaged ({part}). Run `tesserae repair`.")


Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")


class _Kept(Generic[Key, Made]):
    """The values that were wanted last. Whoever wants one that is just being made waits for it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[Key, Future[Made]] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        with self._lock:
            return key in self._values

    @overload
    def get(self, key: Key) -> Made | None: ...

    @overload
    def get(self, key: Key, make: Callable[[], Made]) -> Made: ...

    def get(self, key: Key, make: Callable[[], Made] | None = None) -> Made | None:
        """The value of *key*, by *make* if it is not kept; an error is not kept."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            elif make is None:
                return None
            else:
                ours = self._values[key] = Future()
                if len(self._values) > self.most:
                    self._values.popitem(last=False)
        if value is not None or make is None:
            return value.result() if value is not None else None
        try:
            ours.set_result(make())
        except BaseException as e:  # noqa: BLE001 - who waits for it hears of it too
            with self._lock:
                self._values.pop(key, None)
            ours.set_exception(e)
        return ours.result()
