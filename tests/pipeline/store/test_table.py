"""The parts and the complete table contain the same rows, and equal rows have equal bytes."""

import io
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError
from pipeline.store import layout, table
from pipeline.store.local import LocalObjects
from pipeline.store.table import TableRow


class Buffer:
    """A writer that keeps all bytes."""

    name = "whole"

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        self.data += data

    def finish(self) -> None:
        """Do nothing, since the bytes are in memory."""


def line(row: int) -> TableRow:
    facts: tuple = (None,) * 4 if row % 7 == 3 else (500 + row, 375, "RGB", "JPEG")
    bad = facts[0] is None
    box = None if bad else (row, 0, row + 375, 375)
    head = (row, f"n{row % 3}/{row}.JPEG", f"n{row % 3}", row % 3)
    status, reason = (3, f"it breaks off at é {row}") if bad else (0, None)
    return TableRow(*head, *facts, 1000 + row, (row * 2654435761) % 2**32, box, status, reason)


def join(parts: list[pa.Table]) -> bytes:
    writer = Buffer()
    table.write_table(parts, writer)
    return bytes(writer.data)


def test_a_part_has_every_declared_column() -> None:
    """Unreadable rows have nulls."""
    part = table.decode_part(table.encode_part([line(row) for row in range(8)]))
    assert part.schema.equals(table.SCHEMA)
    assert part["row"].to_pylist() == list(range(8))
    assert part["box"][0].as_py() == [0, 0, 375, 375]
    bad = part.slice(3, 1).to_pylist()[0]
    assert [name for name, value in bad.items() if value is None] == [
        "width",
        "height",
        "mode",
        "format",
        "box",
    ]
    assert (bad["status"], bad["reason"]) == (3, "it breaks off at é 3")


@given(st.integers(1, 30), st.integers(0, 29))
def test_a_part_is_rewritten_with_the_same_bytes(num_rows: int, first: int) -> None:
    """A part can be cut out of the complete table again."""
    data = table.encode_part([line(first + row) for row in range(num_rows)])
    assert table.encode_table(table.decode_part(data)) == data


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(1, 9))
def test_the_complete_table_does_not_depend_on_its_parts(
    lengths: list[int], group_rows: int
) -> None:
    """The row groups, and thus the bytes, are the same for any division into parts."""
    num_rows = sum(lengths)
    lines = [line(row) for row in range(num_rows)]
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    cut = [
        table.decode_part(table.encode_part(lines[start : start + length]))
        for start, length in zip(starts, lengths, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "GROUP_ROWS", group_rows)
        joined = join(cut)
        assert joined == join([table.decode_part(table.encode_part(lines))])
        read = pq.ParquetFile(io.BytesIO(joined))
        assert read.read().equals(table.decode_part(table.encode_part(lines)))
        assert read.num_row_groups == -(-num_rows // group_rows)
        for start, part in zip(starts, cut, strict=True):
            again = table.read_table_rows(read, start, start + part.num_rows)
            assert table.encode_table(again) == table.encode_table(part)


def test_a_table_of_any_length_has_full_row_groups() -> None:
    """Only the last row group may be short."""
    num_rows = table.GROUP_ROWS // 4
    rows = table.decode_part(table.encode_part([line(row) for row in range(64)]))
    part = pa.concat_tables([rows] * (num_rows // 64))
    read = pq.ParquetFile(io.BytesIO(join([part] * 9)))
    groups = [read.metadata.row_group(i).num_rows for i in range(read.num_row_groups)]
    assert groups == [table.GROUP_ROWS, table.GROUP_ROWS, num_rows]


def test_only_a_quarantined_row_may_lack_its_checksum() -> None:
    """Only the file of a quarantined row may be read partially."""
    lines = [replace(line(row), crc32c=None) for row in range(8)]
    bad = [entry for entry in lines if entry.status]
    good = [entry for entry in lines if not entry.status]
    assert bad
    assert good
    assert table.decode_part(table.encode_part(bad))["crc32c"].null_count == len(bad)
    with pytest.raises(StoreDamagedError, match="without a key or a status"):
        table.decode_part(table.encode_part(good))


def test_a_missing_part_is_a_one_line_error(tmp_path: Path) -> None:
    """The error for a missing or wrong part contains advice."""
    objects = LocalObjects(str(tmp_path), "train-1")
    name = layout.part("train", 0)
    with pytest.raises(StoreDamagedError, match=rf"{name} is missing. Run `tesserae repair`"):
        table.load_part(objects, name, range(8))
    objects.begin()
    objects.put(name, table.encode_part([line(row) for row in range(8)]))
    assert table.load_part(objects, name, range(8)).num_rows == 8
    with pytest.raises(StoreDamagedError):
        table.load_part(objects, name, range(8, 16))
    objects.end()
