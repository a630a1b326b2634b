"""The implementation of `tesserae tune`, and the tuning of `prepare --workers auto`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.limits import cores
from pipeline import sources
from pipeline.errors import TesseraeError
from pipeline.ingest import planning
from pipeline.ingest.readahead import LOCAL_READERS, REMOTE_READERS
from pipeline.ingest.source_index import SourceIndex
from pipeline.ingest.trial import TrialWork, cached_share
from pipeline.memory import limit_bytes
from pipeline.store import layout
from pipeline.store.lease import lease
from pipeline.store.local import LocalObjects
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.options import StoreOptions
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.urls import is_url
from workflows.cluster_kinds import CommandCluster
from workflows.options.fields import flags_of
from workflows.preparation.options import ALL, AUTO_WORKERS, PrepareOptions, TuneOptions
from workflows.preparation.plans import OpenSplit, open_split_for_prepare, resolve_arrays
from workflows.preparation.tuning.samples import (
    TrialSamples,
    samples_of_shards,
    samples_of_source,
)
from workflows.preparation.tuning.search import Candidate, SearchOutcome, search
from workflows.preparation.tuning.settings import Setting, worker_settings
from workflows.preparation.tuning.trials import Rate, TrialKilledError, Trials
from workflows.preparation.worker_memory import worker_bytes
from workflows.reports.table import Table
from workflows.terminal.formatting import array_text, bytes_text, counted, printable, seconds_text
from workflows.terminal.progress import Progress, print_waiting

LEASE_NAME = "tune"
"""The name of the lease in a store, so that two commands do not remove each other's files."""
CHECKED_SAMPLES = 64
"""The number of samples whose presence in the page cache is checked."""
WARM_SHARE = 0.5
"""The share of them from which on images are taken to be in memory in a run, too."""
MIN_TUNED_IMAGES = 20_000
"""The number of images from which on `--workers auto` tries settings: fewer are prepared before the
trials would pay."""
PREPARE_SECONDS = 30.0
"""How long `--workers auto` tries settings."""


def tune(options: TuneOptions) -> int:
    """Try settings of `prepare` on a source and a disk, and print which is fastest.

    Args:
        options: `source`, `store` (empty: nothing is written), `seconds`, `split` (of several, the
            first one is used), and the options that decide the work on an image.

    Returns:
        The exit status, 0.

    Raises:
        SourceError: The source cannot be read.
        StoreError: The store has another recipe, or its disk cannot be written to.
        TesseraeError: A trial failed.
    """
    command = ["tesserae", "prepare", options.source, options.store or "STORE"]
    command += flags_of(options, exclude=("seconds", "readers"))
    run = planning.new_run(LEASE_NAME)
    objects = open_objects(options.store, run) if options.store else None
    if objects is not None:
        options = resolve_arrays(options)
    recipe = planning.expected_recipe(objects, options.store_options)
    split = _first_split(options)
    if objects is None:
        source = sources.open_source(
            options.source, split, options.source_kind, options.source_options
        )
    else:
        source = open_split_for_prepare(options, split).source
    with (
        samples_of_source(split, source) as samples,
        _run_in_store(objects),
    ):
        outcome = _try_settings(options, samples, recipe, objects, run, seconds=options.seconds)
    _print_outcome(outcome)
    chosen = outcome.chosen.setting
    flags = f"--workers {chosen.workers} --threads {chosen.threads} --readers {chosen.readers}"
    print(printable(f"use: {shlex.join(command)} {flags}"), flush=True)
    return 0


class Tuner:
    """The tuning of `prepare --workers auto`, once for all splits of a command."""

    def __init__(self) -> None:
        self._chosen: Setting | None = None

    def readers(
        self,
        options: PrepareOptions,
        part: OpenSplit,
        recipe: Recipe,
        plan: Plan,
        shards: Sequence[int],
        cluster: CommandCluster,
    ) -> int | None:
        """Return the number of readers of a split's tasks; with `--workers auto`, tune first.

        The trials use the images that the run will prepare. Their choice sets the workers and the
        threads of the cluster, and applies to further splits of the command. Without one, because
        there are too few images or the cluster has started already, a line says so. So call it for
        the largest split first, inside `leased` of the split.

        Args:
            options: The options of the command.
            part: The split.
            recipe: The recipe of the store.
            plan: The plan of the split.
            shards: The numbers of the shards that the run will make, at least one.
            cluster: The cluster of the command, which is local with `--workers auto`.

        Returns:
            The number; None: the default of the source.

        Raises:
            TesseraeError: A trial failed.
        """
        if options.workers != AUTO_WORKERS or self._chosen is not None:
            return options.readers if self._chosen is None else self._chosen.readers
        reason = _reason_against_trials(plan, shards, cluster)
        if reason:
            print(f"--workers auto: {reason}", flush=True)
            return options.readers
        index = SourceIndex(part.objects, plan)
        samples = samples_of_shards(index, shards)
        index.close()
        outcome = _try_settings(
            options, samples, recipe, part.objects, part.run, seconds=PREPARE_SECONDS
        )
        _print_outcome(outcome)
        self._chosen = outcome.chosen.setting
        cluster.set_workers(self._chosen.workers, self._chosen.threads)
        return self._chosen.readers


def _reason_against_trials(plan: Plan, shards: Sequence[int], cluster: CommandCluster) -> str:
    """Return why no settings are tried, as a sentence; empty if they are."""
    num_rows = sum(len(plan.rows(shard)) for shard in shards)
    if num_rows < MIN_TUNED_IMAGES:
        workers = counted(cores(), "worker")
        return f"{counted(num_rows, 'image')} would be prepared before trials pay; {workers}."
    if cluster.is_started:
        return (
            "the workers have started already, for another split or to stream the source. Run"
            " `tesserae tune`, and pass the numbers that it prints."
        )
    return ""


def _first_split(options: PrepareOptions) -> str:
    """Return the split whose images are tried: `train` if there are several, else the first."""
    if options.split != ALL:
        return options.split[0]
    names = sources.source_splits(options.source, options.source_kind, options.source_options)
    return "train" if "train" in names or not names else names[0]


def _try_settings(
    options: PrepareOptions,
    samples: TrialSamples,
    recipe: Recipe,
    objects: Objects | None,
    run: str,
    *,
    seconds: float,
) -> SearchOutcome:
    stored = options.store_options
    checked = samples.samples[:CHECKED_SAMPLES]
    share = cached_share(samples.root, checked)
    work = TrialWork(
        root=samples.root,
        arrays=stored.array_names,
        filter=recipe.filter,
        decode_arguments=recipe.decode_arguments,
        codec=recipe.codec,
        chunk_rows=recipe.chunk_rows,
        max_image_bytes=recipe.max_image_bytes,
        is_cold=share is not None and share < WARM_SHARE,
    )
    task_bytes = _task_bytes(recipe, stored, objects)
    limit = limit_bytes()
    default_readers = REMOTE_READERS if is_url(samples.root) else LOCAL_READERS
    readers = options.readers or default_readers
    settings = worker_settings(cores(), readers, task_bytes=task_bytes, limit_bytes=limit)
    default = Setting(cores(), 1, readers)
    if default not in settings:  # too little memory for one worker per core
        default = settings[-1]
    store = objects.url if isinstance(objects, LocalObjects) else None
    for line in _condition_lines(samples, work, share, store, task_bytes, limit):
        print(printable(line), flush=True)
    if default.workers != cores():
        print(f"one worker per core does not fit into memory: {default} is taken for the default")
    workers = max(setting.workers for setting in settings)
    with (
        Trials(workers, work, samples.samples, store=store, run=run) as trials,
        Progress("trying settings", unit="trials") as progress,
    ):

        def measure(setting: Setting, trial_seconds: float) -> Rate:
            progress.detail(str(setting))
            progress.update(rows=1)
            try:
                return trials.measure(setting, trial_seconds)
            except TrialKilledError as e:
                progress.note(f"{e} It is left out: memory has run out, or an image crashed.")
                return Rate(0.0, wait_share=0.0)

        outcome = search(measure, settings, default, seconds=seconds, readers=options.readers)
    if not outcome.chosen.rate:
        raise TesseraeError(
            f"no setting worked: the processes of all trials were killed. {bytes_text(limit)} of"
            " memory are available; end other programs, or raise the limit. If memory suffices, an"
            " image may crash the decoder: prepare finds it if you pass --workers a number."
        )
    return outcome


def _task_bytes(recipe: Recipe, stored: StoreOptions, objects: Objects | None) -> int:
    chunk = planning.chunk_bytes(recipe.chunk_rows, stored.sizes, len(stored.encodings))
    if objects is None or isinstance(objects, LocalObjects):
        return chunk
    # An object is uploaded in one PUT, so a task holds it whole, and a copy of it.
    return 2 * chunk * (recipe.shard_rows // recipe.chunk_rows)


def _condition_lines(
    samples: TrialSamples,
    work: TrialWork,
    share: float | None,
    store: str | None,
    task_bytes: int,
    limit: int,
) -> Iterator[str]:
    yield (
        f"machine: {counted(cores(), 'core')}, {bytes_text(limit)} of memory; a worker with one"
        f" task needs {bytes_text(worker_bytes(1, task_bytes))}"
    )
    yield f"source: {counted(len(samples.samples), 'image')} in random order; {_cache_text(share)}"
    if samples.remark:
        yield f"  {samples.remark}"
    if work.is_cold:
        yield "  each is removed from the page cache after it was read, so that reads stay cold"
    if store is None:
        yield "nothing is written: the disk of a local STORE would be tried, too"
    else:
        yield f"written and removed: {', '.join(map(array_text, work.arrays))} in {store}"


def _cache_text(share: float | None) -> str:
    if share is None:
        return "the system does not tell how many are in memory"
    if share >= WARM_SHARE:
        return f"{share:.0%} of a sample are in memory"
    return f"{1 - share:.0%} of a sample are on the disk alone"


@contextmanager
def _run_in_store(objects: Objects | None) -> Iterator[None]:
    """Hold a run that may write to the disk of a local store inside the block."""
    if not isinstance(objects, LocalObjects):
        yield
        return
    folder = Path(objects.url)
    existed = folder.exists()
    try:
        with lease(objects, LEASE_NAME, wait=True, on_wait=print_waiting):
            objects.begin()
            try:
                yield
            finally:
                objects.end()
    finally:
        if not existed:
            _remove_empty_folders(folder)


def _remove_empty_folders(folder: Path) -> None:
    """Remove the folder of a store that holds nothing but the lock of `tune`."""
    temporary = folder / layout.TEMPORARY
    with suppress(OSError):
        (temporary / f"{LEASE_NAME}.lock").unlink()
        temporary.rmdir()  # it fails if it holds another file
        folder.rmdir()


def _print_outcome(outcome: SearchOutcome) -> None:
    rows = sorted(outcome.candidates, key=lambda candidate: candidate.rate, reverse=True)
    table = Table(
        "",
        ("setting", "trials", "images/s", "95 % interval"),
        [(str(c.setting), f"{len(c.rates)}", f"{c.rate:,.0f}", _interval_text(c)) for c in rows],
        ("setting",),
    )
    for line in table.lines():
        print(line)
    chosen = outcome.chosen
    trials = sum(len(candidate.rates) for candidate in outcome.candidates)
    print(
        f"{counted(trials, 'trial')} of {counted(len(rows), 'setting')} in"
        f" {seconds_text(outcome.seconds)}"
    )
    print(f"chosen: {chosen.setting}, {chosen.rate:,.0f} images/s{_gain_text(outcome)}", flush=True)


def _gain_text(outcome: SearchOutcome) -> str:
    chosen, default, gain = outcome.chosen, outcome.default, outcome.gain
    if chosen is default:
        return ", the default"
    if not default.rate:
        return ""
    beside = f"to the default of {default.setting}"
    if gain is None:
        return f", {chosen.rate / default.rate - 1:+.1%} {beside}, too few trials for an interval"
    seen = ": no difference seen" if gain.low <= 1 <= gain.high else ""
    interval = f"{gain.low - 1:+.1%} to {gain.high - 1:+.1%}"
    return f", {gain.mean - 1:+.1%} ({interval}) {beside}{seen}"


def _interval_text(candidate: Candidate) -> str:
    interval = candidate.interval
    return "-" if interval is None else f"{interval.low:,.0f} to {interval.high:,.0f}"
