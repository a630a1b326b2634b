"""Reads the recipe of a store, and the plan, the commits and the finish record of a split."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import commit, document, layout, plan, recipe
from pipeline.store.commit import Commit, ObjectRecord
from pipeline.store.encoded_plan import EncodedPlan, decode_encoded_plan
from pipeline.store.encoding import is_array_name
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.schema import Between, Count, Digest, EncodingName, Format, Size, Split

READERS = 16
"""The threads that read small objects, each of which costs a round trip on an object store."""


@dataclass(frozen=True, kw_only=True)
class FinishRecord:
    """The finish record of a split: every commit exists."""

    split: Split
    recipe: Digest
    """The digest of the recipe."""
    plan: Digest
    """The digest of the plan."""
    num_rows: Annotated[int, Between(1, 2**40)]
    """The number of rows of the split, quarantined ones included."""
    sizes: tuple[Size, ...]
    """The sides in pixels of the squares that every shard has, ascending."""
    counts: dict[str, Count]
    """The number of rows by the name of their status."""
    parts: Digest
    """The XXH3-128 over the digests of the table's parts, in order."""
    objects: tuple[ObjectRecord, ...]
    """The objects of labels, status, table and zarr metadata."""
    format: Format = layout.FORMAT
    """The format version of the store, as in its recipe."""
    encoded: tuple[EncodingName, ...] = ()
    """The encoded arrays that every shard has, sorted; not written if there is none."""

    @property
    def array_names(self) -> tuple[str, ...]:
        """The names of the image arrays that every shard has: `224`, `jpeg256@90`, ..."""
        return (*map(str, self.sizes), *self.encoded)

    def encode(self) -> bytes:
        """Return the bytes of `splits/<split>.done.json`."""
        return document.encode_document(commit.without_empty(asdict(self), "encoded"))


def decode_finish_record(data: bytes, name: str) -> FinishRecord:
    """Decode and check the finish record of a split: the record that the split is complete.

    It may be that of any split, recipe and plan: the caller compares these with what it expects.

    Args:
        data: The bytes of the document.
        name: Its name in the store, for messages: `splits/<split>.done.json`.

    Returns:
        The record: `split`; `sizes`, the sides in pixels that every shard has; `num_rows`;
        `counts`, the number of rows by the name of their status, such as `readable`; the digests
        `recipe`, `plan` and `parts` (of the table's parts); and in `objects` the name, length and
        digest of the table and of each object of labels, statuses and zarr metadata.

    Raises:
        StoreDamagedError: The bytes differ from those written, a field is invalid, or the record
            lists other objects than a finish step writes.
        StoreError: The document has a format that this version does not read.
    """
    done = document.decode_document_as(
        FinishRecord, data, name, lambda read: {"encoded": [], **read}
    )
    document.check_value(name, "sizes", done.sizes, tuple(sorted(set(done.sizes))))
    document.check_value(name, "encoded", done.encoded, tuple(sorted(set(done.encoded))))
    document.check_value(name, "the sum of counts", sum(done.counts.values()), done.num_rows)
    named = {written.name for written in done.objects}
    expected = layout.derived(done.split, done.num_rows, done.sizes)
    for encoding in done.encoded:
        expected |= layout.encoded_derived(done.split, done.num_rows, encoding)
    for unexpected in sorted(named - expected):
        document.check_value(name, "the name of an object", unexpected, "one that the layout gives")
    for missing in sorted(expected - named):
        document.check_value(name, "the record of an object", "missing", missing)
    return done


def load_recipe(objects: Objects) -> Recipe:
    """Load and check the recipe of a store, `recipe.json`.

    Args:
        objects: The objects of the store.

    Returns:
        The recipe: the settings of decoding (`fit`, `filter`, `serves`, `exif`, `decode_rules`,
        `missing_end`, `max_image_bytes`), the digests of the pixels that they give (`decoder`,
        `resizer`), `shard_rows`, `chunk_rows` and `codec`, and in `classes` a tuple (wnid, words)
        for label 0, 1, ... Fields that an earlier version did not write have the values that it
        implied.

    Raises:
        StoreError: There is no store at this path, it has a format that this version does not
            read, or the request to an object store failed.
        StoreDamagedError: The recipe is damaged.
        OSError: The disk reports an error.
    """
    try:
        return recipe.decode_recipe(objects.get(layout.RECIPE, document.MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"no store at {objects.url}: it has no {layout.RECIPE}. Pass the folder that"
            " `tesserae prepare SOURCE STORE` wrote."
        ) from None


def load_plan(objects: Objects, split: str) -> Plan:
    """Load and check the plan of a split.

    Args:
        objects: The objects of the store.
        split: The name of the split.

    Returns:
        The plan: the digests `recipe` and `listing`, `num_rows`, the version and the seed of their
        order (`order_version`, `seed`), and `shard_rows`, the rows of a shard. Its digest of the
        recipe is not compared with the store's.

    Raises:
        StoreError: The store has no such split or does not exist, the plan has a format that this
            version does not read, or the request to an object store failed.
        StoreDamagedError: The plan is damaged, or is that of another split; or *split* cannot be a
            part of a name.
        OSError: The disk reports an error, or the path of the store is that of a file.
    """
    name = layout.plan(split)
    try:
        loaded = plan.decode_plan(objects.get(name, document.MAX_BYTES), name)
    except FileNotFoundError:
        existing = ", ".join(map(repr, stored_splits(objects))) or "none"
        raise StoreError(
            f"the store {objects.url} has no split {split!r}: it has {existing}."
        ) from None
    # A case-insensitive file system opens the plan of `train` for `Train`; files get renamed, too.
    if loaded.split != split:
        raise StoreDamagedError(
            f"{objects.url}/{name} is the plan of split {loaded.split!r}, not of {split!r}. Pass"
            f" --split {loaded.split}, or another name."
        )
    return loaded


def load_encoded_plan(objects: Objects, planned: Plan, encoding: str) -> EncodedPlan:
    """Load and check the plan of an encoded array of a split.

    Args:
        objects: The objects of the store.
        planned: The plan of the split.
        encoding: The name of the array, such as `jpeg256@90`.

    Returns:
        The plan: the places of bytes in its shards, and the encoder that makes them.

    Raises:
        StoreError: The split has no such array, its plan has a format that this version does not
            read, or the request to an object store failed.
        StoreDamagedError: The plan is damaged, or is that of another array, split or plan.
        OSError: The disk reports an error.
    """
    name = layout.encoded_plan(planned.split, encoding)
    try:
        loaded = decode_encoded_plan(objects.get(name, document.MAX_BYTES), name)
    except FileNotFoundError:
        raise StoreError(
            f"split {planned.split!r} of {objects.url} has no encoded rows {encoding}. Add them"
            " with `tesserae prepare --encoded`."
        ) from None
    for field, expected in encoded_plan_identity(planned, encoding).items():
        document.check_value(name, field, getattr(loaded, field), expected)
    return loaded


def load_encoded_plans(objects: Objects, planned: Plan) -> dict[str, EncodedPlan]:
    """Load and check the plans of all encoded arrays of a split, finished or not.

    Args:
        objects: The objects of the store.
        planned: The plan of the split.

    Returns:
        The plans by name of the array, such as `jpeg256@90`, sorted.

    Raises:
        StoreDamagedError: A plan is damaged, or is that of another array, split or plan.
        StoreError: A plan has a format that this version does not read, or the request to an object
            store failed.
        OSError: The disk reports an error.
    """
    names = planned_encodings(objects, planned.split)
    return {name: load_encoded_plan(objects, planned, name) for name in names}


def planned_encodings(objects: Objects, split: str) -> list[str]:
    """Return the names of the encoded arrays of a split that have a plan, intact or not, sorted.

    Args:
        objects: The objects of the store.
        split: The name of the split.

    Raises:
        StoreError: The request to an object store failed.
    """
    names = (layout.encoding_of_plan(split, name) for name in objects.names("splits"))
    return sorted(name for name in names if name is not None and is_array_name(name))


def encoded_plan_identity(planned: Plan, encoding: str) -> dict[str, str]:
    """Return the fields, by name, that the plan of an encoded array must have.

    Args:
        planned: The plan of the split.
        encoding: The name of the array, such as `jpeg256@90`.
    """
    return {"split": planned.split, "encoding": encoding, "plan": planned.digest}


def load_finish_record(objects: Objects, split: str) -> FinishRecord | None:
    """Load and check the finish record of a split: the record that the split is complete.

    Args:
        objects: The objects of the store.
        split: The name of the split.

    Returns:
        The record: `sizes`, the sides in pixels that every shard has; `num_rows`; `counts`, the
        number of rows by the name of their status, such as `readable`; the digests `recipe`, `plan`
        and `parts` (of the table's parts), which are not compared with the store; and in `objects`
        the name, length and digest of the table and of each object of labels, statuses and zarr
        metadata. None while the split is not finished, and if the store has no such split.

    Raises:
        StoreDamagedError: The record is damaged, or is that of another split.
        StoreError: The record has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error, or the path of the store is that of a file.
    """
    name = layout.done(split)
    try:
        done = decode_finish_record(objects.get(name, document.MAX_BYTES), name)
    except FileNotFoundError:
        return None
    document.check_value(name, "split", done.split, split)
    return done


def load_commit(objects: Objects, split: str, shard: int) -> Commit | None:
    """Load the commit of one shard.

    Args:
        objects: The objects of the store.
        split: The name of the split.
        shard: The number of the shard, from 0.

    Returns:
        The commit: its first row `start` and the row after its last `stop`, in `arrays` the record
        of the shard object of each size, whose keys are sizes as text, such as "224", in `table`
        that of the table part, in `counts` the number of rows by the name of their status, such as
        `readable`, the digest `plan` and `provenance` (host, seconds, versions). None if it is
        missing, damaged, or that of another split or shard. The commit may belong to another plan,
        which `belongs` tells.

    Raises:
        StoreError: The commit has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error, or the path of the store is that of a file.
    """
    name = layout.commit(split, shard)
    try:
        loaded = commit.decode_commit(objects.get(name, document.MAX_BYTES), name)
    except (FileNotFoundError, StoreDamagedError):
        return None
    return loaded if (loaded.split, loaded.shard) == (split, shard) else None


def load_commits(objects: Objects, planned: Plan) -> dict[int, Commit]:
    """Load every intact commit that belongs to a plan, with several threads.

    Args:
        objects: The objects of the store.
        planned: The plan of the split.

    Returns:
        The commits by number of the shard; shards without a valid commit of this plan are left out.
        The objects that commits list are not opened.

    Raises:
        StoreError: A commit has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error.
    """
    shards = [
        int(stem)
        for name in objects.names(layout.commits(planned.split))
        if (stem := name.rpartition("/")[2].removesuffix(".json")).isdecimal()
    ]

    def load(shard: int) -> Commit | None:
        return load_commit(objects, planned.split, shard)

    with ThreadPoolExecutor(READERS) as pool:
        commits = [loaded for loaded in pool.map(load, shards) if loaded is not None]
    return {loaded.shard: loaded for loaded in commits if belongs(planned, loaded)}


def belongs(planned: Plan, committed: Commit) -> bool:
    """Return True if a commit belongs to a plan and covers exactly the rows of its shard.

    Compared are the split, the plan's digest, the first row and the row after the last one.

    Args:
        planned: The plan of a split.
        committed: The commit of a shard of any split and plan.
    """
    rows = planned.rows(committed.shard) if committed.shard < planned.num_shards else range(0)
    expected = (planned.split, planned.digest, rows.start, rows.stop)
    return (committed.split, committed.plan, committed.start, committed.stop) == expected


def stored_splits(objects: Objects) -> list[str]:
    """Return the names of all splits that the store has a record of, finished or not, sorted.

    A plan, a finish record, a ledger or a commit counts as a record, intact or not.

    Args:
        objects: The objects of the store.

    Returns:
        The names; an empty list for a store without splits, or if there is no store.

    Raises:
        StoreError: The request to an object store failed.
    """
    planned = (name.removeprefix("splits/").partition(".") for name in objects.names("splits"))
    suffixes = ("json", "done.json", "ledger.jsonl")
    names = {split for split, _, suffix in planned if suffix in suffixes}
    # A split that has lost its plan is still listed, so that it can be repaired.
    names |= {name.split("/")[1] for name in objects.names("commits") if name.count("/") == 2}
    return sorted(split for split in names if layout.is_split(split))
