"""The finish step: status, table, ledger, and last the record that the split is complete.

All of it follows from recipe, plan and commits, so it can run again at any time: it writes what is
missing or damaged, and touches nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import arrays, layout, records, table
from pipeline.store.commit import Commit, ObjectRecord
from pipeline.store.encoded_plan import EncodedPlan
from pipeline.store.encoded_rows import read_row_tables
from pipeline.store.fingerprint import FingerprintWriter, fingerprint, is_intact
from pipeline.store.ledger import encode_ledger
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.records import FinishRecord


def finish_split(store: str, split: str, run: str) -> FinishRecord:
    """Write everything that is derived from a split's commits, last the finish record.

    These are the complete table, labels, statuses, zarr metadata, the ledger and the finish record.
    Objects that have the right bytes are left as they are. The caller holds the lease of the split
    (`pipeline.store.lease.lease`) and has called `begin` of the store's objects, opened with *run*
    (`pipeline.store.open.open_objects(store, run)`).

    Args:
        store: The path or URL of the store.
        split: The name of the split, all of whose shards must be committed.
        run: The name of the run, as `pipeline.ingest.planning.new_run` returns it: that of its
            folder of temporary files.

    Returns:
        The finish record that the store has now: `sizes`, the sides in pixels that every shard has,
        and `encoded`, the names of the encoded arrays that every shard has; `num_rows`; `counts`,
        the number of rows by the name of their status, such as `readable`; the digests `recipe`,
        `plan` and `parts` (of the table's parts); and in `objects` the name, length and digest of
        the table and of each object of labels, statuses and zarr metadata.

    Raises:
        StoreError: There is no such store or split, a shard has no commit, or an object that is
            missing or differs cannot be written: on a disk also before `begin` and after the end of
            the run.
        StoreDamagedError: The recipe or the plan is damaged, or a part of the table is missing or
            differs from its commit.
        OSError: The disk reports an error while the present objects are read.
    """
    objects = open_objects(store, run)
    recipe = records.load_recipe(objects)
    plan = records.load_plan(objects, split)
    commits = all_commits(objects, plan)
    sizes = sorted(set.intersection(*(commit.sizes for commit in commits)))
    encoded = sorted(set.intersection(*({*commit.encoded} for commit in commits)))
    encoded_plans = {name: records.load_encoded_plan(objects, plan, name) for name in encoded}
    previous = _previous_finish_record(objects, split)
    parts = parts_digest(commits)
    columns, written = _write_table_and_collect(objects, plan, commits, previous, parts)
    derived = [
        *arrays.label_array(split, columns.label),
        *arrays.status_array(split, columns.status),
        *zarr_metadata(recipe, plan, sizes, encoded_plans),
    ]
    for name in encoded:
        rows = read_row_tables(objects, plan, name, commits)
        derived += arrays.encoded_row_arrays(split, name, rows.offset, rows.shape)
    for name, data in derived:
        put_changed(objects, name, data)
        written.append(fingerprint(name, data))
    all_plans = records.load_encoded_plans(objects, plan)
    put_changed(
        objects, layout.ledger(split), encode_split_ledger(recipe, plan, all_plans, commits)
    )
    done = FinishRecord(
        split=split,
        recipe=recipe.digest,
        plan=plan.digest,
        num_rows=plan.num_rows,
        sizes=tuple(sizes),
        counts=dict(sum((Counter(commit.counts) for commit in commits), Counter())),
        parts=parts,
        objects=tuple(sorted(set(written), key=lambda record: record.name)),
        format=recipe.format,
        encoded=tuple(encoded),
    )
    sync_recorded_objects(objects, done, commits)
    put_changed(objects, layout.done(split), done.encode())
    return done


def all_commits(objects: Objects, plan: Plan) -> list[Commit]:
    """Return the commits of all shards of a split, in the order of shards.

    Args:
        objects: The objects of the store.
        plan: The plan of the split.

    Returns:
        One commit for each shard: `start`, its first row, and `stop`, the row after its last; the
        records of its objects, in `arrays` by size as text, such as "224", and in `table`; and
        `counts`, the number of rows by the name of their status, such as `readable`.

    Raises:
        StoreError: Some shards have no valid commit of this plan, in which case the message has
            their number and the first of them; or a commit has a format that this version does not
            read.
    """
    commits = records.load_commits(objects, plan)
    missing = [shard for shard in range(plan.num_shards) if shard not in commits]
    if missing:
        raise StoreError(
            f"split {plan.split!r} is not finished: {len(missing)} of {plan.num_shards} shards are"
            f" not committed (the first is {missing[0]}). Run `tesserae prepare` again to"
            " continue."
        )
    return [commits[shard] for shard in range(plan.num_shards)]


def sync_recorded_objects(objects: Objects, done: FinishRecord, commits: Sequence[Commit]) -> None:
    """Make the names of all objects of a split that its records list survive a power failure.

    The recipe, the plan and the commits are included, too. The writers may have been killed between
    the rename and the sync of the folder. On an object store nothing is done.

    Args:
        objects: The objects of the store.
        done: The finish record of the split, which need not be written yet.
        commits: The commits of all shards.

    Raises:
        StoreError: The disk reports an error.
    """
    names = [layout.RECIPE, layout.plan(done.split), layout.commit(done.split, 0)]
    names += [record.name for record in done.objects]
    names += [written.name for commit in commits for written in commit.objects]
    for folder in sorted({name.rpartition("/")[0] for name in names}):
        objects.sync(folder)


def zarr_metadata(
    recipe: Recipe, plan: Plan, sizes: Sequence[int], encoded_plans: Mapping[str, EncodedPlan]
) -> list[tuple[str, bytes]]:
    """Return every zarr metadata document of a split's images; nothing is written.

    Args:
        recipe: The recipe of the store.
        plan: The plan of the split.
        sizes: The sides of the stored squares in pixels.
        encoded_plans: The plans of the encoded arrays, by name.

    Returns:
        Pairs (name, bytes of JSON), with names relative to the store, of each `zarr.json`: of the
        groups `images.zarr/` and `images.zarr/<split>/`, the arrays `label` and `status`, each of
        *sizes*, whether it is stored or not, and the group and the bytes of each encoded array.
    """
    images = [arrays.image_array(recipe, plan, size) for size in sizes]
    encoded = [
        document
        for name, planned in sorted(encoded_plans.items())
        for document in arrays.encoded_arrays(plan, name, planned.geometry(plan.shard_rows))
    ]
    return [*arrays.groups(plan.split), *arrays.small_metadata(plan), *images, *encoded]


def planned_documents(
    recipe: Recipe, plan: Plan, encoded_plans: Mapping[str, EncodedPlan]
) -> list[tuple[str, bytes]]:
    """Return what a split is prepared by: its recipe, its plan and those of its encoded arrays.

    Args:
        recipe: The recipe of the store.
        plan: The plan of the split.
        encoded_plans: The plans of the encoded arrays, by name.

    Returns:
        Pairs (name, bytes) in this order, with names relative to the store.
    """
    encoded = [
        (layout.encoded_plan(plan.split, name), planned.encode())
        for name, planned in sorted(encoded_plans.items())
    ]
    return [(layout.RECIPE, recipe.encode()), (layout.plan(plan.split), plan.encode()), *encoded]


def encode_split_ledger(
    recipe: Recipe,
    plan: Plan,
    encoded_plans: Mapping[str, EncodedPlan],
    commits: Sequence[Commit],
) -> bytes:
    """Return the bytes of the ledger of a finished split: copies of recipe, plans and commits.

    Nothing is written.

    Args:
        recipe: The recipe of the store.
        plan: The plan of the split.
        encoded_plans: The plans of its encoded arrays, by name, those of unfinished ones included.
        commits: The commits of all shards, in the order of shards.

    Returns:
        One line of JSON for each document, `{"name", "text"}`, in the order recipe, plan, plans of
        encoded arrays, commits, and a last one, `{"digest"}`, with the SHA-256 of the lines before
        it.
    """
    copied = planned_documents(recipe, plan, encoded_plans)
    copied += [(layout.commit(plan.split, commit.shard), commit.encode()) for commit in commits]
    return encode_ledger(copied)


def parts_digest(commits: Sequence[Commit]) -> str:
    """Return one digest of all parts of a split's table: 32 hexadecimal digits.

    It is the XXH3-128 of the digests of the parts, as text, one after the other.

    Args:
        commits: The commits of all shards, in the order of shards; each records its part's digest.
    """
    return xxhash.xxh3_128("".join(commit.table.digest for commit in commits).encode()).hexdigest()


def read_parts(objects: Objects, commits: Sequence[Commit]) -> Iterator[pa.Table]:
    """Yield the part of the table of each shard, checked against its commit.

    Args:
        objects: The objects of the store.
        commits: The commits, in the order in which parts are yielded.

    Yields:
        A table with the rows of the shard and the columns row, key, wnid, label, width, height,
        mode, format, num_bytes, crc32c, box, status and reason (`pipeline.store.table.SCHEMA`). A
        box is left, top, right, bottom, in pixels of the file; the status is a number, 0 for a
        readable row. For a quarantined row width, height, mode, format and box are null.

    Raises:
        StoreDamagedError: A part is missing or differs from its commit. Like the other errors, it
            is raised when its turn comes, after the parts before it were yielded.
        StoreError: The request to an object store failed.
        OSError: The disk reports an error.
    """
    for commit in commits:
        try:
            data = objects.get(commit.table.name)
        except FileNotFoundError:
            data = b""
        if fingerprint(commit.table.name, data) != commit.table:
            raise StoreDamagedError(
                f"{commit.table.name} is missing or damaged. Run `tesserae repair`."
            )
        yield table.decode_part(data, commit.table.name, range(commit.start, commit.stop))


def put_changed(objects: Objects, name: str, data: bytes) -> None:
    """Write an object unless it has these bytes already, so that intact objects stay untouched.

    Args:
        objects: The objects of the store, whose `begin` was called if there is something to write.
        name: The name of the object, relative to the store.
        data: All bytes that it must have.

    Raises:
        StoreError: The object cannot be written, or its name is not valid.
        OSError: The disk reports an error while the present object is read.
    """
    try:
        same = objects.size(name) == len(data) and objects.get(name) == data
    except FileNotFoundError:
        same = False
    if not same:
        objects.put(name, data)


def _previous_finish_record(objects: Objects, split: str) -> FinishRecord | None:
    try:
        return records.load_finish_record(objects, split)
    except StoreDamagedError:
        return None


@dataclass(frozen=True)
class _LabelAndStatus:
    """The contents of the small arrays `label` and `status`, collected from the table."""

    label: NDArray[np.int32]
    status: NDArray[np.uint8]

    def take(self, commit: Commit, part: pa.Table) -> None:
        """Copy the labels and statuses of one part."""
        self.label[commit.start : commit.stop] = part["label"].to_numpy()
        self.status[commit.start : commit.stop] = part["status"].to_numpy()


def _write_table_and_collect(
    objects: Objects,
    plan: Plan,
    commits: Sequence[Commit],
    previous: FinishRecord | None,
    parts: str,
) -> tuple[_LabelAndStatus, list[ObjectRecord]]:
    columns = _LabelAndStatus(np.empty(plan.num_rows, np.int32), np.empty(plan.num_rows, np.uint8))
    name = layout.table(plan.split)

    def collected() -> Iterator[pa.Table]:
        for commit, part in zip(commits, read_parts(objects, commits), strict=True):
            columns.take(commit, part)
            yield part

    old = None if previous is None or previous.parts != parts else _record_of(previous, name)
    if old is not None and is_intact(objects, old):
        for _ in collected():
            """Collect the columns alone: the table of the same parts is intact."""
        return columns, [old]
    writer = objects.create(name)
    try:
        hashing = FingerprintWriter(writer)
        table.write_table(collected(), hashing)
        if not is_intact(objects, hashing.written()):
            hashing.finish()
    finally:
        writer.abort()
    return columns, [hashing.written()]


def _record_of(done: FinishRecord, name: str) -> ObjectRecord | None:
    return next((record for record in done.objects if record.name == name), None)
