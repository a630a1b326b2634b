"""Which sample each row is: one Arrow file that planner writes and workers look into.

An Arrow IPC file with one record batch a shard, so that a task reads the batch of its shard and
nothing else. Columns: key, label (int32), num_bytes (int64), path (null: the key is the path),
offset (int64, null: the whole file), crc32c (uint32, where a spool knows it). The schema's
metadata says where the source is. It is a cache: the plan, which holds no paths, decides whether
it is the right one.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.sources.options import LISTING_RULES, SourceOptions
from pipeline.store import document, layout, records, schema
from pipeline.store.arrow_files import open_for_arrow
from pipeline.store.commit import Written
from pipeline.store.objects import Objects, WriterFile
from pipeline.store.plan import Plan
from pipeline.store.schema import Count, Format
from pipeline.urls import is_url

SCHEMA = pa.schema(
    [
        ("key", pa.large_string()),
        ("label", pa.int32()),
        ("num_bytes", pa.int64()),
        ("path", pa.large_string()),
        ("offset", pa.int64()),
        ("crc32c", pa.uint32()),
    ]
)

REQUIRED = ("key", "label", "num_bytes")
"""Columns that are never null."""


@dataclass(frozen=True)
class Origin:
    """Where a split's bytes are."""

    source: str
    """What the person named."""
    kind: str
    root: str
    """What paths are relative to."""
    fingerprint: str
    """Changes when the source does."""
    listing: str
    """Digest of the listing, as in the plan."""
    num_bytes: Count
    """Of all samples."""
    options: dict[str, Any] = field(default_factory=dict)
    """How the source was read (`SourceOptions`), where it was not as it is by default."""
    passed: dict[str, tuple[Count, str]] = field(default_factory=dict)
    """Why files are no samples -> how many, and the name of the first."""

    def __post_init__(self) -> None:
        """Refuse options that no source has."""
        SourceOptions.of(self.options, LISTING_RULES)

    @property
    def is_there(self) -> bool:
        """Whether there is anything at the root, as far as can be told without asking a server."""
        return is_url(self.root) or Path(self.root).exists()


_LATER: dict[str, Any] = {"options": {}, "passed": {}}
"""What rows that were written by earlier versions do not say of their origin."""


@dataclass(frozen=True)
class RowsRecord:
    """The record of the rows' file."""

    rows: Written
    format: Format


@dataclass(frozen=True, slots=True)
class Sample:
    """One row's place in the source."""

    row: int
    key: str
    label: int
    num_bytes: int
    path: str
    offset: int | None
    crc32c: int | None


def write_rows(
    objects: Objects,
    plan: Plan,
    origin: Origin,
    listing: pa.Table,
    labels: NDArray[np.int32],
    order: NDArray[np.int64],
) -> None:
    """Write the rows of a split.

    Args:
        objects: The store.
        plan: Says how many rows a shard has.
        origin: Where the source is.
        listing: Samples sorted by key (`pipeline.sources.listing`).
        labels: (num_rows,) int32, of the sorted samples.
        order: (num_rows,) int64, the place in *listing* of row 0, 1, ...
    """
    described = SCHEMA.with_metadata({"origin": json.dumps(asdict(origin))})
    columns = listing.append_column("label", pa.array(labels)).combine_chunks()
    writer = objects.create(layout.rows(plan.split))
    noting = records.FingerprintWriter(writer)
    try:
        with (
            pa.PythonFile(WriterFile(noting), mode="w") as sink,
            pa.ipc.new_file(sink, described) as file,
        ):
            for shard in range(plan.num_shards):
                rows = plan.rows(shard)
                file.write_batch(_batch(columns.take(order[rows.start : rows.stop]), described))
        writer.finish()
    finally:
        writer.abort()
    record = {"rows": asdict(noting.written()), "format": plan.format}
    objects.put(layout.rows_record(plan.split), document.encode(record))


def known_origin(objects: Objects, plan: Plan) -> Origin:
    """Where the images of *plan* are, after a look at every byte of its rows.

    Raises:
        StoreError: It is not known.
    """
    rows = Rows(objects, plan)
    rows.close()
    name = layout.rows_record(plan.split)
    try:
        data = objects.get(name, document.MAX_BYTES)
        record = document.decode_as(RowsRecord, data, name)
        document.check_value(name, "rows.name", record.rows.name, layout.rows(plan.split))
        whole = records.is_there(objects, record.rows)
    except (FileNotFoundError, StoreError):
        whole = False
    if not whole:
        raise StoreError(_unknown(plan, f"{layout.rows(plan.split)} is damaged"))
    return rows.origin


def _unknown(plan: Plan, why: str) -> str:
    return (
        f"where the images of split {plan.split!r} are is not known: {why}. Run `tesserae repair`"
        " with --data SOURCE, or `tesserae prepare` with the source again."
    )


def _batch(taken: pa.Table, described: pa.Schema) -> pa.RecordBatch:
    arrays = [
        taken[field.name].cast(field.type).combine_chunks()
        if field.name in taken.column_names
        else pa.nulls(taken.num_rows, field.type)
        for field in described
    ]
    flat = [a.combine_chunks() if isinstance(a, pa.ChunkedArray) else a for a in arrays]
    return pa.RecordBatch.from_arrays(flat, schema=described)


class Rows:
    """The rows of a split, read shard by shard."""

    def __init__(self, objects: Objects, plan: Plan) -> None:
        """Open the file.

        Raises:
            StoreError: It is not there, or belongs to another plan.
        """
        name = layout.rows(plan.split)
        self._plan = plan
        try:
            self._raw = open_for_arrow(objects.open(name))
            self._close = weakref.finalize(self, self._raw.close)
            self._file = pa.ipc.open_file(self._raw)
            if not self._file.schema.equals(SCHEMA):
                raise ValueError("other columns")
            fields = json.loads(self._file.schema.metadata[b"origin"])
            self.origin = schema.read(Origin, {**_LATER, **fields})
        except FileNotFoundError:
            raise StoreError(_unknown(plan, f"there is no {name}")) from None
        except _UNREADABLE as e:
            raise StoreError(_unknown(plan, f"{name} is damaged ({type(e).__name__})")) from e
        if self.origin.listing != plan.listing or self._file.num_record_batches != plan.num_shards:
            raise StoreError(_unknown(plan, f"{name} belongs to another plan"))

    def shard(self, shard: int) -> list[Sample]:
        """The samples of one shard, in the order of its rows."""
        return list(self._samples(shard))

    def close(self) -> None:
        """Close the file, which is closed with the last reference to it at the latest."""
        self._close()

    def _samples(self, shard: int) -> Iterator[Sample]:
        batch = self._checked(shard)
        columns = (column.to_pylist() for column in batch.columns)
        rows = self._plan.rows(shard)
        for row, values in zip(rows, zip(*columns, strict=True), strict=True):
            key, label, num_bytes, path, offset, crc32c = values
            yield Sample(row, key, label, num_bytes, path or key, offset, crc32c)

    def _checked(self, shard: int) -> pa.RecordBatch:
        """Return the batch of one shard, whose values cannot lead a reader astray.

        Raises:
            StoreError: It is damaged, of another number of rows, or somebody else wrote it.
        """
        try:
            batch = self._file.get_batch(shard)
            batch.validate(full=True)  # places of texts, too: Arrow itself follows them blindly
            _check_values(batch, len(self._plan.rows(shard)))
        except _UNREADABLE as e:
            why = f"{layout.rows(self._plan.split)} is damaged ({type(e).__name__}: {e})"
            raise StoreError(_unknown(self._plan, why)) from e
        return batch


_UNREADABLE = (OSError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError)


def _check_values(batch: pa.RecordBatch, num_rows: int) -> None:
    if batch.num_rows != num_rows or any(batch[name].null_count for name in REQUIRED):
        raise ValueError(f"expected {num_rows} rows with keys, labels and sizes")
    for name, least in (("label", -1), ("num_bytes", 0), ("offset", 0)):
        lowest = pc.min(batch[name]).as_py()
        if lowest is not None and lowest < least:
            raise ValueError(f"{name} is {lowest}: expected at least {least}")
    for path in (*batch["path"].to_pylist(), *batch["key"].to_pylist()):
        if path is not None and ".." in path.split("/"):
            raise ValueError(f"path {path[:200]!r} leads out of the source")
