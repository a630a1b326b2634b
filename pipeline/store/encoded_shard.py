"""Compose encoded images, each of its own length, into one shard object of a zarr array of bytes.

The array is one-dimensional, uint8, and shard s owns its elements from s * span on. In a shard:

    row 0 | row 1 | ... | row n-1 | zeros | row table

The zeros fill up to the end of a chunk, so that the row table, 16 bytes for each row that a shard
has room for, are the last bytes of the last chunk that is present. The chunks after it are absent:
a shard takes the bytes of its images, not its span. As in every shard, a chunk is followed by its
crc32c, and the index is last.

The table makes a shard readable by itself. Readers of the whole split need not look at it: the
arrays `offset` and `shape` of the split have the same numbers for all rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store.checksum import CHECKSUM_BYTES, has_valid_checksum
from pipeline.store.commit import ObjectRecord
from pipeline.store.objects import Objects, Writer
from pipeline.store.shard import ChunkWriter, index_bytes

TABLE_ENTRY = np.dtype([("stop", "<i8"), ("height", "<i4"), ("width", "<i4")])
"""An entry of the row table: the offset in the shard after the row's last byte, and the size of its
picture in pixels. A row begins where the one before it stops; a quarantined row is empty, of size
(0, 0)."""


@dataclass(frozen=True)
class EncodedGeometry:
    """The places of bytes in the shard objects of an encoded array."""

    span_bytes: int
    """The elements of the array that each shard owns, a multiple of `chunk_bytes`."""
    chunk_bytes: int
    """The bytes of a chunk, without its checksum."""
    shard_rows: int
    """The rows of a shard; the last shard of a split may hold fewer."""

    @property
    def table_bytes(self) -> int:
        """The bytes of a shard's row table."""
        return self.shard_rows * TABLE_ENTRY.itemsize

    @property
    def framed_bytes(self) -> int:
        """The bytes of a chunk with its checksum."""
        return self.chunk_bytes + CHECKSUM_BYTES

    @property
    def chunks_per_shard(self) -> int:
        """The number of chunks that a shard has room for."""
        return self.span_bytes // self.chunk_bytes

    @property
    def index_bytes(self) -> int:
        """The bytes of a shard's index with its checksum."""
        return index_bytes(self.span_bytes, self.chunk_bytes)

    @property
    def room_bytes(self) -> int:
        """The bytes of images that a shard has room for, beside its row table."""
        return self.span_bytes - self.table_bytes

    def num_chunks(self, object_bytes: int) -> int | None:
        """Return the number of chunks in a shard object; None if no shard has its length.

        Args:
            object_bytes: The length of the object in bytes.
        """
        chunks, remainder = divmod(object_bytes - self.index_bytes, self.framed_bytes)
        return None if remainder or not 1 <= chunks <= self.chunks_per_shard else chunks

    def object_offset(self, offset: int) -> int:
        """Return where a byte of a shard lies in its object, before which checksums lie.

        Args:
            offset: The offset of the byte in the shard, 0 to `span_bytes` - 1.
        """
        chunk, inside = divmod(offset, self.chunk_bytes)
        return chunk * self.framed_bytes + inside


class EncodedShardComposer:
    """A composer of one shard of an encoded array, which takes the rows in order."""

    def __init__(self, writer: Writer, geometry: EncodedGeometry) -> None:
        """Begin a shard without rows; nothing is written yet.

        Args:
            writer: The writer of the shard object, which gets the bytes as rows are appended. After
                an error the caller aborts it.
            geometry: The span, the bytes of a chunk and the rows of a shard.
        """
        self._writer = writer
        self._geometry = geometry
        self._chunks = ChunkWriter(writer, geometry.chunks_per_shard)
        self._num_bytes = 0
        self._num_rows = 0
        self._table = np.zeros(geometry.shard_rows, TABLE_ENTRY)

    def append(self, row: bytes, height: int, width: int) -> None:
        """Append one row to the shard, at most the `shard_rows` of its geometry.

        Args:
            row: The bytes of the encoded image; empty for a quarantined row.
            height: The height of its picture in pixels, 0 for an empty row.
            width: The width of its picture in pixels, 0 for an empty row.

        Raises:
            IndexError: The shard has all its rows.
            StoreError: The rows do not fit into the span of the shard, or cannot be written.
        """
        if self._num_bytes + len(row) > self._geometry.room_bytes:
            raise StoreError(
                f"{self._writer.name} has room for {self._geometry.room_bytes:,} bytes of images,"
                f" and its first {self._num_rows + 1} need"
                f" {self._num_bytes + len(row):,}. Choose an encoding with a lower quality or a"
                " smaller short side."
            )
        self._write(row)
        self._table[self._num_rows] = (self._num_bytes, height, width)
        self._num_rows += 1

    def write_index(self) -> ObjectRecord:
        """Write the row table and the index, after which `finish` must follow.

        Returns:
            The record of the object: its `name`, its length in bytes `num_bytes`, and `digest`, the
            XXH3-128 of the bytes as 32 hexadecimal digits.

        Raises:
            StoreError: The bytes cannot be written.
        """
        self._table["stop"][self._num_rows :] = self._num_bytes
        table = self._table.tobytes()
        self._write(bytes(-(self._num_bytes + len(table)) % self._geometry.chunk_bytes))
        self._write(table)
        return self._chunks.write_index()

    def finish(self) -> None:
        """Make the object durable under its name, after `write_index`.

        Raises:
            StoreError: The object cannot be written.
        """
        self._writer.finish()

    def _write(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            room = self._geometry.chunk_bytes - self._num_bytes % self._geometry.chunk_bytes
            piece = data[start : start + room]  # of a row within one chunk, no copy
            self._chunks.write(piece)
            self._num_bytes += len(piece)
            start += len(piece)
            if len(piece) == room:
                self._chunks.end_chunk()


def decode_row_table(data: bytes, geometry: EncodedGeometry) -> NDArray[np.void] | None:
    """Decode the row table of a shard.

    Args:
        data: The last `table_bytes` bytes of the last chunk that is present, without checksums.
        geometry: The span, the bytes of a chunk and the rows of a shard.

    Returns:
        The entries, (shard_rows,) of `TABLE_ENTRY`: `stop`, `height` and `width`. None if they are
        not the table of a shard: its length is wrong, offsets fall or leave the span, or a size is
        negative or belongs to an empty row.
    """
    if len(data) != geometry.table_bytes:
        return None
    table = np.frombuffer(data, TABLE_ENTRY)
    stops = table["stop"]
    starts = np.concatenate([np.zeros(1, "<i8"), stops[:-1]])
    sizes = np.stack([table["height"], table["width"]], 1)
    # Compared, not subtracted: a difference of untrusted numbers may overflow.
    is_valid = (
        (starts <= stops).all()
        and int(stops[-1]) <= geometry.room_bytes
        and (sizes >= 0).all()
        and ((sizes > 0) == (starts < stops)[:, None]).all()
    )
    return table if is_valid else None


def read_row_table(
    objects: Objects, written: ObjectRecord, geometry: EncodedGeometry
) -> NDArray[np.void]:
    """Read the row table of a shard, and compare the chunks that hold it with their checksums.

    Args:
        objects: The objects of the store.
        written: The shard object, as its commit records it.
        geometry: The span, the bytes of a chunk and the rows of a shard.

    Returns:
        The entries, (shard_rows,) of `TABLE_ENTRY`: `stop`, the offset in the shard after the last
        byte of each row, and the `height` and `width` of its picture in pixels.

    Raises:
        StoreDamagedError: The object is missing, or has another length or other bytes than a shard.
        StoreError: The request to an object store failed.
        OSError: The disk reports an error.
    """
    num_chunks = geometry.num_chunks(written.num_bytes) or 0
    first = max(0, num_chunks - -(-geometry.table_bytes // geometry.chunk_bytes))
    contents = _read_chunks(objects, written, geometry, first, num_chunks)
    table = decode_row_table(contents[-geometry.table_bytes :], geometry)
    if table is None:
        raise StoreDamagedError(f"{written.name} is damaged. Run `tesserae repair`.")
    return table


def read_rows_of_shard(
    objects: Objects, written: ObjectRecord, geometry: EncodedGeometry, start: int, stop: int
) -> tuple[list[bytes], NDArray[np.int32]]:
    """Read some rows of a committed shard, whether its split is finished or not.

    Args:
        objects: The objects of the store.
        written: The shard object, as its commit records it.
        geometry: The span, the bytes of a chunk and the rows of a shard.
        start: The first row, counted from 0 in the shard.
        stop: The row after the last one, at most the rows of a shard.

    Returns:
        The bytes of each row, and the height and width of each picture in pixels, (stop - start, 2)
        int32; empty, 0 and 0 for a quarantined row.

    Raises:
        StoreDamagedError: The object is missing, or a chunk that was read is damaged.
        StoreError: The request to an object store failed.
        OSError: The disk reports an error.
    """
    table = read_row_table(objects, written, geometry)
    stops = np.append(0, table["stop"]).tolist()
    first = stops[start] // geometry.chunk_bytes
    last = max(first, -(-stops[stop] // geometry.chunk_bytes))
    contents = _read_chunks(objects, written, geometry, first, last)
    base = first * geometry.chunk_bytes
    rows = [contents[stops[n] - base : stops[n + 1] - base] for n in range(start, stop)]
    shapes = np.stack([table["height"], table["width"]], 1)[start:stop]
    return rows, shapes.astype(np.int32)


def _read_chunks(
    objects: Objects, written: ObjectRecord, geometry: EncodedGeometry, first: int, last: int
) -> bytes:
    """Return the bytes of chunks *first* to *last* - 1, compared with and without checksums."""
    framed = geometry.framed_bytes
    damaged = StoreDamagedError(f"{written.name} is missing or damaged. Run `tesserae repair`.")
    try:
        data = memoryview(objects.read(written.name, first * framed, (last - first) * framed))
    except FileNotFoundError:
        raise damaged from None
    chunks = [data[start : start + framed] for start in range(0, len(data), framed)]
    is_complete = len(data) == (last - first) * framed
    if not is_complete or not all(has_valid_checksum(chunk) for chunk in chunks):
        raise damaged
    return b"".join(chunk[:-CHECKSUM_BYTES] for chunk in chunks)
