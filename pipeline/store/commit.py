"""The commit: the record, written last, that every object of a shard is complete and durable."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pipeline.store import document, layout
from pipeline.store.schema import (
    Between,
    Count,
    Digest,
    EncodingName,
    Format,
    Shard,
    SizeText,
    Split,
)

IMAGE_SECONDS = Annotated[float, Between(0, 86_400)]
"""The valid range of the image timeout, which repair takes from the provenance."""


@dataclass(frozen=True)
class ObjectRecord:
    """The name, size and digest of an object that was written."""

    name: str
    """The name of the object, relative to the store."""
    num_bytes: Count
    """The length of the object in bytes."""
    digest: Digest
    """The XXH3-128 of all its bytes, in hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The record of one shard of a split, at every size it has."""

    split: Split
    shard: Shard
    """The number of the shard, from 0."""
    plan: Digest
    """The digest of the plan."""
    start: Count
    """The first row of the shard."""
    stop: Count
    """The row after the last one of the shard."""
    arrays: dict[SizeText, ObjectRecord]
    """The shard object of each size in pixels, as text."""
    table: ObjectRecord
    """The object of the shard's part of the table."""
    counts: dict[str, Count]
    """The number of rows by the name of their status: `readable`, `empty`, `truncated`, ..."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Seconds of each step, host and versions. It differs between runs of equal pixels."""
    format: Format = layout.FORMAT
    """The format version of the store, as in its recipe."""
    encoded: dict[EncodingName, ObjectRecord] = field(default_factory=dict)
    """The shard object of each encoded array, by its name; not written if there is none."""

    @property
    def image_seconds(self) -> Any:
        """The timeout of one image in seconds; None in commits that do not record it."""
        return self.provenance.get("image_seconds")

    @property
    def sizes(self) -> set[int]:
        """The sizes in pixels that the commit contains."""
        return {int(size) for size in self.arrays}

    @property
    def shard_objects(self) -> dict[str, ObjectRecord]:
        """The shard object of each image array, by its name: `224`, `jpeg256@90`, ..."""
        return {**self.arrays, **self.encoded}

    @property
    def objects(self) -> list[ObjectRecord]:
        """All objects that the commit lists."""
        return [*self.shard_objects.values(), self.table]

    def encode(self) -> bytes:
        """Return the bytes of `commits/<split>/<shard>.json`."""
        return document.encode_document(without_empty(asdict(self), "encoded"))


def without_empty(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the fields of a document without one that is empty.

    A store without encoded arrays so has the documents of before there were any.

    Args:
        fields: The fields by name, which are only read.
        name: The name of the field.
    """
    return {key: value for key, value in fields.items() if key != name or value}


def decode_commit(data: bytes, name: str) -> Commit:
    """Decode and check the commit of a shard.

    It may be the commit of any split, shard and plan: the caller compares these with what it
    expects.

    Args:
        data: The bytes of the document.
        name: Its name in the store, for messages: `commits/<split>/<shard>.json`.

    Returns:
        The commit: `split`, `shard`, its first row `start` and the row after its last `stop`, the
        digest `plan`, in `arrays` the record of the shard object of each size, whose keys are sizes
        as text, such as "224", in `table` that of the table part, in `counts` the number of rows by
        the name of their status, such as `readable`, and `provenance` (host, seconds, versions).
        Each object it lists has the name that the layout gives to its split and shard; no object is
        opened.

    Raises:
        StoreDamagedError: The bytes differ from those written, a field is missing or invalid, the
            counts do not add up to the rows, or the objects are named otherwise.
        StoreError: The document has a format that this version does not read.
    """
    commit = document.decode_document_as(Commit, data, name, lambda read: {"encoded": {}, **read})
    _check_object_names(commit, name)
    document.check_value(name, "stop", commit.stop, commit.start + sum(commit.counts.values()))
    if commit.image_seconds is not None:
        document.check_field(name, IMAGE_SECONDS, "provenance.image_seconds", commit.image_seconds)
    return commit


def _check_object_names(commit: Commit, name: str) -> None:
    # Repair and readers open the objects that a commit names, so an untrusted commit must name
    # only those that the layout gives its shard.
    for size, written in commit.arrays.items():
        expected = layout.shard(commit.split, int(size), commit.shard)
        document.check_value(name, f"arrays.{size}.name", written.name, expected)
    for encoding, written in commit.encoded.items():
        expected = layout.encoded_shard(commit.split, encoding, commit.shard)
        document.check_value(name, f"encoded.{encoding}.name", written.name, expected)
    expected = layout.part(commit.split, commit.shard)
    document.check_value(name, "table.name", commit.table.name, expected)
