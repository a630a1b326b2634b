"""Planning: the recipe, the plan, and all that follows from them, before any image is read.

The planner runs under the split's lease, in the process of the user. It is idempotent: a run that
finds the leftovers of an interrupted one writes the same again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.images import probe
from pipeline.ingest.finish import planned_documents, put_changed, zarr_metadata
from pipeline.ingest.source_index import (
    Origin,
    SourceIndex,
    load_origin,
    write_source_index,
)
from pipeline.ingest.worker import local_encoder
from pipeline.order import ROW_ORDER_VERSION, row_order
from pipeline.sources.classes.class_names import UNLABELLED
from pipeline.sources.classes.class_order import Classes, combine_classes
from pipeline.sources.classes.evidence import ClassBasis, Evidence
from pipeline.sources.classes.split_classes import SplitClasses
from pipeline.sources.listing import listing_digest
from pipeline.sources.source import Source
from pipeline.store import arrays, layout, plan, recipe, records
from pipeline.store.encoded_plan import (
    MAX_SPAN_BYTES,
    EncodedPlan,
    check_same_encoder,
    expected_bytes,
    span_of,
)
from pipeline.store.encoding import CHUNK_BYTES, Encoding
from pipeline.store.geometry import Geometry
from pipeline.store.ledger import encode_ledger, read_ledger
from pipeline.store.objects import Objects
from pipeline.store.options import DEFAULTS, StoreOptions
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe


def new_run(split: str) -> str:
    """Return a unique name for a run, which marks its temporary files and tasks.

    Args:
        split: The name of the split that the run writes.

    Returns:
        `<split>-<8 hexadecimal digits>`; the digits are random.
    """
    return f"{split}-{uuid.uuid4().hex[:8]}"


NO_CLASSES = Classes((), ())
"""The classes of a source that is not read again, because its splits were listed before."""


def resolve_recipe(
    objects: Objects, options: StoreOptions, classes: Classes = NO_CLASSES
) -> Recipe:
    """Return the store's recipe; write it first, made from the options and classes, if it is new.

    Args:
        objects: The objects of the store; for a new one, their `begin` was called.
        options: The options of the command, such as `StoreOptions(sizes=(72, 224), fit="pad")`.
            None in a field accepts what the store has, or the default in a new store, which for
            `serves` is the largest side of its arrays. Otherwise, `sizes`, `encoded` and `seed` are
            not part of a recipe and not compared.
        classes: The classes of the source, as `classes_of` returns them (default: none, for a
            source that is not listed).

    Returns:
        The recipe that the store has now. If the store has one already, it is returned as it is,
        once it is compared with the options.

    Raises:
        StoreMismatchError: The store has other options, lacks one of the classes that have samples
            or has another number for it, or this machine makes other pixels.
        StoreDamagedError: The store has plans or commits but no recipe, or its recipe is damaged.
        StoreError: The recipe cannot be written, or has a format that this version does not read.
        ValueError: An option has an invalid value, such as `fit="fill"`.
    """
    stored = _stored_recipe(objects)
    if stored is None:
        requested = _requested_recipe(options, None, classes)
        if objects.put_new(layout.RECIPE, requested.encode()):
            return requested
        stored = records.load_recipe(objects)  # another split's planner has written it meanwhile
    recipe.check_same_recipe(stored, _requested_recipe(options, stored, classes.non_empty()))
    return stored


def expected_recipe(
    objects: Objects | None, options: StoreOptions, classes: Classes = NO_CLASSES
) -> Recipe:
    """Return the recipe by which images would be prepared; nothing is written.

    Args:
        objects: The objects of the store, which need not exist yet; None: a new store.
        options: The options of the command, such as `StoreOptions(sizes=(72, 224), fit="pad")`.
        classes: The classes of the source (default: none, for a source that is not listed).

    Returns:
        The recipe of the store, if it has one; otherwise that of a new store with these classes.

    Raises:
        ValueError: An option has an invalid value, such as `fit="fill"`.
        StoreMismatchError: The store has other options, lacks one of the classes that have samples
            or has another number for it, or this machine makes other pixels.
        StoreError: The recipe cannot be read, or has a format that this version does not read.
    """
    stored = None if objects is None else _stored_recipe(objects)
    if stored is None:
        return _requested_recipe(options, None, classes)
    requested = _requested_recipe(options, stored, classes.non_empty())
    recipe.check_same_recipe(stored, requested)
    return stored


def check_options(objects: Objects, options: StoreOptions) -> None:
    """Check the options of a command against the store before anything is listed or written.

    Args:
        objects: The objects of the store, which need not exist yet.
        options: The options of the command, such as `StoreOptions(sizes=(72, 224), fit="pad")`.
            None in a field accepts what the store has, or the default in a new store. Its `sizes`,
            `encoded` and `seed` are not compared.

    Raises:
        ValueError: An option has an invalid value, such as `fit="fill"`.
        StoreMismatchError: The store has other options, or this machine makes other pixels.
        StoreDamagedError: The store has plans or commits but no recipe, or its recipe is damaged.
        StoreError: The store has a format that this version does not read.
    """
    expected_recipe(objects, options)


def source_rules(objects: Objects) -> int:
    """Return the version of the listing rules by which the samples of a store are listed.

    Args:
        objects: The objects of the store, which need not exist yet.

    Returns:
        1 or 2, as the store's recipe says; the newest, 2, for a new store.

    Raises:
        StoreDamagedError: The store has plans or commits but no recipe, or its recipe is damaged.
        StoreError: The store has a format that this version does not read.
    """
    stored = _stored_recipe(objects)
    return recipe.LISTING_RULES if stored is None else stored.listing_rules


def image_limit(objects: Objects, options: StoreOptions) -> int | None:
    """Return the length in bytes of the longest image file that is read.

    Args:
        objects: The objects of the store; the recipe of one that exists decides.
        options: The options of the command, whose `max_image_bytes` decides for a new store.

    Returns:
        The number of bytes, 256 MiB by default; None means no limit, which only a store has whose
        recipe has version 1 of the decoding rules.

    Raises:
        StoreDamagedError: The store has plans or commits but no recipe, or its recipe is damaged.
        StoreError: The store has a format that this version does not read.
    """
    stored = _stored_recipe(objects)
    if stored is not None:
        return stored.max_image_bytes
    return options.max_image_bytes or recipe.MAX_IMAGE_BYTES


def _stored_recipe(objects: Objects) -> Recipe | None:
    if objects.size(layout.RECIPE) is not None:
        return records.load_recipe(objects)
    if records.stored_splits(objects):
        raise StoreDamagedError(
            f"the store {objects.url} has plans but no {layout.RECIPE}. Run `tesserae repair`."
        )
    return None


def _requested_recipe(options: StoreOptions, stored: Recipe | None, classes: Classes) -> Recipe:
    def chosen(name: str) -> object:
        value = getattr(options, name)
        if value is not None:
            return value
        return DEFAULTS[name] if stored is None else getattr(stored, name)

    serves = options.largest_side if stored is None else stored.serves
    if options.serves is not None:
        serves = options.serves
    # An invalid option is refused here, before the pixels that the options give are probed.
    requested = Recipe(
        **{name: chosen(name) for name in DEFAULTS},  # type: ignore[arg-type]
        serves=serves,
        decoder="",
        resizer="",
        software={},
        classes=classes.pairs,
        class_numbers=classes.numbers,
        **_versions(stored, str(chosen("fit"))),
    )
    probed = probe.probe(requested.filter, rules=requested.decode_rules)
    return replace(
        requested, decoder=probed.decoder, resizer=probed.resizer, software=probe.description()
    )


def _versions(stored: Recipe | None, fit: str) -> dict[str, Any]:
    """Return the versions in a recipe, by field: a store keeps its own, a new one gets these."""
    if stored is None:
        return {"decode_rules": recipe.decode_rules_for(fit)}
    return {name: getattr(stored, name) for name in ("format", "decode_rules", "listing_rules")}


def cached_origin(objects: Objects, split: str, source: Source, root: str) -> Origin | None:
    """Return the origin of the split's rows if the source has not changed since it was listed.

    This is a cache of the listing: with it a rerun need not list a million files again.

    Args:
        objects: The objects of the store.
        split: The name of the split.
        source: The source of this run, as `pipeline.sources.open_source` returns it; its
            fingerprint is computed if the kind and root are the same.
        root: The folder or URL that images are read from: the `root` of *source*, or the spool.

    Returns:
        The origin: `source` as the user named it, its `kind`, `root`, `fingerprint` and `options`,
        the listing's digest in `listing`, the bytes of all samples in `num_bytes`, and in `passed`
        the number of skipped files and the name of the first, by reason. None if the source must be
        listed again: the split has no plan, its source index is missing or damaged, or the source's
        kind, root or fingerprint is another.

    Raises:
        TesseraeError: The source cannot be read to compute its fingerprint (a ReadError or a
            SourceError).
        OSError: The disk reports an error while the source index is read.
    """
    try:
        origin = load_origin(objects, records.load_plan(objects, split))
    except StoreError:
        return None
    same = (origin.kind, origin.root) == (source.kind, root)
    return origin if same and origin.fingerprint == source.fingerprint() else None


@dataclass(frozen=True)
class Listing:
    """A source's samples and their classes."""

    table: pa.Table
    """The samples, sorted by key, with the columns `key`, `num_bytes` and others."""
    digest: str
    """The SHA-256 of keys and lengths, as 64 hexadecimal digits."""
    runs: list[tuple[str, int, int]]
    """(class, start, stop) over the sorted samples."""
    evidence: Evidence = field(default_factory=Evidence)
    """The evidence for the samples' classes, and the skipped files."""

    @property
    def skipped(self) -> dict[str, tuple[int, str]]:
        """The skipped files, by reason: their number and the name of the first."""
        return {why: (seen.count, seen.first) for why, seen in self.evidence.skipped.items()}

    @property
    def num_bytes(self) -> int:
        """The number of bytes of all images."""
        return int(pc.sum(self.table["num_bytes"]).as_py() or 0)

    @property
    def wnids(self) -> list[str]:
        """The wnids of the labelled samples, sorted."""
        return sorted({name for name, _, _ in self.runs if name != UNLABELLED})


def read_listing(table: pa.Table) -> Listing:
    """Return a listing with its digest, the positions of each class, and their evidence.

    Memory that Arrow does not use any more is given back to the system.

    Args:
        table: The samples, sorted by the UTF-8 bytes of their keys, with the columns `key`
            (large_string) and `num_bytes` (int64), and where needed `path`, `offset` and `crc32c`,
            as the `list` of a source returns them; the evidence is in the metadata of its schema.
            Without evidence, the samples come from class folders. The order is not checked.

    Returns:
        A `Listing`: the table itself in `table`; the SHA-256 of its keys and lengths in `digest`,
        as 64 hexadecimal digits; in `runs`, for each class that has samples, in the order of keys,
        a tuple (class, start, stop): its samples are at positions start to stop - 1 of the table,
        and `-` stands for samples without a class; and in `evidence` what tells their classes, with
        the skipped files.
    """
    pa.default_memory_pool().release_unused()  # free the unsorted pieces, half of all memory
    runs = class_runs(table["key"])
    evidence = Evidence.decode(table.schema.metadata)
    if not evidence.groups:  # class folders: their names are the only evidence
        for name, start, stop in runs:
            evidence.add_class(name, ClassBasis("folder"), stop - start)
    return Listing(table, listing_digest(table), runs, evidence)


def classes_of(listed: Mapping[str, tuple[Source, Listing]], rules: int) -> Classes:
    """Put the classes of several splits in one order, by one version of the listing rules.

    Args:
        listed: A tuple (source, listing) for each split, by its name: what
            `pipeline.sources.open_source` and `read_listing` return.
        rules: The version of the listing rules, 1 or 2.

    Returns:
        A `Classes`: `names`, the class of label 0, 1, ..., as in keys; `words`, those of each
        class; `numbers`, that of each class in the source, empty if it has none; `notes`, remarks
        for the user; and `empty`, the set of classes without a sample.

    Raises:
        SourceError: The classes of the samples are ambiguous or contradictory.
    """
    return combine_classes(
        {
            split: SplitClasses(listing.evidence, source.class_table(), source.words())
            for split, (source, listing) in listed.items()
        },
        rules,
    )


def make_plan(
    objects: Objects, split: str, recipe: Recipe, listed: Listing, origin: Origin, seed: int
) -> Plan:
    """Write the plan of a split, its labels and its source index.

    A plan that exists is not replaced: it must be the same. The labels are written again only if
    they differ, the source index always.

    Args:
        objects: The objects of the store, whose `begin` was called.
        split: The name of the split, which is not checked.
        recipe: The recipe of the store.
        listed: The samples of the source, of `read_listing`, at least one.
        origin: The location of the source, which the index records; its `listing` is the `digest`
            of *listed*.
        seed: The seed of the order of rows, 0 to 2^64 - 1.

    Returns:
        The plan: the digests `recipe` and `listing`, `num_rows`, the version and the seed of their
        order (`order_version`, `seed`), and `shard_rows`, the rows of a shard.

    Raises:
        StoreMismatchError: The split was planned from another listing or order, or the listing has
            classes that the store does not have.
        StoreDamagedError: The plan in the store is damaged.
        StoreError: The store cannot be written.
        ValueError: The split would have more than 2^22 shards, or *seed* is out of its range;
            nothing is written.
    """
    requested = Plan(
        split=split,
        recipe=recipe.digest,
        num_rows=listed.table.num_rows,
        listing=listed.digest,
        order_version=ROW_ORDER_VERSION,
        seed=seed,
        shard_rows=recipe.shard_rows,
        format=recipe.format,
    )
    order = row_order(requested.num_rows, seed)
    # Compared before the classes: of another listing, the error must say that it is another one.
    if objects.size(layout.plan(split)) is not None:
        plan.check_same_plan(records.load_plan(objects, split), requested)
    labels = _labels_of_listing(listed, recipe)
    # Written only now: a seed or classes that were refused must leave no plan behind.
    if not objects.put_new(layout.plan(split), requested.encode()):
        plan.check_same_plan(records.load_plan(objects, split), requested)
    write_labels(objects, split, labels[order])
    # Last, since a run that finds the source index does not plan again.
    write_source_index(objects, requested, origin, listed.table, labels, order)
    return requested


def write_labels(objects: Objects, split: str, labels: NDArray[np.int32]) -> None:
    """Write the zarr array of labels of a split, unless it exists with the same values.

    Args:
        objects: The objects of the store, whose `begin` was called if there is something to write.
        split: The name of the split.
        labels: (num_rows,) int32 in the order of rows; -1 for a row without a class.

    Raises:
        StoreError: The array cannot be written.
        OSError: The disk reports an error while the present array is read.
    """
    for name, data in arrays.label_array(split, labels):
        put_changed(objects, name, data)


def plan_encoded(
    objects: Objects, plan: Plan, encodings: Sequence[Encoding]
) -> dict[str, EncodedPlan]:
    """Return the plans of encoded arrays of a split; write those that the store does not have yet.

    Args:
        objects: The objects of the store, whose `begin` was called.
        plan: The plan of the split, whose source index exists.
        encodings: The encodings of the arrays.

    Returns:
        The plan of each array, by its name, such as `jpeg256@90`.

    Raises:
        StoreMismatchError: The rows of an array that the store has were encoded by other software,
            which makes other bytes.
        StoreDamagedError: The plan of an array is damaged.
        StoreError: A shard of so many rows would need too much room, the source index cannot be
            read, or the store not be written.
    """
    planned = {}
    longest = None
    for encoding in encodings:
        name = encoding.array_name
        encoder, software = local_encoder(encoding)
        if objects.size(layout.encoded_plan(plan.split, name)) is None:
            if longest is None:
                rows = SourceIndex(objects, plan)
                longest = max(rows.shard_bytes)
                rows.close()
            span_bytes = span_of(encoding, longest, plan.shard_rows, plan.num_rows)
            if span_bytes > MAX_SPAN_BYTES:
                raise StoreError(
                    f"a shard of {plan.shard_rows:,} rows {encoding.text} needs room for"
                    f" {span_bytes:,} bytes: expected at most {MAX_SPAN_BYTES:,}. Choose a smaller"
                    " short side, or a new store with fewer --shard-rows."
                )
            requested = EncodedPlan(
                split=plan.split,
                encoding=name,
                plan=plan.digest,
                span_bytes=span_bytes,
                chunk_bytes=CHUNK_BYTES,
                encoder=encoder,
                software=software,
                format=plan.format,
            )
            objects.put_new(layout.encoded_plan(plan.split, name), requested.encode())
        planned[name] = records.load_encoded_plan(objects, plan, name)
        check_same_encoder(planned[name], encoder, software)
    return planned


def write_metadata(
    objects: Objects,
    recipe: Recipe,
    plan: Plan,
    sizes: Sequence[int],
    encoded_plans: Mapping[str, EncodedPlan],
) -> None:
    """Write the zarr metadata of a split, and a ledger with copies of its recipe and plans.

    The ledger is written only if it is damaged or lacks one of these; the copies of commits and
    other plans that can still be read in it are kept. Metadata that has the right bytes is left as
    it is. The whole plan is durable afterwards, so tasks may rely on it.

    Args:
        objects: The objects of the store, whose `begin` was called.
        recipe: The recipe of the store.
        plan: The plan of the split.
        sizes: The sides of the squares in pixels that will be stored.
        encoded_plans: The plans of the encoded arrays that will be stored, by name.

    Raises:
        StoreError: The store cannot be written.
        OSError: The disk reports an error while the present objects are read.
    """
    for name, data in zarr_metadata(recipe, plan, sizes, encoded_plans):
        put_changed(objects, name, data)
    ledger = read_ledger(objects, plan.split)
    copies = dict(planned_documents(recipe, plan, encoded_plans))
    if ledger.damage is not None or not copies.keys() <= ledger.copies.keys():
        other_copies = {name: text for name, text in ledger.copies.items() if name not in copies}
        data = encode_ledger((copies | other_copies).items())
        objects.put(layout.ledger(plan.split), data)
    for name in (layout.RECIPE, layout.plan(plan.split)):
        objects.sync(name.rpartition("/")[0])


class ArraySizes:
    """The bytes that the image arrays of a split take, before they are written."""

    def __init__(self, objects: Objects, recipe: Recipe, plan: Plan, options: StoreOptions) -> None:
        """Read the lengths of the split's samples if there are encoded arrays.

        Args:
            objects: The objects of the store.
            recipe: The recipe of the store; the compression of its raw arrays is ignored.
            plan: The plan of the split, whose source index exists.
            options: The options of the command, for its arrays.

        Raises:
            StoreError: The source index cannot be read.
        """
        self._recipe = recipe
        self._plan = plan
        self._sizes = options.sizes
        self._encodings = {encoding.array_name: encoding for encoding in options.encodings}
        self._source_bytes: list[int] = []
        if self._encodings:
            rows = SourceIndex(objects, plan)
            self._source_bytes = rows.shard_bytes
            rows.close()

    def object_bytes(self, array: str, shard: int) -> int:
        """Return the bytes of a shard object; for encoded rows about, as of usual photographs.

        Args:
            array: The name of the array, such as `224` or `jpeg256@90`.
            shard: The number of the shard.
        """
        num_rows = len(self._plan.rows(shard))
        if array in self._encodings:
            return expected_bytes(self._encodings[array], num_rows, self._source_bytes[shard])
        return shard_bytes(self._recipe, int(array), num_rows)

    @property
    def longest_shard_bytes(self) -> int:
        """The bytes of the longest shard object of every array together."""
        arrays = (*map(str, self._sizes), *self._encodings)
        shards = range(self._plan.num_shards if self._encodings else 1)
        return sum(max(self.object_bytes(name, shard) for shard in shards) for name in arrays)

    @property
    def chunk_bytes(self) -> int:
        """The bytes of one chunk of every array together."""
        return chunk_bytes(self._recipe.chunk_rows, self._sizes, len(self._encodings))


def chunk_bytes(chunk_rows: int, sizes: Iterable[int], num_encodings: int) -> int:
    """Return the bytes of one chunk of every array together, which a task holds in memory.

    Args:
        chunk_rows: The number of rows in a chunk of raw pixels.
        sizes: The sides of the squares in pixels.
        num_encodings: The number of arrays of encoded rows.
    """
    return sum(chunk_rows * size * size * 3 for size in sizes) + num_encodings * CHUNK_BYTES


def check_free_space(objects: Objects, recipe: Recipe, needed: int) -> None:
    """Refuse a run for which the store has too little free space.

    An object store has no known limit, so that it is never refused.

    Args:
        objects: The objects of the store.
        recipe: The recipe. Only uncompressed stores are checked: others may need less.
        needed: The number of bytes to be written, uncompressed.

    Raises:
        StoreError: There are fewer free bytes than *needed*.
    """
    room = objects.free_bytes()
    if room is not None and recipe.codec == "none" and needed > room:
        raise StoreError(
            f"not enough free space at {objects.url}: {needed:,} bytes needed, {room:,} free. Free"
            " some space, choose fewer --sizes or --encoded, or pass --limit."
        )


def check_spool_space(objects: Objects, needed: int) -> None:
    """Refuse to stream a source for which the spool has too little free space.

    An object store has no known limit, so that it is never refused.

    Args:
        objects: The objects of the store, whose disk also holds the spool.
        needed: The estimated size of the spool in bytes.

    Raises:
        StoreError: There are fewer free bytes than *needed*.
    """
    room = objects.free_bytes()
    if room is not None and needed > room:
        raise StoreError(
            f"not enough free space at {objects.url}: the source can only be streamed, and its"
            f" images need {needed / 1e9:,.1f} GB in addition to the store; {room / 1e9:,.1f} GB"
            " are free. Free some space, or copy the source to a disk and unpack it."
        )


def check_seed(stored: Plan, seed: int) -> None:
    """Check that a split was planned with *seed*.

    Args:
        stored: The plan in the store.
        seed: The seed that the command asks for, 0 to 2^64 - 1.

    Raises:
        StoreMismatchError: The split was planned with another seed.
    """
    plan.check_same_plan(stored, replace(stored, seed=seed))


def shard_bytes(recipe: Recipe, size: int, num_rows: int) -> int:
    """Return the number of bytes of an uncompressed shard object, with its checksums and index.

    Args:
        recipe: The recipe of the store; its codec is ignored.
        size: The side of the squares in pixels.
        num_rows: The number of rows in the shard, 1 to the recipe's `shard_rows`.
    """
    return Geometry(size * size * 3, recipe.shard_rows, recipe.chunk_rows, num_rows).num_bytes(0)


def class_runs(keys: pa.ChunkedArray) -> list[tuple[str, int, int]]:
    """Return the classes of sorted keys with their rows, found by bisection.

    For a million keys of a thousand classes it reads a few thousand keys, not a million.

    Args:
        keys: Keys `<class>/<file name>` as large_string, sorted by their UTF-8 bytes; `-` stands
            for the class of samples without one.

    Returns:
        A tuple (class, start, stop) for each class, in the order of the keys: its samples are at
        positions *start* to *stop* - 1. The list is empty if there are no keys.
    """
    column = keys.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], pa.large_string())
    runs = []
    start = 0
    while start < len(column):
        name = column[start].as_py().partition("/")[0]
        stop = _first_key_not_below(column, name + "0", start)  # "0" follows "/" in ASCII
        runs.append((name, start, stop))
        start = stop
    return runs


def _first_key_not_below(column: pa.Array, text: str, low: int) -> int:
    # The first index in [low, len) whose key is not below *text*, bytewise. The step doubles first,
    # then the interval is halved: runs of a class are short compared with the column.
    target = text.encode()

    def below(index: int) -> bool:
        return bool(column[index].as_py().encode() < target)

    step = 1
    while low + step < len(column) and below(low + step):
        step *= 2
    high = min(low + step, len(column))
    while low < high:
        middle = (low + high) // 2
        if below(middle):
            low = middle + 1
        else:
            high = middle
    return low


def _labels_of_listing(listed: Listing, recipe: Recipe) -> NDArray[np.int32]:
    label_of = {wnid: label for label, wnid in enumerate(recipe.wnids)}
    unknown = [name for name in listed.wnids if name not in label_of]
    if unknown:
        raise StoreMismatchError(
            f"{len(unknown)} classes are not in the store's {len(label_of)}: {unknown[:5]}. A"
            " further split may have fewer classes than the first one, but no others."
        )
    labels = np.full(listed.table.num_rows, -1, np.int32)
    for name, start, stop in listed.runs:
        labels[start:stop] = label_of.get(name, -1)
    return labels
