"""The implementation of `tesserae repair`: finds damaged files and rebuilds them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline import code_digest, confined, sources
from pipeline.errors import StoreError, TesseraeError
from pipeline.ingest import planning, restore
from pipeline.ingest.finish import finish_split
from pipeline.ingest.report import ShardReport
from pipeline.ingest.shard_jobs import shard_jobs
from pipeline.ingest.source_index import Origin, load_origin
from pipeline.ingest.verify import SplitRecords
from pipeline.ingest.worker import ShardTaskConfig
from pipeline.jobs import Failed, Job, run_jobs
from pipeline.sources import spool
from pipeline.sources.options import SourceOptions
from pipeline.store import layout, records
from pipeline.store.integrity import Problem
from pipeline.store.lease import lease
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.plan import Plan
from workflows import cluster_kinds
from workflows.cluster_kinds import CommandCluster
from workflows.preparation.options import PrepareOptions, RepairOptions
from workflows.preparation.plans import OpenSplit, resolve_plans
from workflows.preparation.spooling import remove_spool
from workflows.preparation.verify import print_problems, splits_to_check, verify_split
from workflows.terminal.formatting import counted, printable
from workflows.terminal.progress import print_waiting


@dataclass(frozen=True, kw_only=True)
class Repair:
    """The objects and options that the repair of one split works with."""

    options: RepairOptions
    objects: Objects
    """The objects of the store, opened for this run."""
    split: str
    """The name of the split."""
    run: str
    """The name of the run, used for its temporary files and the keys of its tasks."""
    cluster: CommandCluster


def run_repair(options: RepairOptions) -> int:
    """Repair damaged files of every requested split, and print what was restored and what was not.

    Args:
        options: The parsed options of `tesserae repair`, such as `store`, `split` (names, or
            `("all",)`), `data` (where the source images are now; None for the place recorded in the
            store) and `wait`.

    Returns:
        The exit status: 1 if any problem remains, such as an unfinished split, else 0. In a worker
        that Slurm has started, tasks run until the run ends, and nothing is printed.

    Raises:
        ClusterError: The cluster cannot be used.
        StoreError: There is no store or no such split, another run writes the split and the options
            lack `--wait`, or its plan or recipe is lost.
        TesseraeError: A file could not be rebuilt, for example because the images have moved.
    """
    num_problems = 0
    if cluster_kinds.run_as_slurm_worker(options):
        return 0
    with cluster_kinds.cluster_of(options) as cluster:
        cluster.connect_if_remote()
        for split in splits_to_check(open_objects(options.store), options.split):
            run_name = planning.new_run(split)
            repair = Repair(
                options=options,
                objects=open_objects(options.store, run_name),
                split=split,
                run=run_name,
                cluster=cluster,
            )
            with lease(repair.objects, split, wait=options.wait, on_wait=print_waiting):
                repair.objects.begin()
                try:
                    num_problems += repair_split(repair)
                finally:
                    repair.objects.end()
    return 1 if num_problems else 0


def repair_split(repair: Repair) -> int:
    """Repair one split, whose lease the caller holds, and print what was restored.

    `objects.begin()` must have been called under the lease.

    Damaged files are written again, from their second copies or from the source images.

    Args:
        repair: The repair to make: `options` (of the command), `objects` (the store, opened for
            this run by `open_objects(URL, run)`), `split` and `run` (the names of the split and of
            the run) and `cluster`, inside its `with` block.

    Returns:
        The number of problems that remain; 0 if the split is finished and undamaged.

    Raises:
        ClusterError: The cluster cannot be used.
        StoreError: The plan or the recipe is lost and has no second copy, the source's images are
            not where the store expects them, or the run holds no lease.
        TesseraeError: A file could not be rebuilt.
    """
    split_records, problems = _verify(repair)
    damaged = [problem for problem in problems if not problem.unfinished]
    if not damaged and repair.options.data is None:
        print(f"{repair.split}: nothing to repair")
        return _count_problems(problems)
    restored = restore.restore_records(repair.objects, split_records)
    if split_records.plan is None or split_records.recipe is None:
        raise StoreError(_unrecoverable_message(split_records))
    restored += restore.restore_parts(repair.objects, split_records, damaged)
    to_rebuild = [problem for problem in damaged if problem.name not in restored]
    _rebuild(repair, split_records, split_records.plan, to_rebuild)
    planned = restore.planned_arrays(repair.objects, split_records)
    planning.write_metadata(
        repair.objects,
        split_records.recipe,
        split_records.plan,
        [int(name) for name in planned if name.isdecimal()],
        split_records.encoded_plans,
    )
    if (
        len(records.load_commits(repair.objects, split_records.plan))
        == split_records.plan.num_shards
    ):
        finish_split(repair.objects.url, repair.split, repair.run)
    elif any(p.name.startswith(layout.array(repair.split, "label")) for p in to_rebuild):
        restore.restore_labels(repair.objects, split_records.plan)
    _, remaining = _verify(repair)
    repaired = sorted({p.name for p in damaged} - {p.name for p in remaining})
    print(f"{repair.split}: {counted(len(repaired), 'file')} restored")
    for name in repaired:
        print(printable(f"  {name}"))
    if not remaining:
        remove_spool(repair.objects, repair.split)
    return _count_problems(remaining)


def _verify(repair: Repair) -> tuple[SplitRecords, list[Problem]]:
    split_records, problems = verify_split(repair.objects, repair.split)
    print_problems(problems)
    return split_records, problems


def _count_problems(problems: Sequence[Problem]) -> int:
    if any(problem.unfinished for problem in problems):
        print("Run the same `tesserae prepare` again to finish it.")
    return len(problems)


def _unrecoverable_message(split_records: SplitRecords) -> str:
    lost = f"and {layout.ledger(split_records.split)} has no copy of it"
    if split_records.plan is None:
        return (
            f"{layout.plan(split_records.split)} is missing or damaged, {lost}. Run the original"
            " `tesserae prepare` with the same source and seed: it recreates the plan and keeps"
            " the shards."
        )
    return (
        f"{layout.RECIPE} is missing or damaged, {lost}. Restore one of the two from a copy of the"
        " store, or prepare into another folder."
    )


def _rebuild(
    repair: Repair, split_records: SplitRecords, plan: Plan, problems: Sequence[Problem]
) -> None:
    work = ShardTaskConfig(
        store=repair.objects.url,
        split=repair.split,
        run=repair.run,
        arrays=restore.planned_arrays(repair.objects, split_records),
        code=code_digest.running_code_digest(),
    )
    jobs = restore.rebuild_jobs(work, restore.plan_rebuilds(split_records, problems))
    jobs += shard_jobs(work, restore.shards_without_commit(split_records, problems))
    if jobs or repair.options.data is not None:
        _find_source(repair, plan)
    if jobs:
        repair.cluster.check_workers(work)
    _run_rebuild_jobs(repair, jobs)


def _run_rebuild_jobs(repair: Repair, jobs: Sequence[Job]) -> None:
    if not jobs:
        return
    cluster = repair.cluster
    for result in run_jobs(cluster.client, repair.run, jobs, tick=cluster.maintain):
        if isinstance(result, Failed):
            raise TesseraeError(
                f"{result.job.name}: {result.error}. If the images have moved, pass --data SOURCE."
            )
        if isinstance(result, ShardReport):
            print(f"  rebuilt: {', '.join(result.written_objects)}")


def _find_source(repair: Repair, plan: Plan) -> None:
    """Check that the source images are present, and stream them again if they were spooled."""
    if repair.options.data is not None:
        read_options = _repair_source_options(repair, plan)
        options = PrepareOptions(
            source=repair.options.data,
            store=repair.objects.url,
            split=(repair.split,),
            seed=plan.seed,
            **read_options.chosen(),
        )
        source = sources.open_source(
            repair.options.data, repair.split, repair.options.source_kind, read_options
        )
        part = OpenSplit(repair.split, repair.run, source, repair.objects)
        resolve_plans(options, [part], repair.cluster)
    origin = load_origin(repair.objects, plan)
    # The location comes from the store, which may be someone else's, so print what is read.
    if origin.exists:
        print(printable(f"{repair.split}: reading images from {origin.root}"), flush=True)
        return
    if origin.root != _spool(repair):
        raise StoreError(
            f"the images of split {plan.split!r} were in {origin.root}, which does not exist. Pass"
            " --data SOURCE with their present location."
        )
    _stream(repair, origin)


def _repair_source_options(repair: Repair, plan: Plan) -> SourceOptions:
    """Return the options to read the source with: the flags', else those of the plan."""
    rules = planning.source_rules(repair.objects)
    chosen = repair.options.source_options.chosen()
    if not chosen:
        # The record of the source's location is a cache, and may be gone.
        with suppress(StoreError):
            chosen = load_origin(repair.objects, plan).options
    return SourceOptions.of(chosen, rules)


def _stream(repair: Repair, origin: Origin) -> None:
    # The spool was removed when the split was finished. Streaming gives the same blocks again.
    location = repair.options.data or origin.source
    source_options = SourceOptions.of(origin.options, planning.source_rules(repair.objects))
    source = sources.open_source(location, repair.split, origin.kind, source_options)
    blocks = source.blocks()
    confined.confined_path(Path(repair.objects.url), layout.spool(repair.split))
    planning.check_spool_space(repair.objects, spool.spool_bytes_needed(blocks))
    print(
        f"{repair.split}: streaming {counted(len(blocks), 'block')} of the source (kind"
        f" {origin.kind})",
        flush=True,
    )
    limit = records.load_recipe(repair.objects).max_image_bytes
    jobs = [
        Job(
            f"spool-{repair.split}-{index:06d}",
            spool.spool_block,
            (block, origin.root, "", limit),
        )
        for index, block in enumerate(blocks)
    ]
    _run_rebuild_jobs(repair, jobs)


def _spool(repair: Repair) -> str:
    return f"{repair.objects.url}/{layout.spool(repair.split)}"
