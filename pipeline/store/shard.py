"""Image rows -> one shard object, byte for byte as zarr's sharding codec writes it.

Layout, for C chunks a shard of which the first K hold rows:

    chunk 0 | crc32c of it, 4 bytes little-endian | chunk 1 | crc32c | ... | chunk K-1 | crc32c
    index: C x (offset, length) uint64 little-endian, 2^64-1 twice for a chunk that is absent
    crc32c of the index, 4 bytes little-endian

A chunk is (chunk_rows, size, size, 3) uint8 in C order, compressed if the recipe says so; the
length in the index counts the checksum. Rows past the end of the split are zeros. Each chunk
leaves as soon as it is full, so that composing holds one chunk, not one shard, in memory.
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


class Writer(Protocol):
    """Where a shard object goes (`pipeline.store.objects`)."""

    name: str

    def write(self, data: memoryview) -> None:
        """Append *data*, which may be overwritten as soon as this returns."""

    def finish(self) -> None:
        """Make the object durable under its name."""


class ShardComposer:
    """Composes one shard of one size; rows come in order."""

    def __init__(
        self, writer: Writer, *, size: int, shard_rows: int, chunk_rows: int, codec: str
    ) -> None:
        self._writer = writer
        self._compress = compressor(codec)
        self._chunk_bytes = chunk_rows * size * size * 3
        # Four bytes more, so that an uncompressed chunk and its checksum leave in one write.
        self._buffer = np.zeros(self._chunk_bytes + 4, np.uint8)
        self.rows = self._buffer[:-4].reshape(chunk_rows, size, size, 3)
        """The chunk being filled, (chunk_rows, size, size, 3) uint8: write row i of it here."""
        self._index = np.full((shard_rows // chunk_rows, 2), ABSENT, "<u8")
        self._num_chunks = 0
        self._num_bytes = 0
        self._hash = xxhash.xxh3_128()

    def flush(self, num_rows: int) -> None:
        """End the chunk being filled, of which the first *num_rows* rows were written."""
        self.rows[num_rows:] = 0
        if self._compress is None:
            framed = self._buffer
        else:
            packed = self._compress(self._buffer[:-4])
            framed = np.empty(len(packed) + 4, np.uint8)
            framed[:-4] = np.frombuffer(packed, np.uint8)
        framed[-4:] = _checksum(framed[:-4])
        self._index[self._num_chunks] = (self._num_bytes, framed.nbytes)
        self._num_chunks += 1
        self._write(framed)

    def finish(self) -> Written:
        """Write the index and make the object durable under its name."""
        index = self._index.reshape(-1).view(np.uint8)
        self._write(np.concatenate([index, _checksum(index)]))
        self._writer.finish()
        return Written(self._writer.name, self._num_bytes, self._hash.hexdigest())

    def _write(self, framed: NDArray[np.uint8]) -> None:
        self._hash.update(framed.data)
        self._writer.write(framed.data)
        self._num_bytes += framed.nbytes


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


def _checksum(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array([google_crc32c.value(data)], "<u4").view(np.uint8)
