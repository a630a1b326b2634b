"""Compose rows into one shard object, byte for byte as zarr's sharding codec writes it.

Layout, for C chunks a shard of which the first K hold rows:

    chunk 0 | crc32c of it, 4 bytes little-endian | chunk 1 | crc32c | ... | chunk K-1 | crc32c
    index: C x (offset, length) uint64 little-endian, 2^64-1 twice for a chunk that is absent
    crc32c of the index, 4 bytes little-endian

A chunk is (chunk_rows, ...) in C order, of pixels or of features, compressed if the recipe says
so; the length in the index includes the checksum. Rows past the end of the split are zeros. A
complete chunk is written at once, so at most one chunk is in memory, never a shard.
"""

from __future__ import annotations

import google_crc32c
import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.store.checksum import CHECKSUM_BYTES, append_checksum, has_valid_checksum
from pipeline.store.codecs import compressor
from pipeline.store.commit import ObjectRecord
from pipeline.store.objects import Writer

ABSENT = np.uint64(2**64 - 1)
"""The offset and the length of an absent chunk in a shard's index."""


class ChunkWriter:
    """A writer of the chunks of one shard object, their checksums, and the index."""

    def __init__(self, writer: Writer, num_chunks: int) -> None:
        """Begin the first chunk of a shard; nothing is written yet.

        Args:
            writer: The writer of the shard object.
            num_chunks: The number of chunks that the shard has room for.
        """
        self._writer = writer
        self._index = np.full((num_chunks, 2), ABSENT, "<u8")
        self._num_chunks = 0
        self._chunk_start = 0
        self._num_bytes = 0
        self._checksum = 0
        self._hash = xxhash.xxh3_128()

    def write(self, data: bytes) -> None:
        """Append bytes to the present chunk.

        Args:
            data: Any number of bytes.

        Raises:
            StoreError: The bytes cannot be written.
        """
        self._checksum = google_crc32c.extend(self._checksum, data)
        self._hash.update(data)
        self._writer.write(memoryview(data))
        self._num_bytes += len(data)

    def end_chunk(self) -> None:
        """Write the checksum of the present chunk, and begin the next one.

        Raises:
            IndexError: The shard has no room for another chunk.
            StoreError: The checksum cannot be written.
        """
        self.write(self._checksum.to_bytes(CHECKSUM_BYTES, "little"))
        self._checksum = 0
        self._index[self._num_chunks] = (self._chunk_start, self._num_bytes - self._chunk_start)
        self._num_chunks += 1
        self._chunk_start = self._num_bytes

    def write_index(self) -> ObjectRecord:
        """Write the index after the last chunk has ended, and return the record of the object.

        Returns:
            The `name` of the object, its length in bytes `num_bytes`, and `digest`, the XXH3-128 of
            its bytes as 32 hexadecimal digits.

        Raises:
            StoreError: The index cannot be written.
        """
        self.write(append_checksum(self._index.tobytes()))
        return ObjectRecord(self._writer.name, self._num_bytes, self._hash.hexdigest())


class ShardComposer:
    """A composer of one shard of one array, which takes the rows in order."""

    def __init__(
        self, writer: Writer, *, row_bytes: int, shard_rows: int, chunk_rows: int, codec: str
    ) -> None:
        """Begin a shard without rows; nothing is written yet.

        Args:
            writer: The writer of the shard object, which gets the bytes as rows are appended. After
                an error the caller aborts it.
            row_bytes: The number of bytes in a row.
            shard_rows: The maximum number of rows, a multiple of *chunk_rows*.
            chunk_rows: The rows of a chunk.
            codec: The codec of the recipe, as `parse_codec` defines.

        Raises:
            ValueError: *codec* is not a valid codec of a store.
        """
        self.row_bytes = row_bytes
        """The number of bytes in a row."""
        self._writer = writer
        self._chunks = ChunkWriter(writer, shard_rows // chunk_rows)
        self._compress = compressor(codec)
        self._chunk_rows = chunk_rows
        self._chunk = bytearray()  # the rows of a chunk that will be compressed
        self._num_rows = 0

    def append(self, row: bytes) -> None:
        """Append one row to the shard, at most the `shard_rows` that the composer was made for.

        An uncompressed row is written at once, while it is still in the processor's caches.

        Args:
            row: The `row_bytes` bytes of the row, such as `pixels.tobytes()`: its values in C
                order, uint8 pixels or little-endian floating-point features.

        Raises:
            ValueError: The row has another length.
            IndexError: The row ends a chunk beyond `shard_rows`.
            StoreError: The bytes cannot be written.
        """
        if len(row) != self.row_bytes:
            raise ValueError(f"a row has {len(row)} bytes: expected {self.row_bytes}.")
        if self._compress is None:
            self._chunks.write(row)
        else:
            self._chunk += row
        self._num_rows += 1
        if self._num_rows % self._chunk_rows == 0:
            self._end_chunk()

    def write_index(self) -> ObjectRecord:
        """Fill the last chunk with rows of zeros, and write the index; `finish` must follow.

        Returns:
            The record of the object: its `name`, its length in bytes `num_bytes`, and `digest`, the
            XXH3-128 of the bytes as 32 hexadecimal digits.

        Raises:
            StoreError: The bytes cannot be written.
        """
        while self._num_rows % self._chunk_rows:
            self.append(bytes(self.row_bytes))
        return self._chunks.write_index()

    def finish(self) -> None:
        """Make the object durable under its name, after `write_index`.

        Raises:
            StoreError: The object cannot be written.
        """
        self._writer.finish()

    def _end_chunk(self) -> None:
        if self._compress is not None:
            self._chunks.write(self._compress(np.frombuffer(self._chunk, np.uint8)))
            self._chunk = bytearray()
        self._chunks.end_chunk()


def index_bytes(shard_rows: int, chunk_rows: int) -> int:
    """Return the length in bytes of a shard's index with its checksum.

    It is 16 bytes for each chunk that a shard has room for, and 4 bytes.

    Args:
        shard_rows: The rows of a shard.
        chunk_rows: The rows of a chunk, a divisor of *shard_rows*.
    """
    return shard_rows // chunk_rows * 16 + CHECKSUM_BYTES


def encode_index(num_chunks: int, chunks_per_shard: int, framed_bytes: int) -> bytes:
    """Return the index of a shard whose chunks have one length and lie without gaps.

    Args:
        num_chunks: The number of chunks that are present.
        chunks_per_shard: The number of chunks that a shard has room for.
        framed_bytes: The bytes of a chunk with its checksum.

    Returns:
        (offset, length) in bytes of each chunk as uint64 little-endian, 2^64 - 1 twice for absent
        chunks, and the CRC-32C: 16 * chunks_per_shard + 4 bytes.
    """
    index = np.full((chunks_per_shard, 2), ABSENT, "<u8")
    index[:num_chunks, 0] = np.arange(num_chunks) * framed_bytes
    index[:num_chunks, 1] = framed_bytes
    return append_checksum(index.tobytes())


def decode_index(data: bytes) -> NDArray[np.uint64] | None:
    """Decode the index of a shard.

    Args:
        data: The index with its checksum, 16 bytes for each chunk that a shard has room for and 4
            bytes: the end of the shard object.

    Returns:
        The offset and length in bytes of each chunk, (chunks, 2) uint64, `ABSENT` (2^64 - 1) twice
        for an absent chunk; a length includes the chunk's checksum. None if *data* does not match
        its own checksum, also if it is shorter than 4 bytes.

    Raises:
        ValueError: *data* matches its checksum but has another length than an index.
    """
    if not has_valid_checksum(data):
        return None
    return np.frombuffer(data[:-CHECKSUM_BYTES], "<u8").reshape(-1, 2).astype(np.uint64)
