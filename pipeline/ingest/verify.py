"""What is damaged: every object of a store against what was committed.

Nothing is trusted but digests. A document carries its own, and so does the ledger, the second copy
of the documents; done.json has those of labels, status, table and metadata; a commit has those of
its shard objects and its part of the table. So one damaged object is always named, by a record
that is whole.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.errors import StoreDamagedError, WrongDocumentError
from pipeline.store import commit, document, layout, plan, recipe, records
from pipeline.store.commit import Commit, Written
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.records import Done


@dataclass(frozen=True, order=True)
class Problem:
    """One object that is not as it should be."""

    name: str
    what: str
    """`missing`, `damaged`, or a sentence."""

    @property
    def unfinished(self) -> bool:
        """Whether it is not there yet, rather than wrong."""
        return self.what.startswith("not finished")


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
    ledger = records.read_ledger(objects, split)
    reader = _Reader(objects, ledger.copies)
    if ledger.what is not None:
        reader.problems.append(Problem(layout.ledger(split), ledger.what))
    kept_plan = reader.plan(split)
    done = reader.done(split, kept_plan)
    return Found(
        split=split,
        recipe=reader.recipe(kept_plan),
        plan=kept_plan,
        done=done,
        commits={} if kept_plan is None else reader.commits(kept_plan, expected=done is not None),
        problems=tuple(reader.problems),
    )


class _Reader:
    """Reads documents, and notes what is wrong with them."""

    def __init__(self, objects: Objects, copies: dict[str, bytes]) -> None:
        self.problems: list[Problem] = []
        self._objects = objects
        self._copies = copies

    def plan(self, split: str) -> Plan | None:
        name = layout.plan(split)
        copy = self._copy(name, plan.decode, lambda kept: kept.split == split)
        kept: Plan | None = self._read(
            name, plan.decode, lambda kept: kept.split == split and copy in (None, kept)
        )
        return kept

    def recipe(self, planned: Plan | None) -> Recipe | None:
        def fits(kept: Recipe) -> bool:
            return planned is None or kept.digest == planned.recipe

        for other in records.splits(self._objects) if layout.RECIPE not in self._copies else ():
            self._copies |= records.read_ledger(self._objects, other).copies
        kept: Recipe | None = self._read(layout.RECIPE, recipe.decode, fits)
        return kept

    def done(self, split: str, planned: Plan | None) -> Done | None:
        """The finish step's record, if it is there, whole, and of this plan."""

        def fits(kept: Done) -> bool:
            named = kept.split, kept.plan, kept.num_rows
            return planned is None or named == (split, planned.digest, planned.num_rows)

        shards = range(planned.num_shards if planned else 0)
        # The finish step copies every commit before it writes its own record.
        finished = planned is not None and all(
            layout.commit(split, shard) in self._copies for shard in shards
        )
        kept: Done | None = self._read(
            layout.done(split), records.decode_done, fits, expected=finished
        )
        return kept

    def commits(self, planned: Plan, *, expected: bool) -> dict[int, Commit]:
        """The whole commits of *planned*, by shard; all must be there if they are *expected*."""

        def read(shard: int) -> Commit | None:
            name = layout.commit(planned.split, shard)
            fits = functools.partial(_belongs, planned, shard)
            wanted = expected or name in self._copies
            kept: Commit | None = self._read(name, commit.decode, fits, expected=wanted)
            return kept

        with ThreadPoolExecutor(records.READERS) as pool:
            found = pool.map(read, range(planned.num_shards))
            return {kept.shard: kept for kept in found if kept is not None}

    def _read(
        self,
        name: str,
        decode: Callable[[bytes, str], Any],
        fits: Callable[[Any], bool],
        *,
        expected: bool = True,
    ) -> Any:
        what = "missing" if expected else ""
        try:
            kept = decode(self._objects.get(name, document.MAX_BYTES), name)
            if fits(kept):
                return kept
            what = "belongs to another store, plan or shard"
        except FileNotFoundError:
            pass
        except StoreDamagedError as e:
            what = _damage(e)
        except OSError as e:
            what = f"cannot be read: {e.strerror or e}"
        if what:
            self.problems.append(Problem(name, what))
        return self._copy(name, decode, fits)

    def _copy(
        self, name: str, decode: Callable[[bytes, str], Any], fits: Callable[[Any], bool]
    ) -> Any:
        # The name of a copy in a damaged ledger may be damaged itself.
        try:
            kept = decode(self._copies[name], name)
        except (KeyError, StoreDamagedError):
            return None
        return kept if fits(kept) else None


def _belongs(planned: Plan, shard: int, kept: Commit) -> bool:
    return kept.shard == shard and records.belongs(planned, kept)


def _damage(error: StoreDamagedError) -> str:
    return f"damaged: {error.what}" if isinstance(error, WrongDocumentError) else "damaged"


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
    try:
        digest = records.digest_of(objects, written.name)
    except OSError as e:
        return Problem(written.name, f"cannot be read: {e.strerror or e}")
    return None if digest == written.digest else Problem(written.name, "damaged")


def check_whole(found: Found) -> list[Problem]:
    """What keeps a split from being finished, if anything does."""
    if found.plan is None:
        return []
    num_shards = found.plan.num_shards
    missing = num_shards - len(found.commits)
    if missing:
        what = f"not finished: {missing} of {num_shards} shards are not committed"
        return [Problem(layout.plan(found.split), what)]
    done = layout.done(found.split)
    if found.done is None:
        named = any(problem.name == done for problem in found.problems)
        return [] if named else [Problem(done, "not finished: the finish step has not run")]
    return [*_unfinished_sizes(found, found.done)]


def _unfinished_sizes(found: Found, done: Done) -> Iterator[Problem]:
    for size in sorted({*done.sizes, *committed_sizes(found)}):
        name = layout.array(found.split, str(size))
        missing = sum(size not in kept.sizes for kept in found.commits.values())
        if missing:
            what = f"{missing} of {len(found.commits)} shards are not committed at {size} px"
            yield Problem(name, f"not finished: {what}")
        elif size not in done.sizes:
            yield Problem(name, f"not finished: the finish step has not run at {size} px")


def committed_sizes(found: Found) -> list[int]:
    """The sizes that any commit has."""
    return sorted(set().union(*(kept.sizes for kept in found.commits.values())))


def check_planned(objects: Objects, found: Found) -> list[Problem]:
    """Check the labels and the metadata that no finish step vouches for yet."""
    if found.recipe is None or found.plan is None:
        return []
    from pipeline.ingest.finish import zarr_metadata  # here: who only reads records needs no zarr
    from pipeline.store import arrays

    vouched = set() if found.done is None else {written.name for written in found.done.objects}
    made = zarr_metadata(found.recipe, found.plan, committed_sizes(found))
    planned = [records.fingerprint(name, data) for name, data in made if name not in vouched]
    problems = [check_object(objects, written) for written in planned]
    if found.done is None:
        problems += [Problem(*bad) for bad in arrays.damaged_labels(objects, found.plan)]
    return [problem for problem in problems if problem is not None]


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
