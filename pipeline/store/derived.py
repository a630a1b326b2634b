"""The records of derived rows: what a network computes of a store's images, row for row.

    <folder>/<name>/recipe.json                 network and settings of a set of rows
    <folder>/<name>/<hierarchy>/<split>/<kind>  (N, ...), sharded, one row for each image
    <folder>/<name>/commits/<split>/<shard>.json
                                                written last, as for images
    <folder>/<name>/splits/<split>.done.json    written once every commit exists

The families are features (`pipeline.store.features`) and upscaled images
(`pipeline.store.upscaled`). Quarantined rows are zeros.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeVar

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.store import document, layout, records
from pipeline.store.commit import ObjectRecord
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.schema import Count, Digest, Format, Shard, Split

PRECISIONS = ("float32", "bfloat16")
"""The number formats that a network computes rows in."""


@dataclass(frozen=True)
class Family:
    """A family of derived rows, such as features."""

    noun: str
    """What the rows are, for messages, such as `features`."""
    command: str
    """The command that computes them, such as `tesserae features`."""
    names: layout.DerivedNames
    """The names of their objects."""

    @property
    def advice(self) -> str:
        """The advice in the error messages of a damaged document."""
        return f"Run the same `{self.command}` again: it recomputes what is damaged."


class DerivedDocument(Protocol):
    """A class of documents of one family."""

    family: ClassVar[Family]
    """The family of the rows that the document is about."""
    OMITTED: ClassVar[Mapping[str, Any]]
    """The values of fields that documents may lack, by name."""


class DerivedRecipe(DerivedDocument, Protocol):
    """The settings that determine a set of rows: equal images and recipes give equal rows."""

    @property
    def name(self) -> str:
        """The name of the set: its folder in that of the family."""

    @property
    def digest(self) -> str:
        """The digest by which commits refer to the recipe, SHA-256 in hexadecimal."""

    @property
    def images(self) -> str:
        """The digest of the store's recipe."""

    @property
    def precision(self) -> str:
        """The number format of the computation, one of `PRECISIONS`."""

    @property
    def shard_rows(self) -> int:
        """The rows of a shard, a multiple of `chunk_rows`."""

    @property
    def chunk_rows(self) -> int:
        """The rows of a chunk, which share a checksum."""

    @property
    def format(self) -> int:
        """The format version of the store, as in its recipe."""

    @property
    def array_name(self) -> str:
        """The name of the array that the images are read from: `224`, `jpeg256@90`, ..."""

    @property
    def encoded(self) -> str | None:
        """The name of the encoded rows that are read; None for stored squares."""

    @property
    def stored_size(self) -> int:
        """The side in pixels of the images that are given to the network."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of rows that a set of the recipe can have, each an array."""

    @property
    def dtype(self) -> str:
        """The dtype of the stored values."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The names of the axes of a row, for zarr."""

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""

    @property
    def row_text(self) -> str:
        """The size of a row in words, such as `256 dimensions` or `288 px`."""

    @property
    def probe_tolerance(self) -> float:
        """The largest relative distance of the probes of two machines."""

    def encode(self) -> bytes:
        """Return the bytes of `recipe.json`."""

    def commit_of(self, **fields: Any) -> DerivedCommit:
        """Return a commit of rows of this recipe, with *fields* of `DerivedCommit`."""

    def finish_record_of(self, **fields: Any) -> DerivedFinishRecord:
        """Return a finish record of such rows, with *fields* of `DerivedFinishRecord`."""

    @staticmethod
    def commit_kind() -> type[DerivedCommit]:
        """Return the class of the commits of the family."""

    @staticmethod
    def finish_record_kind() -> type[DerivedFinishRecord]:
        """Return the class of the finish records of the family."""

    def rerun_command(self, kinds: tuple[str, ...] = ()) -> str:
        """Return the command that computes rows of the recipe, without the network and the split.

        Args:
            kinds: The kinds of rows, of `kinds`.
        """


@dataclass(frozen=True, kw_only=True)
class DerivedCommit(ABC):
    """The record that the rows of one shard of a split are complete and durable."""

    family: ClassVar[Family]
    OMITTED: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    split: Split
    shard: Shard
    """The number of the shard, from 0."""
    plan: Digest
    """The digest of the split's plan."""
    pixels: Digest
    """The digest of the shard object of images that they were computed from."""
    arrays: dict[str, ObjectRecord]
    """The shard object of each kind."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Seconds, host and versions, for information only."""
    format: Format = layout.FORMAT
    """The format version of the store, as in its recipe."""

    @property
    @abstractmethod
    def recipe(self) -> str:
        """The digest of the recipe of the rows."""

    def encode(self) -> bytes:
        """Return the bytes of the commit."""
        return document.encode_document(asdict(self))


@dataclass(frozen=True, kw_only=True)
class DerivedFinishRecord(ABC):
    """The record that every commit of a split's rows exists."""

    family: ClassVar[Family]
    OMITTED: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    split: Split
    plan: Digest
    """The digest of the split's plan."""
    num_rows: Count
    """The number of rows of the split, quarantined ones included."""
    kinds: tuple[str, ...]
    """The kinds of rows that are stored."""
    parts: Digest
    """The digest of the table's parts, as in the images' record: which image each row shows."""
    objects: tuple[ObjectRecord, ...]
    """The recipe of the rows and the zarr metadata."""
    format: Format = layout.FORMAT
    """The format version of the store, as in its recipe."""

    @property
    @abstractmethod
    def recipe(self) -> str:
        """The digest of the recipe of the rows."""

    def encode(self) -> bytes:
        """Return the bytes of the record."""
        return document.encode_document(asdict(self))


Record = TypeVar("Record", bound=DerivedDocument)
RecipeKind = TypeVar("RecipeKind", bound=DerivedRecipe)


def decode_document(kind: type[Record], data: bytes, name: str) -> Record:
    """Decode a document of derived rows and check its fields.

    Args:
        kind: The class of the document, such as `FeatureRecipe` or `UpscaledCommit`.
        data: The bytes of the document.
        name: Its name in the store, for messages.

    Returns:
        An instance of *kind*. Whether it belongs to the set, split or shard that *name* says is not
        checked.

    Raises:
        StoreDamagedError: The bytes differ from those written, are a record of another kind, or
            hold an invalid field.
        StoreError: The record has a format that this version does not read.
    """
    return document.decode_document_as(
        kind, data, name, lambda read: {**kind.OMITTED, **read}, advice=kind.family.advice
    )


def _read_document(kind: type[Record], objects: Objects, file: str) -> Record:
    return decode_document(kind, objects.get(file, document.MAX_BYTES), file)


def splits_of(objects: Objects, family: Family) -> dict[str, list[str]]:
    """Return the splits of which each set of a family has any object, finished or not.

    Args:
        objects: The objects of the store.
        family: The family of the rows.

    Returns:
        The sorted names of splits, by name of the set: its folder in that of the family, sorted. A
        set that has only its recipe has an empty list.

    Raises:
        StoreError: The request to an object store failed.
    """
    splits_by_name: dict[str, set[str]] = {}
    for file in objects.names(family.names.folder):
        _, name, *parts = file.split("/")
        if not parts:
            continue  # a stray file beside the folders
        splits = splits_by_name.setdefault(name, set())
        if parts[0] in ("commits", family.names.hierarchy) and len(parts) > 2:
            splits.add(parts[1])
        elif parts[0] == "splits":
            splits.add(parts[1].partition(".")[0])
    return {
        name: sorted(filter(layout.is_split, splits))
        for name, splits in sorted(splits_by_name.items())
    }


def load_recipe(objects: Objects, kind: type[RecipeKind], name: str) -> RecipeKind:
    """Load and check the recipe of a set of rows.

    Args:
        objects: The objects of the store.
        kind: The class of the recipe, such as `FeatureRecipe`.
        name: The name of the set: its folder in that of the family.

    Returns:
        The recipe, whose `name` is *name*.

    Raises:
        StoreError: The store has no set of that name, it has a format that this version does not
            read, or the request to an object store failed.
        StoreMismatchError: The folder was renamed: the recipe gives another name.
        StoreDamagedError: The recipe is damaged, or *name* cannot be a part of a name.
        OSError: The disk reports an error.
    """
    family = kind.family
    file = family.names.recipe(name)
    try:
        recipe = _read_document(kind, objects, file)
    except (FileNotFoundError, NotADirectoryError):
        existing = ", ".join(splits_of(objects, family)) or "none"
        raise StoreError(
            f"the store {objects.url} has no {family.noun} {name!r}: it has {existing}. Compute"
            f" them with `{family.command}`."
        ) from None
    if recipe.name != name:
        raise StoreMismatchError(
            f"{file} holds {family.noun} {recipe.name}: rename its folder back to that."
        )
    return recipe


def load_finish_record(
    objects: Objects, kind: type[DerivedRecipe], name: str, split: str
) -> DerivedFinishRecord | None:
    """Load the record that a split's rows are complete.

    Args:
        objects: The objects of the store.
        kind: The class of the recipe of the family, such as `FeatureRecipe`.
        name: The name of the set: its folder in that of the family.
        split: The name of the split.

    Returns:
        The record: `num_rows`, the kinds of rows in `kinds`, in `objects` the records of the
        objects but the shards, and the digests `recipe`, `plan` and `parts` (of the table's parts),
        which are not compared with the store; None while the rows are not complete, and if the
        store has no such set or split.

    Raises:
        StoreDamagedError: The record is damaged, is that of another split, or lists other objects
            than the recipe and the zarr metadata.
        StoreError: The record has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error.
    """
    family = kind.family
    file = family.names.done(name, split)
    try:
        done = _read_document(kind.finish_record_kind(), objects, file)
    except FileNotFoundError:
        return None
    document.check_value(file, "split", done.split, split, family.advice)
    expected = family.names.in_finish_record(name, split, done.kinds)
    named = {written.name for written in done.objects}
    document.check_value(
        file, "the names of objects", sorted(named), sorted(expected), family.advice
    )
    return done


def load_commit(
    objects: Objects, recipe: DerivedRecipe, plan: Plan, shard: int
) -> DerivedCommit | None:
    """Load the commit of the rows of one shard.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the rows.
        plan: The plan of the split.
        shard: The number of the shard, from 0.

    Returns:
        The commit: in `arrays` the record of the shard object of each kind, the digests `recipe`,
        `plan` and `pixels` (of the shard object of images), and `provenance` (seconds, host,
        versions). None if it does not exist, is damaged, or belongs to another recipe, plan or
        shard, so that the shard must be computed again. The objects that it lists are not opened.

    Raises:
        StoreError: The commit has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error.
    """
    names, advice = recipe.family.names, recipe.family.advice
    file = names.commit(recipe.name, plan.split, shard)
    try:
        commit = _read_document(recipe.commit_kind(), objects, file)
        for kind, written in commit.arrays.items():
            expected = names.shard(recipe.name, plan.split, kind, shard)
            document.check_value(file, f"arrays.{kind}.name", written.name, expected, advice)
    except (FileNotFoundError, StoreDamagedError):
        return None
    origin = (commit.recipe, commit.split, commit.shard, commit.plan)
    return commit if origin == (recipe.digest, plan.split, shard, plan.digest) else None


def load_commits(objects: Objects, recipe: DerivedRecipe, plan: Plan) -> dict[int, DerivedCommit]:
    """Load every intact commit of a split's rows, with several threads.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the rows.
        plan: The plan of the split.

    Returns:
        The commits by number of the shard, ascending; shards without a valid commit are left out.

    Raises:
        StoreError: A commit has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error.
    """
    with ThreadPoolExecutor(records.READERS) as pool:
        commits = pool.map(
            lambda shard: load_commit(objects, recipe, plan, shard), range(plan.num_shards)
        )
        return {commit.shard: commit for commit in commits if commit is not None}
