"""The commit: the record, written last, that every object of a shard is whole and durable."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pipeline.store import document, layout
from pipeline.store.schema import Between, Count, Digest, Format, Shard, SizeText, Split

IMAGE_SECONDS = Annotated[float, Between(0, 86_400)]
"""The one value of the provenance that repair relies on: what was hung then is to be hung again."""


@dataclass(frozen=True)
class Written:
    """One object as it was written."""

    name: str
    num_bytes: Count
    digest: Digest
    """XXH3-128 of all its bytes, in hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One shard of a split, at every size it has."""

    split: Split
    shard: Shard
    plan: Digest
    """Digest of the plan."""
    start: Count
    stop: Count
    """The rows, as a half-open range."""
    arrays: dict[SizeText, Written]
    """Size in pixels, as text -> its shard object."""
    table: Written
    """The shard's part of the table."""
    counts: dict[str, Count]
    """Rows by status, in words: `readable`, `empty`, `truncated`, ..."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Seconds of each stage, host and versions. Differs from run to run; decides no pixel."""
    format: Format = layout.FORMAT
    """Version of the store, as its recipe has it."""

    @property
    def image_seconds(self) -> Any:
        """Seconds after which a picture counted as hung; None in commits that do not say so."""
        return self.provenance.get("image_seconds")

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
        StoreDamagedError: The text is not what was written, or names objects that are not this
            shard's own.
    """
    kept = document.decode_as(Commit, data, name)
    _check_names(kept, name)
    document.check_value(name, "stop", kept.stop, kept.start + sum(kept.counts.values()))
    if kept.image_seconds is not None:
        document.check_field(name, IMAGE_SECONDS, "provenance.image_seconds", kept.image_seconds)
    return kept


def _check_names(kept: Commit, name: str) -> None:
    # Repair and readers open what a commit names: nothing but what the layout gives this shard.
    for size, written in kept.arrays.items():
        expected = layout.shard(kept.split, int(size), kept.shard)
        document.check_value(name, f"arrays.{size}.name", written.name, expected)
    expected = layout.part(kept.split, kept.shard)
    document.check_value(name, "table.name", kept.table.name, expected)
