"""The work of `tesserae features`: jobs that run a network over the shards of a store."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.cores import cores
from cluster.ranks.world import gpus_there
from pipeline import code_digest
from pipeline.backbone.choices import NEW
from pipeline.backbone.load import open_backbone
from pipeline.errors import StoreError, TesseraeError
from pipeline.features import extract
from pipeline.features.extract import FeatureChoices
from pipeline.features.shard import (
    FeatureReport,
    FeatureWork,
    check_probe,
    probe_of,
    progress_topic,
)
from pipeline.jobs import Failed, Job, run_jobs
from pipeline.store import records
from pipeline.store.features import KINDS, FeatureRecipe
from pipeline.store.lease import lease
from pipeline.store.objects import Objects, open_objects
from pipeline.store.plan import Plan
from workflows import session
from workflows.dashboard.publisher import Sender
from workflows.session import Cluster
from workflows.terminal.formatting import bytes_text, counted, printable
from workflows.terminal.progress import Progress, say_waiting


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What features of a store are wanted."""

    store: str
    trunk: str
    cut: str | None = None
    pooling: str = "end"
    choices: FeatureChoices = field(default_factory=FeatureChoices)
    mirrored: bool = False
    wait: bool = False
    repair: bool = False
    gpus: int | None = None
    """None: on the GPUs of the cluster, if it has any."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of features."""
        return KINDS if self.mirrored else KINDS[:1]


def read_wish(args: argparse.Namespace) -> Wish:
    """Return what the flags of `tesserae features` ask for."""
    choices = FeatureChoices(stored_size=args.size, precision=args.precision, dtype=args.dtype)
    return Wish(
        store=args.store,
        trunk=args.trunk,
        cut=args.cut,
        pooling=args.pooling,
        choices=choices,
        mirrored=args.mirrored,
        wait=args.wait,
        repair=args.repair,
        gpus=args.gpus,
    )


def run(args: argparse.Namespace) -> int:
    """Make the features of every split that was asked for."""
    session.check_where(args.cluster)
    wish = read_wish(args)
    objects = open_objects(args.store)
    splits = _splits(objects, args.split)
    if session.work_for_first(args):
        return 0
    made = session.of(args)
    made.use_gpus(args.gpus)
    if args.workers is None:
        made.shape(cores())
    try:
        with made as cluster:
            for split in splits:
                recipe = make(wish, split, cluster)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Run the same command again to go on.") from None
    print(f"{args.store}: features {recipe.name}, {recipe.dim} numbers of each picture", flush=True)
    return 0


def _splits(objects: Objects, asked: list[str]) -> list[str]:
    records.load_recipe(objects)
    there = records.splits(objects)
    if asked != ["all"]:
        for split in asked:
            records.load_plan(objects, split)
        return list(dict.fromkeys(asked))
    finished = [split for split in there if records.load_done(objects, split) is not None]
    if not finished:
        raise StoreError(
            f"{objects.url} has no finished split. Run `tesserae prepare` again to go on."
        )
    return finished


def make(wish: Wish, split: str, cluster: Cluster) -> FeatureRecipe:
    """Make what is missing of a split's features; returns what they are.

    Raises:
        StoreError: The split is not finished, or somebody else is making the same.
        TesseraeError: A shard was not made, or there is no such network.
    """
    if wish.trunk == NEW:
        raise TesseraeError(
            f"--trunk {NEW} has learned nothing yet, and is another one each time: expected a model"
            " that is kept, a folder or of the model hub."
        )
    if Path(wish.trunk).is_dir():  # workers are in other folders
        wish = replace(wish, trunk=str(Path(wish.trunk).absolute()))
    objects = open_objects(wish.store)
    plan = records.load_plan(objects, split)
    backbone = open_backbone(wish.trunk, cut=wish.cut, pooling=wish.pooling)
    recipe = extract.settle(objects, split, backbone, wish.choices)
    here = probe_of(backbone, recipe.precision)
    del backbone  # tasks open their own
    if not wish.repair and extract.is_done(objects, recipe, plan, wish.kinds):
        print(f"{split}: features {recipe.name} are there", flush=True)
        return recipe
    if not wish.repair and (why := extract.why_made(objects, recipe, plan, wish.kinds)):
        print(printable(f"{split}: features are made: {why}"), flush=True)
    known = extract.known_probe(objects, recipe)
    check_probe(recipe, known, here)
    run_name = extract.new_run(recipe.name, split)
    objects = open_objects(wish.store, run_name)
    with lease(objects, extract.held(recipe.name, split), wait=wish.wait, waiting=say_waiting):
        objects.begin()
        try:
            _make(wish, Run(objects, recipe, plan, run_name, known or here), cluster)
            extract.finish(objects, recipe, plan)
        finally:
            objects.end()
    return recipe


@dataclass(frozen=True)
class Run:
    """One run over one split."""

    objects: Objects
    recipe: FeatureRecipe
    plan: Plan
    name: str
    probe: str
    """What the network made of the probe pictures where the features were begun."""

    @property
    def what(self) -> tuple[Objects, FeatureRecipe, Plan]:
        """Of which features of which split of which store."""
        return self.objects, self.recipe, self.plan


def _make(wish: Wish, run: Run, cluster: Cluster) -> None:
    kinds = tuple(k for k in KINDS if k in {*wish.kinds, *extract.promised(*run.what)})
    extract.begin(*run.what, kinds)
    if wish.repair:
        _remove_damaged(run)
    todo = extract.missing(*run.what, kinds)
    if not todo:
        return
    _check_room(run, sum(len(run.plan.rows(shard)) for shard in todo) * len(kinds))
    extract.clear(*run.what, extract.leftovers(*run.what, kinds))
    cluster.look()
    gpu = _gpus(wish, cluster) > 0
    work = FeatureWork(
        store=run.objects.url,
        split=run.plan.split,
        run=run.name,
        name=run.recipe.name,
        trunk=wish.trunk,
        kinds=kinds,
        gpu=gpu,
        probe=run.probe,
        code=code_digest.digest(),
    )
    slots = 1 if gpu or cluster.stands else sum(cluster.client.nthreads().values())
    _run(run, extract.feature_jobs(work, todo, max(1, slots)), cluster)


def _remove_damaged(run: Run) -> None:
    damaged = extract.damaged(*run.what)
    for name in damaged:
        print(printable(f"  {name}: missing or damaged"), flush=True)
    extract.clear(*run.what, damaged)


def _gpus(wish: Wish, cluster: Cluster) -> int:
    """Workers with a GPU that are to be used."""
    if wish.gpus == 0:
        return 0
    there = gpus_there(cluster.client)
    if there < (wish.gpus or 0):
        raise TesseraeError(
            f"--gpus is {wish.gpus}: the cluster has {counted(there, 'worker')} with a GPU. Pass"
            " fewer, or 0 to use processors."
        )
    return there


def _run(run: Run, jobs: Sequence[Job], cluster: Cluster) -> None:
    rows = sum(len(run.plan.rows(job.arguments[1])) for job in jobs)
    failed: list[Failed] = []
    with (
        Sender(cluster.client, run.name) as sender,
        Progress(f"{run.plan.split}: features", rows=rows) as progress,
        _counting(cluster, run.name, progress) as counted_rows,
    ):
        sender.begin(
            split=run.plan.split,
            store=run.objects.url,
            rows=rows,
            sizes=[],
            before={},
            features=run.recipe.name,
        )
        for result in run_jobs(cluster.client, run.name, jobs, tick=counted_rows.tick):
            if isinstance(result, Failed):
                failed.append(result)
                progress.note(f"{result.job.name}: {result.error}")
                continue
            sender.featured(result.shard, result.num_rows, result.bytes_out)
            counted_rows.end(result)
    if failed:
        raise TesseraeError(
            f"the features of {counted(len(failed), 'shard')} could not be made;"
            f" {failed[0].job.name}: {failed[0].error} What is committed stays: run the same"
            " command again to go on."
        )


class CountedRows:
    """Rows of shards that are being made, as tasks tell of them; the rest when a shard ends."""

    def __init__(self, progress: Progress, look: Callable[[], None] = lambda: None) -> None:
        """Count nothing yet.

        Args:
            progress: Where rows are shown.
            look: Called with each tick, to look after the cluster.
        """
        self._progress = progress
        self._look = look
        self._heard: deque[Mapping[str, int]] = deque()
        self._rows: dict[int, int] = {}
        """Shard -> rows of it that were counted."""

    def hear(self, event: tuple[float, Mapping[str, int]]) -> None:
        """Take what a task said; called by another thread."""
        self._heard.append(event[1])

    def tick(self) -> None:
        """Count what was heard."""
        while self._heard:
            said = self._heard.popleft()
            self._count(said["shard"], said["rows"])
        self._look()

    def end(self, report: FeatureReport) -> None:
        """Count the rest of a shard."""
        self._count(report.shard, report.num_rows)
        self._progress.update(bytes_out=report.bytes_out)

    def _count(self, shard: int, rows: int) -> None:
        # What is made again, after a worker was lost, is counted once.
        more = rows - self._rows.get(shard, 0)
        if more > 0:
            self._rows[shard] = rows
            self._progress.update(rows=more)


@contextmanager
def _counting(cluster: Cluster, run: str, progress: Progress) -> Iterator[CountedRows]:
    rows = CountedRows(progress, cluster.keep)
    topic = progress_topic(run)
    cluster.client.subscribe_topic(topic, rows.hear)
    try:
        yield rows
    finally:
        cluster.client.unsubscribe_topic(topic)


def _check_room(run: Run, rows: int) -> None:
    needed = rows * run.recipe.row_bytes
    room = run.objects.room()
    free = "free room is not known" if room is None else f"{bytes_text(room)} are free"
    print(
        f"features {run.recipe.name}: {rows:,} rows of {run.recipe.dim} numbers,"
        f" {bytes_text(needed)}; {free}",
        flush=True,
    )
    if room is not None and needed > room:
        raise StoreError(
            f"{run.objects.url} has room for {bytes_text(room)}, and {bytes_text(needed)} are to be"
            " written. Free some, or store --dtype float16."
        )
