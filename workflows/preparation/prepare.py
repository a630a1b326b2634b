"""The implementation of `tesserae prepare`: leases, plans and the jobs of each split."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline import code_digest
from pipeline.errors import StoreError, TesseraeError
from pipeline.ingest import planning
from pipeline.ingest.finish import finish_split
from pipeline.ingest.report import ShardReport
from pipeline.ingest.shard_jobs import shard_jobs
from pipeline.ingest.worker import ShardTaskConfig
from pipeline.jobs import Failed, run_jobs
from pipeline.sources.source import Source
from pipeline.store import arrays, records
from pipeline.store.commit import Commit
from pipeline.store.local import LocalObjects
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.records import FinishRecord
from workflows import cluster_kinds
from workflows.cluster_kinds import CommandCluster
from workflows.dashboard.preview import ShardPreview
from workflows.dashboard.publisher import Publisher
from workflows.preparation import spooling
from workflows.preparation.options import AUTO_WORKERS, PrepareOptions
from workflows.preparation.plans import (
    OpenSplit,
    Plans,
    leased,
    open_split_for_prepare,
    plan_splits,
    resolve_arrays,
    resolve_plans,
    resolve_splits,
)
from workflows.preparation.tuning.command import Tuner
from workflows.preparation.worker_memory import worker_bytes
from workflows.reports.class_lines import unreadable_class_lines
from workflows.reports.quarantine import Reason, examples, quarantined_reasons
from workflows.reports.store_model import RunReport
from workflows.reports.store_report import report_store
from workflows.terminal.formatting import array_text, bytes_text, counted, printable
from workflows.terminal.progress import Progress

MAX_CONSECUTIVE_FAILURES = 8
"""The number of shards that fail in succession before the run stops: the source is unreachable."""


class TooManyQuarantinedError(TesseraeError):
    """More rows were quarantined than `--max-bad` allows."""


@dataclass(kw_only=True)
class Tally:
    """The running totals of a run over one split."""

    num_rows: int = 0
    """The rows that this run committed."""
    bytes_in: int = 0
    """The bytes of encoded images that this run read."""
    bytes_out: int = 0
    """The bytes that this run wrote to the store."""
    counts: Counter[str] = field(default_factory=Counter)
    """The rows that this run committed, by status."""
    seconds: Counter[str] = field(default_factory=Counter)
    """The seconds of each step (read, decode, resize, write, sync), summed over all workers."""
    failed: list[Failed] = field(default_factory=list)
    """The shards whose tasks failed, with their errors."""
    consecutive_failures: int = 0
    """The number of shards that failed since the last one that was committed."""
    elapsed: float = 0.0
    """The wall-clock duration of the tasks, in seconds."""
    earlier: Counter[str] = field(default_factory=Counter)
    """The rows that earlier runs committed and that this run keeps, by status."""

    def fail(self, failed: Failed) -> None:
        """Count a shard whose task failed; nothing is raised.

        Args:
            failed: The job and its error, which is appended to `self.failed`.
        """
        self.failed.append(failed)
        self.consecutive_failures += 1

    def add(self, report: ShardReport) -> None:
        """Add a shard that was committed to the totals; this ends a succession of failures.

        Args:
            report: The result of the shard's task: its rows, rows by status, bytes read and
                written, and seconds of each step are added to those of the tally.
        """
        self.consecutive_failures = 0
        self.num_rows += report.num_rows
        self.bytes_in += report.bytes_in
        self.bytes_out += report.bytes_out
        self.counts.update(report.counts)
        for step, spent in report.seconds.items():
            self.seconds[step] += spent  # type: ignore[assignment]

    def report(self) -> RunReport:
        """Return the totals as a value for reports."""
        return RunReport(
            num_rows=self.num_rows,
            seconds=self.elapsed,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            step_seconds=dict(self.seconds),
        )

    @property
    def quarantined(self) -> Counter[str]:
        """The number of quarantined rows by status, those of earlier runs included."""
        counts = self.earlier + self.counts
        del counts["readable"]
        return counts


def run_prepare(options: PrepareOptions) -> int:
    """Prepare every requested split, print a summary of the store and write its `report.html`.

    Args:
        options: The parsed options of `tesserae prepare`, such as `source` and `store` (paths or
            URLs), `split` (names, or `("all",)`), `sizes` (in pixels), `wait` and those of the
            cluster.

    Returns:
        The exit status, 0; errors are raised. In a worker that Slurm has started, the tasks run
        until the run ends, and nothing is printed.

    Raises:
        ClusterError: The cluster cannot be used.
        KeyboardInterrupt: The run was stopped; the message says how to continue.
        TesseraeError: A split could not be prepared; `prepare` lists the reasons.
    """
    if cluster_kinds.run_as_slurm_worker(options):
        return 0
    try:
        report_store(options.store, prepare(options))
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(str(e) or "Run the same command again to continue.") from None
    return 0


def prepare(options: PrepareOptions) -> dict[str, RunReport]:
    """Prepare every requested split.

    Args:
        options: The options of `tesserae prepare`, such as `source` and `store` (paths or URLs) and
            `sizes` (in pixels). A `split` of `("all",)` means every split of the source.

    Returns:
        The totals of each split in which this run committed rows, by name: `num_rows`, `seconds`
        (of wall-clock time), `bytes_in`, `bytes_out` and `step_seconds`. It is empty if all shards
        were committed before.

    Raises:
        ClusterError: The cluster cannot be used.
        SourceError: The source cannot be read, has no such split, or its classes are ambiguous.
        StoreError: The store holds other images or another recipe, another run prepares the split
            and the options lack `--wait`, or there is too little free space or memory.
        TesseraeError: A shard failed, or too many rows were quarantined. Committed shards are kept.
        KeyboardInterrupt: The run was stopped; the message says how to continue.
    """
    cluster_kinds.check_cluster_option(options.cluster)
    options = resolve_arrays(resolve_splits(options))
    for split in options.split:  # a missing split is reported before hours of work on others
        open_split_for_prepare(options, split)
    with cluster_kinds.cluster_of(options) as cluster:
        cluster.connect_if_remote()
        plans = plan_splits(options, cluster) if len(options.split) > 1 else None
        tuner = Tuner()
        runs = {
            split: prepare_split(options, split, cluster, plans, tuner)
            for split in _order_of_splits(options, plans)
        }
    return {split: runs[split] for split in options.split if runs[split].num_rows}


def _order_of_splits(options: PrepareOptions, plans: Plans | None) -> Sequence[str]:
    """Return the splits in their order; with `--workers auto`, the largest one first.

    The workers start with the first split, and cannot be tuned afterwards.
    """
    if plans is None or options.workers != AUTO_WORKERS:
        return options.split
    return sorted(options.split, key=lambda split: -plans[split][1].num_rows)


def prepare_split(
    options: PrepareOptions,
    split: str,
    cluster: CommandCluster,
    plans: Plans | None = None,
    tuner: Tuner | None = None,
) -> RunReport:
    """Prepare one split, whose lease is held meanwhile, and return the totals of this run.

    A split of which every shard is committed is finished; with `--limit` it may stay unfinished.

    Args:
        options: The options of the command.
        split: The name of the split; `options.split` is not used.
        cluster: The cluster that runs the tasks, inside its `with` block.
        plans: The result of `plan_splits`, with this split; None plans this split alone.
        tuner: The tuning of all splits of the command (default: that of this split).

    Returns:
        The totals of this run alone: `num_rows`, `seconds` (of wall-clock time), `bytes_in` (read),
        `bytes_out` (written) and `step_seconds` (by step, such as `decode`, summed over all
        workers); `num_rows` is 0 if all shards were committed before.

    Raises:
        ClusterError: The cluster cannot be used.
        SourceError: The source cannot be read, has no such split, or its classes are ambiguous.
        StoreBusyError: Another run prepares the split, and the options lack `--wait`.
        StoreError: The store holds other images or another recipe, there is too little free space
            or memory, or a worker sees another store.
        TesseraeError: A shard failed, or too many rows were quarantined. Committed shards are kept.
        KeyboardInterrupt: The run was stopped; the message says how to continue.
    """
    part = open_split_for_prepare(options, split)
    with leased(part, wait=options.wait):
        recipe, plan = (plans or resolve_plans(options, [part], cluster))[split]
        return _prepare(options, part, recipe, plan, cluster, tuner or Tuner())


def _prepare(
    options: PrepareOptions,
    part: OpenSplit,
    recipe: Recipe,
    plan: Plan,
    cluster: CommandCluster,
    tuner: Tuner,
) -> RunReport:
    split, source, objects = part.split, part.source, part.objects
    commits = records.load_commits(objects, plan)
    target = _selected_shards(plan, options.limit)
    if options.limit is not None:
        rows = sum(len(plan.rows(shard)) for shard in target)
        print(
            f"{split}: --limit {options.limit:,} selects {rows:,} of {plan.num_rows:,} images:"
            f" {counted(len(target), 'whole shard')} of up to {plan.shard_rows:,}"
        )
    stored = options.store_options
    todo = [
        s
        for s in target
        if s not in commits or not commits[s].shard_objects.keys() >= {*stored.array_names}
    ]
    readers = None
    if todo:
        readers = tuner.readers(options, part, recipe, plan, todo, cluster)
        _print_and_check_needs(options, objects, recipe, plan, commits, todo, cluster)
    encoded_plans = planning.plan_encoded(objects, plan, stored.encodings)
    planning.write_metadata(objects, recipe, plan, stored.sizes, encoded_plans)
    work = ShardTaskConfig(
        store=objects.url,
        split=split,
        run=part.run,
        arrays=stored.array_names,
        image_seconds=options.image_timeout,
        readers=readers,
        code=code_digest.running_code_digest(),
    )
    kept_counts = [commits[shard].counts for shard in sorted(commits.keys() - set(todo))]
    tally = Tally(earlier=sum(map(Counter, kept_counts), Counter()))
    if todo:
        if source.access == "blocks":
            spooling.stream(split, source, objects, cluster, recipe.max_image_bytes)
        cluster.check_workers(work)
        try:
            prepare_shards_of_split(options, objects, plan, work, todo, commits, cluster, tally)
        except TooManyQuarantinedError:
            # If every shard is committed, finish the split anyway, so that the table lists the
            # reason of each quarantined row.
            if len(records.load_commits(objects, plan)) == plan.num_shards:
                _finish_and_remove_spool(objects, recipe, plan, work, source)
            raise
    _finish_and_remove_spool(objects, recipe, plan, work, source)
    if not todo:  # or the same command would fail or succeed by what an earlier run has committed
        _check_quarantined(options, objects, plan, tally, tally.earlier.total())
    return tally.report()


def _finish_and_remove_spool(
    objects: Objects, recipe: Recipe, plan: Plan, work: ShardTaskConfig, source: Source
) -> None:
    done = _finish(objects, recipe, plan, work)
    if done is not None and source.access == "blocks":
        spooling.remove_spool(objects, work.split)


def _selected_shards(plan: Plan, limit: int | None) -> range:
    if limit is None:
        return range(plan.num_shards)
    return range(min(plan.num_shards, -(-limit // plan.shard_rows)))


def _print_and_check_needs(
    options: PrepareOptions,
    objects: Objects,
    recipe: Recipe,
    plan: Plan,
    commits: dict[int, Commit],
    todo: Sequence[int],
    cluster: CommandCluster,
) -> None:
    room = objects.free_bytes()
    total = 0
    sizer = planning.ArraySizes(objects, recipe, plan, options.store_options)
    names = options.store_options.array_names
    width = max(len(array_text(name)) for name in names)
    for name in names:
        missing = [s for s in todo if s not in commits or name not in commits[s].shard_objects]
        num_rows = sum(len(plan.rows(shard)) for shard in missing)
        needed = sum(sizer.object_bytes(name, shard) for shard in missing)
        total += needed
        about = "" if name.isdecimal() else "about "
        rows = _rows_and_shards(num_rows, len(missing))
        print(f"  {array_text(name):>{width}}  {rows}, {about}{bytes_text(needed)}")
    free = "free space is unknown" if room is None else f"{bytes_text(room)} free"
    print(
        f"  {counted(plan.num_rows, 'row')} in total; {bytes_text(total)} to write; {free}",
        flush=True,
    )
    planning.check_free_space(objects, recipe, total)
    _check_worker_memory(objects, recipe, sizer, cluster)


def _rows_and_shards(rows: int, shards: int) -> str:
    return f"{counted(rows, 'row')} in {counted(shards, 'shard')}"


def _check_worker_memory(
    objects: Objects, recipe: Recipe, sizer: planning.ArraySizes, cluster: CommandCluster
) -> None:
    if isinstance(objects, LocalObjects):  # a task holds one chunk of every array
        task_bytes = sizer.chunk_bytes
    else:  # an object is uploaded in one PUT, so a task holds it whole, and a copy of it
        task_bytes = 2 * sizer.longest_shard_bytes
    for available, threads in cluster.worker_memory():
        needed = worker_bytes(threads, task_bytes)
        if needed > available:
            raise StoreError(
                f"a worker needs {needed / 2**30:.1f} GiB for its shards, and has"
                f" {available / 2**30:.1f} GiB. Use fewer workers or threads, or a new store with"
                " fewer --shard-rows."
            )


def prepare_shards_of_split(
    options: PrepareOptions,
    objects: Objects,
    plan: Plan,
    work: ShardTaskConfig,
    todo: Sequence[int],
    commits: dict[int, Commit],
    cluster: CommandCluster,
    tally: Tally,
) -> None:
    """Run the tasks of some shards, and show their progress here and on the dashboard.

    Call it inside `leased` of the split.

    Args:
        options: The options of the command, of which `max_bad` is used.
        objects: The objects of the store.
        plan: The plan of the split.
        work: The configuration of the tasks, with `store` (the URL of *objects*), `split`, `run`
            (of the `OpenSplit` that was leased) and `arrays` (those to store).
        todo: The numbers of the shards to store.
        commits: The commits of earlier runs, by number of shard; they are only read.
        cluster: The cluster that runs the tasks, inside its `with` block.
        tally: The totals, which are updated in place as shards end, and whose `earlier` counts
            towards `--max-bad`.

    Raises:
        StoreError: The run holds no lease, or a worker sees another store; raised at once.
        TesseraeError: A shard failed. It is raised after the other shards have ended, or after 8
            shards have failed in succession.
        TooManyQuarantinedError: More rows were quarantined, those of earlier runs included, than
            `--max-bad` allows. It is raised at once; committed shards are kept.
    """
    num_rows = sum(len(plan.rows(shard)) for shard in todo)
    all_rows = num_rows + tally.earlier.total()
    started = time.monotonic()
    jobs = shard_jobs(work, todo)
    preview = ShardPreview(objects, plan, work.arrays[0])
    with (
        Publisher(
            cluster.client, work.run, thumbnails=preview.thumbnails, quarantined=preview.quarantined
        ) as publisher,
        Progress(f"{work.split}: prepare", rows=num_rows) as progress,
    ):
        publisher.begin(
            split=work.split,
            store=work.store,
            rows=num_rows,
            arrays=_rows_by_array(plan, work, commits),
            earlier_counts=tally.earlier,
        )
        for result in run_jobs(cluster.client, work.run, jobs, tick=cluster.maintain):
            if isinstance(result, Failed):
                tally.fail(result)
                progress.note(f"{result.job.name}: {result.error}")
                if tally.consecutive_failures == MAX_CONSECUTIVE_FAILURES:
                    break
                continue
            tally.add(result)
            publisher.shard(result, set(work.arrays) - _committed_arrays(commits, result.shard))
            progress.update(
                rows=result.num_rows,
                bytes_in=result.bytes_in,
                bytes_out=result.bytes_out,
                quarantined=result.num_rows - result.counts.get("readable", 0),
            )
            _check_quarantined(options, objects, plan, tally, all_rows)
        tally.elapsed = publisher.seconds = time.monotonic() - started
        if tally.failed:
            raise TesseraeError(_failure_message(tally.failed, work.split))


def _check_quarantined(
    options: PrepareOptions, objects: Objects, plan: Plan, tally: Tally, num_rows: int
) -> None:
    if tally.quarantined.total() > options.max_bad * num_rows:
        reasons = quarantined_reasons(objects, records.load_commits(objects, plan).values())
        raise TooManyQuarantinedError(
            _quarantine_message(tally, options.max_bad, num_rows, reasons)
        )


def _committed_arrays(commits: dict[int, Commit], shard: int) -> set[str]:
    return set(commits[shard].shard_objects) if shard in commits else set()


def _rows_by_array(
    plan: Plan, work: ShardTaskConfig, commits: dict[int, Commit]
) -> list[tuple[str, int, int]]:
    """Return (name, rows already stored, rows of the split) for each image array."""
    return [
        (
            name,
            sum(
                commit.stop - commit.start
                for commit in commits.values()
                if name in commit.shard_objects
            ),
            plan.num_rows,
        )
        for name in work.arrays
    ]


def _quarantine_message(
    tally: Tally, max_bad: float, num_rows: int, reasons: Sequence[Reason]
) -> str:
    counts = ", ".join(f"{n:,} {why}" for why, n in tally.quarantined.most_common())
    seen = tally.num_rows + tally.earlier.total()
    return (
        f"{tally.quarantined.total():,} of the first {seen:,} images are unreadable ({counts});"
        f" --max-bad {max_bad:g} allows {int(max_bad * num_rows):,} of {num_rows:,}. For example:"
        f" {examples(reasons)}. Check the source, or pass a larger --max-bad."
    )


def _failure_message(failed: Sequence[Failed], split: str) -> str:
    first = failed[0]
    return (
        f"{counted(len(failed), 'shard')} of split {split!r} failed. First, {first.job.name}:"
        f" {first.error}. Committed shards are kept: fix the cause and run the same command again."
    )


def _finish(
    objects: Objects, recipe: Recipe, plan: Plan, work: ShardTaskConfig
) -> FinishRecord | None:
    commits = records.load_commits(objects, plan)
    if len(commits) < plan.num_shards:
        rows = sum(commit.stop - commit.start for commit in commits.values())
        print(
            f"{work.split}: {rows:,} of {plan.num_rows:,} rows are committed; the split is not"
            " finished. Run the command again without --limit to continue."
        )
        return None
    done = finish_split(work.store, work.split, work.run)
    labels, status = (arrays.read_small(objects, work.split, n) for n in ("label", "status"))
    for line in unreadable_class_lines(recipe.classes, labels, status):
        print(printable(f"{work.split}: {line}"))
    return done
