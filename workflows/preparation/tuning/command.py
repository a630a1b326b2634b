"""The implementation of `tesserae tune`, and the tuning of `prepare --workers auto`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cluster.limits import cores
from pipeline import sources
from pipeline.errors import SourceError, TesseraeError
from pipeline.ingest import planning
from pipeline.ingest.readahead import LOCAL_READERS, REMOTE_READERS
from pipeline.ingest.source_index import SourceIndex
from pipeline.ingest.trial import TrialWork, cached_share, explain_write_errors
from pipeline.memory import limit_bytes
from pipeline.store import layout, records
from pipeline.store.lease import lease
from pipeline.store.local import LocalObjects
from pipeline.store.objects import Objects
from pipeline.store.options import StoreOptions
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.urls import is_url
from workflows.cluster_kinds import CommandCluster
from workflows.options.fields import flags_of
from workflows.preparation.options import ALL, AUTO_WORKERS, PrepareOptions, TuneOptions
from workflows.preparation.plans import (
    OpenSplit,
    check_listing,
    open_split_for_prepare,
    resolve_arrays,
)
from workflows.preparation.tuning.samples import (
    TrialSamples,
    samples_of_shards,
    samples_of_source,
)
from workflows.preparation.tuning.search import (
    CLEAR_RATIO,
    Candidate,
    RateInterval,
    SearchOutcome,
    search,
)
from workflows.preparation.tuning.settings import Setting, worker_settings
from workflows.preparation.tuning.trials import Rate, TrialKilledError, Trials
from workflows.preparation.worker_memory import worker_bytes
from workflows.reports.table import Table
from workflows.terminal.formatting import array_text, bytes_text, counted, printable, seconds_text
from workflows.terminal.progress import Progress, print_waiting

CHECKED_SAMPLES = 64
"""The number of samples whose presence in the page cache is checked."""
WARM_SHARE = 0.5
"""The share of them from which on images are taken to be in memory in a run, too."""
MIN_TUNED_IMAGES = 20_000
"""The number of images from which on `--workers auto` tries settings: fewer are prepared before the
trials would pay."""
PREPARE_SECONDS = 30.0
"""How long `--workers auto` tries settings."""
MAX_UNREADABLE = 64
"""The number of samples that are read in vain before a source is taken to have no images."""


class NoReadableImageError(SourceError):
    """None of the samples that were tried is a readable image, so no rate can be measured."""


def tune(options: TuneOptions) -> int:
    """Try settings of `prepare` on a source and a disk, and print which is fastest.

    Args:
        options: `source`, `store` (empty: nothing is written), `seconds`, `split` (of several, the
            first one is used), and the options that decide the work on an image.

    Returns:
        The exit status, 0.

    Raises:
        SourceError: The source cannot be read, or has no readable image.
        StoreError: `prepare` would refuse the store for its recipe or its listing, or its disk
            cannot be written to.
        TesseraeError: A trial failed.
    """
    command = ["tesserae", "prepare", options.source, options.store or "STORE"]
    command += flags_of(options, exclude=("seconds", "readers"))
    split = _first_split(options)
    part = None
    if options.store:
        options = resolve_arrays(options)
        part = open_split_for_prepare(options, split)
        source = part.source
        if source.access == "blocks" and split in records.stored_splits(part.objects):
            print(printable(f"{part.objects.url} has {split}: {_UNCOMPARED}"), flush=True)
    else:
        source = sources.open_source(
            options.source, split, options.source_kind, options.source_options
        )
    objects = None if part is None else part.objects
    recipe = planning.expected_recipe(objects, options.store_options)

    def check(listing: pa.Table) -> None:
        if part is not None:
            check_listing(options, part, listing)

    with samples_of_source(split, source, check=check) as samples, _run_in_store(part):
        run = "" if part is None else part.run
        outcome = _try_settings(options, samples, recipe, objects, run, seconds=options.seconds)
    _print_outcome(outcome)
    chosen = outcome.chosen.setting
    flags = f"--workers {chosen.workers} --threads {chosen.threads} --readers {chosen.readers}"
    print(printable(f"use: {shlex.join(command)} {flags}"), flush=True)
    return 0


_UNCOMPARED = (
    "it is not compared with the source, which can only be streamed; prepare refuses another one"
)


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
        try:
            outcome = _try_settings(
                options, samples, recipe, part.objects, part.run, seconds=PREPARE_SECONDS
            )
        except NoReadableImageError as e:  # the run itself reports unreadable images
            print(printable(f"--workers auto: {e} {counted(cores(), 'worker')}."), flush=True)
            return options.readers
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
    counts = _SampleCounts(options.source, len(samples.samples))
    with (
        Trials(workers, work, samples.samples, store=store, run=run) as trials,
        Progress("trying settings", unit="trials") as progress,
    ):

        def measure(setting: Setting, trial_seconds: float) -> Rate:
            """Run a trial of a setting, and return its rate: 0 if its processes were killed."""
            progress.detail(str(setting))
            progress.update(rows=1)
            try:
                rate = trials.measure(setting, trial_seconds)
            except TrialKilledError as e:
                progress.note(f"{e} It is left out: memory has run out, or an image crashed.")
                return Rate(0.0, wait_share=0.0)
            counts.add(rate)
            return rate

        outcome = search(measure, settings, default, seconds=seconds, readers=options.readers)
    counts.check_any_readable()
    if not outcome.chosen.rate:
        raise TesseraeError(
            f"no setting worked: the processes of all trials were killed. {bytes_text(limit)} of"
            " memory are available; end other programs, or raise the limit. If memory suffices, an"
            " image may crash the decoder: prepare finds it if you pass --workers a number."
        )
    if counts.unreadable_share > options.max_bad:
        print(
            f"{counts.unreadable_share:.1%} of the images that were read cannot be decoded, and do"
            f" not count; prepare stops at more than {options.max_bad:.1%} (--max-bad)"
        )
    return outcome


@dataclass
class _SampleCounts:
    """The samples that all trials have read, of which those of a small source count repeatedly."""

    source: str
    num_samples: int
    """The number of samples there are."""
    num_read: int = 0
    num_unreadable: int = 0

    def add(self, rate: Rate) -> None:
        """Add the samples of a trial; refuse a source of which many were read, all in vain."""
        self.num_read += rate.num_read
        self.num_unreadable += rate.num_unreadable
        if self.num_read >= min(self.num_samples, MAX_UNREADABLE):
            self.check_any_readable()

    def check_any_readable(self) -> None:
        """Refuse a source of which samples were read, but none could be decoded."""
        if self.num_read and self.num_unreadable == self.num_read:
            number = counted(min(self.num_read, self.num_samples), "image")
            raise NoReadableImageError(
                f"{self.source}: none of {number} can be decoded, so no rate can be measured."
            )

    @property
    def unreadable_share(self) -> float:
        """The share of the samples that are not readable images, 0 to 1."""
        return self.num_unreadable / self.num_read if self.num_read else 0.0


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
def _run_in_store(part: OpenSplit | None) -> Iterator[None]:
    """Hold a run that may write to the disk of a local store inside the block.

    It has the lease of the split, as with `--workers auto`: whichever command has that lease next
    removes the files of one that was killed.
    """
    if part is None or not isinstance(part.objects, LocalObjects):
        yield
        return
    folder = Path(part.objects.url)
    existed = folder.exists()
    try:
        with lease(part.objects, part.split, wait=True, on_wait=print_waiting):
            try:
                with explain_write_errors(part.objects.url):
                    part.objects.begin()
                yield
            finally:
                part.objects.end()
    finally:
        if not existed:
            _remove_empty_folders(folder, part.split)


def _remove_empty_folders(folder: Path, split: str) -> None:
    """Remove the folder of a store that holds nothing but the lock of a split."""
    temporary = folder / layout.TEMPORARY
    with suppress(OSError):
        if [path.name for path in temporary.iterdir()] != [f"{split}.lock"]:
            return  # another run has begun since
        (temporary / f"{split}.lock").unlink()
        temporary.rmdir()  # it fails if it holds another file
        folder.rmdir()


def _print_outcome(outcome: SearchOutcome) -> None:
    rows = sorted(outcome.candidates, key=lambda candidate: candidate.rate, reverse=True)
    table = Table(
        "",
        ("setting", "trials", "mean images/s", "95 % interval"),
        [(str(c.setting), f"{len(c.rates)}", f"{c.rate:,.0f}", _interval_text(c)) for c in rows],
        ("setting",),
    )
    for line in table.lines():
        print(line)
    trials = sum(len(candidate.rates) for candidate in outcome.candidates)
    print(
        f"{counted(trials, 'trial')} of {counted(len(rows), 'setting')} in"
        f" {seconds_text(outcome.seconds)}"
    )
    for line in _reason_lines(outcome):
        print(line)
    default = ", the default" if outcome.chosen is outcome.default else ""
    print(f"chosen: {outcome.chosen.setting}{default}", flush=True)


def _reason_lines(outcome: SearchOutcome) -> Iterator[str]:
    """Yield why the setting is chosen, and why none is that has a higher rate in the table."""
    challenger, default, gain = outcome.challenger, outcome.default, outcome.gain
    if challenger is None:
        return
    pair = f"{challenger.setting}, over the default of {default.setting}:"
    if gain is not None:
        yield (
            f"{pair} {gain.mean - 1:+.1%} ({gain.low - 1:+.1%} to {gain.high - 1:+.1%}), the mean"
            f" of {counted(outcome.num_pairs, 'pair')} of trials, one right after the other, with"
            f" its 95 % interval: {_decision(outcome, gain)}"
        )
    elif default.rate:
        enough = "enough" if outcome.chosen is challenger else "too little"
        yield (
            f"{pair} {challenger.rate / default.rate - 1:+.1%}, of too few trials for an interval:"
            f" {enough}, as more than {CLEAR_RATIO - 1:+.0%} is expected then"
        )
    higher = [
        candidate
        for candidate in outcome.candidates
        if candidate.rate > outcome.chosen.rate and candidate not in (challenger, default)
    ]
    if higher:
        settings = "; ".join(str(candidate.setting) for candidate in higher)
        yield (
            f"not chosen, despite a higher mean: {settings}. They were tried in earlier rounds"
            " only, and the load of the machine may have been another then"
        )


def _decision(outcome: SearchOutcome, gain: RateInterval) -> str:
    if outcome.chosen is outcome.challenger:
        return "faster"
    return "slower" if gain.high < 1 else "no difference seen, so the default is kept"


def _interval_text(candidate: Candidate) -> str:
    interval = candidate.interval
    return "-" if interval is None else f"{interval.low:,.0f} to {interval.high:,.0f}"
