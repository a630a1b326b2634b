"""The commit: the record, written last, that every object of a shard is whole and durable."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.store import document, layout


@dataclass(frozen=True)
class Written:
    """One object as it was written."""

    name: str
    num_bytes: int
    digest: str
    """XXH3-128 of all its bytes, in hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One shard of a split, at every size it has."""

    split: str
    shard: int
    plan: str
    """Digest of the plan."""
    start: int
    stop: int
    """The rows, as a half-open range."""
    arrays: dict[str, Written]
    """Size in pixels, as text -> its shard object."""
    table: Written
    """The shard's part of the table."""
    counts: dict[str, int]
    """Rows by status, in words: `readable`, `empty`, `truncated`, ..."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Seconds of each stage, host and versions. Differs from run to run; decides nothing."""
    format: int = layout.FORMAT
    """Version of the store, as its recipe has it."""

    @property
    def sizes(self) -> set[int]:
        """The sizes that are whole."""
        return {int(size) for size in self.arrays}

    @property
    def objects(self) -> list[Written]:
        """Every object this commit vouches for."""
        return [*self.arrays.values(), self.table]

    def encode(self) -> bytes:
        """The text of `commits/<split>/<shard>.json`."""
        return document.encode(asdict(self))


def decode(data: bytes, name: str) -> Commit:
    """Read a commit back.

    Raises:
        StoreDamagedError: The text is not what was written.
    """
    return document.decode_as(_from_fields, data, name)


def _from_fields(fields: dict[str, Any]) -> Commit:
    arrays = {size: Written(**written) for size, written in fields["arrays"].items()}
    return Commit(**{**fields, "arrays": arrays, "table": Written(**fields["table"])})
