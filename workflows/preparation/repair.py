"""The work of `tesserae repair`: damaged files, and where each of them is made anew from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline import code_digest, confined, sources
from pipeline.errors import StoreError, TesseraeError
from pipeline.ingest import planning
from pipeline.ingest import repair as store_repair
from pipeline.ingest.finish import finish_split
from pipeline.ingest.planning import Choices
from pipeline.ingest.shard import Report, Work
from pipeline.ingest.source_index import Origin, known_origin
from pipeline.ingest.tasks import shard_jobs
from pipeline.ingest.verify import Found, Problem
from pipeline.jobs import Failed, Job, run_jobs
from pipeline.sources import spool
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions
from pipeline.store import layout, records
from pipeline.store.lease import lease
from pipeline.store.objects import Objects, open_objects
from pipeline.store.plan import Plan
from workflows import session
from workflows.preparation.prepare import (
    OpenSplit,
    Options,
    settle,
    source_options,
)
from workflows.preparation.spooling import remove_spool
from workflows.preparation.verify import chosen_splits, say_problems, verify_split
from workflows.session import Cluster
from workflows.terminal.formatting import counted, printable
from workflows.terminal.progress import say_waiting


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What the repair of one split works with."""

    objects: Objects
    split: str
    run: str
    cluster: Cluster
    data: str | None = None
    kind: str | None = None
    source_options: SourceOptions = DEFAULT_OPTIONS


def run(args: argparse.Namespace) -> int:
    """Repair what is damaged; 1 if anything is left."""
    left = 0
    if session.work_for_first(args):
        return 0
    with session.of(args) as cluster:
        cluster.look()
        for split in chosen_splits(open_objects(args.store), args.split):
            run_name = planning.new_run(split)
            repair = Repair(
                objects=open_objects(args.store, run_name),
                split=split,
                run=run_name,
                cluster=cluster,
                data=args.data,
                kind=args.source_kind,
                source_options=source_options(args),
            )
            with lease(repair.objects, split, wait=args.wait, waiting=say_waiting):
                repair.objects.begin()
                try:
                    left += repair_split(repair)
                finally:
                    repair.objects.end()
    return 1 if left else 0


def repair_split(repair: Repair) -> int:
    """Repair one split; returns how many problems are left."""
    found, problems = _verify(repair)
    damaged = [problem for problem in problems if not problem.unfinished]
    if not damaged and repair.data is None:
        print(f"{repair.split}: nothing to repair")
        return _left(problems)
    restored = store_repair.restore_records(repair.objects, found)
    if found.plan is None or found.recipe is None:
        raise StoreError(_lost(found))
    restored += store_repair.restore_parts(repair.objects, found, damaged)
    rest = [problem for problem in damaged if problem.name not in restored]
    _rebuild(repair, found, found.plan, rest)
    sizes = store_repair.planned_sizes(repair.objects, found)
    planning.write_metadata(repair.objects, found.recipe, found.plan, sizes)
    if len(records.load_commits(repair.objects, found.plan)) == found.plan.num_shards:
        finish_split(repair.objects.url, repair.split, repair.run)
    elif any(p.name.startswith(layout.array(repair.split, "label")) for p in rest):
        planning.restore_labels(repair.objects, found.plan)
    _, left = _verify(repair)
    mended = sorted({p.name for p in damaged} - {p.name for p in left})
    print(f"{repair.split}: {counted(len(mended), 'file')} brought back")
    for name in mended:
        print(printable(f"  {name}"))
    if not left:
        remove_spool(repair.objects, repair.split)
    return _left(left)


def _verify(repair: Repair) -> tuple[Found, list[Problem]]:
    found, problems = verify_split(repair.objects, repair.split)
    say_problems(problems)
    return found, problems


def _left(problems: Sequence[Problem]) -> int:
    if any(problem.unfinished for problem in problems):
        print("Run the same `tesserae prepare` again to go on with what is not finished.")
    return len(problems)


def _lost(found: Found) -> str:
    lost = f"and {layout.ledger(found.split)} has no copy of it"
    if found.plan is None:
        return (
            f"{layout.plan(found.split)} is lost, {lost}. Run the same `tesserae prepare` as"
            " before, with the same source and seed: it makes the same plan, and keeps the shards."
        )
    return (
        f"{layout.RECIPE} is lost, {lost}. Bring one of the two back from a copy of the store, or"
        " prepare into another folder."
    )


def _rebuild(repair: Repair, found: Found, plan: Plan, rest: Sequence[Problem]) -> None:
    work = Work(
        store=repair.objects.url,
        split=repair.split,
        run=repair.run,
        sizes=store_repair.planned_sizes(repair.objects, found),
        code=code_digest.digest(),
    )
    jobs = store_repair.rebuild_jobs(work, store_repair.plan_rebuilds(found, rest))
    jobs += shard_jobs(work, store_repair.lost_shards(found, rest))
    if jobs or repair.data is not None:
        _find_source(repair, plan, work.sizes)
    if jobs:
        repair.cluster.ask_workers(work)
    _run(repair, jobs)


def _run(repair: Repair, jobs: Sequence[Job]) -> None:
    if not jobs:
        return
    cluster = repair.cluster
    for result in run_jobs(cluster.client, repair.run, jobs, tick=cluster.keep):
        if isinstance(result, Failed):
            raise TesseraeError(
                f"{result.job.name}: {result.error}. If the images are elsewhere now, pass --data"
                " SOURCE."
            )
        if isinstance(result, Report):
            print(f"  made again: {', '.join(result.made)}")


def _find_source(repair: Repair, plan: Plan, sizes: tuple[int, ...]) -> None:
    """Make sure that it is known where the images are, and that they are there."""
    if repair.data is not None:
        how = _how(repair, plan)
        options = Options(
            source=repair.data,
            store=repair.objects.url,
            splits=(repair.split,),
            choices=Choices(sizes=sizes or (1,), seed=plan.seed),
            workers=1,
            source_options=how,
        )
        source = sources.open_source(repair.data, repair.split, repair.kind, how)
        part = OpenSplit(repair.split, repair.run, source, repair.objects)
        settle(options, [part], repair.cluster)
    origin = known_origin(repair.objects, plan)
    if origin.is_there:  # the store says where: who repairs somebody else's sees what is read
        print(printable(f"{repair.split}: images are read from {origin.root}"), flush=True)
        return
    if origin.root != _spool(repair):
        raise StoreError(
            f"the images of split {plan.split!r} were in {origin.root}, which is not there. Pass"
            " --data SOURCE to say where they are now."
        )
    _stream(repair, origin)


def _how(repair: Repair, plan: Plan) -> SourceOptions:
    """How the source is read: as it is said now, else as it was when the split was planned."""
    rules = planning.source_rules(repair.objects)
    chosen = repair.source_options.chosen()
    if not chosen:
        with suppress(StoreError):  # where the images were is a cache
            chosen = known_origin(repair.objects, plan).options
    return SourceOptions.of(chosen, rules)


def _stream(repair: Repair, origin: Origin) -> None:
    # The spool went when the split was finished. The blocks come out the same again.
    where = repair.data or origin.source
    how = SourceOptions.of(origin.options, planning.source_rules(repair.objects))
    source = sources.open_source(where, repair.split, origin.kind, how)
    blocks = source.blocks()
    confined.confined(Path(repair.objects.url), layout.spool(repair.split))
    planning.check_spool_room(repair.objects, spool.spool_bytes_needed(blocks))
    print(f"{repair.split}: streaming {len(blocks):,} blocks of kind {origin.kind}", flush=True)
    limit = records.load_recipe(repair.objects).max_image_bytes
    jobs = [
        Job(
            f"spool-{repair.split}-{place:06d}",
            spool.spool_block,
            (block, origin.root, "", limit),
        )
        for place, block in enumerate(blocks)
    ]
    _run(repair, jobs)


def _spool(repair: Repair) -> str:
    return f"{repair.objects.url}/{layout.spool(repair.split)}"
