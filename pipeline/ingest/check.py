"""What is damaged: every object of a store against what was committed.

Nothing is trusted but digests. A document carries its own; done.json has those of labels, status,
table, ledger and metadata; a commit has those of its shard objects and its part of the table; the
ledger is a second copy of the documents. So one damaged object is always named, by a record that
is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import xxhash

from pipeline.errors import StoreDamagedError
from pipeline.ingest.finish import zarr_metadata
from pipeline.store import commit, layout, plan, recipe, records
from pipeline.store.commit import Commit, Written
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.records import Done

BLOCK = 4 * 2**20
"""Bytes read at a time."""


@dataclass(frozen=True, order=True)
class Problem:
    """One object that is not as it should be."""

    name: str
    what: str
    """`missing`, `damaged`, or a sentence."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A split as far as its records can be read, from themselves or from the ledger."""

    split: str
    recipe: Recipe | None
    plan: Plan | None
    done: Done | None
    commits: dict[int, Commit]
    problems: tuple[Problem, ...]

    @property
    def objects(self) -> list[Written]:
        """Every object that some record vouches for."""
        finished = () if self.done is None else self.done.objects
        return [*finished, *(kept for c in self.commits.values() for kept in c.objects)]


def read_records(objects: Objects, split: str) -> Found:
    """Read the records of *split*, with the ledger's copies where they are damaged."""
    problems: list[Problem] = []
    copies = records.read_ledger(objects, split)

    def read(name: str, decode: Callable[[bytes, str], Any], *, expected: bool) -> Any:
        try:
            return decode(objects.get(name), name)
        except FileNotFoundError:
            if expected:
                problems.append(Problem(name, "missing"))
        except StoreDamagedError:
            problems.append(Problem(name, "damaged"))
        return decode(copies[name], name) if name in copies else None

    kept_recipe = read(layout.RECIPE, recipe.decode, expected=True)
    kept_plan = read(layout.plan(split), plan.decode, expected=True)
    done = read(layout.done(split), records.decode_done, expected=bool(copies))
    commits = {}
    for shard in range(kept_plan.num_shards if kept_plan else 0):
        name = layout.commit(split, shard)
        kept = read(name, commit.decode, expected=bool(copies) or done is not None)
        if kept is not None and kept_plan is not None and kept.plan == kept_plan.digest:
            commits[shard] = kept
    return Found(
        split=split,
        recipe=kept_recipe,
        plan=kept_plan,
        done=done,
        commits=commits,
        problems=tuple(problems),
    )


def check_objects(
    objects: Objects, found: Found, *, threads: int = 0
) -> Iterator[tuple[Written, Problem | None]]:
    """Read every object that a record vouches for, and yield it with what is wrong with it."""

    def check(written: Written) -> tuple[Written, Problem | None]:
        return written, check_object(objects, written)

    workers = threads or min(16, os.cpu_count() or 1)
    todo = iter(found.objects)
    with ThreadPoolExecutor(workers, "check") as pool:
        while group := list(islice(todo, 8 * workers)):
            yield from pool.map(check, group)


def check_object(objects: Objects, written: Written) -> Problem | None:
    """Compare one object with the record of it."""
    size = objects.size(written.name)
    if size is None:
        return Problem(written.name, "missing")
    if size != written.num_bytes:
        return Problem(written.name, f"has {size:,} bytes, {written.num_bytes:,} were committed")
    seen = xxhash.xxh3_128()
    try:
        with objects.open(written.name) as file:
            while block := file.read(BLOCK):
                seen.update(block)
    except OSError as e:
        return Problem(written.name, f"cannot be read: {e.strerror or e}")
    return None if seen.hexdigest() == written.digest else Problem(written.name, "damaged")


def check_whole(found: Found) -> list[Problem]:
    """What keeps a split from being finished, if anything does."""
    if found.plan is None:
        return []
    missing = [s for s in range(found.plan.num_shards) if s not in found.commits]
    if missing:
        shards = f"{len(missing)} of {found.plan.num_shards} shards are not committed"
        return [Problem(layout.plan(found.split), f"not finished: {shards}")]
    if found.done is None and not any(p.name == layout.done(found.split) for p in found.problems):
        return [Problem(layout.done(found.split), "not finished: the finish step has not run")]
    return []


def committed_sizes(found: Found) -> list[int]:
    """The sizes that any commit has."""
    return sorted(set().union(*(kept.sizes for kept in found.commits.values())))


def check_metadata(objects: Objects, found: Found) -> list[Problem]:
    """Check the metadata of a split that no finish step vouches for yet."""
    if found.done is not None or found.recipe is None or found.plan is None:
        return []
    problems = []
    for name, data in zarr_metadata(found.recipe, found.plan, committed_sizes(found)):
        problem = check_object(objects, records.fingerprint(name, data))
        if problem is not None:
            problems.append(problem)
    return problems


def strangers(objects: Objects, found: Found) -> list[str]:
    """Objects under a finished split's folders that no record knows. They do no harm."""
    if found.done is None:
        return []
    known = {written.name for written in found.objects}
    known |= {layout.commit(found.split, shard) for shard in found.commits}
    folders = (
        f"{layout.IMAGES}/{found.split}",
        layout.commits(found.split),
        layout.parts(found.split),
    )
    return [name for folder in folders for name in objects.names(folder) if name not in known]
