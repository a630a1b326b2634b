"""Reading a store's records: recipe, plans, commits, and what the finish step says.

done.json      which sizes are whole, and the digest of every object that no commit vouches for
ledger.jsonl   a second copy of recipe, plan and commits, word for word: {"name", "text"} a line
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
from pipeline.store.commit import Commit, Written
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.schema import Between, Count, Digest, Format, Size, Split
from pipeline.store.shard import Writer

BLOCK_BYTES = 4 * 2**20
"""Bytes of a large object that are read at a time."""

READERS = 16
"""Threads that read small objects: on an object store each costs a round trip."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """The finish step's word that every commit of a split is there."""

    split: Split
    recipe: Digest
    plan: Digest
    """Digests of the two documents."""
    num_rows: Annotated[int, Between(1, 2**40)]
    sizes: tuple[Size, ...]
    counts: dict[str, Count]
    """Rows by status, in words."""
    parts: Digest
    """XXH3-128 over the digests of the table's parts, in order."""
    objects: tuple[Written, ...]
    """Labels, status, table and zarr metadata."""
    format: Format = layout.FORMAT
    """Version of the store, as its recipe has it."""

    def encode(self) -> bytes:
        """The text of `splits/<split>.done.json`."""
        return document.encode(asdict(self))


def decode_done(data: bytes, name: str) -> Done:
    """Read a finish record back.

    Raises:
        StoreDamagedError: The text is not what was written, or vouches for other objects than a
            finish step writes.
    """
    done = document.decode_as(Done, data, name)
    document.check_value(name, "sizes", done.sizes, tuple(sorted(set(done.sizes))))
    document.check_value(name, "the sum of counts", sum(done.counts.values()), done.num_rows)
    named = {written.name for written in done.objects}
    expected = layout.derived(done.split, done.num_rows, done.sizes)
    for other in sorted(named - expected):
        document.check_value(name, "the name of an object", other, "one that the layout gives")
    for missing in sorted(expected - named):
        document.check_value(name, "the record of an object", "missing", missing)
    return done


def load_recipe(objects: Objects) -> Recipe:
    """The store's recipe.

    Raises:
        StoreError: There is no store here.
        StoreDamagedError: The recipe is damaged.
    """
    try:
        return recipe.decode(objects.get(layout.RECIPE, document.MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"no store at {objects.url}: it has no {layout.RECIPE}. Pass the folder that"
            " `tesserae prepare SOURCE STORE` wrote."
        ) from None


def load_plan(objects: Objects, split: str) -> Plan:
    """The plan of *split*.

    Raises:
        StoreError: The store has no such split.
        StoreDamagedError: The plan is damaged.
    """
    name = layout.plan(split)
    try:
        kept = plan.decode(objects.get(name, document.MAX_BYTES), name)
    except FileNotFoundError:
        known = ", ".join(map(repr, splits(objects))) or "none"
        raise StoreError(
            f"the store {objects.url} has no plan for split {split!r}: it has {known}."
        ) from None
    if kept.split != split:  # a file system that takes Train for train, or a file that was renamed
        raise StoreDamagedError(
            f"{objects.url}/{name} is the plan of split {kept.split!r}, not of {split!r}. Pass"
            f" --split {kept.split}, or another name."
        )
    return kept


def load_done(objects: Objects, split: str) -> Done | None:
    """The finish record of *split*, or None while it is not finished.

    Raises:
        StoreDamagedError: The record is damaged.
    """
    name = layout.done(split)
    try:
        done = decode_done(objects.get(name, document.MAX_BYTES), name)
    except FileNotFoundError:
        return None
    document.check_value(name, "split", done.split, split)
    return done


def load_commit(objects: Objects, split: str, shard: int) -> Commit | None:
    """The commit of one shard, or None where there is none, or none that is whole."""
    name = layout.commit(split, shard)
    try:
        kept = commit.decode(objects.get(name, document.MAX_BYTES), name)
    except (FileNotFoundError, StoreDamagedError):
        return None
    return kept if (kept.split, kept.shard) == (split, shard) else None


def load_commits(objects: Objects, planned: Plan) -> dict[int, Commit]:
    """Every whole commit that belongs to *planned*, by shard."""
    shards = [
        int(stem)
        for name in objects.names(layout.commits(planned.split))
        if (stem := name.rpartition("/")[2].removesuffix(".json")).isdecimal()
    ]

    def load(shard: int) -> Commit | None:
        return load_commit(objects, planned.split, shard)

    with ThreadPoolExecutor(READERS) as pool:
        loaded = [kept for kept in pool.map(load, shards) if kept is not None]
    return {kept.shard: kept for kept in loaded if belongs(planned, kept)}


def belongs(planned: Plan, kept: Commit) -> bool:
    """Return True if a commit is one of *planned*, of just the rows that its shard has there."""
    rows = planned.rows(kept.shard) if kept.shard < planned.num_shards else range(0)
    expected = (planned.split, planned.digest, rows.start, rows.stop)
    return (kept.split, kept.plan, kept.start, kept.stop) == expected


def splits(objects: Objects) -> list[str]:
    """The splits that the store has a record of, whole or not."""
    planned = (name.removeprefix("splits/").partition(".") for name in objects.names("splits"))
    found = {split for split, _, rest in planned if rest in ("json", "done.json", "ledger.jsonl")}
    # A split that has lost its plan is still one.
    found |= {name.split("/")[1] for name in objects.names("commits") if name.count("/") == 2}
    return sorted(split for split in found if layout.is_split(split))


def encode_ledger(documents: Iterable[tuple[str, bytes]]) -> bytes:
    """The second copy of *documents*, (name, text)."""
    lines = "".join(
        json.dumps({"name": name, "text": text.decode()}, ensure_ascii=False) + "\n"
        for name, text in documents
    ).encode()
    last = json.dumps({"digest": hashlib.sha256(lines).hexdigest()}) + "\n"
    return lines + last.encode()


@dataclass(frozen=True)
class Copy:
    """A line of a ledger."""

    name: str
    text: str


@dataclass(frozen=True)
class Ledger:
    """What can be read of a ledger."""

    copies: dict[str, bytes]
    """Documents by name, each of them whole."""
    what: str | None
    """What is wrong with it: `missing`, `damaged`, or nothing."""


def read_ledger(objects: Objects, split: str) -> Ledger:
    """Read the ledger of *split*, or what is left of it."""
    try:
        data = objects.get(layout.ledger(split), document.MAX_BYTES)
    except FileNotFoundError:
        return Ledger({}, "missing")
    except StoreDamagedError:
        return Ledger({}, "damaged")
    copies = {name: text for name, text in _ledger_lines(data) if layout.copied(split, name)}
    return Ledger(copies, None if encode_ledger(copies.items()) == data else "damaged")


def _ledger_lines(data: bytes) -> Iterator[tuple[str, bytes]]:
    for line in data.split(b"\n"):
        try:
            kept = schema.read(Copy, json.loads(line))
            text = kept.text.encode()
            document.decode(text, kept.name)
        except (ValueError, RecursionError, MemoryError, StoreError):
            continue
        yield kept.name, text


def digest_of(objects: Objects, name: str) -> str:
    """The XXH3-128, in hexadecimal, of an object that may be larger than memory.

    Raises:
        FileNotFoundError: There is none.
    """
    seen = xxhash.xxh3_128()
    with objects.open(name) as file:
        while block := file.read(BLOCK_BYTES):
            seen.update(block)
    return seen.hexdigest()


def fingerprint(name: str, data: bytes) -> Written:
    """An object's name, size and digest."""
    return Written(name, len(data), xxhash.xxh3_128(data).hexdigest())


def is_there(objects: Objects, kept: Written) -> bool:
    """Whether an object is just as it was written."""
    same_size = objects.size(kept.name) == kept.num_bytes
    return same_size and digest_of(objects, kept.name) == kept.digest


class FingerprintWriter:
    """Passes an object on, piece by piece, and knows what was written."""

    def __init__(self, writer: Writer) -> None:
        self.name = writer.name
        self._writer = writer
        self._num_bytes = 0
        self._hash = xxhash.xxh3_128()

    def write(self, data: memoryview) -> None:
        """Append *data*."""
        self._hash.update(data)
        self._num_bytes += data.nbytes
        self._writer.write(data)

    def finish(self) -> None:
        """Make the object durable under its name."""
        self._writer.finish()

    def written(self) -> Written:
        """Name, size and digest of what was written so far."""
        return Written(self.name, self._num_bytes, self._hash.hexdigest())
