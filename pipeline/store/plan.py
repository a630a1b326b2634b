"""The plan: which samples a split has, and which row each one is. Written once, never changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

from pipeline.errors import StoreMismatchError
from pipeline.store import document, layout
from pipeline.store.schema import Between, Digest, Format, Rows, Split


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A split's listing, by digest, and its order."""

    split: Split
    recipe: Digest
    """Digest of the recipe."""
    num_rows: Annotated[int, Between(1, 2**40)]
    listing: Digest
    """SHA-256 of the lines `<key>\\t<size in bytes>\\n`, sorted by key."""
    order_version: Format
    """Which rule puts the sorted keys into rows (`pipeline.order`)."""
    seed: Annotated[int, Between(0, 2**64 - 1)]
    shard_rows: Rows
    format: Format = layout.FORMAT
    """Version of the store, as its recipe has it."""

    def __post_init__(self) -> None:
        """Refuse what no split can have."""
        if self.num_shards > layout.MAX_SHARDS:
            raise ValueError(
                f"num_rows is {self.num_rows:,} at {self.shard_rows:,} rows a shard: expected at"
                f" most {layout.MAX_SHARDS:,} shards. Choose more --shard-rows."
            )

    @property
    def num_shards(self) -> int:
        """Shards of the split; the last may hold fewer rows."""
        return -(-self.num_rows // self.shard_rows)

    def rows(self, shard: int) -> range:
        """The rows of one shard."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.num_rows))

    def encode(self) -> bytes:
        """The text of `splits/<split>.json`."""
        return document.encode(asdict(self))

    @property
    def digest(self) -> str:
        """By which commits refer to this plan."""
        return document.digest(asdict(self))


def decode(data: bytes, name: str) -> Plan:
    """Read a plan back.

    Raises:
        StoreDamagedError: The text is not what was written, or is that of another document.
    """
    return document.decode_as(Plan, data, name)


def check_same(kept: Plan, asked: Plan) -> None:
    """Compare two plans of one split.

    Raises:
        StoreMismatchError: Naming each difference.
    """
    names = {
        "recipe": "the recipe's digest",
        "num_rows": "the number of samples",
        "listing": "the digest of the listing",
        "order_version": "the order's version",
        "seed": "the seed",
        "shard_rows": "the rows of a shard",
    }
    found = [
        f"{words} is {getattr(kept, name)} in the store, {getattr(asked, name)} now"
        for name, words in names.items()
        if getattr(kept, name) != getattr(asked, name)
    ]
    if found:
        raise StoreMismatchError(
            f"split {kept.split!r} was planned from another listing or order: {'; '.join(found)}."
            " Give the same source and seed as before, or choose another split or folder."
        )
