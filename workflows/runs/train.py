"""The implementation of `tesserae train`: it optionally prepares, then trains a stage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.limits import cores
from cluster.ranks.slots import count_gpu_workers
from cluster.ranks.world import WorldConfig
from pipeline import sources
from pipeline.errors import StoreError, TesseraeError
from workflows import cluster_kinds
from workflows.cluster_kinds import CommandCluster
from workflows.evaluation import HELD_OUT
from workflows.preparation import prepare
from workflows.preparation.options import PrepareOptions
from workflows.preparation.plans import Plans, plan_splits
from workflows.runs.training_data import held_out_split, open_images
from workflows.tracking.launch import check_trackers, tracked
from workflows.training.image_rows import (
    ImageRows,
    choose_rows,
    finished_arrays,
    image_size_of,
    suggested_store_size,
    with_choices,
)
from workflows.training.options import CHANGEABLE_ON_RESUME, TrainingOptions
from workflows.training.run_options import RunOptions
from workflows.training.stage_registry import STAGES, import_object

if TYPE_CHECKING:  # these load torch, which --help does not need
    from workflows.training.run_folder import RunFolder


POLL_SECONDS = 0.2
"""The interval of checks while preparation goes on in the background."""


def run_train(options: TrainingOptions, run_options: RunOptions) -> int:
    """Prepare the store if --data is given, then train a stage to its last step.

    The run folder is locked meanwhile, and a run that it holds is continued. Progress and the
    result are printed.

    Args:
        options: The options of the stage, an instance of its options class.
        run_options: `stage`, the name of the stage in
            `workflows.training.stage_registry.STAGES`; `store`, its folder or URL; `data`, the
            source that the store is first prepared from, or None; `split`, the training split;
            `run`, the run folder (None = runs/STAGE); and the other options of `tesserae train` on
            data, ranks and the cluster.

    Returns:
        The exit status, 0. A run that stops at its time limit has succeeded too. On a node of a
        Slurm job that only serves workers, 0 is returned when the command has ended.

    Raises:
        ClusterError: The cluster or its workers cannot be used, or training fails.
        TesseraeError: The store, the data or the run folder cannot be used, or the store lacks the
            split.
        ValueError: An option has an invalid value, such as a --split that the source of --data
            lacks.
        KeyError: There is no such stage.
        KeyboardInterrupt: Ctrl-C was pressed; the ranks have saved and stopped.
    """
    options = options.with_absolute_paths()
    cluster_kinds.check_cluster_option(run_options.cluster)
    check_trackers(run_options.log)
    if cluster_kinds.run_as_slurm_worker(run_options):
        return 0
    from workflows.training.run_folder import RunFolder
    from workflows.training.run_lock import locked_run

    folder = run_options.folder
    run = RunFolder(folder)
    try:
        with locked_run(run):
            if run.holds_run():
                options = options.with_former_defaults(run.read_options()["options"])
            if _has_choices(run_options):
                options = options.with_recorded_choices(_recorded_options(run_options, run))
            _check_run(run_options, options, run)
            with (
                _cluster(run_options) as cluster,
                _prepared(run_options, options, cluster, run),
                tracked(run_options.log, folder),
            ):
                state = _train(run_options, options, cluster, run)
        _print_result(folder, state)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_resume_advice(run)) from None
    return 0


def _resume_advice(run: RunFolder) -> str:
    """Return what the same command will do; a step that was broken off is not saved."""
    with suppress(TesseraeError, OSError):
        if not run.holds_run() or run.newest_checkpoint() is None:
            return (
                f"Run the same command again: {run.path} has no complete step yet, so training"
                " begins anew."
            )
    return f"Run the same command again to continue in {run.path}."


def _recorded_options(run_options: RunOptions, run: RunFolder) -> dict[str, Any]:
    """Return the options of the run by name; none of a run of another stage, which is refused."""
    recorded: dict[str, Any] = run.read_options()["options"] if run.holds_run() else {}
    return recorded if recorded.get("stage") == run_options.stage else {}


def _trains_on_images(run_options: RunOptions) -> bool:
    """Return True if the stage leaves it to this command which rows it reads."""
    return STAGES[run_options.stage].prepare_data is None


def _has_choices(run_options: RunOptions) -> bool:
    """Return True if the stage or this command completes the options by what the store has."""
    return _trains_on_images(run_options) or STAGES[run_options.stage].choose_options is not None


def _print_result(folder: Path, state: str) -> None:
    samples = sorted((folder / "samples").glob("*.png"))
    print(f"{folder}: {state}. Run `tesserae report {folder}` to evaluate it.", flush=True)
    if samples:
        print(f"latest generated images: {samples[-1]}", flush=True)


def _check_run(run_options: RunOptions, options: TrainingOptions, run: RunFolder) -> None:
    """Refuse a folder of a run with other options, before any work starts."""
    run.check_options(
        {"stage": run_options.stage, **options.as_dict()},
        changeable_on_resume=CHANGEABLE_ON_RESUME,
        complete=options.complete,
        changeable_on_rewind=options.changeable_on_rewind(),
        from_step=run_options.from_step,
    )
    if run_options.from_step is not None:
        run.checkpoint_at_step(run_options.from_step)


def _cluster(run_options: RunOptions) -> CommandCluster:
    cluster = cluster_kinds.cluster_of(run_options)
    if run_options.ranks is None or run_options.gpus:
        cluster.use_gpus(run_options.gpus)
    if run_options.data is None and run_options.workers is None:
        # Without preparation the workers serve ranks alone.
        cluster.set_workers(run_options.ranks or 1)
    elif run_options.ranks is not None and run_options.ranks > (run_options.workers or cores()):
        cluster.set_workers(run_options.ranks)
    return cluster


# --- preparing ------------------------------------------------------------------------------------


@contextmanager
def _prepared(
    run_options: RunOptions, options: TrainingOptions, cluster: CommandCluster, run: RunFolder
) -> Iterator[None]:
    """Prepare the splits that training needs; then prepare the others while the block runs."""
    if run_options.data is None:
        yield
        return
    source, split = run_options.data, run_options.split
    named = sources.source_splits(source, run_options.source_kind, run_options.source_options)
    splits = named or [split]
    if split not in splits:
        raise ValueError(f"--split is {split!r}: {source} has {', '.join(splits)}.")
    first = [split, *_held_out_to_prepare(run_options, options, splits)]
    prepare_options = PrepareOptions(
        **run_options.as_arguments(),
        source=source,
        store=run_options.store,
        split=(*first, *(name for name in splits if name not in first)),
        **_arrays_to_prepare(run_options, options, run),
        max_bad=run_options.max_bad,
    )
    cluster.connect_if_remote()
    plans = plan_splits(prepare_options, cluster)
    for name in first:
        prepare.prepare_split(prepare_options, name, cluster, plans)
    other_splits = _OtherSplits(
        prepare_options, prepare_options.split[len(first) :], cluster, plans
    )
    other_splits.start()
    try:
        yield
    except BaseException:
        # Training has failed: stop the tasks of preparation instead of waiting for them.
        cluster.interrupt()
        other_splits.join()
        raise
    other_splits.wait()


def _held_out_to_prepare(
    run_options: RunOptions, options: TrainingOptions, splits: list[str]
) -> list[str]:
    """Return the held-out split that must be finished before training begins, if there is one.

    It is the one that is named, as it is looked for then; and that of a stage whose training would
    otherwise not be evaluated at all, such as a classifier.
    """
    candidates = [name for name in splits if name != run_options.split]
    if run_options.held_out is not None:
        return [name for name in candidates if name == run_options.held_out]
    held_out = [name for name in HELD_OUT if name in candidates]
    return held_out[:1] if options.held_out_prepared_first else []


class _OtherSplits(threading.Thread):
    """A thread that prepares the splits that training does not need."""

    def __init__(
        self,
        options: PrepareOptions,
        splits: tuple[str, ...],
        cluster: CommandCluster,
        plans: Plans,
    ) -> None:
        super().__init__(name="prepare", daemon=True)
        self._options = options
        self._splits = splits
        self._cluster = cluster
        self._plans = plans
        self._error: BaseException | None = None

    def run(self) -> None:
        """Prepare the splits one after the other."""
        try:
            for split in self._splits:
                prepare.prepare_split(self._options, split, self._cluster, self._plans)
        except BaseException as e:  # noqa: BLE001 - it is raised by `wait`
            self._error = e
            if isinstance(e, Exception):
                print(
                    f"notice: preparing another split failed; training continues. {e}", flush=True
                )

    def wait(self) -> None:
        """Wait until all splits are prepared; raise the error of preparation, if any."""
        while self.is_alive():
            self._cluster.maintain()
            self.join(POLL_SECONDS)
        if self._error is not None:
            raise self._error


def _arrays_to_prepare(
    run_options: RunOptions, options: TrainingOptions, run: RunFolder
) -> dict[str, Any]:
    """Return `sizes` and `encoded` of the preparation: the arrays that the stage reads."""
    store, split = run_options.store, run_options.split
    if not _trains_on_images(run_options):
        options.check_network(None)  # now, and not after all images are decoded
        if options.encoded is not None:
            return {"encoded": (options.encoded,)}  # the stage itself decides their side
    if options.encoded is None and (sizes := options.prepared_sizes(_stored_sizes(store, split))):
        return {"sizes": sizes}
    try:
        options = with_choices(store, split, options, gpu=True)
    except StoreError:  # the store does not exist yet
        options = options.for_store((), (), gpu=True)
    options.check_network(None)  # now, and not after all images are decoded
    try:
        rows = choose_rows(store, split, options, run)
        if rows.encoded is not None:
            return {"encoded": (rows.encoded,)}
        stored = finished_arrays(store, split).sizes
    except StoreError:  # the store lacks the array
        rows, stored = ImageRows(suggested_store_size(image_size_of(options))), ()
    evaluated = options.evaluated_size or 0
    if run_options.held_out == "none" or evaluated <= rows.size:
        return {"sizes": (rows.size,)}
    return {"sizes": (rows.size, next((s for s in stored if s >= evaluated), evaluated))}


def _stored_sizes(store: str, split: str) -> tuple[int, ...]:
    try:
        return finished_arrays(store, split).sizes
    except StoreError:  # the store does not exist yet
        return ()


# --- training -------------------------------------------------------------------------------------


def _train(
    run_options: RunOptions, options: TrainingOptions, cluster: CommandCluster, run: RunFolder
) -> str:
    from workflows.training.launch import train_on

    stage = STAGES[run_options.stage]
    files: dict[str, bytes] = {}
    gpus = _count_gpus(run_options, cluster)
    if stage.prepare_data is None:
        options, data = open_images(run_options, options, run, gpu=bool(gpus))
    else:
        if stage.choose_options is not None:
            options = import_object(stage.choose_options)(run_options, options)
        data, files = import_object(stage.prepare_data)(
            run_options, options, cluster, held_out_split(run_options)
        )
    world = WorldConfig(
        gpus or run_options.ranks or 1,
        gpu=bool(gpus),
        batch=options.batch_size,
        rows_together=options.rows_together,
        worker_timeout_seconds=run_options.rank_timeout,
        timeout_option="--rank-timeout",
    )
    return train_on(
        cluster,
        world,
        run_options.stage,
        options,
        data,
        run,
        from_step=run_options.from_step,
        files=files,
    )


def _count_gpus(run_options: RunOptions, cluster: CommandCluster) -> int:
    """Return the number of ranks with a GPU; 0 if ranks run on CPUs."""
    available = count_gpu_workers(cluster.client)
    if run_options.gpus and not cluster.is_remote and run_options.gpus > available:
        raise TesseraeError(
            f"--gpus is {run_options.gpus}: this machine has {available}. Pass fewer."
        )
    if run_options.gpus is None and run_options.ranks is None:
        return available
    return run_options.gpus or 0
