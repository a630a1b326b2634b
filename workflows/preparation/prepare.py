"""The implementation of `tesserae prepare`: leases, plans and the jobs of each split."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline import code_digest, sources
from pipeline.errors import StoreError, TesseraeError
from pipeline.ingest import planning
from pipeline.ingest.finish import finish_split
from pipeline.ingest.planning import Listing
from pipeline.ingest.report import ShardReport
from pipeline.ingest.shard_jobs import shard_jobs
from pipeline.ingest.source_index import Origin
from pipeline.ingest.worker import ShardTaskConfig
from pipeline.jobs import Failed, run_jobs
from pipeline.sources import spool
from pipeline.sources.formats.sorted_val import check_sorted
from pipeline.sources.keys import suggest_split
from pipeline.sources.location import Location
from pipeline.sources.options import SourceOptions
from pipeline.sources.source import Source
from pipeline.store import arrays, layout, records
from pipeline.store.commit import Commit
from pipeline.store.lease import lease
from pipeline.store.local import LocalObjects
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.records import FinishRecord
from workflows import session
from workflows.dashboard.preview import ShardPreview
from workflows.dashboard.publisher import Publisher
from workflows.preparation import spooling
from workflows.preparation.class_lines import class_lines, lost_lines
from workflows.preparation.options import ALL, PrepareOptions
from workflows.preparation.quarantine import Reason, examples, quarantined_reasons
from workflows.reports.store_model import RunReport
from workflows.reports.store_summary import report_store
from workflows.session import Cluster
from workflows.terminal.formatting import bytes_text, counted, printable
from workflows.terminal.progress import Progress, print_waiting
from workflows.terminal.signals import held_back

MAX_CONSECUTIVE_FAILURES = 8
"""The number of shards that fail in succession before the run stops: the source is unreachable."""

WORKER_BYTES = 400 * 2**20
"""The memory of a worker apart from its tasks: interpreter, libraries, one very large image."""


class TooManyBadError(TesseraeError):
    """More rows were quarantined than `--max-bad` allows."""


@dataclass(kw_only=True)
class Tally:
    """The running totals of a run over one split."""

    num_rows: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    failed: list[Failed] = field(default_factory=list)
    failed_in_a_row: int = 0
    elapsed: float = 0.0
    before: Counter[str] = field(default_factory=Counter)
    """The rows that earlier runs committed and that this run keeps, by status."""

    def fail(self, failed: Failed) -> None:
        """Count a shard that failed."""
        self.failed.append(failed)
        self.failed_in_a_row += 1

    def add(self, report: ShardReport) -> None:
        """Count a shard that was committed."""
        self.failed_in_a_row = 0
        self.num_rows += report.num_rows
        self.bytes_in += report.bytes_in
        self.bytes_out += report.bytes_out
        self.counts.update(report.counts)
        for stage, spent in report.seconds.items():
            self.seconds[stage] += spent  # type: ignore[assignment]

    def report(self) -> RunReport:
        """Return the totals as a value for reports."""
        return RunReport(
            num_rows=self.num_rows,
            seconds=self.elapsed,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            stage_seconds=dict(self.seconds),
        )

    @property
    def bad(self) -> Counter[str]:
        """The number of quarantined rows by reason, those of earlier runs included."""
        counts = self.before + self.counts
        del counts["readable"]
        return counts


def run(options: PrepareOptions) -> int:
    """Prepare every requested split, report the store, and return the exit status."""
    if session.work_for_first(options):
        return 0
    try:
        report_store(options.store, prepare(options))
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(str(e) or "Run the same command again to continue.") from None
    return 0


def prepare(options: PrepareOptions) -> dict[str, RunReport]:
    """Prepare every requested split.

    Returns:
        The totals of each split in which this run committed rows, by name.
    """
    session.check_where(options.cluster)
    options = _with_splits(options)
    for split in options.split:  # a missing split is reported before hours of work on others
        _opened(options, split)
    with session.of(options) as cluster:
        cluster.look()
        plans = plan_splits(options, cluster) if len(options.split) > 1 else None
        runs = {split: prepare_split(options, split, cluster, plans) for split in options.split}
    return {split: run for split, run in runs.items() if run.num_rows}


def _with_splits(options: PrepareOptions) -> PrepareOptions:
    """Return the options with the splits of the source in place of `all`."""
    if options.split != ALL:
        return options
    source = options.source, options.source_kind
    options = replace(options, split=tuple(sources.splits(*source, options.source_options)))
    if not options.split:
        options = replace(options, split=("train",))
    if len(options.split) > 1:
        parts = {split: _opened(options, split).source for split in options.split}
        options = replace(options, split=tuple(spooling.with_classes(parts)))
    if "test" not in options.split:
        how = _source_options(options, open_objects(options.store))
        text = sources.unlabelled_test_remark(*source, how)
        if text:
            print(printable(text), flush=True)
    return options


@dataclass(frozen=True)
class OpenSplit:
    """A split that is being prepared, with its source and the objects of its store."""

    split: str
    run: str
    source: Source
    objects: Objects


Plans = dict[str, tuple[Recipe, Plan]]
"""The recipe and the plan of each split, by name."""


def _opened(options: PrepareOptions, split: str) -> OpenSplit:
    """Open the source of one split by the rules of its store, and check the store's location."""
    run = planning.new_run(split)
    objects = open_objects(options.store, run)
    _check_location(objects, options.source)
    planning.check_options(objects, options.choices)
    how = _source_options(options, objects)
    # A split that the store already has is resumed under any name. The spelling is tested first,
    # because it is cheaper than listing the store.
    if suggest_split(split) and split not in records.splits(objects):
        sources.check_split_name(options.source, split, options.source_kind, how)
    source = sources.open_source(options.source, split, options.source_kind, how)
    return OpenSplit(split, run, source, objects)


def _source_options(options: PrepareOptions, objects: Objects) -> SourceOptions:
    """Return the options to read the source with, by the listing rules of the store."""
    return replace(options.source_options, rules=planning.source_rules(objects))


@contextmanager
def _leased(part: OpenSplit, *, wait: bool) -> Iterator[None]:
    with lease(part.objects, part.split, wait=wait, on_wait=print_waiting):
        part.objects.begin()
        try:
            yield
        except KeyboardInterrupt:
            with held_back():
                how_to_go_on = _how_to_go_on(part.objects, part.split)
            raise KeyboardInterrupt(how_to_go_on) from None
        finally:
            part.objects.end()


def plan_splits(options: PrepareOptions, cluster: Cluster) -> Plans:
    """Plan every requested split, so that the labels cover the classes of all of them.

    Raises:
        TesseraeError: The classes of a source cannot be determined; nothing was decoded yet.
    """
    parts = [_opened(options, split) for split in options.split]
    with ExitStack() as leases:
        # A fixed order, so that two commands which lock the same splits cannot deadlock.
        for part in sorted(parts, key=lambda part: part.split):
            leases.enter_context(_leased(part, wait=options.wait))
        return settle(options, parts, cluster)


def prepare_split(
    options: PrepareOptions, split: str, cluster: Cluster, plans: Plans | None = None
) -> RunReport:
    """Prepare one split, and return the totals of this run.

    Args:
        options: The options of the command.
        split: The name of the split, one of `options.split`.
        cluster: The cluster that runs the tasks.
        plans: The result of `plan_splits`; None plans this split alone.
    """
    part = _opened(options, split)
    with _leased(part, wait=options.wait):
        recipe, plan = (plans or settle(options, [part], cluster))[split]
        return _prepare(options, part, recipe, plan, cluster)


def _check_location(objects: Objects, source: str) -> None:
    if not isinstance(objects, LocalObjects):
        return
    store = Path(objects.url)
    if store.resolve().is_relative_to(Path(source).resolve()):
        raise StoreError(
            f"the store {store} lies in the source {source}, which must not change. Choose a"
            " folder outside."
        )
    store_names = {layout.RECIPE, "splits"}
    names = {path.name for path in store.iterdir()} if store.is_dir() else set()
    foreign = sorted(name for name in names - {"lost+found"} if not name.startswith("."))
    if foreign and not names & store_names:
        raise StoreError(
            f"{store} is not a store, and holds other files, such as {foreign[0]!r}. Choose a new"
            " or an empty folder."
        )


def _prepare(
    options: PrepareOptions, part: OpenSplit, recipe: Recipe, plan: Plan, cluster: Cluster
) -> RunReport:
    split, source, objects = part.split, part.source, part.objects
    commits = records.load_commits(objects, plan)
    target = _target(plan, options.limit)
    if options.limit is not None:
        rows = sum(len(plan.rows(shard)) for shard in target)
        print(
            f"{split}: --limit {options.limit:,} selects {rows:,} of {plan.num_rows:,} images:"
            f" {counted(len(target), 'whole shard')} of up to {plan.shard_rows:,}"
        )
    todo = [
        s for s in target if s not in commits or not commits[s].sizes >= set(options.choices.sizes)
    ]
    if todo:
        _check_resources(options, objects, recipe, plan, commits, todo, cluster)
    planning.write_metadata(objects, recipe, plan, options.choices.sizes)
    work = ShardTaskConfig(
        store=objects.url,
        split=split,
        run=part.run,
        sizes=options.choices.sizes,
        image_seconds=options.image_timeout,
        code=code_digest.digest(),
    )
    earlier_counts = [commits[shard].counts for shard in sorted(commits.keys() - set(todo))]
    tally = Tally(before=sum(map(Counter, earlier_counts), Counter()))
    if todo:
        if source.access == "blocks":
            spooling.stream(split, source, objects, cluster, recipe.max_image_bytes)
        cluster.ask_workers(work)
        try:
            make_shards(options, objects, plan, work, todo, commits, cluster, tally)
        except TooManyBadError:
            # If every shard is committed, finish the split anyway, so that the table lists the
            # reason of each quarantined row.
            if len(records.load_commits(objects, plan)) == plan.num_shards:
                _end(objects, recipe, plan, work, source)
            raise
    _end(objects, recipe, plan, work, source)
    return tally.report()


def _end(
    objects: Objects, recipe: Recipe, plan: Plan, work: ShardTaskConfig, source: Source
) -> None:
    done = _finish(objects, recipe, plan, work)
    if done is not None and source.access == "blocks":
        spooling.remove_spool(objects, work.split)


def settle(options: PrepareOptions, parts: Sequence[OpenSplit], cluster: Cluster) -> Plans:
    """Return the recipe and the plan of each split, created or checked against the store's.

    Raises:
        TesseraeError: The source differs from the one that was prepared, or its classes cannot be
            determined.
    """
    plans = {}
    to_list = []
    for part in parts:
        origin = planning.cached_origin(part.objects, part.split, part.source, _root(part))
        if origin is None:
            to_list.append(part)
            continue
        recipe = planning.resolve_recipe(part.objects, options.choices)
        plan = records.load_plan(part.objects, part.split)
        planning.check_seed(plan, options.choices.seed)
        plans[part.split] = recipe, plan
        print(f"{part.split}: {plan.num_rows:,} images, listed before (source kind {origin.kind})")
    if not to_list:
        return plans
    rules = planning.source_rules(to_list[0].objects)
    spooling.look_before({part.split: part.source for part in to_list}, rules)
    spools = [_root(part) for part in to_list if part.source.access == "blocks"]
    listed = {}
    with spooling.saying_what_is_left(spools):
        for part in to_list:
            limit = planning.image_limit(part.objects, options.choices)
            listed[part.split] = part, _list(part, cluster, limit)
        return plans | _planned(options, listed)


def _planned(options: PrepareOptions, listed: Mapping[str, tuple[OpenSplit, Listing]]) -> Plans:
    objects = next(iter(listed.values()))[0].objects
    sources_and_listings = {
        split: (part.source, listing) for split, (part, listing) in listed.items()
    }
    classes = planning.classes_of(sources_and_listings, planning.source_rules(objects))
    recipe = planning.resolve_recipe(objects, options.choices, classes)
    listings = {split: listing for split, (_, listing) in listed.items()}
    for line in class_lines(classes, recipe, listings):
        print(printable(line), flush=True)
    plans = {}
    for split, (part, listing) in listed.items():
        origin = Origin(
            source=options.source,
            kind=part.source.kind,
            root=_root(part),
            fingerprint=part.source.fingerprint(),
            listing=listing.digest,
            num_bytes=listing.num_bytes,
            options=options.source_options.chosen(),
            passed=listing.skipped,
        )
        seed = options.choices.seed
        plan = planning.make_plan(part.objects, split, recipe, listing, origin, seed)
        plans[split] = recipe, plan
    return plans


def _root(part: OpenSplit) -> str:
    """Return the path or URL that the encoded images of a split are read from."""
    if part.source.access == "random":
        return part.source.root
    return spooling.spool_folder(part.objects, part.split)


def _list(part: OpenSplit, cluster: Cluster, limit: int | None) -> Listing:
    source = part.source
    if source.access == "random":
        with Progress(f"{part.split}: listing {source.kind}", unit="images") as progress:
            table = source.list(lambda new: progress.update(rows=new))
    else:
        spooling.stream(part.split, source, part.objects, cluster, limit)
        table = spool.spool_listing(_root(part), source.blocks())
    if source.kind != "ilsvrc-val":  # ilsvrc-val takes its classes from the table itself
        rules = planning.source_rules(part.objects)
        table = check_sorted(Location(source.root, "", SourceOptions(rules=rules)), table)
    return planning.read_listing(table)


def _target(plan: Plan, limit: int | None) -> range:
    if limit is None:
        return range(plan.num_shards)
    return range(min(plan.num_shards, -(-limit // plan.shard_rows)))


def _check_resources(
    options: PrepareOptions,
    objects: Objects,
    recipe: Recipe,
    plan: Plan,
    commits: dict[int, Commit],
    todo: Sequence[int],
    cluster: Cluster,
) -> None:
    room = objects.free_bytes()
    total = 0
    for size in options.choices.sizes:
        missing = [s for s in todo if s not in commits or size not in commits[s].sizes]
        rows = [len(plan.rows(shard)) for shard in missing]
        needed = sum(planning.shard_bytes(recipe, size, count) for count in rows)
        total += needed
        print(f"  {size:>4} px  {_extent(sum(rows), len(rows))}, {bytes_text(needed)}")
    free = "free space is unknown" if room is None else f"{bytes_text(room)} free"
    print(
        f"  {counted(plan.num_rows, 'row')} in total; {bytes_text(total)} to write; {free}",
        flush=True,
    )
    planning.check_free_space(objects, recipe, total)
    _check_memory(options, objects, recipe, cluster)


def _extent(rows: int, shards: int) -> str:
    return f"{counted(rows, 'row')} in {counted(shards, 'shard')}"


def _check_memory(
    options: PrepareOptions, objects: Objects, recipe: Recipe, cluster: Cluster
) -> None:
    sizes = options.choices.sizes
    if isinstance(objects, LocalObjects):  # a task holds one chunk of every size
        task_bytes = sum(recipe.chunk_rows * size * size * 3 for size in sizes)
    else:  # an object is uploaded in one PUT, so a task holds it whole, and a copy of it
        task_bytes = 2 * sum(
            planning.shard_bytes(recipe, size, recipe.shard_rows) for size in sizes
        )
    for available, threads in cluster.worker_memory():
        needed = WORKER_BYTES + threads * task_bytes
        if needed > available:
            raise StoreError(
                f"a worker needs {needed / 2**30:.1f} GiB for its shards, and has"
                f" {available / 2**30:.1f} GiB. Use fewer workers or threads, or a new store with"
                " fewer --shard-rows."
            )


def make_shards(
    options: PrepareOptions,
    objects: Objects,
    plan: Plan,
    work: ShardTaskConfig,
    todo: Sequence[int],
    commits: dict[int, Commit],
    cluster: Cluster,
    tally: Tally,
) -> None:
    """Run the tasks of the shards *todo*, and show their progress here and on the dashboard.

    Raises:
        TesseraeError: A shard failed, or more rows were quarantined than --max-bad allows.
    """
    num_rows = sum(len(plan.rows(shard)) for shard in todo)
    all_rows = num_rows + tally.before.total()
    started = time.monotonic()
    jobs = shard_jobs(work, todo)
    preview = ShardPreview(objects, plan, min(work.sizes))
    with (
        Publisher(
            cluster.client, work.run, pictures=preview.pictures, quarantined=preview.quarantined
        ) as publisher,
        Progress(f"{work.split}: prepare", rows=num_rows) as progress,
    ):
        publisher.begin(
            split=work.split,
            store=work.store,
            rows=num_rows,
            sizes=_sizes_before(plan, work, commits),
            before=tally.before,
        )
        for result in run_jobs(cluster.client, work.run, jobs, tick=cluster.keep):
            if isinstance(result, Failed):
                tally.fail(result)
                progress.note(f"{result.job.name}: {result.error}")
                if tally.failed_in_a_row == MAX_CONSECUTIVE_FAILURES:
                    break
                continue
            tally.add(result)
            publisher.shard(result, set(work.sizes) - _sizes(commits, result.shard))
            progress.update(
                rows=result.num_rows,
                bytes_in=result.bytes_in,
                bytes_out=result.bytes_out,
                quarantined=result.num_rows - result.counts.get("readable", 0),
            )
            if tally.bad.total() > options.max_bad * all_rows:
                reasons = quarantined_reasons(objects, records.load_commits(objects, plan).values())
                raise TooManyBadError(_too_bad(tally, options.max_bad, all_rows, reasons))
        tally.elapsed = publisher.seconds = time.monotonic() - started
        if tally.failed:
            raise TesseraeError(_failures(tally.failed, work.split))


def _sizes(commits: dict[int, Commit], shard: int) -> set[int]:
    return set(commits[shard].sizes) if shard in commits else set()


def _sizes_before(
    plan: Plan, work: ShardTaskConfig, commits: dict[int, Commit]
) -> list[tuple[int, int, int]]:
    """Return (side in pixels, rows already stored, rows of the split) for each size."""
    return [
        (
            size,
            sum(commit.stop - commit.start for commit in commits.values() if size in commit.sizes),
            plan.num_rows,
        )
        for size in work.sizes
    ]


def _too_bad(tally: Tally, max_bad: float, num_rows: int, reasons: Sequence[Reason]) -> str:
    counts = ", ".join(f"{n:,} {why}" for why, n in tally.bad.most_common())
    seen = tally.num_rows + tally.before.total()
    return (
        f"{tally.bad.total():,} of the first {seen:,} images are unreadable ({counts}); --max-bad"
        f" {max_bad:g} allows {int(max_bad * num_rows):,} of {num_rows:,}. For example:"
        f" {examples(reasons)}. Check the source, or pass a larger --max-bad."
    )


def _failures(failed: Sequence[Failed], split: str) -> str:
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
            " finished. Run again without --limit to continue."
        )
        return None
    done = finish_split(work.store, work.split, work.run)
    labels, status = (arrays.read_small(objects, work.split, n) for n in ("label", "status"))
    for line in lost_lines(recipe.classes, labels, status):
        print(printable(f"{work.split}: {line}"))
    return done


def _how_to_go_on(objects: Objects, split: str) -> str:
    try:
        plan = records.load_plan(objects, split)
    except TesseraeError:
        return "Nothing was planned yet: run the same command again."
    committed = len(records.load_commits(objects, plan))
    return (
        f"{committed} of {plan.num_shards} shards of split {split!r} are committed: run the same"
        " command again to continue."
    )
