"""The splits of a `prepare` before their first shard: opened, leased, listed and planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from pipeline import sources
from pipeline.errors import StoreDamagedError, StoreError, TesseraeError
from pipeline.ingest import planning
from pipeline.ingest.planning import Listing
from pipeline.ingest.source_index import Origin
from pipeline.sources import spool
from pipeline.sources.formats.val_folder_check import check_sorted
from pipeline.sources.keys import suggest_split
from pipeline.sources.location import Location
from pipeline.sources.options import SourceOptions
from pipeline.sources.source import Source
from pipeline.store import layout, records
from pipeline.store.encoding import parse_encoding
from pipeline.store.lease import lease
from pipeline.store.local import LocalObjects
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.plan import Plan, check_same_plan
from pipeline.store.recipe import Recipe
from workflows.cluster_kinds import CommandCluster
from workflows.preparation import spooling
from workflows.preparation.options import ALL, PrepareOptions
from workflows.reports.class_lines import class_lines
from workflows.terminal.formatting import printable
from workflows.terminal.progress import Progress, print_waiting
from workflows.terminal.signals import deferred_signals


@dataclass(frozen=True)
class OpenSplit:
    """A split that is being prepared, with its source and the objects of its store."""

    split: str
    """The name of the split."""
    run: str
    """The name of the run, used for its temporary files and the keys of its tasks."""
    source: Source
    objects: Objects
    """The objects of the store, opened for this run."""


P = TypeVar("P", bound=PrepareOptions)
Plans = dict[str, tuple[Recipe, Plan]]
"""The recipe and the plan of each split, by name."""


def open_split_for_prepare(options: PrepareOptions, split: str) -> OpenSplit:
    """Open the source of one split by the rules of its store, and check the store's location.

    Nothing is written, and no image is listed.

    Args:
        options: The options of the command.
        split: The name of the split.

    Returns:
        The split, with `split` (its name), `run` (the name of a new run), `source` and `objects`
        (the store, opened for this run, which writes only inside `leased`). Nothing is to be
        closed.

    Raises:
        SourceError: The source cannot be read, or it has splits of its own and none of this name.
        StoreError: The store lies in the source, the folder holds other files, or the options
            contradict the store's recipe.
    """
    run = planning.new_run(split)
    objects = open_objects(options.store, run)
    _check_location(objects, options.source)
    planning.check_options(objects, options.store_options)
    source_options = _options_with_store_rules(options, objects)
    # A split that the store already has is resumed under any name. The spelling is tested first,
    # because it is cheaper than listing the store.
    if suggest_split(split) and split not in records.stored_splits(objects):
        sources.check_split_name(options.source, split, options.source_kind, source_options)
    source = sources.open_source(options.source, split, options.source_kind, source_options)
    return OpenSplit(split, run, source, objects)


@contextmanager
def leased(part: OpenSplit, *, wait: bool) -> Iterator[None]:
    """Hold the lease of a split inside the block, in which its store may be written.

    Temporary files of earlier runs of the split are removed first, and those of this run at the
    end.

    Args:
        part: The split, from `open_split_for_prepare`.
        wait: True to wait for another run that holds the lease; False to raise an error then.

    Yields:
        None.

    Raises:
        KeyboardInterrupt: The block was interrupted; the message says how to continue.
        StoreBusyError: Another run holds the lease, and *wait* is False. Another lease of this
            process counts as one.
    """
    with lease(part.objects, part.split, wait=wait, on_wait=print_waiting):
        part.objects.begin()
        try:
            yield
        except KeyboardInterrupt:
            with deferred_signals():
                advice = _resume_advice(part.objects, part.split)
            raise KeyboardInterrupt(advice) from None
        finally:
            part.objects.end()


def resolve_splits(options: PrepareOptions) -> PrepareOptions:
    """Return the options with the names of the source's splits in place of `all`.

    Of several splits, those that cannot be prepared yet are left out, and the reasons are printed;
    a single one is not checked. A source without named splits has the split `train`.

    Args:
        options: The options of the command, whose `split` is `("all",)`; returned unchanged if they
            name splits.

    Raises:
        SourceError: The source cannot be read, or none of its several splits can be prepared.
        StoreError: The store's location or its recipe does not permit the run.
    """
    if options.split != ALL:
        return options
    source = options.source, options.source_kind
    options = replace(options, split=tuple(sources.source_splits(*source, options.source_options)))
    if not options.split:
        options = replace(options, split=("train",))
    if len(options.split) > 1:
        parts = {split: open_split_for_prepare(options, split).source for split in options.split}
        options = replace(options, split=tuple(spooling.preparable_splits(parts)))
    if "test" not in options.split:
        source_options = _options_with_store_rules(options, open_objects(options.store))
        remark = sources.unlabelled_test_remark(*source, source_options)
        if remark:
            print(printable(remark), flush=True)
    return options


def resolve_arrays(options: P) -> P:
    """Return the options with the arrays of a store of encoded rows, if they name none.

    A further split of such a store, or its next run, gets the arrays that its shards have, and no
    squares that nobody has asked for. A store of squares alone gets the default sizes. Damaged
    records are left to the run, which names them or makes them again.

    Args:
        options: The options of the command; returned unchanged if they name sizes or encodings, or
            if no split of the store has encoded rows.

    Raises:
        StoreError: A record has a format that this version does not read, or the request to an
            object store failed.
    """
    if options.sizes is not None or options.encoded:
        return options
    objects = open_objects(options.store)
    sizes: set[int] = set()
    encodings: set[str] = set()
    for split in records.stored_splits(objects):
        planned = records.planned_encodings(objects, split)
        if not planned:  # a store of squares alone has too many commits to be read for nothing
            continue
        encodings.update(planned)
        with suppress(StoreDamagedError):
            commits = records.load_commits(objects, records.load_plan(objects, split))
            sizes.update(size for commit in commits.values() for size in commit.sizes)
    if not encodings:
        return options
    encoded = tuple(parse_encoding(name).text for name in sorted(encodings))
    arrays = ", ".join([*(f"{size} px" for size in sorted(sizes)), *encoded])
    print(f"arrays as in the store: {arrays}; --sizes and --encoded name others", flush=True)
    return replace(options, sizes=tuple(sorted(sizes)), encoded=encoded)


def plan_splits(options: PrepareOptions, cluster: CommandCluster) -> Plans:
    """Plan every requested split, so that the labels cover the classes of all of them.

    The recipe and the plans are written to the store; no image is decoded.

    The leases of all splits are held meanwhile, and released at the end.

    Args:
        options: The options of the command.
        cluster: The cluster that streams sources which cannot be read at random; it is not started
            for others.

    Returns:
        For each split, by name, the tuple (recipe of the store, plan of the split).

    Raises:
        ClusterError: The cluster cannot be used.
        StoreBusyError: Another run prepares one of the splits, and the options lack `--wait`.
        TesseraeError: A source differs from the one that was prepared, or its classes cannot be
            determined; nothing was decoded yet.
    """
    parts = [open_split_for_prepare(options, split) for split in options.split]
    with ExitStack() as leases:
        # A fixed order, so that two commands which lock the same splits cannot deadlock.
        for part in sorted(parts, key=lambda part: part.split):
            leases.enter_context(leased(part, wait=options.wait))
        return resolve_plans(options, parts, cluster)


def resolve_plans(
    options: PrepareOptions, parts: Sequence[OpenSplit], cluster: CommandCluster
) -> Plans:
    """Return the recipe and the plan of each split, created or checked against the store's.

    A source is listed again unless the store has a plan of it. New plans are written to the store.

    Args:
        options: The options of the command.
        parts: The splits, from `open_split_for_prepare`, each inside its `leased`; the labels cover
            the classes of those that are listed together.
        cluster: The cluster that streams sources which cannot be read at random; it is not started
            for others.

    Returns:
        For each split, by name, the tuple (recipe of the store, plan of the split).

    Raises:
        ClusterError: The cluster cannot be used.
        TesseraeError: The source differs from the one that was prepared, its classes cannot be
            determined, or a new plan is to be written and the caller holds no lease.
    """
    plans = {}
    to_list = []
    for part in parts:
        origin = planning.cached_origin(part.objects, part.split, part.source, _root(part))
        if origin is None:
            to_list.append(part)
            continue
        recipe = planning.resolve_recipe(part.objects, options.store_options)
        plan = records.load_plan(part.objects, part.split)
        planning.check_seed(plan, options.store_options.seed)
        plans[part.split] = recipe, plan
        print(
            f"{part.split}: {plan.num_rows:,} images, listed by an earlier run (source kind"
            f" {origin.kind})"
        )
    if not to_list:
        return plans
    rules = planning.source_rules(to_list[0].objects)
    spooling.check_early({part.split: part.source for part in to_list}, rules)
    spools = [_root(part) for part in to_list if part.source.access == "blocks"]
    listed = {}
    with spooling.naming_spools_in_errors(spools):
        for part in to_list:
            limit = planning.image_limit(part.objects, options.store_options)
            listed[part.split] = part, _list_source(part, cluster, limit)
        return plans | _planned(options, listed)


def check_listing(options: PrepareOptions, part: OpenSplit, table: pa.Table) -> None:
    """Refuse a listing that `resolve_plans` would refuse for the store; nothing is written.

    Any listing suits a store without a recipe.

    Args:
        options: The options of the command.
        part: The split, from `open_split_for_prepare`, whose source is read at random.
        table: The listing of its source.

    Raises:
        TesseraeError: The store has another listing, other classes or another seed.
    """
    if part.objects.size(layout.RECIPE) is None:
        return
    stored = None
    if part.split in records.stored_splits(part.objects):
        stored = records.load_plan(part.objects, part.split)
        planning.check_seed(stored, options.store_options.seed)
        if planning.cached_origin(part.objects, part.split, part.source, _root(part)) is not None:
            return  # prepare does not list such a source again
    listing = _read_listing(part, table)
    rules = planning.source_rules(part.objects)
    classes = planning.classes_of({part.split: (part.source, listing)}, rules)
    planning.expected_recipe(part.objects, options.store_options, classes)
    if stored is not None:
        requested = replace(stored, num_rows=listing.table.num_rows, listing=listing.digest)
        check_same_plan(stored, requested)


def _planned(options: PrepareOptions, listed: Mapping[str, tuple[OpenSplit, Listing]]) -> Plans:
    objects = next(iter(listed.values()))[0].objects
    sources_and_listings = {
        split: (part.source, listing) for split, (part, listing) in listed.items()
    }
    classes = planning.classes_of(sources_and_listings, planning.source_rules(objects))
    recipe = planning.resolve_recipe(objects, options.store_options, classes)
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
        seed = options.store_options.seed
        plan = planning.make_plan(part.objects, split, recipe, listing, origin, seed)
        plans[split] = recipe, plan
    return plans


def _root(part: OpenSplit) -> str:
    """Return the path or URL that the encoded images of a split are read from."""
    if part.source.access == "random":
        return part.source.root
    return spooling.spool_folder(part.objects, part.split)


def _list_source(part: OpenSplit, cluster: CommandCluster, limit: int | None) -> Listing:
    source = part.source
    if source.access == "random":
        with Progress(f"{part.split}: listing {source.kind}", unit="images") as progress:
            table = source.list(lambda new: progress.update(rows=new))
    else:
        spooling.stream(part.split, source, part.objects, cluster, limit)
        table = spool.spool_listing(_root(part), source.blocks())
    return _read_listing(part, table)


def _read_listing(part: OpenSplit, table: pa.Table) -> Listing:
    source = part.source
    if source.kind != "ilsvrc-val":  # ilsvrc-val takes its classes from the table itself
        rules = planning.source_rules(part.objects)
        table = check_sorted(Location(source.root, "", SourceOptions(rules=rules)), table)
    return planning.read_listing(table)


def _options_with_store_rules(options: PrepareOptions, objects: Objects) -> SourceOptions:
    """Return the options to read the source with, by the listing rules of the store."""
    return replace(options.source_options, rules=planning.source_rules(objects))


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


def _resume_advice(objects: Objects, split: str) -> str:
    try:
        plan = records.load_plan(objects, split)
    except TesseraeError:
        return "Nothing was planned yet: run the same command again."
    committed = len(records.load_commits(objects, plan))
    return (
        f"{committed} of {plan.num_shards} shards of split {split!r} are committed: run the same"
        " command again to continue."
    )
