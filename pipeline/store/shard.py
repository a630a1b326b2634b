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

from collections.abc import Callable
from typing import cast

import google_crc32c
import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.store.checksum import CHECKSUM_BYTES, append_checksum, has_valid_checksum
from pipeline.store.commit import ObjectRecord
from pipeline.store.objects import Writer

ABSENT = np.uint64(2**64 - 1)
"""The offset and the length of an absent chunk in a shard's index."""

Compress = Callable[[NDArray[np.uint8]], bytes]
"""A function from the bytes of a chunk, (n,) uint8, to the compressed bytes."""
Decompress = Callable[[memoryview, NDArray[np.uint8]], None]
"""A function of compressed bytes that fills an array, (n,) uint8, with the chunk's n bytes."""


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
        self._compress = compressor(codec)
        self._chunk_rows = chunk_rows
        self._chunk = bytearray()  # the rows of a chunk that will be compressed
        self._num_rows = 0
        self._index = np.full((shard_rows // chunk_rows, 2), ABSENT, "<u8")
        self._chunk_start = 0
        self._num_bytes = 0
        self._checksum = 0
        self._hash = xxhash.xxh3_128()

    def append(self, row: bytes) -> None:
        """Append one row to the shard, at most the `shard_rows` that the composer was made for.

        An uncompressed row is written at once, while it is still in the processor's caches.

        Args:
            row: The `row_bytes` bytes of the row: its values in C order, uint8 pixels or
                little-endian floating-point features.

        Raises:
            ValueError: The row has another length.
            IndexError: The row ends a chunk beyond `shard_rows`.
            StoreError: The bytes cannot be written.
        """
        if len(row) != self.row_bytes:
            raise ValueError(f"a row has {len(row)} bytes: expected {self.row_bytes}.")
        if self._compress is None:
            self._write(row)
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
        self._write(append_checksum(self._index.tobytes()))
        return ObjectRecord(self._writer.name, self._num_bytes, self._hash.hexdigest())

    def finish(self) -> None:
        """Make the object durable under its name, after `write_index`.

        Raises:
            StoreError: The object cannot be written.
        """
        self._writer.finish()

    def _end_chunk(self) -> None:
        if self._compress is not None:
            self._write(self._compress(np.frombuffer(self._chunk, np.uint8)))
            self._chunk = bytearray()
        self._write(self._checksum.to_bytes(CHECKSUM_BYTES, "little"))
        self._checksum = 0
        chunk = self._num_rows // self._chunk_rows - 1
        self._index[chunk] = (self._chunk_start, self._num_bytes - self._chunk_start)
        self._chunk_start = self._num_bytes

    def _write(self, data: bytes) -> None:
        self._checksum = google_crc32c.extend(self._checksum, data)
        self._hash.update(data)
        self._writer.write(memoryview(data))
        self._num_bytes += len(data)


def index_bytes(shard_rows: int, chunk_rows: int) -> int:
    """Return the length in bytes of a shard's index with its checksum.

    It is 16 bytes for each chunk that a shard has room for, and 4 bytes.

    Args:
        shard_rows: The rows of a shard.
        chunk_rows: The rows of a chunk, a divisor of *shard_rows*.
    """
    return shard_rows // chunk_rows * 16 + CHECKSUM_BYTES


def decode_index(data: bytes) -> NDArray[np.uint64] | None:
    """Decode the index of a shard.

    Args:
        data: The index with its checksum, 16 bytes for each chunk that a shard has room for and 4
            bytes: the end of the shard object.

    Returns:
        The offset and length in bytes of each chunk, (chunks, 2) uint64, `ABSENT` (2^64 - 1) twice
        for an absent chunk; a length includes the chunk's checksum. None if *data* does not match
        its own checksum.
    """
    if not has_valid_checksum(data):
        return None
    return np.frombuffer(data[:-CHECKSUM_BYTES], "<u8").reshape(-1, 2).astype(np.uint64)


def parse_codec(codec: str) -> tuple[str, int]:
    """Split a recipe's codec into its name and level.

    Args:
        codec: `none`, `zstd:<1-22>`, `blosc-lz4` or `blosc-zstd:<1-9>`.

    Returns:
        The text before the colon, and the level, such as ("zstd", 3); the level is 0 for codecs
        without levels.

    Raises:
        ValueError: *codec* is not a valid codec of a store.
    """
    name, _, text = codec.partition(":")
    level = int(text) if text.isdecimal() else 0
    highest = {"none": 0, "blosc-lz4": 0, "zstd": 22, "blosc-zstd": 9}.get(name)
    if highest is None or bool(text) != bool(highest) or (highest and not 1 <= level <= highest):
        raise ValueError(
            f"codec is {codec!r}: expected none, zstd:LEVEL (1-22), blosc-lz4 or"
            " blosc-zstd:LEVEL (1-9)."
        )
    return name, level


def decompressor(codec: str) -> Decompress | None:
    """Return the function that decompresses a chunk, or None for the codec `none`.

    Except for `none`, this also turns off the threads of numcodecs' Blosc in the whole process.

    Args:
        codec: A codec of a recipe: `none`, `zstd:<1-22>`, `blosc-lz4` or `blosc-zstd:<1-9>`.

    Returns:
        A function (data, out) without a result that takes the compressed bytes of a chunk, without
        its checksum, as a memoryview, and an array, (n,) uint8, that it overwrites with the n bytes
        of the chunk. It raises ValueError if the data state another length than n, and IndexError
        or RuntimeError for other damage that it notices; compare the checksum before.

    Raises:
        ValueError: *codec* is not a valid codec of a store.
    """
    name, _ = parse_codec(codec)
    if name == "none":
        return None
    import numcodecs

    numcodecs.blosc.use_threads = False  # a loader has threads of its own
    decoder = numcodecs.Zstd() if name == "zstd" else numcodecs.Blosc()
    content_bytes = _zstd_content_bytes if name == "zstd" else _blosc_content_bytes

    def decompress(data: memoryview, out: NDArray[np.uint8]) -> None:
        # numcodecs accepts less data than fits the array without an error.
        if content_bytes(data) != len(out):
            raise ValueError(f"it unpacks to {content_bytes(data)} bytes: expected {len(out)}.")
        decoder.decode(data, out)

    return decompress


def _zstd_content_bytes(frame: memoryview) -> int:
    """Return the decompressed size that a zstd frame states (RFC 8878, 3.1.1.1); -1 if none."""
    descriptor = frame[4]
    single = descriptor >> 5 & 1
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    more = 256 if width == 2 else 0
    return int.from_bytes(frame[start : start + width], "little") + more if width else -1


def _blosc_content_bytes(data: memoryview) -> int:
    """Return the decompressed size that a Blosc buffer states; -1 if the buffer is incomplete."""
    # The decoder trusts the stated length, and would read past the end of a shorter buffer.
    states_own_length = int.from_bytes(data[12:16], "little") == len(data)
    return int.from_bytes(data[4:8], "little") if states_own_length else -1


def compressor(codec: str) -> Compress | None:
    """Return the function that compresses a chunk exactly as zarr does, or None for `none`.

    For Blosc, this also turns off the threads of numcodecs' Blosc in the whole process.

    Args:
        codec: A codec of a recipe: `none`, `zstd:<1-22>`, `blosc-lz4` or `blosc-zstd:<1-9>`.

    Returns:
        A function that takes the bytes of a chunk, (n,) uint8, and returns the compressed ones,
        without a checksum.

    Raises:
        ValueError: *codec* is not a valid codec of a store.
    """
    name, level = parse_codec(codec)
    if name == "none":
        return None
    import numcodecs  # takes 0.2 s, which an uncompressed store need not spend

    if name == "zstd":
        return cast(Compress, numcodecs.Zstd(level=level, checksum=False).encode)
    # As in zarr: with threads the size of a block may depend on their number.
    numcodecs.blosc.use_threads = False
    if name == "blosc-lz4":
        encoder = numcodecs.Blosc("lz4", clevel=5, shuffle=numcodecs.Blosc.NOSHUFFLE, typesize=1)
    else:
        encoder = numcodecs.Blosc(
            "zstd", clevel=level, shuffle=numcodecs.Blosc.BITSHUFFLE, typesize=1
        )
    return cast(Compress, encoder.encode)
