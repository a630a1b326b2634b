"""Arrow reads files without a Python object that its threads own."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.store import arrow_files, table
from pipeline.store.arrow_files import open_for_arrow, open_parquet
from pipeline.store.open import open_objects

KEYS = [f"n00000000/picture_{number}.JPEG" for number in range(3_000)]
ROWS = pa.table({"key": KEYS, "row": list(range(len(KEYS)))})


class Watched(io.BytesIO):
    """A file that records the threads that read it, and the results."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.threads: set[int] = set()

    def read(self, num_bytes: int | None = -1) -> bytes:
        self.threads.add(threading.get_ident())
        return super().read(num_bytes)


def parquet(rows: pa.Table = ROWS) -> bytes:
    out = io.BytesIO()
    pq.write_table(rows, out, row_group_size=1_000)
    return out.getvalue()


def ipc(rows: pa.Table = ROWS) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_file(out, rows.schema) as file:
        file.write_table(rows, max_chunksize=1_000)
    return out.getvalue()


def _a_column(file: Any) -> pa.Table:
    return open_parquet(file).read_row_group(1, columns=["key"], use_threads=False)


def _row_groups(file: Any) -> pa.Table:
    return table.read_table_rows(open_parquet(file), 0, 10)


@pytest.mark.parametrize("read", [_a_column, _row_groups])
def test_parquet_is_read_in_the_calling_thread(read: Callable[[Any], pa.Table]) -> None:
    """Arrow's own threads could own the file or a result when the process exits."""
    file = Watched(parquet())
    assert read(file).num_rows
    assert file.threads == {threading.get_ident()}


def test_reads_return_arrow_owned_memory() -> None:
    """Arrow's memory is freed without the GIL, whichever thread releases it last."""
    file = open_for_arrow(Watched(b"0123456789"))
    buffer = file.read_buffer(4)
    # A buffer over Python's memory names the Python object that it keeps alive as its parent.
    assert (buffer.to_pybytes(), buffer.parent) == (b"0123", None)
    assert pa.py_buffer(b"0123").to_pybytes() == buffer.to_pybytes()
    rows = pa.ipc.open_file(open_for_arrow(Watched(ipc())))
    assert pa.Table.from_batches([rows.get_batch(1)])["row"][0].as_py() == 1_000


def test_a_file_on_disk_is_read_by_arrow_itself(tmp_path: Path) -> None:
    """The given Python file is closed, and Arrow opens the path."""
    (tmp_path / "t.arrow").write_bytes(ipc())
    objects = open_objects(str(tmp_path))
    file = objects.open("t.arrow")
    native = open_for_arrow(file)
    assert file.closed
    assert isinstance(native, pa.OSFile)
    assert pa.ipc.open_file(native).read_all().equals(ROWS)
    native.close()


def test_a_part_in_memory_is_decoded_as_by_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and schema agree, and the memory is Arrow's own."""
    owned = []

    def noted(data: bytes) -> pa.Buffer:
        owned.append(len(data))
        return pa.py_buffer(bytes(data))

    line = table.TableRow(0, "k", "n", 1, 2, 3, "RGB", "JPEG", 4, 5, (0, 0, 1, 1), 0, None)
    data = table.encode_part([line, line])
    assert table.decode_part(data).equals(pq.read_table(pa.BufferReader(data)))
    assert table.decode_part(data).schema.equals(table.SCHEMA)
    monkeypatch.setattr(arrow_files, "_arrow_owned", noted)
    assert table.decode_part(data).num_rows == 2
    assert owned == [len(data)]


def test_no_other_module_reads_parquet_through_python_files() -> None:
    """Readers of a store use one module; Parquet sources have their own test."""
    root = Path(__file__).parents[3]
    opens = ("ParquetFile(", "read_table(", "BufferReader(", "pyarrow.dataset")
    modules = {
        str(path.relative_to(root))
        for part in ("pipeline", "workflows", "cluster")
        for path in (root / part).rglob("*.py")
        if any(call in path.read_text() for call in opens)
    }
    assert modules == {"pipeline/store/arrow_files.py", "pipeline/sources/formats/parquet.py"}
