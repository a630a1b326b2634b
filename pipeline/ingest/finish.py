"""The finish step: status, table, ledger, and last the record that all is there.

All of it follows from recipe, plan and commits, so that it can be run again at any time: it
writes what is missing or damaged, and touches nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import arrays, layout, records, table
from pipeline.store.commit import Commit, Written
from pipeline.store.objects import Objects, open_objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.records import Done


def finish_split(store: str, split: str, run: str) -> Done:
    """Write what follows from a split's commits.

    Args:
        store: Path or URL of the store.
        split: The split, all of whose shards are committed.
        run: Names the temp files.

    Raises:
        StoreError: A shard has no commit.
        StoreDamagedError: A part of the table is not what was committed.
    """
    objects = open_objects(store, run)
    recipe = records.load_recipe(objects)
    plan = records.load_plan(objects, split)
    commits = whole_commits(objects, plan)
    sizes = sorted(set.intersection(*(kept.sizes for kept in commits)))
    before = _before(objects, split)
    parts = parts_digest(commits)
    small, written = _table_and_columns(objects, plan, commits, before, parts)
    derived = [
        *arrays.label_array(split, small.label),
        *arrays.status_array(split, small.status),
        *zarr_metadata(recipe, plan, sizes),
    ]
    for name, data in derived:
        put_changed(objects, name, data)
        written.append(records.fingerprint(name, data))
    put_changed(objects, layout.ledger(split), encode_ledger(recipe, plan, commits))
    done = Done(
        split=split,
        recipe=recipe.digest,
        plan=plan.digest,
        num_rows=plan.num_rows,
        sizes=tuple(sizes),
        counts=dict(sum((Counter(kept.counts) for kept in commits), Counter())),
        parts=parts,
        objects=tuple(sorted(set(written), key=lambda kept: kept.name)),
        format=recipe.format,
    )
    sync_vouched(objects, done, commits)
    put_changed(objects, layout.done(split), done.encode())
    return done


def whole_commits(objects: Objects, plan: Plan) -> list[Commit]:
    """The commits of all shards, in order.

    Raises:
        StoreError: Naming the shards that have none.
    """
    found = records.load_commits(objects, plan)
    missing = [shard for shard in range(plan.num_shards) if shard not in found]
    if missing:
        raise StoreError(
            f"split {plan.split!r} is not finished: {len(missing)} of {plan.num_shards} shards are"
            f" not committed (the first is {missing[0]}). Run `tesserae prepare` again to go on."
        )
    return [found[shard] for shard in range(plan.num_shards)]


def sync_vouched(objects: Objects, done: Done, commits: Sequence[Commit]) -> None:
    """Make durable that everything is there that *done* will vouch for.

    Whoever wrote it may have been killed between the rename and the sync of the folder.
    """
    names = [layout.RECIPE, layout.plan(done.split), layout.commit(done.split, 0)]
    names += [kept.name for kept in done.objects]
    names += [written.name for kept in commits for written in kept.objects]
    for folder in sorted({name.rpartition("/")[0] for name in names}):
        objects.sync(folder)


def zarr_metadata(recipe: Recipe, plan: Plan, sizes: Sequence[int]) -> list[tuple[str, bytes]]:
    """Every metadata document of the split's arrays, as (name, bytes)."""
    images = [arrays.image_array(recipe, plan, size) for size in sizes]
    return [*arrays.groups(plan.split), *arrays.small_metadata(plan), *images]


def encode_ledger(recipe: Recipe, plan: Plan, commits: Sequence[Commit]) -> bytes:
    """The ledger of a finished split."""
    copied = [(layout.RECIPE, recipe.encode()), (layout.plan(plan.split), plan.encode())]
    copied += [(layout.commit(plan.split, kept.shard), kept.encode()) for kept in commits]
    return records.encode_ledger(copied)


def parts_digest(commits: Sequence[Commit]) -> str:
    """One digest for all parts of the table."""
    return xxhash.xxh3_128("".join(kept.table.digest for kept in commits).encode()).hexdigest()


def read_parts(objects: Objects, commits: Sequence[Commit]) -> Iterator[pa.Table]:
    """The parts of the table, each as it was committed.

    Raises:
        StoreDamagedError: One is not.
    """
    for kept in commits:
        try:
            data = objects.get(kept.table.name)
        except FileNotFoundError:
            data = b""
        if records.fingerprint(kept.table.name, data) != kept.table:
            raise StoreDamagedError(
                f"{kept.table.name} is missing or damaged. Run `tesserae repair`."
            )
        yield table.decode_part(data, kept.table.name, range(kept.start, kept.stop))


def put_changed(objects: Objects, name: str, data: bytes) -> None:
    """Write an object unless it has these bytes already: what is whole is not touched."""
    try:
        same = objects.size(name) == len(data) and objects.get(name) == data
    except FileNotFoundError:
        same = False
    if not same:
        objects.put(name, data)


def _before(objects: Objects, split: str) -> Done | None:
    try:
        return records.load_done(objects, split)
    except StoreDamagedError:
        return None


@dataclass(frozen=True)
class _Columns:
    """What the small arrays hold, as the table has it."""

    label: NDArray[np.int32]
    status: NDArray[np.uint8]

    def take(self, kept: Commit, part: pa.Table) -> None:
        """Note the rows of one part."""
        self.label[kept.start : kept.stop] = part["label"].to_numpy()
        self.status[kept.start : kept.stop] = part["status"].to_numpy()


def _table_and_columns(
    objects: Objects, plan: Plan, commits: Sequence[Commit], before: Done | None, parts: str
) -> tuple[_Columns, list[Written]]:
    columns = _Columns(np.empty(plan.num_rows, np.int32), np.empty(plan.num_rows, np.uint8))
    name = layout.table(plan.split)

    def noted() -> Iterator[pa.Table]:
        for kept, part in zip(commits, read_parts(objects, commits), strict=True):
            columns.take(kept, part)
            yield part

    old = None if before is None or before.parts != parts else _written(before, name)
    if old is not None and records.is_there(objects, old):
        for _ in noted():
            """The table follows from the parts, which are those of before."""
        return columns, [old]
    writer = objects.create(name)
    try:
        hashing = records.FingerprintWriter(writer)
        table.write_table(noted(), hashing)
        if not records.is_there(objects, hashing.written()):
            hashing.finish()
    finally:
        writer.abort()
    return columns, [hashing.written()]


def _written(done: Done, name: str) -> Written | None:
    return next((kept for kept in done.objects if kept.name == name), None)
