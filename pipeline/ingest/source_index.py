"""The source index: which sample each row is, written by the planner and read by workers.

It is an Arrow IPC file with one record batch for each shard, so that a task reads the batch of its
shard and nothing else. Columns: key, label (int32), num_bytes (int64), path (null: the key is the
path), offset (int64, null: the whole file), crc32c (uint32, where a spool knows it). The schema's
metadata records the location of the source. The file is a cache: the plan, which holds no paths,
decides whether it is valid.
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
from pipeline.store import document, layout, schema
from pipeline.store.arrow_files import open_for_arrow
from pipeline.store.commit import ObjectRecord
from pipeline.store.fingerprint import FingerprintWriter, is_intact
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
"""The columns that are never null."""


@dataclass(frozen=True)
class Origin:
    """The location of a split's images."""

    source: str
    """The source as the user named it."""
    kind: str
    """The kind of the source, such as `folder`."""
    root: str
    """The folder or URL that paths are relative to."""
    fingerprint: str
    """A fingerprint that changes when the source does."""
    listing: str
    """The digest of the listing, as in the plan."""
    num_bytes: Count
    """The number of bytes of all samples."""
    options: dict[str, Any] = field(default_factory=dict)
    """The source options that differ from their default (`SourceOptions`)."""
    passed: dict[str, tuple[Count, str]] = field(default_factory=dict)
    """The skipped files, by reason: their number and the name of the first."""

    def __post_init__(self) -> None:
        """Check that every option exists."""
        SourceOptions.of(self.options, LISTING_RULES)

    @property
    def exists(self) -> bool:
        """True if the root exists; a URL is assumed to exist, since no server is contacted."""
        return is_url(self.root) or Path(self.root).exists()


_DEFAULTS: dict[str, Any] = {"options": {}, "passed": {}}
"""Defaults of the origin's fields that files of earlier versions lack."""


@dataclass(frozen=True)
class SourceIndexRecord:
    """The record of the source index file."""

    rows: ObjectRecord
    """The name, length and digest of the source index."""
    format: Format
    """The format version of the store, as in its recipe."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The location of one row's image in the source."""

    row: int
    """The row in the split."""
    key: str
    label: int
    """The label; -1 for none."""
    num_bytes: int
    """The length of the image in bytes."""
    path: str
    """The path of its file, relative to the root of the source."""
    offset: int | None
    """The offset in bytes of the image in its file; None: it is the whole file."""
    crc32c: int | None
    """The checksum of the image; None unless it was spooled."""


def write_source_index(
    objects: Objects,
    plan: Plan,
    origin: Origin,
    listing: pa.Table,
    labels: NDArray[np.int32],
    order: NDArray[np.int64],
) -> None:
    """Write the source index of a split and its record, replacing those that exist.

    They are `.cache/<split>.rows.arrow` and `.cache/<split>.rows.json` in the store.

    Args:
        objects: The objects of the store, whose `begin` was called.
        plan: The plan of the split, for its name and rows.
        origin: The location of the source, which the index records. Its `listing` must be that of
            the plan; this is not checked, but otherwise the index cannot be opened.
        listing: The samples sorted by key, with the columns `key` and `num_bytes`, and where needed
            `path` (absent or null: the key), `offset` and `crc32c`.
        labels: (num_rows,) int32, the labels of the sorted samples; -1 for none.
        order: (num_rows,) int64, the index in *listing* of row 0, 1, ...

    Raises:
        StoreError: The store cannot be written.
    """
    schema_with_origin = SCHEMA.with_metadata({"origin": json.dumps(asdict(origin))})
    columns = listing.append_column("label", pa.array(labels)).combine_chunks()
    writer = objects.create(layout.source_index(plan.split))
    fingerprinting = FingerprintWriter(writer)
    try:
        with (
            pa.PythonFile(WriterFile(fingerprinting), mode="w") as sink,
            pa.ipc.new_file(sink, schema_with_origin) as file,
        ):
            for shard in range(plan.num_shards):
                rows = plan.rows(shard)
                file.write_batch(
                    _record_batch(columns.take(order[rows.start : rows.stop]), schema_with_origin)
                )
        writer.finish()
    finally:
        writer.abort()
    record = {"rows": asdict(fingerprinting.written()), "format": plan.format}
    objects.put(layout.source_index_record(plan.split), document.encode_document(record))


def load_origin(objects: Objects, plan: Plan) -> Origin:
    """Return the location of the images of a split, after checking every byte of its source index.

    The index is the file `.cache/<split>.rows.arrow`, which `write_source_index` wrote.

    Args:
        objects: The objects of the store.
        plan: The plan of the split.

    Returns:
        What the index records: `source` as the user named it; its `kind`; `root`, the folder or URL
        that paths are relative to; its `fingerprint` and `options`; the listing's digest in
        `listing`; the bytes of all samples in `num_bytes`; and in `passed`, by reason, the number
        of skipped files and the name of the first, such as `{"no images": (1, "a/readme.txt")}`.
        Whether the source still exists is not checked.

    Raises:
        StoreError: The index or its record is missing or damaged, or the index is of another
            listing or number of shards than the plan.
        OSError: The disk reports an error while the bytes are compared.
    """
    rows = SourceIndex(objects, plan)
    rows.close()
    name = layout.source_index_record(plan.split)
    try:
        data = objects.get(name, document.MAX_BYTES)
        record = document.decode_document_as(SourceIndexRecord, data, name)
        document.check_value(name, "rows.name", record.rows.name, layout.source_index(plan.split))
        intact = is_intact(objects, record.rows)
    except (FileNotFoundError, StoreError):
        intact = False
    if not intact:
        raise StoreError(
            _unknown_location_text(plan, f"{layout.source_index(plan.split)} is damaged")
        )
    return rows.origin


def _unknown_location_text(plan: Plan, why: str) -> str:
    return (
        f"the location of the images of split {plan.split!r} is unknown: {why}. Run `tesserae"
        " repair` with --data SOURCE, or `tesserae prepare SOURCE STORE` again."
    )


def _record_batch(rows: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    arrays = [
        rows[field.name].cast(field.type).combine_chunks()
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    flat = [a.combine_chunks() if isinstance(a, pa.ChunkedArray) else a for a in arrays]
    return pa.RecordBatch.from_arrays(flat, schema=schema)


class SourceIndex:
    """A reader of the source index of a split, shard by shard."""

    def __init__(self, objects: Objects, plan: Plan) -> None:
        """Open the source index of a split.

        Args:
            objects: The objects of the store.
            plan: The plan of the split.

        Raises:
            StoreError: The file is missing, damaged, or of another plan.
        """
        name = layout.source_index(plan.split)
        self._plan = plan
        try:
            self._raw = open_for_arrow(objects.open(name))
            self._close = weakref.finalize(self, self._raw.close)
            self._file = pa.ipc.open_file(self._raw)
            if not self._file.schema.equals(SCHEMA):
                raise ValueError("other columns")
            fields = json.loads(self._file.schema.metadata[b"origin"])
            self.origin = schema.parse(Origin, {**_DEFAULTS, **fields})
        except FileNotFoundError:
            raise StoreError(_unknown_location_text(plan, f"there is no {name}")) from None
        except _UNREADABLE as e:
            raise StoreError(
                _unknown_location_text(plan, f"{name} is damaged ({type(e).__name__})")
            ) from e
        if self.origin.listing != plan.listing or self._file.num_record_batches != plan.num_shards:
            raise StoreError(_unknown_location_text(plan, f"{name} belongs to another plan"))

    def shard(self, shard: int) -> list[Sample]:
        """Return the samples of one shard, in the order of its rows.

        Args:
            shard: The number of the shard, 0 to num_shards - 1 of the plan.

        Returns:
            A `Sample` for each row: its `row`, `key`, `label` (-1 for none), `num_bytes` (the
            length) and location. The location is in `path`, relative to the source's root, and
            `offset`, where the sample begins in that file in bytes, or None if it is the whole
            file. `crc32c` is None unless the sample was spooled.

        Raises:
            StoreError: The index is damaged or was closed, or has no such shard.
        """
        return list(self._samples(shard))

    @property
    def shard_bytes(self) -> list[int]:
        """The bytes of all samples of each shard, in the order of shards.

        Raises:
            StoreError: The index is damaged or was closed.
        """
        shards = range(self._plan.num_shards)
        return [pc.sum(self._validated_batch(shard)["num_bytes"]).as_py() for shard in shards]

    def close(self) -> None:
        """Close the file; otherwise it is closed with the last reference to this object."""
        self._close()

    def _samples(self, shard: int) -> Iterator[Sample]:
        batch = self._validated_batch(shard)
        columns = (column.to_pylist() for column in batch.columns)
        rows = self._plan.rows(shard)
        for row, values in zip(rows, zip(*columns, strict=True), strict=True):
            key, label, num_bytes, path, offset, crc32c = values
            yield Sample(row, key, label, num_bytes, path or key, offset, crc32c)

    def _validated_batch(self, shard: int) -> pa.RecordBatch:
        """Return the record batch of one shard, with validated values.

        Raises:
            StoreError: The batch is damaged, or its values are out of their ranges.
        """
        try:
            batch = self._file.get_batch(shard)
            batch.validate(
                full=True
            )  # also string offsets, which Arrow does not check when it reads
            _check_batch_values(batch, len(self._plan.rows(shard)))
        except _UNREADABLE as e:
            why = f"{layout.source_index(self._plan.split)} is damaged ({type(e).__name__}: {e})"
            raise StoreError(_unknown_location_text(self._plan, why)) from e
        return batch


_UNREADABLE = (OSError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError)


def _check_batch_values(batch: pa.RecordBatch, num_rows: int) -> None:
    if batch.num_rows != num_rows or any(batch[name].null_count for name in REQUIRED):
        raise ValueError(f"expected {num_rows} rows with keys, labels and sizes")
    for name, minimum in (("label", -1), ("num_bytes", 0), ("offset", 0)):
        lowest = pc.min(batch[name]).as_py()
        if lowest is not None and lowest < minimum:
            raise ValueError(f"{name} is {lowest}: expected at least {minimum}")
    for path in (*batch["path"].to_pylist(), *batch["key"].to_pylist()):
        if path is not None and ".." in path.split("/"):
            raise ValueError(f"path {path[:200]!r} leads out of the source")
