"""The work of `tesserae prepare`: options, leases, plans and the jobs of each split."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.cores import cores
from pipeline import code_digest, sources
from pipeline.errors import StoreError, TesseraeError
from pipeline.ingest import planning
from pipeline.ingest.finish import finish_split
from pipeline.ingest.planning import Choices, Listed
from pipeline.ingest.shard import Report, Work
from pipeline.ingest.source_index import Origin
from pipeline.ingest.tasks import shard_jobs
from pipeline.jobs import Failed, run_jobs
from pipeline.sources import Source, spool
from pipeline.sources.formats.sorted_val import check_sorted
from pipeline.sources.keys import misspelt
from pipeline.sources.location import Location
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions
from pipeline.store import arrays, layout, records
from pipeline.store.commit import Commit
from pipeline.store.lease import lease
from pipeline.store.objects import LocalObjects, Objects, open_objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.records import Done
from workflows import session
from workflows.dashboard.preview import Look
from workflows.dashboard.publisher import Sender
from workflows.preparation import spooling
from workflows.preparation.class_lines import class_lines, lost_lines
from workflows.preparation.quarantine import Reason, examples, quarantined_reasons
from workflows.reports.store_model import RunReport
from workflows.reports.store_summary import report_store
from workflows.session import Cluster
from workflows.terminal.formatting import bytes_text, counted, printable
from workflows.terminal.progress import Progress, say_waiting
from workflows.terminal.signals import held_back

MOST_FAILURES = 8
"""Shards that may fail one after the other: then the source is lost, and the run ends."""

WORKER_BYTES = 400 * 2**20
"""What a worker needs beside its tasks: interpreter, libraries, one very large picture."""


def source_options(args: argparse.Namespace) -> SourceOptions:
    """Read the flags of `workflows.commands.flags.add_source`.

    Raises:
        ValueError: Naming the one that makes no sense.
    """
    return SourceOptions(
        recursive=args.recursive,
        class_name=args.class_name,
        ignore=tuple(args.ignore),
        image_column=args.image_column,
        label_column=args.label_column,
        name_column=args.name_column,
    )


class TooManyBadError(TesseraeError):
    """More rows were quarantined than `--max-bad` allows."""


@dataclass(kw_only=True)
class Tally:
    """What a run has done so far."""

    num_rows: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    failed: list[Failed] = field(default_factory=list)
    failed_in_a_row: int = 0
    elapsed: float = 0.0
    before: Counter[str] = field(default_factory=Counter)
    """Rows that earlier runs committed and this one leaves alone, by status."""

    def fail(self, failed: Failed) -> None:
        """Count a shard that was not made."""
        self.failed.append(failed)
        self.failed_in_a_row += 1

    def add(self, report: Report) -> None:
        """Count one shard."""
        self.failed_in_a_row = 0
        self.num_rows += report.num_rows
        self.bytes_in += report.bytes_in
        self.bytes_out += report.bytes_out
        self.counts.update(report.counts)
        for stage, spent in report.seconds.items():
            self.seconds[stage] += spent  # type: ignore[assignment]

    def report(self) -> RunReport:
        """What was done, as a report has it."""
        return RunReport(
            num_rows=self.num_rows,
            seconds=self.elapsed,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            stage_seconds=dict(self.seconds),
        )

    @property
    def bad(self) -> Counter[str]:
        """Rows in quarantine by reason, those of earlier runs too."""
        both = self.before + self.counts
        del both["readable"]
        return both


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that was asked for, checked."""

    source: str
    store: str
    splits: tuple[str, ...]
    choices: Choices
    workers: int
    kind: str | None = None
    source_options: SourceOptions = DEFAULT_OPTIONS
    limit: int | None = None
    threads: int = 1
    max_bad: float = 0.01
    image_seconds: float = 60.0
    wait: bool = False
    dashboard: bool = True
    cluster: str = "local"
    certs: str | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense, before anything is read."""
        for name in ("source", "store"):
            if not getattr(self, name):
                raise ValueError(f"{name.upper()} is empty: expected a path or a URL.")
        session.check_where(self.cluster)
        for split in self.splits:
            layout.check_split(split)
        if len(set(self.splits)) != len(self.splits):
            raise ValueError(f"--split is {' '.join(self.splits)}: one is named twice.")


def read_options(args: argparse.Namespace) -> Options:
    """Check the words of a command line.

    Raises:
        ValueError: Naming the one that makes no sense.
    """
    splits = tuple(args.split or ["all"])
    if splits == ("all",):
        held = sources.splits(args.source, args.source_kind, source_options(args))
        splits = tuple(held) or ("train",)
    return Options(
        source=args.source,
        store=args.store,
        splits=splits,
        choices=Choices(
            sizes=tuple(sorted(args.sizes)),
            fit=args.fit,
            filter=args.filter,
            serves=args.serves,
            exif=args.exif,
            shard_rows=args.shard_rows,
            chunk_rows=args.chunk_rows,
            codec=args.codec,
            missing_end=args.missing_end,
            max_image_bytes=args.max_image_bytes,
            seed=args.seed,
        ),
        kind=args.source_kind,
        source_options=source_options(args),
        limit=args.limit,
        workers=args.workers if args.workers is not None else cores(),
        threads=args.threads,
        max_bad=args.max_bad,
        image_seconds=args.image_seconds,
        wait=args.wait,
        dashboard=args.dashboard,
        cluster=args.cluster,
        certs=args.certs,
    )


def run(args: argparse.Namespace) -> int:
    """Prepare every split that was asked for."""
    options = read_options(args)
    if session.work_for_first(args):
        return 0
    if args.split in (None, ["all"]) and len(options.splits) > 1:
        parts = {split: _opened(options, split).source for split in options.splits}
        options = replace(options, splits=tuple(spooling.with_classes(parts)))
    if args.split in (None, ["all"]) and "test" not in options.splits:
        how = _source_options(options, open_objects(options.store))
        text = sources.unlabelled_test(options.source, options.kind, how)
        if text:
            print(printable(text), flush=True)
    try:
        runs = prepare(options)
        report_store(options.store, runs)
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(str(e) or "Run the same command again to go on.") from None
    return 0


def prepare(options: Options) -> dict[str, RunReport]:
    """Prepare every split that was asked for; returns what was done, by split."""
    for split in options.splits:  # one that is not there is said before hours of the others
        _opened(options, split)
    with Cluster(
        workers=options.workers,
        threads=options.threads,
        dashboard=options.dashboard,
        where=options.cluster,
        certs=options.certs,
    ) as cluster:
        cluster.look()
        plans = plan_splits(options, cluster) if len(options.splits) > 1 else None
        runs = {split: prepare_split(options, split, cluster, plans) for split in options.splits}
    return {split: run for split, run in runs.items() if run.num_rows}


@dataclass(frozen=True)
class OpenSplit:
    """A split that is being prepared: where it comes from, and where it goes."""

    split: str
    run: str
    source: Source
    objects: Objects


Plans = dict[str, tuple[Recipe, Plan]]
"""Split -> the recipe and the plan that it has."""


def _opened(options: Options, split: str) -> OpenSplit:
    """Open the source of one split, as the rules of its store have it, and check where it goes."""
    run = planning.new_run(split)
    objects = open_objects(options.store, run)
    _check_place(objects, options.source)
    planning.check_choices(objects, options.choices)
    how = _source_options(options, objects)
    # What a store has already goes on. The name comes first: the other question lists the store.
    if misspelt(split) and split not in records.splits(objects):
        sources.check_split_name(options.source, split, options.kind, how)
    source = sources.open_source(options.source, split, options.kind, how)
    return OpenSplit(split, run, source, objects)


def _source_options(options: Options, objects: Objects) -> SourceOptions:
    """Return how the source is read, by the rules of the store."""
    return replace(options.source_options, rules=planning.source_rules(objects))


@contextmanager
def _leased(part: OpenSplit, *, wait: bool) -> Iterator[None]:
    with lease(part.objects, part.split, wait=wait, waiting=say_waiting):
        part.objects.begin()
        try:
            yield
        except KeyboardInterrupt:
            with held_back():
                how_to_go_on = _how_to_go_on(part.objects, part.split)
            raise KeyboardInterrupt(how_to_go_on) from None
        finally:
            part.objects.end()


def plan_splits(options: Options, cluster: Cluster) -> Plans:
    """Plan every split that was asked for, so that a class of any of them has its label.

    Raises:
        TesseraeError: A source's classes cannot be told; nothing was decoded yet.
    """
    parts = [_opened(options, split) for split in options.splits]
    with ExitStack() as leases:
        for part in sorted(parts, key=lambda part: part.split):  # two commands take them alike
            leases.enter_context(_leased(part, wait=options.wait))
        return settle(options, parts, cluster)


def prepare_split(
    options: Options, split: str, cluster: Cluster, plans: Plans | None = None
) -> RunReport:
    """Prepare one split; returns what was done.

    Args:
        options: What was asked for.
        split: One of its splits.
        cluster: Where the work is done.
        plans: What `plan_splits` gave; None plans this split alone.
    """
    part = _opened(options, split)
    with _leased(part, wait=options.wait):
        recipe, plan = (plans or settle(options, [part], cluster))[split]
        return _prepare(options, part, recipe, plan, cluster)


def _check_place(objects: Objects, source: str) -> None:
    if not isinstance(objects, LocalObjects):
        return
    store = Path(objects.url)
    if store.resolve().is_relative_to(Path(source).resolve()):
        raise StoreError(
            f"the store {store} lies in the source {source}, which would change by it. Choose a"
            " folder outside."
        )
    known = {layout.RECIPE, "splits"}
    names = {path.name for path in store.iterdir()} if store.is_dir() else set()
    foreign = sorted(name for name in names - {"lost+found"} if not name.startswith("."))
    if foreign and not names & known:
        raise StoreError(
            f"{store} is no store, and holds other files, such as {foreign[0]!r}. Choose a new or"
            " an empty folder."
        )


def _prepare(
    options: Options, part: OpenSplit, recipe: Recipe, plan: Plan, cluster: Cluster
) -> RunReport:
    split, source, objects = part.split, part.source, part.objects
    commits = records.load_commits(objects, plan)
    target = _target(plan, options.limit)
    if options.limit is not None:
        rows = sum(len(plan.rows(shard)) for shard in target)
        print(
            f"{split}: --limit {options.limit:,} takes {rows:,} of {plan.num_rows:,} images:"
            f" {counted(len(target), 'whole shard')} of up to {plan.shard_rows:,}"
        )
    todo = [
        s for s in target if s not in commits or not commits[s].sizes >= set(options.choices.sizes)
    ]
    if todo:
        _check(options, objects, recipe, plan, commits, todo, cluster)
    planning.write_metadata(objects, recipe, plan, options.choices.sizes)
    work = Work(
        store=objects.url,
        split=split,
        run=part.run,
        sizes=options.choices.sizes,
        image_seconds=options.image_seconds,
        code=code_digest.digest(),
    )
    left_alone = [commits[shard].counts for shard in sorted(commits.keys() - set(todo))]
    tally = Tally(before=sum(map(Counter, left_alone), Counter()))
    if todo:
        if source.access == "blocks":
            spooling.stream(split, source, objects, cluster, recipe.max_image_bytes)
        cluster.ask_workers(work)
        try:
            make_shards(options, objects, plan, work, todo, commits, cluster, tally)
        except TooManyBadError:
            # Nothing is left to be stopped: then the table may say why of every row.
            if len(records.load_commits(objects, plan)) == plan.num_shards:
                _end(objects, recipe, plan, work, source)
            raise
    _end(objects, recipe, plan, work, source)
    return tally.report()


def _end(objects: Objects, recipe: Recipe, plan: Plan, work: Work, source: Source) -> None:
    done = _finish(objects, recipe, plan, work)
    if done is not None and source.access == "blocks":
        spooling.remove_spool(objects, work.split)


def settle(options: Options, parts: Sequence[OpenSplit], cluster: Cluster) -> Plans:
    """The recipe of the store and the plan of each split: made, or checked against the store's.

    Raises:
        TesseraeError: The source is not what was prepared, or its classes cannot be told.
    """
    plans = {}
    to_list = []
    for part in parts:
        kept = planning.kept_origin(part.objects, part.split, part.source, _root(part))
        if kept is None:
            to_list.append(part)
            continue
        recipe = planning.settle_recipe(part.objects, options.choices)
        plan = records.load_plan(part.objects, part.split)
        planning.check_seed(plan, options.choices.seed)
        plans[part.split] = recipe, plan
        print(f"{part.split}: listed before, {plan.num_rows:,} images of kind {kept.kind}")
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


def _planned(options: Options, listed: Mapping[str, tuple[OpenSplit, Listed]]) -> Plans:
    objects = next(iter(listed.values()))[0].objects
    said = {split: (part.source, one) for split, (part, one) in listed.items()}
    classes = planning.classes_of(said, planning.source_rules(objects))
    recipe = planning.settle_recipe(objects, options.choices, classes)
    for line in class_lines(classes, recipe, {split: one for split, (_, one) in listed.items()}):
        print(printable(line), flush=True)
    plans = {}
    for split, (part, one) in listed.items():
        origin = Origin(
            source=options.source,
            kind=part.source.kind,
            root=_root(part),
            fingerprint=part.source.fingerprint(),
            listing=one.digest,
            num_bytes=one.num_bytes,
            options=options.source_options.chosen(),
            passed=one.passed,
        )
        seed = options.choices.seed
        plans[split] = recipe, planning.make_plan(part.objects, split, recipe, one, origin, seed)
    return plans


def _root(part: OpenSplit) -> str:
    """Where the bytes of a split's images are read."""
    if part.source.access == "random":
        return part.source.root
    return spooling.spool_folder(part.objects, part.split)


def _list(part: OpenSplit, cluster: Cluster, limit: int | None) -> Listed:
    source = part.source
    if source.access == "random":
        with Progress(f"{part.split}: listing {source.kind}", unit="images") as progress:
            table = source.list(lambda new: progress.update(rows=new))
    else:
        spooling.stream(part.split, source, part.objects, cluster, limit)
        table = spool.spool_listing(_root(part), source.blocks())
    if source.kind != "ilsvrc-val":  # that has its classes from the table itself
        rules = planning.source_rules(part.objects)
        table = check_sorted(Location(source.root, "", SourceOptions(rules=rules)), table)
    return planning.read_listing(table)


def _target(plan: Plan, limit: int | None) -> range:
    if limit is None:
        return range(plan.num_shards)
    return range(min(plan.num_shards, -(-limit // plan.shard_rows)))


def _check(
    options: Options,
    objects: Objects,
    recipe: Recipe,
    plan: Plan,
    commits: dict[int, Commit],
    todo: Sequence[int],
    cluster: Cluster,
) -> None:
    room = objects.room()
    total = 0
    for size in options.choices.sizes:
        missing = [s for s in todo if s not in commits or size not in commits[s].sizes]
        rows = [len(plan.rows(shard)) for shard in missing]
        needed = sum(planning.shard_bytes(recipe, size, count) for count in rows)
        total += needed
        print(f"  {size:>4} px  {_extent(sum(rows), len(rows))}, {bytes_text(needed)}")
    free = "free room is not known" if room is None else f"{bytes_text(room)} are free"
    print(
        f"  {counted(plan.num_rows, 'row')} in all; {bytes_text(total)} to write, {free}",
        flush=True,
    )
    planning.check_room(objects, recipe, total)
    _check_memory(options, objects, recipe, cluster)


def _extent(rows: int, shards: int) -> str:
    return f"{counted(rows, 'row')} in {counted(shards, 'shard')}"


def _check_memory(options: Options, objects: Objects, recipe: Recipe, cluster: Cluster) -> None:
    sizes = options.choices.sizes
    if isinstance(objects, LocalObjects):  # a chunk of every size
        task = sum(recipe.chunk_rows * size * size * 3 for size in sizes)
    else:  # an object is PUT whole
        task = 2 * sum(planning.shard_bytes(recipe, size, recipe.shard_rows) for size in sizes)
    for there, threads in cluster.worker_memory():
        needed = WORKER_BYTES + threads * task
        if needed > there:
            raise StoreError(
                f"a worker needs {needed / 2**30:.1f} GiB for its shards, {there / 2**30:.1f} GiB"
                " are there for one. Have fewer workers or threads, or a new store with fewer"
                " --shard-rows."
            )


def make_shards(
    options: Options,
    objects: Objects,
    plan: Plan,
    work: Work,
    todo: Sequence[int],
    commits: dict[int, Commit],
    cluster: Cluster,
    tally: Tally,
) -> None:
    """Run the tasks of *todo*, count what they say, and show it here and on the dashboard.

    Raises:
        TesseraeError: A shard was not made, or more rows were quarantined than may be.
    """
    num_rows = sum(len(plan.rows(shard)) for shard in todo)
    all_rows = num_rows + tally.before.total()
    started = time.monotonic()
    jobs = shard_jobs(work, todo)
    look = Look(objects, plan, min(work.sizes))
    with (
        Sender(
            cluster.client, work.run, pictures=look.pictures, quarantined=look.quarantined
        ) as sender,
        Progress(f"{work.split}: prepare", rows=num_rows) as progress,
    ):
        sender.begin(
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
                if tally.failed_in_a_row == MOST_FAILURES:
                    break
                continue
            tally.add(result)
            sender.shard(result, set(work.sizes) - _sizes(commits, result.shard))
            progress.update(
                rows=result.num_rows,
                bytes_in=result.bytes_in,
                bytes_out=result.bytes_out,
                quarantined=result.num_rows - result.counts.get("readable", 0),
            )
            if tally.bad.total() > options.max_bad * all_rows:
                reasons = quarantined_reasons(objects, records.load_commits(objects, plan).values())
                raise TooManyBadError(_too_bad(tally, options.max_bad, all_rows, reasons))
        tally.elapsed = sender.seconds = time.monotonic() - started
        if tally.failed:
            raise TesseraeError(_failures(tally.failed, work.split))


def _sizes(commits: dict[int, Commit], shard: int) -> set[int]:
    return set(commits[shard].sizes) if shard in commits else set()


def _sizes_before(plan: Plan, work: Work, commits: dict[int, Commit]) -> list[tuple[int, int, int]]:
    """Of each size: side in pixels, rows that are stored, rows of the split."""
    return [
        (
            size,
            sum(kept.stop - kept.start for kept in commits.values() if size in kept.sizes),
            plan.num_rows,
        )
        for size in work.sizes
    ]


def _too_bad(tally: Tally, max_bad: float, num_rows: int, reasons: Sequence[Reason]) -> str:
    counts = ", ".join(f"{n:,} {why}" for why, n in tally.bad.most_common())
    seen = tally.num_rows + tally.before.total()
    return (
        f"{tally.bad.total():,} of the first {seen:,} rows are no readable pictures"
        f" ({counts}), and --max-bad {max_bad:g} allows {int(max_bad * num_rows):,} of"
        f" {num_rows:,}. For example {examples(reasons)}. Look at the source; if it is meant to be"
        " so, pass a larger --max-bad."
    )


def _failures(failed: Sequence[Failed], split: str) -> str:
    first = failed[0]
    return (
        f"{counted(len(failed), 'shard')} of split {split!r} could not be made; {first.job.name}:"
        f" {first.error}. What is committed stays: mend that, and run the same command again to"
        " go on."
    )


def _finish(objects: Objects, recipe: Recipe, plan: Plan, work: Work) -> Done | None:
    commits = records.load_commits(objects, plan)
    if len(commits) < plan.num_shards:
        rows = sum(kept.stop - kept.start for kept in commits.values())
        print(
            f"{work.split}: {rows:,} of {plan.num_rows:,} rows are committed; the split is not"
            " finished. Run again without --limit to go on."
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
        " command again to go on from there."
    )
