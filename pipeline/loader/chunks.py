"""Rows of a store that is compressed, or not on a local disk: by whole chunks, through a cache.

A chunk is the least that can be read of a compressed store, and of a remote one the least that is
worth a request. What was decompressed is kept for the next batches, within a limit: an order in
windows finds most of its rows there, a random one few, unless a chunk is one row.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError
from pipeline.loader.gather import finish_all
from pipeline.store import layout
from pipeline.store.objects import Objects
from pipeline.store.shard import ABSENT, decompressor
from pipeline.store.split import Split, geometry


class ChunkReader:
    """Gathers rows of one size. Used by many threads at once."""

    def __init__(self, split: Split, size: int, *, cache_bytes: int) -> None:
        """Read nothing yet.

        Args:
            split: Any split.
            size: Side of the squares in pixels.
            cache_bytes: Most bytes of pixels that are kept.
        """
        self._geometry = geometry(split, size)
        self._objects: Objects = split.objects
        self._split = split.plan.split
        self._decompress = decompressor(split.recipe.codec)
        self._indexes: _Kept[int, NDArray[np.uint64]] = _Kept(split.plan.num_shards)
        most = max(1, cache_bytes // self._geometry.chunk_bytes)
        self._chunks: _Kept[tuple[int, int], NDArray[np.uint8]] = _Kept(most)

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        """Copy *rows*, (n,) int64, into *out*, (n, size, size, 3) uint8 contiguous.

        Args:
            rows: Which.
            out: Where to.
            disk: Threads that wait for the store.

        Returns:
            `chunks`: how it was done.

        Raises:
            StoreDamagedError: A shard is not what it should be.
        """
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for place, row in enumerate(rows.tolist()):
            shard, inside = divmod(row, self._geometry.shard_rows)
            chunk, at = divmod(inside, self._geometry.chunk_rows)
            wanted[shard, chunk].append((place, at))
        flat = out.reshape(len(rows), self._geometry.row_bytes)
        finish_all([disk.submit(self._copy, *where, flat, at) for where, at in wanted.items()])
        return "chunks"

    def _copy(
        self, shard: int, chunk: int, flat: NDArray[np.uint8], rows: Sequence[tuple[int, int]]
    ) -> None:
        pixels = self._chunks.get((shard, chunk), lambda: self._read_chunk(shard, chunk))
        for place, at in rows:
            flat[place] = pixels[at]

    def _read_chunk(self, shard: int, chunk: int) -> NDArray[np.uint8]:
        name = layout.shard(self._split, self._geometry.size, shard)
        index = self._indexes.get(shard, lambda: self._read_index(shard, name))
        start, num_bytes = (int(number) for number in index[chunk])
        data = self._read(name, start, num_bytes)
        body = data[:-4]
        if len(data) != num_bytes or google_crc32c.value(body) != int.from_bytes(
            data[-4:], "little"
        ):
            raise _damaged(name, f"chunk {chunk}")
        if self._decompress is not None:
            body = self._decompress(body)
        if len(body) != self._geometry.chunk_bytes:
            raise _damaged(name, f"chunk {chunk}")
        return np.frombuffer(body, np.uint8).reshape(self._geometry.chunk_rows, -1)

    def _read_index(self, shard: int, name: str) -> NDArray[np.uint64]:
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
        self._most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[Key, Future[Made]] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Made]) -> Made:
        """The value of *key*, by *make* if it is not kept; an error is not kept."""
        with self._lock:
            value = self._values.get(key)
            if value is None:
                ours = self._values[key] = Future()
                if len(self._values) > self._most:
                    self._values.popitem(last=False)
            else:
                self._values.move_to_end(key)
        if value is not None:
            return value.result()
        try:
            ours.set_result(make())
        except BaseException as e:  # noqa: BLE001 - who waits for it hears of it too
            with self._lock:
                self._values.pop(key, None)
            ours.set_exception(e)
        return ours.result()
