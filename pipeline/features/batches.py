"""The pixels of one shard, read once from its beginning to its end.

A repair may rewrite the images while they are read. So each chunk is compared with its checksum
before it is used, and all bytes together with the digest in the images' commit: no rows are
computed from a damaged shard, from another one, or from a mixture.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError
from pipeline.store.checksum import CHECKSUM_BYTES, has_valid_checksum
from pipeline.store.codecs import Decompress, decompressor
from pipeline.store.commit import ObjectRecord
from pipeline.store.objects import Objects
from pipeline.store.recipe import Recipe
from pipeline.store.shard import ABSENT, decode_index, index_bytes

READ_ROWS = 64
"""The minimum number of rows that are read at once."""


def read_chunks(
    objects: Objects, record: ObjectRecord, recipe: Recipe, size: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the chunks of a shard object of images, in order.

    Args:
        objects: The objects of the store.
        record: The record of the object: `commit.arrays[str(size)]` of the commit of its images,
            which `pipeline.store.records.load_commit` returns.
        recipe: The recipe of the store's images, of `pipeline.store.records.load_recipe`.
        size: The side of the squares in pixels, that of the object.

    Yields:
        (chunk_rows, size, size, 3) uint8 RGB, to be read only; the last may have rows past the end
        of the split, which mean nothing.

    Raises:
        StoreDamagedError: The object is missing or differs from the commit, or has another size
            than *size*. The digest of the whole is compared after the last chunk, so chunks that
            were yielded before must not be used then.
        StoreError: The request to an object store failed.
        OSError: The disk reports an error.
    """
    decompress = decompressor(recipe.codec)
    shape = (recipe.chunk_rows, size, size, 3)
    digest = xxhash.xxh3_128()
    index, ends = _read_chunk_index(objects, record, recipe)
    chunks_per_read = max(1, READ_ROWS // recipe.chunk_rows)
    start = 0
    for group in range(0, len(ends), chunks_per_read):
        stops = ends[group : group + chunks_per_read]
        data = read_object_range(objects, record, start, stops[-1] - start)
        digest.update(data)
        block = np.frombuffer(data, np.uint8)
        for stop in stops:
            chunk, block = block[: stop - start], block[stop - start :]
            yield _decode_chunk(chunk, decompress, record, shape)
            start = stop
    digest.update(index)
    if start + len(index) != record.num_bytes or digest.hexdigest() != record.digest:
        raise damaged_images(record)


def _decode_chunk(
    chunk: NDArray[np.uint8],
    decompress: Decompress | None,
    record: ObjectRecord,
    shape: tuple[int, ...],
) -> NDArray[np.uint8]:
    body = chunk[:-CHECKSUM_BYTES]
    if not has_valid_checksum(chunk):  # it releases the interpreter's lock for other threads
        raise damaged_images(record)
    if decompress is not None:
        compressed, body = body, np.empty(math.prod(shape), np.uint8)
        decompress(compressed.data, body)
    if body.size != math.prod(shape):
        raise damaged_images(record)
    return body.reshape(shape)


def _read_chunk_index(
    objects: Objects, record: ObjectRecord, recipe: Recipe
) -> tuple[bytes, list[int]]:
    """Return the bytes of the object's index and the end offset of each chunk, in bytes."""
    num_bytes = index_bytes(recipe.shard_rows, recipe.chunk_rows)
    if objects.size(record.name) != record.num_bytes:
        raise damaged_images(record)
    encoded = read_object_range(objects, record, record.num_bytes - num_bytes, num_bytes)
    index = decode_index(encoded)
    if index is None:
        raise damaged_images(record)
    lengths: list[int] = index[index[:, 0] != ABSENT, 1].tolist()
    # Chunks are contiguous, and a damaged index could ask for any number of bytes.
    if sum(lengths) != record.num_bytes - num_bytes:
        raise damaged_images(record)
    return encoded, list(itertools.accumulate(lengths))


def read_object_range(objects: Objects, record: ObjectRecord, start: int, num_bytes: int) -> bytes:
    """Read a part of a shard object.

    Args:
        objects: The objects of the store.
        record: The record of the object in the commit of its images.
        start: The offset of the first byte.
        num_bytes: The number of bytes.

    Raises:
        StoreDamagedError: The object is missing, or too short.
        StoreError: The request to an object store failed.
        OSError: The disk reports an error.
    """
    try:
        data = objects.read(record.name, start, num_bytes)
    except FileNotFoundError:
        data = b""
    if len(data) != num_bytes:
        raise damaged_images(record)
    return data


def damaged_images(record: ObjectRecord) -> StoreDamagedError:
    """Return the error of a shard object of images that differs from its commit.

    Args:
        record: The record of the object.
    """
    return StoreDamagedError(
        f"{record.name} differs from its commit: it is damaged, missing, or being repaired."
        " `tesserae verify` says which. Networks read intact images only."
    )


def batches(
    chunks: Iterable[NDArray[np.uint8]], readable: NDArray[np.bool_], batch_rows: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Yield the readable rows of a shard, one batch at a time.

    Args:
        chunks: The chunks of the shard in order, (n, size, size, 3) uint8.
        readable: (rows of the shard,) bool, False for rows in quarantine, which are skipped. Rows
            of the last chunk beyond its length are padding, and skipped too.
        batch_rows: The maximum number of rows of a batch, at least 1.

    Yields:
        The row numbers within the shard, (n,) int64, ascending from 0, and their pixels, a copy,
        (n, size, size, 3) uint8; n is *batch_rows*, but for the last batch 1 to *batch_rows*.
    """
    indices: list[int] = []
    images: list[NDArray[np.uint8]] = []
    for index, image in enumerate(image for chunk in chunks for image in chunk):
        if index < len(readable) and readable[index]:
            indices.append(index)
            images.append(image)
        if len(images) == batch_rows:
            yield np.array(indices), np.stack(images)
            indices, images = [], []
    if images:
        yield np.array(indices), np.stack(images)
