"""A run that computes derived rows of a split, such as features, with a task for each shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.limits import cores
from cluster.ranks.slots import count_gpu_workers
from pipeline import code_digest
from pipeline.errors import StoreError, TesseraeError
from pipeline.features import extract
from pipeline.features.shard_task import RowsReport, progress_topic
from pipeline.features.worker import RowTaskConfig, check_probe
from pipeline.jobs import Failed, Job, run_jobs
from pipeline.store.derived import DerivedRecipe
from pipeline.store.lease import lease
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.plan import Plan
from workflows.cluster_kinds import CommandCluster, cluster_of
from workflows.dashboard.publisher import Publisher
from workflows.options.cluster import ClusterOptions
from workflows.terminal.formatting import bytes_text, counted, printable
from workflows.terminal.progress import Progress, print_waiting


@dataclass(frozen=True, kw_only=True)
class RowsRequest:
    """The rows that a command computes of a split, and how."""

    recipe: DerivedRecipe
    kinds: tuple[str, ...]
    """The kinds of rows, of the recipe's `kinds`."""
    probe: str
    """The probe of the network on this machine."""
    tasks: Callable[..., RowTaskConfig]
    """A function that returns the arguments of the tasks: it takes all fields of `RowTaskConfig` by
    name, and knows what the network is opened by."""
    repair: bool
    """True to check the committed rows first, and to compute damaged ones again."""
    wait: bool
    """True to wait for another run that computes the same rows."""
    gpus: int | None
    """The number of GPUs to use; None for all, 0 for none."""
    room_advice: str = "Free some space."
    """What to do if the store has too little free space."""


@dataclass(frozen=True)
class RowsRun:
    """A run that computes rows of one split."""

    objects: Objects
    recipe: DerivedRecipe
    plan: Plan
    name: str
    """The name of the run, used for its temporary files and the keys of its tasks."""
    probe: str
    """The probe of the network, as computed by the run that began the rows."""

    @property
    def target(self) -> tuple[Objects, DerivedRecipe, Plan]:
        """The store, the recipe and the plan that identify the rows of a split."""
        return self.objects, self.recipe, self.plan


def rows_cluster(options: ClusterOptions, gpus: int | None) -> CommandCluster:
    """Return the cluster of a command that computes rows, without starting it.

    Args:
        options: The options of the command.
        gpus: The number of GPUs to use; None for all, 0 for none.

    Raises:
        ClusterError: `--cluster` is invalid, or its file is.
    """
    cluster = cluster_of(options)
    cluster.use_gpus(gpus)
    if options.workers is None:
        cluster.set_workers(cores())
    return cluster


def compute_rows(
    objects: Objects,
    plan: Plan,
    request: RowsRequest,
    cluster: CommandCluster,
    explain: Callable[[], str] = lambda: "",
) -> None:
    """Compute the missing rows of a split, and commit them to the store.

    To repair, damaged files are removed and computed again. Nothing is computed if the rows exist
    already.

    Args:
        objects: The objects of the store.
        plan: The plan of the split.
        request: The rows, and how they are computed.
        cluster: The cluster that runs the tasks, inside its `with` block.
        explain: A function that returns a line that says why rows are computed (default: none is
            printed).

    Raises:
        ClusterError: The cluster cannot be used.
        StoreError: Another run computes the same rows and the request does not wait, this machine
            computes other numbers than those begun before, or there is too little free space.
        TesseraeError: A shard failed, or the cluster has too few GPUs. Committed shards are kept.
    """
    recipe = request.recipe
    if not request.repair and extract.is_done(objects, recipe, plan, request.kinds):
        print(f"{plan.split}: {recipe.family.noun} {recipe.name} exist already", flush=True)
        return
    if not request.repair and (why := explain()):
        print(printable(why), flush=True)
    # Another machine or version of a library may compute other numbers: the probe images tell.
    stored_probe = extract.recorded_probe(objects, recipe)
    check_probe(recipe, stored_probe, request.probe)
    run_name = extract.new_run(recipe, plan.split)
    objects = open_objects(objects.url, run_name)
    with lease(
        objects,
        extract.lease_name(recipe, plan.split),
        wait=request.wait,
        on_wait=print_waiting,
    ):
        objects.begin()
        try:
            run = RowsRun(objects, recipe, plan, run_name, stored_probe or request.probe)
            compute_missing_rows(run, request, cluster)
            extract.finish(objects, recipe, plan)
        finally:
            objects.end()


def compute_missing_rows(run: RowsRun, request: RowsRequest, cluster: CommandCluster) -> None:
    """Compute the rows of the shards that lack some, on the cluster.

    Args:
        run: The run, whose objects were begun.
        request: The rows, and how they are computed.
        cluster: The cluster that runs the tasks, inside its `with` block.

    Raises:
        ClusterError: The cluster cannot be used.
        StoreError: There is too little free space, or the store cannot be written.
        TesseraeError: A shard failed, or the cluster has too few GPUs.
    """
    requested = {*request.kinds, *extract.recorded_kinds(*run.target)}
    kinds = tuple(kind for kind in run.recipe.kinds if kind in requested)
    extract.write_metadata(*run.target, kinds)
    if request.repair:
        _remove_damaged(run)
    todo = extract.missing_shards(*run.target, kinds)
    if not todo:
        return
    num_rows = sum(len(run.plan.rows(shard)) for shard in todo) * len(kinds)
    _check_space(run, num_rows, request.room_advice)
    extract.remove_shards(*run.target, extract.obsolete_shards(*run.target, kinds))
    cluster.connect_if_remote()
    gpu = _num_gpus(request.gpus, cluster) > 0
    work = request.tasks(
        store=run.objects.url,
        split=run.plan.split,
        run=run.name,
        name=run.recipe.name,
        kinds=kinds,
        gpu=gpu,
        probe=run.probe,
        code=code_digest.running_code_digest(),
    )
    slots = 1 if gpu or cluster.is_remote else sum(cluster.client.nthreads().values())
    _run_row_jobs(run, extract.row_jobs(work, todo, max(1, slots)), cluster)


def _remove_damaged(run: RowsRun) -> None:
    damaged = extract.damaged_objects(*run.target)
    for name in damaged:
        print(printable(f"  {name}: missing or damaged"), flush=True)
    extract.remove_shards(*run.target, damaged)


def _num_gpus(requested: int | None, cluster: CommandCluster) -> int:
    """Return the number of workers with a GPU to use."""
    if requested == 0:
        return 0
    available = count_gpu_workers(cluster.client)
    if available < (requested or 0):
        raise TesseraeError(
            f"--gpus is {requested}: the cluster has {counted(available, 'worker')} with a GPU."
            " Pass fewer, or 0 to use CPUs."
        )
    return available


def _run_row_jobs(run: RowsRun, jobs: Sequence[Job], cluster: CommandCluster) -> None:
    noun = run.recipe.family.noun
    rows = sum(len(run.plan.rows(job.arguments[1])) for job in jobs)
    failed: list[Failed] = []
    with (
        Publisher(cluster.client, run.name) as publisher,
        Progress(f"{run.plan.split}: {noun}", rows=rows) as progress,
        _count_reported_rows(cluster, run.name, progress) as row_counter,
    ):
        publisher.begin(
            split=run.plan.split,
            store=run.objects.url,
            rows=rows,
            arrays=[],
            earlier_counts={},
            rows_of=f"{noun} {run.recipe.name}",
        )
        for result in run_jobs(cluster.client, run.name, jobs, tick=row_counter.tick):
            if isinstance(result, Failed):
                failed.append(result)
                progress.note(f"{result.job.name}: {result.error}")
                continue
            publisher.rows_of_shard(result.shard, result.num_rows, result.bytes_out)
            row_counter.end(result)
    if failed:
        raise TesseraeError(
            f"the {noun} of {counted(len(failed), 'shard')} could not be computed. First,"
            f" {failed[0].job.name}: {failed[0].error} Committed shards are kept: run the same"
            " command again to continue."
        )


class RowCounter:
    """A counter of computed rows: within shards as tasks report them, and of shards that ended."""

    def __init__(self, progress: Progress, maintain: Callable[[], None] = lambda: None) -> None:
        """Initialise with no rows counted.

        Args:
            progress: The display that the rows are added to.
            maintain: A function called with each tick, to maintain the cluster (default: none).
        """
        self._progress = progress
        self._maintain = maintain
        # Appended to by Dask's thread and drained by the main thread; deque's calls are atomic.
        self._reports: deque[Mapping[str, int]] = deque()
        self._rows: dict[int, int] = {}
        """The number of rows counted so far, by shard."""

    def receive(self, event: tuple[float, Mapping[str, int]]) -> None:
        """Queue a running task's report; Dask calls this in a thread of its own.

        Args:
            event: The time, which is not used, and the report: the number of the `shard` and of the
                `rows` of it that are computed so far. It is counted at the next `tick`.
        """
        self._reports.append(event[1])

    def tick(self) -> None:
        """Count the queued reports, and maintain the cluster."""
        while self._reports:
            report = self._reports.popleft()
            self._count(report["shard"], report["rows"])
        self._maintain()

    def end(self, report: RowsReport) -> None:
        """Count the remaining rows of a shard that has ended.

        Args:
            report: The result of the shard's task, of which `shard`, `num_rows` and `bytes_out`
                (the bytes written) are used.
        """
        self._count(report.shard, report.num_rows)
        self._progress.update(bytes_out=report.bytes_out)

    def _count(self, shard: int, rows: int) -> None:
        # Rows that are computed again, after a worker was lost, are counted once.
        more = rows - self._rows.get(shard, 0)
        if more > 0:
            self._rows[shard] = rows
            self._progress.update(rows=more)


@contextmanager
def _count_reported_rows(
    cluster: CommandCluster, run: str, progress: Progress
) -> Iterator[RowCounter]:
    rows = RowCounter(progress, cluster.maintain)
    topic = progress_topic(run)
    cluster.client.subscribe_topic(topic, rows.receive)
    try:
        yield rows
    finally:
        cluster.client.unsubscribe_topic(topic)


def _check_space(run: RowsRun, rows: int, advice: str) -> None:
    noun = run.recipe.family.noun
    needed = rows * run.recipe.row_bytes
    room = run.objects.free_bytes()
    free = "free space is unknown" if room is None else f"{bytes_text(room)} free"
    print(
        f"{noun} {run.recipe.name}: {rows:,} rows of {run.recipe.row_text},"
        f" {bytes_text(needed)}; {free}",
        flush=True,
    )
    if room is not None and needed > room:
        raise StoreError(
            f"{run.objects.url} has {bytes_text(room)} of free space, and the {noun} take"
            f" {bytes_text(needed)}. {advice}"
        )
