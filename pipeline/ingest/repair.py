"""Bringing back just what is damaged, from the cheapest place that still has it.

recipe, plan, commits     word for word from the ledger; a commit that has no copy there is made
                          again with its whole shard
parts of the table        from the table, else from the source
shard objects             from the source, after its bytes were checked against the part
labels, status, table,    by the finish step, from the parts
ledger, done, metadata
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreDamagedError
from pipeline.ingest import verify
from pipeline.ingest.shard import Work, rebuild_shard
from pipeline.ingest.verify import Found, Problem
from pipeline.jobs import Job
from pipeline.store import layout, records, table
from pipeline.store.arrow_files import open_parquet
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
    restored = []
    with objects.open(name) as file:
        whole = _table(file, name, found)
        if whole is None:  # vouched for by a record that somebody sealed: the source has the rows
            return []
        for kept in damaged:
            data = table.encode_table(table.read_rows(whole, kept.start, kept.stop))
            if records.fingerprint(kept.table.name, data) == kept.table:
                objects.put(kept.table.name, data)
                restored.append(kept.table.name)
    return restored


def _table(file: BinaryIO, name: str, found: Found) -> pq.ParquetFile | None:
    rows = None if found.plan is None else range(found.plan.num_rows)
    try:
        whole = open_parquet(file)
        table.check_rows(whole, name, rows)
    except (pa.ArrowException, OSError, StoreDamagedError):
        return None
    return whole


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


def lost_shards(found: Found, problems: Iterable[Problem]) -> list[int]:
    """The shards whose commit is damaged, and of which there is no copy: they are made anew."""
    bad = {problem.name for problem in problems}
    shards = range(0 if found.plan is None else found.plan.num_shards)
    lost = [shard for shard in shards if shard not in found.commits]
    return [shard for shard in lost if layout.commit(found.split, shard) in bad]


def planned_sizes(objects: Objects, found: Found) -> tuple[int, ...]:
    """The sizes that shards have or are to have, as far as can be told from what is left."""
    known = {*verify.committed_sizes(found), *(found.done.sizes if found.done else ())}
    if known:
        return tuple(sorted(known))
    folder = f"{layout.IMAGES}/{found.split}/"
    paths = (name.removeprefix(folder).split("/") for name in objects.names(folder.rstrip("/")))
    return tuple(sorted({int(path[0]) for path in paths if path[0].isdecimal()}))
