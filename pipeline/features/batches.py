"""The pixels of one shard, read once from its beginning to its end.

Features vouch for pixels that somebody else may be mending just now. So each chunk is compared with
its checksum before it is used, and all bytes that were read with the digest in the images' commit:
features of a damaged shard, of another one, or of half of each are not made.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import google_crc32c
import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError
from pipeline.store.checksum import is_framed
from pipeline.store.commit import Written
from pipeline.store.objects import Objects
from pipeline.store.recipe import Recipe
from pipeline.store.shard import Decompress, decompressor

READ_ROWS = 64
"""Rows that are read at once, at least."""

Made = TypeVar("Made")


def read_chunks(
    objects: Objects, written: Written, recipe: Recipe, size: int
) -> Iterator[NDArray[np.uint8]]:
    """The chunks of a shard object of images, in order.

    Args:
        objects: The store.
        written: The object, as the images' commit has it.
        recipe: The store's.
        size: Side of the squares in pixels.

    Yields:
        (chunk_rows, size, size, 3) uint8; the last may have rows past the end of the split.

    Raises:
        StoreDamagedError: It is not, or not any more, what was committed. What was yielded before
            must not be used then.
    """
    unpack = decompressor(recipe.codec)
    shape = (recipe.chunk_rows, size, size, 3)
    seen = xxhash.xxh3_128()
    tail, ends = _index(objects, written, recipe)
    together = max(1, READ_ROWS // recipe.chunk_rows)
    start = 0
    for first in range(0, len(ends), together):
        stops = ends[first : first + together]
        data = _read(objects, written, start, stops[-1] - start)
        seen.update(data)
        block = np.frombuffer(data, np.uint8)
        for stop in stops:
            chunk, block = block[: stop - start], block[stop - start :]
            yield _unpacked(chunk, unpack, written, shape)
            start = stop
    seen.update(tail)
    if start + len(tail) != written.num_bytes or seen.hexdigest() != written.digest:
        raise _damaged(written)


def _unpacked(
    chunk: NDArray[np.uint8], unpack: Decompress | None, written: Written, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    body = chunk[:-4]
    if not is_framed(chunk):  # other threads go on meanwhile
        raise _damaged(written)
    if unpack is not None:
        packed, body = body, np.empty(math.prod(shape), np.uint8)
        unpack(packed.data, body)
    if body.size != math.prod(shape):
        raise _damaged(written)
    return body.reshape(shape)


def _index(objects: Objects, written: Written, recipe: Recipe) -> tuple[bytes, list[int]]:
    """The object's last bytes, and where each chunk ends: they lie one behind the other."""
    num_bytes = recipe.shard_rows // recipe.chunk_rows * 16 + 4
    if objects.size(written.name) != written.num_bytes:
        raise _damaged(written)
    tail = _read(objects, written, written.num_bytes - num_bytes, num_bytes)
    if google_crc32c.value(tail[:-4]).to_bytes(4, "little") != tail[-4:]:
        raise _damaged(written)
    index = np.frombuffer(tail[:-4], "<u8").reshape(-1, 2)
    lengths: list[int] = index[index[:, 0] != 2**64 - 1, 1].tolist()
    if sum(lengths) != written.num_bytes - num_bytes:  # else any number of bytes would be read
        raise _damaged(written)
    return tail, list(itertools.accumulate(lengths))


def _read(objects: Objects, written: Written, start: int, num_bytes: int) -> bytes:
    try:
        data = objects.read(written.name, start, num_bytes)
    except FileNotFoundError:
        data = b""
    if len(data) != num_bytes:
        raise _damaged(written)
    return data


def _damaged(written: Written) -> StoreDamagedError:
    return StoreDamagedError(
        f"{written.name} is not what was committed: it is damaged, missing, or being mended."
        " `tesserae verify` says which; features are made of whole images alone."
    )


def batches(
    chunks: Iterable[NDArray[np.uint8]], readable: NDArray[np.bool_], most: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """The readable rows of a shard, a batch at a time.

    Args:
        chunks: Of the shard, in order, (n, size, size, 3) uint8.
        readable: (rows of the shard,) bool.
        most: Rows of a batch.

    Yields:
        Places in the shard, (n,) int64, and their pixels, (n, size, size, 3) uint8.
    """
    places: list[int] = []
    rows: list[NDArray[np.uint8]] = []
    for place, row in enumerate(row for chunk in chunks for row in chunk):
        if place < len(readable) and readable[place]:
            places.append(place)
            rows.append(row)
        if len(rows) == most:
            yield np.array(places), np.stack(rows)
            places, rows = [], []
    if rows:
        yield np.array(places), np.stack(rows)


class Shared(Generic[Made]):
    """An iterator from which many threads take: while one computes, the next reads."""

    def __init__(self, made: Iterable[Made]) -> None:
        self._made = iter(made)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Made]:
        return self

    def __next__(self) -> Made:
        with self._lock:
            return next(self._made)
