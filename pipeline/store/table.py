"""The table: one line for each sample, with its source file and the outcome of decoding it.

Columns, in this order:

    row        int64    index in the arrays          mode       string   of the file: RGB, L, ...
    key        string   canonical name               format     string   of the file: JPEG, ...
    wnid       string   class                        num_bytes  int64    of the file
    label      int32    0..C-1, -1 for none          crc32c     uint32   of the file's bytes
    width      int32    of the file, in pixels       box        int32[4] left, top, right, bottom:
    height     int32                                            the region that the fit kept
    status     uint8    as in the status array       reason     string   why a row is quarantined

width, height, mode, format and box are null if the bytes could not be decoded. reason is null if
they could, except for a remark on what an image's file lacks. crc32c is null if the file was not
read completely. A part holds the rows of one shard; the split's table is the parts in order.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import StoreDamagedError
from pipeline.store.arrow_files import open_parquet
from pipeline.store.objects import Objects, Writer, WriterFile

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("wnid", pa.string()),
        ("label", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("format", pa.string()),
        ("num_bytes", pa.int64()),
        ("crc32c", pa.uint32()),
        # "element" is the name in Parquet: a table that was read is written with the same bytes
        ("box", pa.list_(pa.field("element", pa.int32()), 4)),
        ("status", pa.uint8()),
        ("reason", pa.string()),
    ]
)

REQUIRED = ("row", "key", "wnid", "label", "num_bytes", "status")
"""The columns that are never null; crc32c is null only for rows that are not read completely."""

GROUP_ROWS = 65_536
"""The rows in a row group of the complete table, independent of the parts."""


@dataclass(frozen=True)
class TableRow:
    """One row of the table, in the order of its columns, which the module's docstring describes."""

    row: int
    key: str
    wnid: str
    label: int
    width: int | None
    height: int | None
    mode: str | None
    format: str | None
    num_bytes: int
    crc32c: int | None
    box: tuple[int, int, int, int] | None
    status: int
    reason: str | None


def encode_part(lines: Sequence[TableRow]) -> bytes:
    """Encode the rows of a shard as a Parquet file with the columns of `SCHEMA`; write nothing.

    Args:
        lines: The rows of the shard in their order, whose attributes, none of which has a default,
            become the columns row, key, wnid, label, width, height, mode, format, num_bytes,
            crc32c, box (left, top, right and bottom of the region that the fit kept, in pixels of
            the file), status and reason; None becomes a null.

    Returns:
        The bytes of the file, compressed with zstd; equal rows give equal bytes with the same
        version of pyarrow.

    Raises:
        pyarrow.ArrowException: A value has another type than its column or is too large for it.
        OverflowError: A number has more than 64 bits, or `crc32c` or `status` is negative.
    """
    columns = [
        pa.array([getattr(line, field.name) for line in lines], field.type) for field in SCHEMA
    ]
    return encode_table(pa.Table.from_arrays(columns, schema=SCHEMA))


def encode_table(part: pa.Table) -> bytes:
    """Encode a table as a Parquet file, compressed with zstd; write nothing.

    Args:
        part: A table with exactly the columns of `SCHEMA`: row, key, wnid, label, width, height,
            mode, format, num_bytes, crc32c, box, status and reason, such as the rows of one shard.
            It is not checked.

    Returns:
        The bytes of the file; equal rows give equal bytes with the same version of pyarrow.
    """
    sink = io.BytesIO()
    pq.write_table(part.combine_chunks(), sink, compression="zstd")
    return sink.getvalue()


def decode_part(data: bytes, name: str = "the table", rows: range | None = None) -> pa.Table:
    """Decode and check a part of a table, or a complete table.

    Args:
        data: The bytes of the Parquet file.
        name: The name of the file, for messages (default: `the table`).
        rows: The rows that it must contain, exactly and in this order; None: any rows (default).

    Returns:
        A table in memory with the columns row, key, wnid, label, width, height, mode, format,
        num_bytes, crc32c, box, status and reason (`SCHEMA`). A box is left, top, right, bottom, in
        pixels of the file; for a quarantined row width, height, mode, format and box are null.

    Raises:
        StoreDamagedError: The file is not such a table, contains other rows, or has nulls in row,
            key, wnid, label, num_bytes or status, or in `crc32c` of a readable row.
    """
    try:
        file = open_parquet(data)
        check_rows(file, name, rows)
        part = file.read(use_threads=False)
        wrong = _is_damaged_part(part, rows)
    except (pa.ArrowException, OSError, MemoryError) as e:
        raise StoreDamagedError(
            f"{name} cannot be read ({str(e)[:200]}). Run `tesserae repair`."
        ) from None
    if wrong:
        raise StoreDamagedError(
            f"{name} has other rows than its shard, or rows without a key or a status. Run"
            " `tesserae repair`."
        )
    return part


def load_part(objects: Objects, name: str, rows: range) -> pa.Table:
    """Read and check the part of a split's table that belongs to one shard.

    Args:
        objects: The objects of the store.
        name: The name of the part: `samples/<split>.parts/<shard>.parquet`.
        rows: The rows that it must contain, exactly.

    Returns:
        A table with the columns row, key, wnid, label, width, height, mode, format, num_bytes,
        crc32c, box, status and reason (`SCHEMA`), in the order of rows. A box is left, top, right,
        bottom, in pixels of the file; for a quarantined row width, height, mode, format and box are
        null. The part is not compared with the digest in the shard's commit.

    Raises:
        StoreDamagedError: The part is missing or damaged, or contains other rows.
        StoreError: The request to an object store failed.
        OSError: The disk reports an error.
    """
    try:
        data = objects.get(name)
    except FileNotFoundError:
        raise StoreDamagedError(f"{name} is missing. Run `tesserae repair`.") from None
    return decode_part(data, name, rows)


def _is_damaged_part(part: pa.Table, rows: range | None) -> bool:
    nulls = any(part[name].null_count for name in REQUIRED)
    unread = pc.fill_null(pc.filter(part["status"], pc.is_null(part["crc32c"])), 0)
    nulls = nulls or pc.any(pc.equal(unread, 0)).as_py()
    return nulls or (rows is not None and part["row"].to_pylist() != list(rows))


def check_rows(file: pq.ParquetFile, name: str, rows: range | None) -> None:
    """Refuse a Parquet file with other columns or another number of rows before reading it.

    Args:
        file: The open file, of which only the footer is read.
        name: Its name in the store, for the message.
        rows: The rows of which it must have the number, `len(rows)`; None: any number. Which rows
            it has is not checked.

    Raises:
        StoreDamagedError: The columns are not those of `SCHEMA`, or the number of rows is wrong.
    """
    if not file.schema_arrow.equals(SCHEMA):
        raise StoreDamagedError(f"{name} has other columns than a table. Run `tesserae repair`.")
    if rows is not None and file.metadata.num_rows != len(rows):
        raise StoreDamagedError(
            f"{name} has {file.metadata.num_rows:,} rows: expected {len(rows):,}. Run `tesserae"
            " repair`."
        )


def read_table_rows(table: pq.ParquetFile, start: int, stop: int) -> pa.Table:
    """Read rows *start* to *stop* - 1 of a complete table, and only the row groups that hold them.

    Args:
        table: The open file of the complete table, which `write_table` wrote: its row groups have
            `GROUP_ROWS` rows.
        start: The first row of the split, at least 0.
        stop: The row after the last one, more than *start* and at most the number of rows.

    Returns:
        A table with stop - start rows and the columns row, key, wnid, label, width, height, mode,
        format, num_bytes, crc32c, box, status and reason (`SCHEMA`). A box is left, top, right,
        bottom, in pixels of the file; for a quarantined row width, height, mode, format and box are
        null.

    Raises:
        OSError: The file cannot be read, or is damaged.
        pyarrow.ArrowException: *stop* is beyond the last row group, or the file is damaged.
    """
    first = start // GROUP_ROWS
    numbers = list(range(first, -(-stop // GROUP_ROWS)))
    groups = table.read_row_groups(numbers, use_threads=False)
    return groups.slice(start - first * GROUP_ROWS, stop - start)


def write_table(parts: Iterable[pa.Table], writer: Writer) -> None:
    """Write the complete table of a split from its parts, with one row group in memory.

    Args:
        parts: The parts in the order of shards, each with the columns of `SCHEMA` and any number of
            rows. They are consumed one by one, and their errors are passed on. Without parts, the
            file has no rows.
        writer: The writer of the object; it gets all bytes of the Parquet file and is neither
            finished nor aborted.

    Raises:
        StoreError: The bytes cannot be written.
        ValueError: A part has other columns.
    """
    with (
        pa.PythonFile(WriterFile(writer), mode="w") as sink,
        pq.ParquetWriter(sink, SCHEMA, compression="zstd") as file,
    ):
        for group in _regroup_rows(parts):
            file.write_table(group, row_group_size=GROUP_ROWS)


def _regroup_rows(parts: Iterable[pa.Table]) -> Iterable[pa.Table]:
    waiting: list[pa.Table] = []
    num_rows = 0
    for part in parts:
        waiting.append(part)
        num_rows += part.num_rows
        while num_rows >= GROUP_ROWS:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, GROUP_ROWS).combine_chunks()
            waiting = [joined.slice(GROUP_ROWS)]
            num_rows -= GROUP_ROWS
    if num_rows:
        yield pa.concat_tables(waiting).combine_chunks()
