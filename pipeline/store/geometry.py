"""The places of rows and chunks in the shard objects of an uncompressed array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.store.checksum import CHECKSUM_BYTES
from pipeline.store.shard import encode_index, index_bytes


@dataclass(frozen=True)
class Geometry:
    """The locations of rows in the shard objects of one uncompressed array.

    Chunk k of a shard begins at k * framed_bytes: each is followed by its checksum.
    """

    row_bytes: int
    """The bytes of one square, or of one image's features."""
    shard_rows: int
    """The rows of a shard, a multiple of `chunk_rows`; the last shard may hold fewer."""
    chunk_rows: int
    """The rows of a chunk."""
    num_rows: int
    """The rows of the split."""

    @property
    def chunk_bytes(self) -> int:
        """The bytes of a chunk without its checksum."""
        return self.chunk_rows * self.row_bytes

    @property
    def framed_bytes(self) -> int:
        """The bytes of a chunk with its checksum."""
        return self.chunk_bytes + CHECKSUM_BYTES

    @property
    def chunks_per_shard(self) -> int:
        """The number of chunks that a shard has room for."""
        return self.shard_rows // self.chunk_rows

    @property
    def index_bytes(self) -> int:
        """The bytes of a shard's index with its checksum."""
        return index_bytes(self.shard_rows, self.chunk_rows)

    @property
    def num_shards(self) -> int:
        """The number of shard objects."""
        return -(-self.num_rows // self.shard_rows)

    def num_chunks(self, shard: int) -> int:
        """Return the number of chunks of one shard that hold rows; the last shard may have fewer.

        Args:
            shard: The number of the shard, 0 to num_shards - 1, which is not checked.
        """
        rows = min(self.shard_rows, self.num_rows - shard * self.shard_rows)
        return -(-rows // self.chunk_rows)

    def num_bytes(self, shard: int) -> int:
        """Return the bytes of one uncompressed shard object, checksums and index included.

        Args:
            shard: The number of the shard, 0 to num_shards - 1, which is not checked.
        """
        return self.num_chunks(shard) * self.framed_bytes + self.index_bytes

    def index(self, shard: int) -> bytes:
        """Return the index that ends the uncompressed object of one shard, with its checksum.

        Args:
            shard: The number of the shard, 0 to num_shards - 1, which is not checked.

        Returns:
            `index_bytes` bytes: (offset, length) in bytes of each of the `chunks_per_shard` chunks
            as uint64 little-endian, 2^64 - 1 twice for chunks without rows, and the CRC-32C. The
            length of a chunk includes its checksum.
        """
        return encode_index(self.num_chunks(shard), self.chunks_per_shard, self.framed_bytes)

    def locate(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the bytes of rows lie: their shards, and their offsets in the shard objects.

        It is meant for uncompressed shard objects.

        Args:
            rows: (n,) int64, rows of the split in any order, each 0 to num_rows - 1, which is not
                checked.

        Returns:
            Two arrays, both (n,) int64: the number of the shard of each row, and the offset of its
            first byte in the object of that shard.
        """
        shards, inside = np.divmod(rows, self.shard_rows)
        chunks, remainders = np.divmod(inside, self.chunk_rows)
        return shards, chunks * self.framed_bytes + remainders * self.row_bytes
