"""The implementation of `tesserae features`: jobs that run a network over a store's shards."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.limits import cores
from cluster.ranks.slots import count_gpu_workers
from pipeline import code_digest
from pipeline.backbone.choices import NEW
from pipeline.backbone.load import open_backbone
from pipeline.errors import StoreError, TesseraeError
from pipeline.features import extract
from pipeline.features.shard_task import FeatureReport, progress_topic
from pipeline.features.worker import FeatureTaskConfig, check_probe, compute_probe
from pipeline.jobs import Failed, Job, run_jobs
from pipeline.store import records
from pipeline.store.encoding import fitting_encoding, parse_encoding
from pipeline.store.features import KINDS, FeatureRecipe
from pipeline.store.lease import lease
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.plan import Plan
from workflows import cluster_kinds
from workflows.cluster_kinds import CommandCluster
from workflows.dashboard.publisher import Publisher
from workflows.preparation.options import ALL, FeaturesOptions
from workflows.terminal.formatting import bytes_text, counted, printable
from workflows.terminal.progress import Progress, print_waiting


def run_features(options: FeaturesOptions) -> int:
    """Compute the features of every requested split, and print their name and dimension.

    Args:
        options: The parsed options of `tesserae features`, such as `store`, `trunk` (the network: a
            folder or a name on the model hub), `split` (names, or `("all",)` for all finished
            ones), `cut`, `pooling`, `gpus` (their number; None for all, 0 for none) and those of
            the cluster.

    Returns:
        The exit status, 0; errors are raised. In a worker that Slurm has started, tasks run until
        the run ends, and nothing is printed.

    Raises:
        ClusterError: The cluster cannot be used.
        KeyboardInterrupt: The run was stopped; committed shards are kept.
        StoreError: There is no store, a requested split is missing or not finished, or there is too
            little free space.
        TesseraeError: There is no such network, or a shard failed.
    """
    cluster_kinds.check_cluster_option(options.cluster)
    splits = _splits(open_objects(options.store), options.split)
    if cluster_kinds.run_as_slurm_worker(options):
        return 0
    cluster = cluster_kinds.cluster_of(options)
    cluster.use_gpus(options.gpus)
    if options.workers is None:
        cluster.set_workers(cores())
    try:
        with cluster:
            for split in splits:
                recipe = compute_split_features(options, split, cluster)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Run the same command again to continue.") from None
    print(f"{options.store}: features {recipe.name}, {recipe.dim:,} dimensions", flush=True)
    return 0


def _splits(objects: Objects, requested: tuple[str, ...]) -> list[str]:
    records.load_recipe(objects)
    store_splits = records.stored_splits(objects)
    if requested != ALL:
        for split in requested:
            records.load_plan(objects, split)
        return list(dict.fromkeys(requested))
    finished = [
        split for split in store_splits if records.load_finish_record(objects, split) is not None
    ]
    if not finished:
        raise StoreError(
            f"{objects.url} has no finished split. Run `tesserae prepare` again to continue."
        )
    return finished


def compute_split_features(
    options: FeaturesOptions, split: str, cluster: CommandCluster
) -> FeatureRecipe:
    """Compute the missing features of a split, and commit them to the store.

    With `--repair`, damaged files are removed and computed again. Nothing is computed if the
    features exist already.

    Args:
        options: The options of the command.
        split: The name of the split, which must be finished.
        cluster: The cluster that runs the tasks, inside its `with` block.

    Returns:
        The recipe of the features, with their `name` (the folder in `features/`) and `dim`.

    Raises:
        ClusterError: The cluster cannot be used.
        StoreError: The split is not finished, another run computes the same features and the
            options lack `--wait`, this machine computes other numbers than the features begun
            before, or there is too little free space.
        TesseraeError: A shard failed, there is no such network, or the cluster has too few GPUs.
            Committed shards are kept.
    """
    if options.trunk == NEW:
        raise TesseraeError(
            f"--trunk {NEW} is untrained: expected a pretrained model, as a folder or a hub name."
        )
    if Path(options.trunk).is_dir():  # workers run in other working directories
        options = replace(options, trunk=str(Path(options.trunk).absolute()))
    objects = open_objects(options.store)
    plan = records.load_plan(objects, split)
    backbone = open_backbone(options.trunk, cut=options.cut, pooling=options.pooling)
    recipe = extract.resolve_feature_recipe(objects, split, backbone, options.feature_options)
    if recipe.encoded is not None and options.encoded is None:
        encoding = parse_encoding(recipe.encoded).text
        print(f"{split}: no stored squares, so that --encoded {encoding} is read", flush=True)
    elif notice := _enlargement_notice(objects, split, recipe):
        print(f"notice: {split}: {notice}", flush=True)
    local_probe = compute_probe(backbone, recipe.precision)
    del backbone  # frees its memory: tasks load the network themselves
    if not options.repair and extract.is_done(objects, recipe, plan, options.kinds):
        print(f"{split}: features {recipe.name} exist already", flush=True)
        return recipe
    if not options.repair and (
        why := extract.explain_extraction(objects, recipe, plan, options.kinds)
    ):
        print(printable(f"{split}: extracting features, because {why}"), flush=True)
    # Another machine or version of a library may compute other numbers: the probe images tell.
    stored_probe = extract.recorded_probe(objects, recipe)
    check_probe(recipe, stored_probe, local_probe)
    run_name = extract.new_features_run(recipe.name, split)
    objects = open_objects(options.store, run_name)
    with lease(
        objects, extract.lease_name(recipe.name, split), wait=options.wait, on_wait=print_waiting
    ):
        objects.begin()
        try:
            _compute_missing_features(
                options,
                FeatureRun(objects, recipe, plan, run_name, stored_probe or local_probe),
                cluster,
            )
            extract.finish(objects, recipe, plan)
        finally:
            objects.end()
    return recipe


@dataclass(frozen=True)
class FeatureRun:
    """A run of `tesserae features` over one split."""

    objects: Objects
    recipe: FeatureRecipe
    plan: Plan
    name: str
    """The name of the run, used for its temporary files and the keys of its tasks."""
    probe: str
    """The digest of the features of the probe images, as computed by the run that began them."""

    @property
    def target(self) -> tuple[Objects, FeatureRecipe, Plan]:
        """The store, the recipe and the plan that identify the features of a split."""
        return self.objects, self.recipe, self.plan


def _compute_missing_features(
    options: FeaturesOptions, run: FeatureRun, cluster: CommandCluster
) -> None:
    kinds = tuple(k for k in KINDS if k in {*options.kinds, *extract.recorded_kinds(*run.target)})
    extract.write_features_metadata(*run.target, kinds)
    if options.repair:
        _remove_damaged(run)
    todo = extract.missing_shards(*run.target, kinds)
    if not todo:
        return
    _check_space(run, sum(len(run.plan.rows(shard)) for shard in todo) * len(kinds))
    extract.remove_feature_shards(*run.target, extract.obsolete_feature_shards(*run.target, kinds))
    cluster.connect_if_remote()
    gpu = _feature_gpus(options, cluster) > 0
    work = FeatureTaskConfig(
        store=run.objects.url,
        split=run.plan.split,
        run=run.name,
        name=run.recipe.name,
        trunk=options.trunk,
        kinds=kinds,
        gpu=gpu,
        probe=run.probe,
        code=code_digest.running_code_digest(),
    )
    slots = 1 if gpu or cluster.is_remote else sum(cluster.client.nthreads().values())
    _run_feature_jobs(run, extract.feature_jobs(work, todo, max(1, slots)), cluster)


def _remove_damaged(run: FeatureRun) -> None:
    damaged = extract.damaged_objects(*run.target)
    for name in damaged:
        print(printable(f"  {name}: missing or damaged"), flush=True)
    extract.remove_feature_shards(*run.target, damaged)


def _feature_gpus(options: FeaturesOptions, cluster: CommandCluster) -> int:
    """Return the number of workers with a GPU to use."""
    if options.gpus == 0:
        return 0
    available = count_gpu_workers(cluster.client)
    if available < (options.gpus or 0):
        raise TesseraeError(
            f"--gpus is {options.gpus}: the cluster has {counted(available, 'worker')} with a GPU."
            " Pass fewer, or 0 to use CPUs."
        )
    return available


def _run_feature_jobs(run: FeatureRun, jobs: Sequence[Job], cluster: CommandCluster) -> None:
    rows = sum(len(run.plan.rows(job.arguments[1])) for job in jobs)
    failed: list[Failed] = []
    with (
        Publisher(cluster.client, run.name) as publisher,
        Progress(f"{run.plan.split}: features", rows=rows) as progress,
        _count_reported_rows(cluster, run.name, progress) as row_counter,
    ):
        publisher.begin(
            split=run.plan.split,
            store=run.objects.url,
            rows=rows,
            arrays=[],
            earlier_counts={},
            features=run.recipe.name,
        )
        for result in run_jobs(cluster.client, run.name, jobs, tick=row_counter.tick):
            if isinstance(result, Failed):
                failed.append(result)
                progress.note(f"{result.job.name}: {result.error}")
                continue
            publisher.feature_shard(result.shard, result.num_rows, result.bytes_out)
            row_counter.end(result)
    if failed:
        raise TesseraeError(
            f"the features of {counted(len(failed), 'shard')} could not be computed. First,"
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

    def end(self, report: FeatureReport) -> None:
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


def _check_space(run: FeatureRun, rows: int) -> None:
    needed = rows * run.recipe.row_bytes
    room = run.objects.free_bytes()
    free = "free space is unknown" if room is None else f"{bytes_text(room)} free"
    print(
        f"features {run.recipe.name}: {rows:,} rows of {run.recipe.dim:,} dimensions,"
        f" {bytes_text(needed)}; {free}",
        flush=True,
    )
    if room is not None and needed > room:
        raise StoreError(
            f"{run.objects.url} has {bytes_text(room)} of free space, and the features take"
            f" {bytes_text(needed)}. Free some space, or pass --dtype float16."
        )


def _enlargement_notice(objects: Objects, split: str, recipe: FeatureRecipe) -> str:
    """Return a sentence if the network gets enlarged squares, and encoded rows have more detail."""
    done = records.load_finish_record(objects, split)
    if recipe.encoded is not None or recipe.stored_size >= recipe.input_size or done is None:
        return ""
    encodings = [fitting_encoding(done.encoded, recipe.input_size)] if done.encoded else []
    if not any(encoding.suffices_for(recipe.stored_size + 1) for encoding in encodings):
        return ""
    return (
        f"images of {recipe.stored_size} px are enlarged to {recipe.input_size} px, and the split"
        f" has larger ones: pass --encoded {encodings[0].text}."
    )
