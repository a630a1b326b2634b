"""Reading a store's records: recipe, plans, commits, and what the finish step says.

done.json      which sizes are whole, and the digest of every object that no commit vouches for
ledger.jsonl   a second copy of recipe, plan and commits, word for word: {"name", "text"} a line
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import xxhash

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import commit, document, layout, plan, recipe
from pipeline.store.commit import Commit, Written
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe

READERS = 16
"""Threads that read small objects: on an object store each costs a round trip."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """The finish step's word that every commit of a split is there."""

    split: str
    recipe: str
    plan: str
    """Digests of the two documents."""
    num_rows: int
    sizes: tuple[int, ...]
    counts: dict[str, int]
    """Rows by status, in words."""
    parts: str
    """XXH3-128 over the digests of the table's parts, in order."""
    objects: tuple[Written, ...]
    """Labels, status, table, ledger and zarr metadata."""

    def encode(self) -> bytes:
        """The text of `splits/<split>.done.json`."""
        return document.encode({**asdict(self), "format": layout.FORMAT})


def decode_done(data: bytes, name: str) -> Done:
    """Read a finish record back.

    Raises:
        StoreDamagedError: The text is not what was written.
    """
    fields = document.decode(data, name)
    del fields["format"]
    objects = tuple(Written(**written) for written in fields["objects"])
    return Done(**{**fields, "sizes": tuple(fields["sizes"]), "objects": objects})


def load_recipe(objects: Objects) -> Recipe:
    """The store's recipe.

    Raises:
        StoreError: There is no store here.
        StoreDamagedError: The recipe is damaged.
    """
    try:
        return recipe.decode(objects.get(layout.RECIPE))
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
        return plan.decode(objects.get(name), name)
    except FileNotFoundError:
        known = ", ".join(map(repr, splits(objects))) or "none"
        raise StoreError(
            f"the store {objects.url} has no plan for split {split!r}: it has {known}."
        ) from None


def load_done(objects: Objects, split: str) -> Done | None:
    """The finish record of *split*, or None while it is not finished.

    Raises:
        StoreDamagedError: The record is damaged.
    """
    name = layout.done(split)
    try:
        return decode_done(objects.get(name), name)
    except FileNotFoundError:
        return None


def load_commit(objects: Objects, split: str, shard: int) -> Commit | None:
    """The commit of one shard, or None where there is none, or none that is whole."""
    name = layout.commit(split, shard)
    try:
        return commit.decode(objects.get(name), name)
    except (FileNotFoundError, StoreDamagedError):
        return None


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
    return {kept.shard: kept for kept in loaded if kept.plan == planned.digest}


def splits(objects: Objects) -> list[str]:
    """The splits that the store has a record of, whole or not."""
    found = (name.removeprefix("splits/") for name in objects.names("splits"))
    return sorted({name.split(".")[0] for name in found})


def encode_ledger(documents: Iterable[tuple[str, bytes]]) -> bytes:
    """The second copy of *documents*, (name, text)."""
    lines = (
        json.dumps({"name": name, "text": text.decode()}, ensure_ascii=False) + "\n"
        for name, text in documents
    )
    return "".join(lines).encode()


def read_ledger(objects: Objects, split: str) -> dict[str, bytes]:
    """The copies in the ledger, by name; what cannot be read of it is left out."""
    try:
        data = objects.get(layout.ledger(split))
    except FileNotFoundError:
        return {}
    return dict(_ledger_lines(data))


def _ledger_lines(data: bytes) -> Iterator[tuple[str, bytes]]:
    for line in data.split(b"\n"):
        try:
            kept = json.loads(line)
            text = kept["text"].encode()
            document.decode(text, kept["name"])
        except (ValueError, KeyError, TypeError, StoreError):
            continue
        yield kept["name"], text


def fingerprint(name: str, data: bytes) -> Written:
    """An object's name, size and digest."""
    return Written(name, len(data), xxhash.xxh3_128(data).hexdigest())
