"""Restores just the damaged objects, from the cheapest copy that is left.

recipe, plan, commits     byte for byte from the ledger; a commit without a copy there is made again
                          with its whole shard
parts of the table        from the table, otherwise from the source
shard objects             from the source, after its bytes are checked against the part
labels, status, table,    by the finish step, from the parts
ledger, done, metadata
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreDamagedError
from pipeline.ingest import planning, verify
from pipeline.ingest.shard_task import rebuild_shard
from pipeline.ingest.source_index import SourceIndex
from pipeline.ingest.verify import SplitRecords
from pipeline.ingest.worker import ShardTaskConfig
from pipeline.jobs import Job
from pipeline.store import layout, table
from pipeline.store.arrow_files import open_parquet
from pipeline.store.fingerprint import fingerprint
from pipeline.store.integrity import Problem
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan


@dataclass(frozen=True)
class Rebuild:
    """The objects of one shard that must be made again from the source."""

    shard: int
    """The number of the shard, from 0."""
    arrays: tuple[str, ...]
    """The names of the image arrays whose shard object is made again, in any order."""
    part: bool
    """True if the table part is made again."""


def restore_records(objects: Objects, split_records: SplitRecords) -> list[str]:
    """Write the damaged or missing recipe, plans and commits of which a ledger has a copy.

    A finish record and a ledger are not restored, because `finish_split` writes them again. A
    damaged plan of encoded rows without a copy is removed: `prepare` writes the same one again.

    Args:
        objects: The objects of the store, whose `begin` was called.
        split_records: The records of the split, with the problems that were found, as
            `pipeline.ingest.verify.read_records` returns them.

    Returns:
        The names of the documents that were written, relative to the store; an empty list if there
        are none.

    Raises:
        StoreError: The store cannot be written.
    """
    copies = {
        layout.commit(split_records.split, s): c.encode() for s, c in split_records.commits.items()
    }
    if split_records.recipe is not None:
        copies[layout.RECIPE] = split_records.recipe.encode()
    if split_records.plan is not None:
        copies[layout.plan(split_records.split)] = split_records.plan.encode()
    for encoding, planned in split_records.encoded_plans.items():
        copies[layout.encoded_plan(split_records.split, encoding)] = planned.encode()
    names = [problem.name for problem in split_records.problems if problem.name in copies]
    for name in names:
        objects.put(name, copies[name])
    for problem in split_records.problems:
        is_encoded_plan = layout.encoding_of_plan(split_records.split, problem.name) is not None
        # Left in the store, it would keep the split from being finished, even if no shard has its
        # rows. A disk's error says nothing about its bytes.
        is_disk_error = problem.description.startswith(verify.CANNOT_BE_READ)
        if is_encoded_plan and problem.name not in copies and not is_disk_error:
            objects.remove(problem.name)
    return names


def restore_parts(
    objects: Objects, split_records: SplitRecords, problems: Iterable[Problem]
) -> list[str]:
    """Restore missing or damaged table parts from the complete table, where that is intact.

    Args:
        objects: The objects of the store, whose `begin` was called.
        split_records: The records of the split, as `pipeline.ingest.verify.read_records` returns
            them.
        problems: All missing or damaged objects of the split; the complete table counts as intact
            if it is not among them.

    Returns:
        The names of the parts that were written, relative to the store, each with exactly the bytes
        that its commit records; the others must be made from the source. The list is empty if the
        complete table is missing or damaged.

    Raises:
        StoreError: The store cannot be written, or the request to an object store failed.
    """
    bad = {problem.name for problem in problems}
    name = layout.table(split_records.split)
    damaged = [commit for commit in split_records.commits.values() if commit.table.name in bad]
    if not damaged or name in bad or objects.size(name) is None:
        return []
    restored = []
    with objects.open(name) as file:
        whole_table = _open_intact_table(file, name, split_records)
        if whole_table is None:  # another program wrote it: use the source instead
            return []
        for commit in damaged:
            data = table.encode_table(table.read_table_rows(whole_table, commit.start, commit.stop))
            if fingerprint(commit.table.name, data) == commit.table:
                objects.put(commit.table.name, data)
                restored.append(commit.table.name)
    return restored


def _open_intact_table(
    file: BinaryIO, name: str, split_records: SplitRecords
) -> pq.ParquetFile | None:
    rows = None if split_records.plan is None else range(split_records.plan.num_rows)
    try:
        parquet = open_parquet(file)
        table.check_rows(parquet, name, rows)
    except (pa.ArrowException, OSError, StoreDamagedError):
        return None
    return parquet


def plan_rebuilds(split_records: SplitRecords, problems: Iterable[Problem]) -> list[Rebuild]:
    """Return the shard objects and table parts that must be made again from the source.

    Args:
        split_records: The records of the split, as `pipeline.ingest.verify.read_records` returns
            them.
        problems: The missing or damaged objects that remain after `restore_records` and
            `restore_parts`.

    Returns:
        One entry for each shard with damage, in the order of shards: its number in `shard`, the
        names of the image arrays whose shard object is missing or damaged in `arrays`, and in
        `part` True if the table part is. Shards without a readable commit are left out;
        `shards_without_commit` returns them.
    """
    bad = {problem.name for problem in problems}
    rebuilds = []
    for shard, commit in sorted(split_records.commits.items()):
        # Without its plan, nothing tells where the bytes of an encoded array lie.
        arrays = tuple(
            name
            for name, written in commit.shard_objects.items()
            if written.name in bad and (name.isdecimal() or name in split_records.encoded_plans)
        )
        part = commit.table.name in bad
        if arrays or part:
            rebuilds.append(Rebuild(shard, arrays, part))
    return rebuilds


def rebuild_jobs(config: ShardTaskConfig, rebuilds: Iterable[Rebuild]) -> list[Job]:
    """Return one Dask job for each shard that is rebuilt; nothing is run yet.

    Args:
        config: The arguments that all tasks of the run share: a `ShardTaskConfig` with at least
            `store`, `split`, `run` and `arrays`, those of *rebuilds* at least.
        rebuilds: The objects to make again, of `plan_rebuilds`.

    Returns:
        Jobs for `pipeline.jobs.run_jobs` in the order of *rebuilds*, named `repair-<split>-<shard>`
        with six digits for the shard, that call `rebuild_shard` and give its `ShardReport`.
    """
    return [
        Job(
            f"repair-{config.split}-{rebuild.shard:06d}",
            rebuild_shard,
            (config, rebuild.shard),
            {"arrays": rebuild.arrays, "part": rebuild.part},
        )
        for rebuild in rebuilds
    ]


def shards_without_commit(split_records: SplitRecords, problems: Iterable[Problem]) -> list[int]:
    """Return the shards whose commit is lost and has no copy, so that they are prepared again.

    Args:
        split_records: The records of the split, as `pipeline.ingest.verify.read_records` returns
            them.
        problems: All missing or damaged objects of the split, those of `split_records` included.

    Returns:
        The numbers of the shards, ascending; an empty list also if the plan cannot be read. Shards
        whose commit is not among *problems*, as they were never committed, are left out.
    """
    bad = {problem.name for problem in problems}
    shards = range(0 if split_records.plan is None else split_records.plan.num_shards)
    lost = [shard for shard in shards if shard not in split_records.commits]
    return [shard for shard in lost if layout.commit(split_records.split, shard) in bad]


def planned_arrays(objects: Objects, split_records: SplitRecords) -> tuple[str, ...]:
    """Return the image arrays that shards have or should have, as far as the records tell.

    Args:
        objects: The objects of the store, whose folders are examined if no record tells an array.
        split_records: The records of the split, as `pipeline.ingest.verify.read_records` returns
            them.

    Returns:
        The names of the arrays: sizes as text, ascending, then encoded arrays whose plan can be
        read; empty if nothing tells one.
    """
    names = [
        *verify.committed_arrays(split_records),
        *(split_records.done.array_names if split_records.done else ()),
    ]
    if not names:
        folder = f"{layout.IMAGES}/{split_records.split}/"
        paths = (name.removeprefix(folder).split("/") for name in objects.names(folder.rstrip("/")))
        names = [path[0] for path in paths]
    return tuple(
        name
        for name in verify.sort_arrays(names)
        if name.isdecimal() or name in split_records.encoded_plans
    )


def restore_labels(objects: Objects, plan: Plan) -> None:
    """Write the labels of an unfinished split again, from its source index, where they differ.

    Args:
        objects: The objects of the store, whose `begin` was called.
        plan: The plan of the split.

    Raises:
        StoreError: The source index is missing or damaged, or the store cannot be written.
    """
    rows = SourceIndex(objects, plan)
    labels = [sample.label for shard in range(plan.num_shards) for sample in rows.shard(shard)]
    rows.close()
    planning.write_labels(objects, plan.split, np.array(labels, np.int32))
