"""The records of features: what a network made of a store's images, row for row.

    features/<name>/recipe.json                 what made them; the name has its digest
    features/<name>/features.zarr/<split>/plain, mirrored
                                                float (N, d), sharded, of the images' rows
    features/<name>/commits/<split>/<shard>.json
                                                written last, as of images
    features/<name>/splits/<split>.done.json    that they are all there, and of which images

Rows that are in quarantine are zeros.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, TypeVar

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.store import document, layout, records
from pipeline.store.commit import Written
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.schema import (
    Between,
    Count,
    Digest,
    Format,
    Matching,
    Rows,
    Shard,
    Size,
    Split,
)

KINDS = ("plain", "mirrored")
"""Of the picture as it is stored, and of its mirror image."""

AGAIN = "Run the same `tesserae features` again: it makes anew what is damaged."

DTYPES = ("float32", "float16")
PRECISIONS = ("float32", "bfloat16")

Kind = Annotated[str, Matching(KINDS.__contains__, " or ".join(KINDS))]
"""One of `KINDS`."""
Share = Annotated[float, Between(-1000, 1000)]
"""Of 255: what a channel's values are shifted or divided by."""


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe:
    """What decides features: two stores with equal images and recipes hold equal ones."""

    trunk: str
    """The network, in words. Not part of the identity."""
    weights: Digest
    """SHA-256 of its kind, settings and weights."""
    cut: str
    """The block whose output they are; empty = the end."""
    pooling: str
    """As `pipeline.backbone` names it."""
    stored_size: Size
    """Side of the stored pictures in pixels."""
    input_size: Size
    """Side of what the network takes."""
    mean: tuple[Share, ...]
    std: tuple[Share, ...]
    """Of each channel, as a share of 255."""
    channels: str
    """The order in which the network takes them: RGB or BGR."""
    precision: str
    """What the network computed in."""
    dtype: str
    """What is stored."""
    dim: Annotated[int, Between(1, 2**24)]
    """Numbers of a picture."""
    images: Digest
    """Digest of the store's recipe."""
    shard_rows: Rows
    chunk_rows: Rows
    format: Format = layout.FORMAT
    """Version of the store, as its recipe has it."""

    def __post_init__(self) -> None:
        """Refuse what no features can be."""
        if self.dtype not in DTYPES or self.precision not in PRECISIONS or self.dim < 1:
            raise ValueError(
                f"features of {self.dim} numbers, {self.dtype}, computed in {self.precision}:"
                f" expected at least 1, {' or '.join(DTYPES)}, and {' or '.join(PRECISIONS)}."
            )
        if self.shard_rows % self.chunk_rows:
            raise ValueError(
                f"shard_rows is {self.shard_rows}: expected a multiple of chunk_rows,"
                f" {self.chunk_rows}."
            )

    @property
    def digest(self) -> str:
        """By which commits refer to this recipe."""
        return document.digest({k: v for k, v in self._fields().items() if k != "trunk"})

    @property
    def name(self) -> str:
        """Of the folder: the network's, to be read, and the beginning of the digest."""
        word = re.sub(r"[^A-Za-z0-9.]+", "-", self.trunk).strip("-.")[:40] or "trunk"
        return f"{word}-{self.digest[:12]}"

    @property
    def row_bytes(self) -> int:
        """Bytes of one picture's features."""
        return self.dim * (4 if self.dtype == "float32" else 2)

    def words(self, kinds: Iterable[str] = ()) -> str:
        """What `tesserae features` was told, beside the network, to make these."""
        told = [("--cut", self.cut), ("--pooling", self.pooling), ("--size", self.stored_size)]
        told += [("--precision", self.precision), ("--dtype", self.dtype)]
        usual = ("", "end", "float32")
        said = [f"{flag} {value}" for flag, value in told if value not in usual]
        return " ".join([*said, *(["--mirrored"] if "mirrored" in kinds else [])])

    def encode(self) -> bytes:
        """The text of `recipe.json`."""
        return document.encode(self._fields())

    def _fields(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FeatureCommit:
    """The features of one shard of a split: that they are whole and durable."""

    features: Digest
    """Digest of the recipe."""
    split: Split
    shard: Shard
    plan: Digest
    """Digest of the split's plan."""
    pixels: Digest
    """Digest of the shard object that they were made of."""
    arrays: dict[Kind, Written]
    """`plain`, `mirrored` -> its shard object."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Seconds, host and versions. Decides nothing."""
    format: Format = layout.FORMAT
    """Version of the store, as its recipe has it."""

    def encode(self) -> bytes:
        """The text of the commit."""
        return document.encode(asdict(self))


@dataclass(frozen=True, kw_only=True)
class FeaturesDone:
    """That all commits of a split's features are there."""

    features: Digest
    split: Split
    plan: Digest
    num_rows: Count
    kinds: tuple[Kind, ...]
    parts: Digest
    """As the images' record has it: says of each row which picture it is of."""
    objects: tuple[Written, ...]
    """The recipe, and zarr metadata."""
    format: Format = layout.FORMAT
    """Version of the store, as its recipe has it."""

    def encode(self) -> bytes:
        """The text of the record."""
        return document.encode(asdict(self))


Record = TypeVar("Record", FeatureRecipe, FeatureCommit, FeaturesDone)


def decode(kind: type[Record], data: bytes, name: str) -> Record:
    """Read a record back.

    Raises:
        StoreDamagedError: The text is not what was written, or of another kind.
        StoreError: It was written by a format this version does not know.
    """
    return document.decode_as(kind, data, name, cure=AGAIN)


def _read(kind: type[Record], objects: Objects, file: str) -> Record:
    return decode(kind, objects.get(file, document.MAX_BYTES), file)


def names(objects: Objects) -> list[str]:
    """The names of all features of a store."""
    return sorted(splits_of(objects))


def splits_of(objects: Objects) -> dict[str, list[str]]:
    """The splits of which something is there, of each features by name."""
    found: dict[str, set[str]] = {}
    for file in objects.names(layout.FEATURES):
        _, name, *rest = file.split("/")
        if not rest:
            continue  # no folder
        splits = found.setdefault(name, set())
        if rest[0] in ("commits", "features.zarr") and len(rest) > 2:
            splits.add(rest[1])
        elif rest[0] == "splits":
            splits.add(rest[1].partition(".")[0])
    return {name: sorted(filter(layout.is_split, splits)) for name, splits in found.items()}


def load_recipe(objects: Objects, name: str) -> FeatureRecipe:
    """What made the features *name*.

    Raises:
        StoreError: There are none of that name.
        StoreMismatchError: They had another name once.
        StoreDamagedError: The record is damaged.
    """
    file = layout.features_recipe(name)
    try:
        found = _read(FeatureRecipe, objects, file)
    except (FileNotFoundError, NotADirectoryError):
        known = ", ".join(names(objects)) or "none"
        raise StoreError(
            f"the store {objects.url} has no features {name!r}: it has {known}. Make them with"
            " `tesserae features`."
        ) from None
    if found.name != name:
        raise StoreMismatchError(
            f"{file} is of features {found.name}: their name says what they are of. Name the folder"
            " so again."
        )
    return found


def load_done(objects: Objects, name: str, split: str) -> FeaturesDone | None:
    """The record that a split's features are all there; None while they are not.

    Raises:
        StoreDamagedError: The record is damaged.
    """
    file = layout.features_done(name, split)
    try:
        done = _read(FeaturesDone, objects, file)
    except FileNotFoundError:
        return None
    document.check_value(file, "split", done.split, split, AGAIN)
    expected = layout.features_derived(name, split, done.kinds)
    named = {written.name for written in done.objects}
    document.check_value(file, "the names of objects", sorted(named), sorted(expected), AGAIN)
    return done


def load_commit(
    objects: Objects, recipe: FeatureRecipe, plan: Plan, shard: int
) -> FeatureCommit | None:
    """The commit of one shard's features; None where there is none that is whole and of these."""
    file = layout.features_commit(recipe.name, plan.split, shard)
    try:
        kept = _read(FeatureCommit, objects, file)
        for kind, written in kept.arrays.items():
            expected = layout.features_shard(recipe.name, plan.split, kind, shard)
            document.check_value(file, f"arrays.{kind}.name", written.name, expected, AGAIN)
    except (FileNotFoundError, StoreDamagedError):
        return None
    found = (kept.features, kept.split, kept.shard, kept.plan)
    return kept if found == (recipe.digest, plan.split, shard, plan.digest) else None


def load_commits(objects: Objects, recipe: FeatureRecipe, plan: Plan) -> dict[int, FeatureCommit]:
    """Every whole commit of a split's features, by shard."""
    with ThreadPoolExecutor(records.READERS) as pool:
        found = pool.map(
            lambda shard: load_commit(objects, recipe, plan, shard), range(plan.num_shards)
        )
        return {kept.shard: kept for kept in found if kept is not None}
