"""Bringing back just what is damaged, from the cheapest place that still has it.

recipe, plan, commits     word for word from the ledger
parts of the table        from the table, else from the source
shard objects             from the source, after its bytes were checked against the table
labels, status, table,    by the finish step, from the parts
ledger, done, metadata
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow.parquet as pq

from pipeline.ingest.check import Found, Problem
from pipeline.ingest.graph import Job
from pipeline.ingest.shard import Work, rebuild_shard
from pipeline.store import layout, records, table
from pipeline.store.objects import Objects


@dataclass(frozen=True)
class Rebuild:
    """What of one shard is to be made again from the source."""

    shard: int
    sizes: tuple[int, ...]
    part: bool


def restore_records(objects: Objects, found: Found) -> list[str]:
    """Write the damaged records that a copy was found of; returns their names."""
    copies = {layout.commit(found.split, s): c.encode() for s, c in found.commits.items()}
    if found.recipe is not None:
        copies[layout.RECIPE] = found.recipe.encode()
    if found.plan is not None:
        copies[layout.plan(found.split)] = found.plan.encode()
    names = [problem.name for problem in found.problems if problem.name in copies]
    for name in names:
        objects.put(name, copies[name])
    return names


def restore_parts(objects: Objects, found: Found, problems: Iterable[Problem]) -> list[str]:
    """Cut damaged parts out of the whole table again; returns the names of those that fit."""
    bad = {problem.name for problem in problems}
    name = layout.table(found.split)
    damaged = [kept for kept in found.commits.values() if kept.table.name in bad]
    if not damaged or name in bad or objects.size(name) is None:
        return []
    with objects.open(name) as file:
        whole = pq.read_table(file)
    restored = []
    for kept in damaged:
        data = table.encode_table(whole.slice(kept.start, kept.stop - kept.start))
        if records.fingerprint(kept.table.name, data) == kept.table:
            objects.put(kept.table.name, data)
            restored.append(kept.table.name)
    return restored


def drop_derived(objects: Objects, found: Found, problems: Iterable[Problem]) -> list[str]:
    """Remove damaged objects that the finish step writes; returns their names."""
    derived = {layout.done(found.split)}
    derived |= {written.name for written in found.done.objects} if found.done else set()
    names = [problem.name for problem in problems if problem.name in derived]
    for name in names:
        objects.remove(name)
    return names


def plan_rebuilds(found: Found, problems: Iterable[Problem]) -> list[Rebuild]:
    """What is to be made again from the source, by shard."""
    bad = {problem.name for problem in problems}
    rebuilds = []
    for shard, kept in sorted(found.commits.items()):
        sizes = tuple(int(size) for size, w in kept.arrays.items() if w.name in bad)
        part = kept.table.name in bad
        if sizes or part:
            rebuilds.append(Rebuild(shard, sizes, part))
    return rebuilds


def rebuild_jobs(work: Work, rebuilds: Iterable[Rebuild]) -> list[Job]:
    """The tasks that make them."""
    return [
        Job(
            f"repair-{work.split}-{rebuild.shard:06d}",
            rebuild_shard,
            (work, rebuild.shard),
            {"sizes": rebuild.sizes, "part": rebuild.part},
        )
        for rebuild in rebuilds
    ]
