"""The encoded rows of one shard, read once from its beginning to its end, and decoded.

As with squares, each chunk is compared with its checksum before a row of it is used, and all bytes
together with the digest in the images' commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from itertools import pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.features.batches import damaged_images, read_object_range
from pipeline.loader.image_readers import CropDecoder
from pipeline.store.checksum import CHECKSUM_BYTES, has_valid_checksum
from pipeline.store.commit import ObjectRecord
from pipeline.store.encoded_rows import EncodedRows
from pipeline.store.objects import Objects

ROWS_PER_DECODING = 16
"""The number of rows that one thread decodes at once."""


def encoded_batches(
    objects: Objects,
    record: ObjectRecord,
    encoded: EncodedRows,
    rows: NDArray[np.int64],
    batch_rows: int,
) -> Iterator[tuple[NDArray[np.int64], list[memoryview]]]:
    """Yield the bytes of readable rows of one shard, one batch at a time.

    Args:
        objects: The objects of the store.
        record: The record of the shard object: `commit.encoded[name]` of the commit of its images.
        encoded: The places of the encoded rows of the split.
        rows: The readable rows of the shard, (n,) int64, ascending, as rows of the split.
        batch_rows: The maximum number of rows of a batch, at least 1.

    Yields:
        The rows of the split, (n,) int64, and the bytes of each; n is *batch_rows*, but for the
        last batch 1 to *batch_rows*.

    Raises:
        StoreDamagedError: The object is missing or differs from the commit. The digest of the whole
            is compared after the last batch, so batches that were yielded before must not be used
            then.
        StoreError: The request to an object store failed.
        OSError: The disk reports an error.
    """
    if objects.size(record.name) != record.num_bytes:
        raise damaged_images(record)
    shard = _ShardStream(objects, record, encoded)
    for start in range(0, len(rows), batch_rows):
        batch = rows[start : start + batch_rows]
        _, starts, stops = encoded.locate(batch)
        data = shard.read(int(starts[0]), int(stops[-1]))
        base = int(starts[0])
        pairs = zip(starts.tolist(), stops.tolist(), strict=True)
        yield batch, [data[first - base : stop - base] for first, stop in pairs]
    shard.check_rest()


class _ShardStream:
    """The bytes of a shard in ascending order, each of which is read from the store once."""

    def __init__(self, objects: Objects, record: ObjectRecord, encoded: EncodedRows) -> None:
        self._objects = objects
        self._record = record
        self._geometry = encoded.geometry
        self._digest = xxhash.xxh3_128()
        self._read_bytes = 0
        self._chunks = 0
        """The number of chunks that were read so far."""
        self._last = np.empty(0, np.uint8)
        """The last chunk that was read, without its checksum: the next rows may begin in it."""

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes *start* to *stop* - 1 of the span; *start* must not descend."""
        chunk_bytes, framed = self._geometry.chunk_bytes, self._geometry.framed_bytes
        count = -(-stop // chunk_bytes) - self._chunks
        if count > 0:
            data = np.frombuffer(self._read_next(count * framed), np.uint8).reshape(count, framed)
            if not all(has_valid_checksum(chunk) for chunk in data):
                raise damaged_images(self._record)
            contents = data[:, :-CHECKSUM_BYTES].reshape(-1)
            first = self._chunks * chunk_bytes - len(self._last)
            joined = np.concatenate([self._last, contents])
            self._last = contents[-chunk_bytes:]
            self._chunks += count
        else:
            first, joined = self._chunks * chunk_bytes - len(self._last), self._last
        if start < first:
            raise damaged_images(self._record)
        return joined[start - first : stop - first].data

    def check_rest(self) -> None:
        """Read the rest of the object, and compare the digest of all of it with the commit."""
        self._read_next(self._record.num_bytes - self._read_bytes)
        if self._digest.hexdigest() != self._record.digest:
            raise damaged_images(self._record)

    def _read_next(self, num_bytes: int) -> bytes:
        data = read_object_range(self._objects, self._record, self._read_bytes, num_bytes)
        self._digest.update(data)
        self._read_bytes += num_bytes
        return data


def decode_batch(
    decoder: CropDecoder,
    rows: NDArray[np.int64],
    encoded: list[memoryview],
    side: int,
    threads: Executor | None,
) -> NDArray[np.uint8]:
    """Return the decoded crops of some rows.

    Args:
        decoder: The decoder of the split's crops.
        rows: The rows of the split, (n,) int64.
        encoded: The bytes of each row.
        side: The side of the images in pixels.
        threads: The threads that decode; None for the calling thread alone.

    Returns:
        (n, side, side, 3) uint8 RGB.

    Raises:
        StoreDamagedError: A row is not an image.
    """
    pixels = np.empty((len(rows), side, side, 3), np.uint8)

    def decode(part: slice) -> None:
        decoder.decode(rows[part], encoded[part], 0, [pixels[part]])

    if threads is None:
        decode(slice(None))
        return pixels
    edges = [*range(0, len(rows), ROWS_PER_DECODING), len(rows)]
    list(threads.map(decode, (slice(start, stop) for start, stop in pairwise(edges))))
    return pixels


def decoding_threads() -> int:
    """Return the number of threads that decode for a GPU: one for each core of this process."""
    return len(os.sched_getaffinity(0))
