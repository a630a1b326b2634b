"""The source index returns the location of every sample, and never a damaged one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.ingest.source_index import (
    Origin,
    Sample,
    SourceIndex,
    load_origin,
    write_source_index,
)
from pipeline.store import layout
from pipeline.store.local import LocalObjects
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.plan import Plan
from tests.pipeline.store.test_plan import MADE

ORIGIN = Origin(
    source="images",
    kind="folder",
    root="/images",
    fingerprint="f",
    listing=MADE.listing,
    num_bytes=1,
)


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    objects = LocalObjects(str(tmp_path), "train-1")
    objects.begin()
    return objects


def listing(num_rows: int, **columns: pa.Array) -> pa.Table:
    keys = pa.array([f"n/{index}.JPEG" for index in range(num_rows)], pa.large_string())
    num_bytes = pa.array(range(100, 100 + num_rows), pa.int64())
    return pa.table({"key": keys, "num_bytes": num_bytes, **columns})


def write(objects: Objects, table: pa.Table, order: list[int], shard_rows: int) -> Plan:
    planned = replace(MADE, num_rows=len(order), shard_rows=shard_rows)
    labels = np.arange(len(order), dtype=np.int32)
    write_source_index(objects, planned, ORIGIN, table, labels, np.array(order, np.int64))
    return planned


def read(objects: Objects, planned: Plan) -> list[Sample]:
    rows = SourceIndex(objects, planned)
    samples = [sample for shard in range(planned.num_shards) for sample in rows.shard(shard)]
    rows.close()
    return samples


@given(st.permutations(range(7)), st.integers(1, 9))
def test_rows_are_read_in_their_order(order: list[int], shard_rows: int) -> None:
    """A sample that is a whole file has no offset, and its key is its path."""
    objects = open_objects(f"memory://rows/{shard_rows}", "train-1")
    planned = write(objects, listing(7), order, shard_rows)
    assert read(objects, planned) == [
        Sample(row, f"n/{index}.JPEG", index, 100 + index, f"n/{index}.JPEG", None, None)
        for row, index in enumerate(order)
    ]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_paths_offsets_and_checksums_are_kept(objects: LocalObjects, kind: pa.DataType) -> None:
    """The source's columns may have any Arrow string type and any number of chunks."""
    columns = {
        "path": pa.array([f"{index % 2}.tar" for index in range(5)], pa.string()).cast(kind),
        "offset": pa.array([512, None, 2**40, 0, 7], pa.int64()),
        "crc32c": pa.array([0, 1, 2**32 - 1, None, 5], pa.uint32()),
    }
    table = listing(5, **columns)
    table = pa.concat_tables([table.slice(0, 2), table.slice(2)])
    samples = read(objects, write(objects, table, [4, 3, 2, 1, 0], 2))
    assert [sample.path for sample in samples] == ["0.tar", "1.tar", "0.tar", "1.tar", "0.tar"]
    assert [sample.offset for sample in samples] == [7, 0, 2**40, None, 512]
    assert [sample.crc32c for sample in samples] == [5, None, 2**32 - 1, 1, 0]


def test_the_origin_is_kept(objects: LocalObjects) -> None:
    """The fingerprint and the digest of the listing are part of it."""
    planned = write(objects, listing(5), [0, 1, 2, 3, 4], 2)
    assert load_origin(objects, planned) == ORIGIN


def test_rows_of_another_plan_are_refused(objects: LocalObjects) -> None:
    """The plan may differ in its listing or its shards."""
    planned = write(objects, listing(5), [0, 1, 2, 3, 4], 2)
    for other_plan in (replace(planned, listing="c" * 64), replace(planned, shard_rows=4)):
        with pytest.raises(StoreError, match="belongs to another plan"):
            SourceIndex(objects, other_plan)


def test_a_missing_index_is_reported(objects: LocalObjects) -> None:
    """The error says how to list the source again."""
    with pytest.raises(StoreError, match=r"there is no \.cache/train\.rows\.arrow.*--data SOURCE"):
        load_origin(objects, MADE)


def test_a_change_of_any_byte_is_detected(objects: LocalObjects) -> None:
    """A changed label, key or offset would end up in the store."""
    planned = write(objects, listing(5), [0, 1, 2, 3, 4], 2)
    name = layout.source_index("train")
    data = objects.get(name)
    for offset in range(0, len(data), 11):
        objects.put(name, data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        with pytest.raises(
            StoreError, match="the location of the images of split 'train' is unknown"
        ):
            load_origin(objects, planned)
    for length in range(0, len(data), 101):
        objects.put(name, data[:length])
        with pytest.raises(
            StoreError, match="the location of the images of split 'train' is unknown"
        ):
            load_origin(objects, planned)
    objects.put(name, data)
    load_origin(objects, planned)
    objects.remove(layout.source_index_record("train"))
    with pytest.raises(StoreError, match="is damaged"):
        load_origin(objects, planned)


def test_the_file_is_closed_with_the_last_reference(objects: LocalObjects) -> None:
    """A worker keeps the file open between tasks, and nothing closes it explicitly."""
    rows = SourceIndex(objects, write(objects, listing(5), [0, 1, 2, 3, 4], 2))
    raw = rows._raw
    del rows
    assert raw.closed


def test_is_there_reports_whether_the_source_exists(tmp_path: Path) -> None:
    """A URL is assumed to exist; no server is contacted."""
    assert replace(ORIGIN, root=str(tmp_path)).exists
    assert not replace(ORIGIN, root=str(tmp_path / "none")).exists
    assert replace(ORIGIN, root="s3://bucket/x").exists
