"""The plan: the samples of a split and the row of each one. It never changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

from pipeline.errors import StoreMismatchError
from pipeline.store import document, layout
from pipeline.store.schema import Between, Digest, Format, Rows, Split


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The digest of a split's listing, and its order."""

    split: Split
    recipe: Digest
    """The digest of the recipe."""
    num_rows: Annotated[int, Between(1, 2**40)]
    """The number of samples in the listing, each of which has a row."""
    listing: Digest
    """The SHA-256 of the lines `<key>\\t<size in bytes>\\n`, sorted by key."""
    order_version: Format
    """The version of the rule that assigns the sorted keys to rows (`pipeline.order`)."""
    seed: Annotated[int, Between(0, 2**64 - 1)]
    """The seed of the order of rows."""
    shard_rows: Rows
    """The rows of a shard, as in the recipe."""
    format: Format = layout.FORMAT
    """The format version of the store, as in its recipe."""

    def __post_init__(self) -> None:
        """Refuse values that no split can have."""
        if self.num_shards > layout.MAX_SHARDS:
            raise ValueError(
                f"num_rows is {self.num_rows:,} at {self.shard_rows:,} rows a shard: expected at"
                f" most {layout.MAX_SHARDS:,} shards. Choose more --shard-rows."
            )

    @property
    def num_shards(self) -> int:
        """The number of shards of the split; the last one may have fewer rows."""
        return -(-self.num_rows // self.shard_rows)

    def rows(self, shard: int) -> range:
        """Return the rows of one shard, as a range of row numbers of the split.

        Args:
            shard: The number of the shard, 0 to num_shards - 1, which is not checked.
        """
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.num_rows))

    def encode(self) -> bytes:
        """Return the bytes of `splits/<split>.json`."""
        return document.encode_document(asdict(self))

    @property
    def digest(self) -> str:
        """The digest by which commits refer to this plan, SHA-256 in hexadecimal."""
        return document.digest(asdict(self))


def decode_plan(data: bytes, name: str) -> Plan:
    """Decode and check the plan of a split.

    Args:
        data: The bytes of the document.
        name: Its name in the store, for messages: `splits/<split>.json`.

    Returns:
        The plan: `split`, the digests `recipe` and `listing`, `num_rows`, the version and the seed
        of their order (`order_version`, `seed`), and `shard_rows`, the rows of a shard. Whether it
        is that of the split and recipe of the store is not checked.

    Raises:
        StoreDamagedError: The bytes differ from those written, are another document, or hold an
            invalid field.
        StoreError: The document has a format that this version does not read.
    """
    return document.decode_document_as(Plan, data, name)


def check_same_plan(stored: Plan, requested: Plan) -> None:
    """Refuse a requested plan that differs from the stored plan of the same split.

    Compared are the digests of recipe and listing, the number of rows, the order's version, the
    seed, and the rows of a shard.

    Args:
        stored: The plan in the store.
        requested: The plan that the command's source and options give.

    Raises:
        StoreMismatchError: The plans differ; the message names each difference.
    """
    names = {
        "recipe": "the recipe's digest",
        "num_rows": "the number of samples",
        "listing": "the digest of the listing",
        "order_version": "the order's version",
        "seed": "the seed",
        "shard_rows": "the rows of a shard",
    }
    differences = [
        f"{noun} is {getattr(stored, name)} in the store, {getattr(requested, name)} now"
        for name, noun in names.items()
        if getattr(stored, name) != getattr(requested, name)
    ]
    if differences:
        raise StoreMismatchError(
            f"split {stored.split!r} was planned from another listing or order:"
            f" {'; '.join(differences)}. Pass the same source and seed as before, or choose"
            " another split or folder."
        )
