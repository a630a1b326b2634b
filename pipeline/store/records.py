"""The records of a store: recipe, plans, commits, finish records and ledgers.

done.json      the complete sizes, and the digest of every object that is in no commit
ledger.jsonl   an exact second copy of recipe, plan and commits: {"name", "text"} in each line
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated

import xxhash

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import commit, document, layout, plan, recipe, schema
from pipeline.store.commit import Commit, ObjectRecord
from pipeline.store.objects import Objects, Writer
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.schema import Between, Count, Digest, Format, Size, Split

BLOCK_BYTES = 4 * 2**20
"""The bytes of a large object that are read at a time."""

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

    def encode(self) -> bytes:
        """Return the bytes of `splits/<split>.done.json`."""
        return document.encode_document(asdict(self))


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
    done = document.decode_document_as(FinishRecord, data, name)
    document.check_value(name, "sizes", done.sizes, tuple(sorted(set(done.sizes))))
    document.check_value(name, "the sum of counts", sum(done.counts.values()), done.num_rows)
    named = {written.name for written in done.objects}
    expected = layout.derived(done.split, done.num_rows, done.sizes)
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
        StoreError: There is no store at this path, or it has a format that this version does not
            read.
        StoreDamagedError: The recipe is damaged.
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
        StoreError: The store has no such split, or its plan has a format that this version does not
            read.
        StoreDamagedError: The plan is damaged, or is that of another split.
    """
    name = layout.plan(split)
    try:
        loaded = plan.decode_plan(objects.get(name, document.MAX_BYTES), name)
    except FileNotFoundError:
        existing = ", ".join(map(repr, splits(objects))) or "none"
        raise StoreError(
            f"the store {objects.url} has no plan for split {split!r}: it has {existing}."
        ) from None
    # A case-insensitive file system opens the plan of `train` for `Train`; files get renamed, too.
    if loaded.split != split:
        raise StoreDamagedError(
            f"{objects.url}/{name} is the plan of split {loaded.split!r}, not of {split!r}. Pass"
            f" --split {loaded.split}, or another name."
        )
    return loaded


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
        metadata. None while the split is not finished.

    Raises:
        StoreDamagedError: The record is damaged, or is that of another split.
        StoreError: The record has a format that this version does not read.
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
        StoreError: The commit has a format that this version does not read.
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
        StoreError: A commit has a format that this version does not read.
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


def splits(objects: Objects) -> list[str]:
    """Return the names of all splits that the store has a record of, finished or not, sorted.

    A plan, a finish record, a ledger or a commit counts as a record, intact or not.

    Args:
        objects: The objects of the store.

    Returns:
        The names; an empty list for a store without splits, or if there is no store.
    """
    planned = (name.removeprefix("splits/").partition(".") for name in objects.names("splits"))
    suffixes = ("json", "done.json", "ledger.jsonl")
    names = {split for split, _, suffix in planned if suffix in suffixes}
    # A split that has lost its plan is still listed, so that it can be repaired.
    names |= {name.split("/")[1] for name in objects.names("commits") if name.count("/") == 2}
    return sorted(split for split in names if layout.is_split(split))


def encode_ledger(documents: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the bytes of a ledger with copies of documents; nothing is written.

    Args:
        documents: The name of each document, relative to the store, and its bytes, which are UTF-8,
            such as `recipe.json` and what `Recipe.encode` returns.

    Returns:
        Lines of JSON, `{"name", "text"}` for each document in their order, and a last one,
        `{"digest"}`, with the SHA-256 of the lines before it in hexadecimal. Each ends with a
        newline.
    """
    lines = "".join(
        json.dumps({"name": name, "text": text.decode()}, ensure_ascii=False) + "\n"
        for name, text in documents
    ).encode()
    last = json.dumps({"digest": hashlib.sha256(lines).hexdigest()}) + "\n"
    return lines + last.encode()


@dataclass(frozen=True)
class Copy:
    """One line of a ledger: the copy of a document."""

    name: str
    """The name of the document, relative to the store."""
    text: str
    """The text of the document, exactly as it was written."""


@dataclass(frozen=True)
class Ledger:
    """The readable part of a ledger."""

    copies: dict[str, bytes]
    """The bytes of each intact document, by its name relative to the store."""
    damage: str | None
    """The problem with the ledger: `missing`, `damaged` or None."""


def read_ledger(objects: Objects, split: str) -> Ledger:
    """Read the ledger of a split, or the intact lines of a damaged one; a missing one is no error.

    A ledger holds second copies of the recipe, the plan and the commits.

    Args:
        objects: The objects of the store.
        split: The name of the split.

    Returns:
        The bytes of each intact copy by name of the document, such as `recipe.json`, in `copies`;
        and in `damage` `missing`, `damaged` or None. Copies of other documents than the recipe, the
        plan of the split and its commits are left out.

    Raises:
        OSError: The disk reports an error.
        StoreError: The request to an object store failed.
    """
    try:
        data = objects.get(layout.ledger(split), document.MAX_BYTES)
    except FileNotFoundError:
        return Ledger({}, "missing")
    except StoreDamagedError:
        return Ledger({}, "damaged")
    copies = {
        name: text for name, text in _ledger_lines(data) if layout.may_be_in_ledger(split, name)
    }
    return Ledger(copies, None if encode_ledger(copies.items()) == data else "damaged")


def _ledger_lines(data: bytes) -> Iterator[tuple[str, bytes]]:
    for line in data.split(b"\n"):
        try:
            copy = schema.parse(Copy, json.loads(line))
            text = copy.text.encode()
            document.decode_document(text, copy.name)
        except (ValueError, RecursionError, MemoryError, StoreError):
            continue  # the other lines are still good copies
        yield copy.name, text


def digest_of(objects: Objects, name: str) -> str:
    """Return the XXH3-128 of an object that may be larger than memory: 32 hexadecimal digits.

    Args:
        objects: The objects of the store.
        name: The name of the object, relative to the store.

    Raises:
        FileNotFoundError: The object does not exist.
        OSError: The disk reports an error.
        StoreError: The name is not valid, the object is not a regular file, or the request to an
            object store failed.
    """
    hasher = xxhash.xxh3_128()
    with objects.open(name) as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def fingerprint(name: str, data: bytes) -> ObjectRecord:
    """Return the record of an object: its name, and the size and digest of its bytes.

    Args:
        name: The name of the object, relative to the store.
        data: All its bytes.

    Returns:
        The record: `name`, `num_bytes`, the length, and `digest`, the XXH3-128 of the bytes as 32
        hexadecimal digits. The store is neither read nor written.
    """
    return ObjectRecord(name, len(data), xxhash.xxh3_128(data).hexdigest())


def is_intact(objects: Objects, record: ObjectRecord) -> bool:
    """Return True if an object exists and has the recorded size and digest.

    It is read completely, unless its size differs.

    Args:
        objects: The objects of the store.
        record: The record of the object.

    Raises:
        OSError: The disk reports an error.
        StoreError: The object's name is not valid, or the request to an object store failed.
    """
    same_size = objects.size(record.name) == record.num_bytes
    return same_size and digest_of(objects, record.name) == record.digest


class FingerprintWriter:
    """A writer that passes pieces on to another one and computes their size and digest."""

    def __init__(self, writer: Writer) -> None:
        """Wrap a writer to which nothing was written yet.

        Args:
            writer: The writer that gets all bytes.
        """
        self.name = writer.name
        self._writer = writer
        self._num_bytes = 0
        self._hash = xxhash.xxh3_128()

    def write(self, data: memoryview) -> None:
        """Append bytes to the object, and include them in its size and digest.

        Args:
            data: Contiguous memory; it may be overwritten as soon as this returns.

        Raises:
            StoreError: The bytes cannot be written.
        """
        self._hash.update(data)
        self._num_bytes += data.nbytes
        self._writer.write(data)

    def finish(self) -> None:
        """Make the object durable under its name."""
        self._writer.finish()

    def written(self) -> ObjectRecord:
        """Return the record of the bytes written so far.

        Returns:
            The record: `name`, that of the object; `num_bytes`; and `digest`, the XXH3-128 of the
            bytes as 32 hexadecimal digits.
        """
        return ObjectRecord(self.name, self._num_bytes, self._hash.hexdigest())
