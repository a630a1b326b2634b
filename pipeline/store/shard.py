"""Rows -> one shard object, byte for byte as zarr's sharding codec writes it.

Layout, for C chunks a shard of which the first K hold rows:

    chunk 0 | crc32c of it, 4 bytes little-endian | chunk 1 | crc32c | ... | chunk K-1 | crc32c
    index: C x (offset, length) uint64 little-endian, 2^64-1 twice for a chunk that is absent
    crc32c of the index, 4 bytes little-endian

A chunk is (chunk_rows, ...) in C order, of pixels or of features, compressed if the recipe says
so; the length in the index counts the checksum. Rows past the end of the split are zeros. What is
full leaves at once, so that composing holds one chunk at most in memory, never a shard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import google_crc32c
import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.store.commit import Written

ABSENT = np.uint64(2**64 - 1)

Compress = Callable[[NDArray[np.uint8]], bytes]
Decompress = Callable[[memoryview, NDArray[np.uint8]], None]


class Writer(Protocol):
    """Where a shard object goes (`pipeline.store.objects`)."""

    name: str

    def write(self, data: memoryview) -> None:
        """Append *data*, which may be overwritten as soon as this returns."""

    def finish(self) -> None:
        """Make the object durable under its name."""


class ShardComposer:
    """Composes one shard of one array out of its rows, in order."""

    def __init__(
        self, writer: Writer, *, row_bytes: int, shard_rows: int, chunk_rows: int, codec: str
    ) -> None:
        self.row_bytes = row_bytes
        """Bytes of a row."""
        self._writer = writer
        self._compress = compressor(codec)
        self._chunk_rows = chunk_rows
        self._chunk = bytearray()  # of a chunk that is to be compressed
        self._num_rows = 0
        self._index = np.full((shard_rows // chunk_rows, 2), ABSENT, "<u8")
        self._chunk_start = 0
        self._num_bytes = 0
        self._checksum = 0
        self._hash = xxhash.xxh3_128()

    def append(self, row: bytes) -> None:
        """Add a row: its values in C order, little-endian.

        An uncompressed one leaves at once, while the processor's caches still hold it.
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

    def end(self) -> Written:
        """Write the index, after the last row; what `finish` will make durable."""
        while self._num_rows % self._chunk_rows:
            self.append(bytes(self.row_bytes))
        self._write(self._index.tobytes())
        self._write_checksum()
        return Written(self._writer.name, self._num_bytes, self._hash.hexdigest())

    def finish(self) -> None:
        """Make the object durable under its name."""
        self._writer.finish()

    def _end_chunk(self) -> None:
        if self._compress is not None:
            self._write(self._compress(np.frombuffer(self._chunk, np.uint8)))
            self._chunk = bytearray()
        self._write_checksum()
        place = self._num_rows // self._chunk_rows - 1
        self._index[place] = (self._chunk_start, self._num_bytes - self._chunk_start)
        self._chunk_start = self._num_bytes

    def _write_checksum(self) -> None:
        self._write(self._checksum.to_bytes(4, "little"))
        self._checksum = 0

    def _write(self, data: bytes) -> None:
        self._checksum = google_crc32c.extend(self._checksum, data)
        self._hash.update(data)
        self._writer.write(memoryview(data))
        self._num_bytes += len(data)


def parse_codec(codec: str) -> tuple[str, int]:
    """Split a recipe's codec into its name and level; 0 where there is none to choose.

    Raises:
        ValueError: *codec* is not one a store can have.
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
    """The function that undoes `compressor`, or None for `none`.

    It writes to an array, and raises ValueError if there is not just as much as fits in it.
    """
    name, _ = parse_codec(codec)
    if name == "none":
        return None
    import numcodecs

    numcodecs.blosc.use_threads = False  # a loader has threads of its own
    made = numcodecs.Zstd() if name == "zstd" else numcodecs.Blosc()
    content_bytes = _zstd_bytes if name == "zstd" else _blosc_bytes

    def decompress(data: memoryview, out: NDArray[np.uint8]) -> None:
        if content_bytes(data) != len(out):  # of less than that, numcodecs would say nothing
            raise ValueError(f"it unpacks to {content_bytes(data)} bytes: expected {len(out)}.")
        made.decode(data, out)

    return decompress


def _zstd_bytes(frame: memoryview) -> int:
    """Bytes that a zstd frame says it unpacks to (RFC 8878, 3.1.1.1); -1 if it does not say."""
    descriptor = frame[4]
    single = descriptor >> 5 & 1
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    more = 256 if width == 2 else 0
    return int.from_bytes(frame[start : start + width], "little") + more if width else -1


def _blosc_bytes(data: memoryview) -> int:
    """Bytes that a Blosc buffer says it unpacks to."""
    return int.from_bytes(data[4:8], "little")


def compressor(codec: str) -> Compress | None:
    """The function that compresses a chunk just as zarr's codec does, or None for `none`."""
    name, level = parse_codec(codec)
    if name == "none":
        return None
    import numcodecs  # 0.2 s of start-up that an uncompressed store never pays

    if name == "zstd":
        return cast(Compress, numcodecs.Zstd(level=level, checksum=False).encode)
    numcodecs.blosc.use_threads = False  # as zarr does: a block's size may depend on threads
    if name == "blosc-lz4":
        made = numcodecs.Blosc("lz4", clevel=5, shuffle=numcodecs.Blosc.NOSHUFFLE, typesize=1)
    else:
        made = numcodecs.Blosc("zstd", clevel=level, shuffle=numcodecs.Blosc.BITSHUFFLE, typesize=1)
    return cast(Compress, made.encode)
