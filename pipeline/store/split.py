"""A split as a reader sees it: which rows there are, their labels, and where their pixels lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.store import layout, records
from pipeline.store.commit import Commit
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe

READABLE = 0
"""What `status` says of a row whose pixels are those of its picture."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """What a reader needs to know, read once."""

    objects: Objects
    recipe: Recipe
    plan: Plan
    sizes: tuple[int, ...]
    """Sides of the squares in pixels, ascending, that can be read."""
    labels: NDArray[np.int32]
    """(num_rows,) int32; -1 where there is no class."""
    absent: NDArray[np.int64]
    """Rows that are not to be read: quarantined, or not committed. Ascending."""
    digest: str
    """Changes when other rows can be read than before, or other pixels."""


def open_split(
    objects: Objects, split: str, sizes: Iterable[int], *, partial: bool = False
) -> Split:
    """Open a split to read some of its sizes.

    Args:
        objects: The store.
        split: Which split.
        sizes: Sides of the squares in pixels.
        partial: Read what is committed of a split that is not finished.

    Raises:
        StoreError: The store has no such split or size, or it is not finished.
        StoreDamagedError: A record, the labels or the status are damaged.
    """
    recipe = records.load_recipe(objects)
    plan = records.load_plan(objects, split)
    wanted = tuple(sorted(set(sizes)))
    done = records.load_done(objects, split)
    if done is not None and (done.recipe, done.plan) != (recipe.digest, plan.digest):
        raise StoreMismatchError(
            f"{layout.done(split)} belongs to another recipe or plan. Run `tesserae verify`."
        )
    if (plan.recipe, plan.shard_rows) != (recipe.digest, recipe.shard_rows):
        raise StoreMismatchError(
            f"{layout.plan(split)} belongs to another recipe. Run `tesserae verify`."
        )
    labels = _read_small(objects, plan, "label", np.dtype("<i4"))
    _check_labels(labels, recipe, plan)
    if done is not None and set(wanted) <= set(done.sizes):
        status = _read_small(objects, plan, "status", np.dtype("u1"))
        absent = np.flatnonzero(status != READABLE)
    elif partial:
        absent = _absent_of_commits(objects, plan, wanted)
    else:
        raise StoreError(_unfinished(split, wanted, () if done is None else done.sizes))
    facts = f"{recipe.digest} {plan.digest} {hashlib.sha256(absent.tobytes()).hexdigest()}"
    return Split(
        objects=objects,
        recipe=recipe,
        plan=plan,
        sizes=wanted,
        labels=labels,
        absent=absent,
        digest=hashlib.sha256(facts.encode()).hexdigest(),
    )


def only_labels(split: Split, labels: Iterable[int]) -> Split:
    """The same split, of which only the rows of some classes are to be read.

    Args:
        split: Any split.
        labels: Of the classes that stay.

    Raises:
        ValueError: There is no such class.
    """
    wanted = np.array(sorted(set(labels)), np.int64)
    classes = len(split.recipe.classes)
    if len(wanted) and not (wanted[0] >= 0 and wanted[-1] < classes):
        raise ValueError(f"labels are {wanted[0]} to {wanted[-1]}: expected 0 to {classes - 1}.")
    others = np.flatnonzero(~np.isin(split.labels, wanted))
    facts = f"{split.digest} {' '.join(map(str, wanted.tolist()))}"
    return replace(
        split,
        absent=np.union1d(split.absent, others),
        digest=hashlib.sha256(facts.encode()).hexdigest(),
    )


def _unfinished(split: str, wanted: tuple[int, ...], there: Iterable[int]) -> str:
    missing = [size for size in wanted if size not in there]
    if not there:
        return (
            f"split {split!r} is not finished. Run the same `tesserae prepare` again to go on, or"
            " ask for a partial one."
        )
    return (
        f"split {split!r} has no finished {', '.join(map(str, missing))} px: it has"
        f" {', '.join(map(str, sorted(there)))}. Add it with `tesserae prepare --sizes`."
    )


def _read_small(objects: Objects, plan: Plan, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    # Read here, not by zarr: it would be half of a loader's start.
    chunk_rows = layout.small_chunk_rows(plan.num_rows)
    chunks = -(-plan.num_rows // chunk_rows)
    try:
        values = np.empty(chunks * chunk_rows, dtype)
    except MemoryError:
        raise StoreError(
            f"{layout.plan(plan.split)} says {plan.num_rows:,} rows: this machine has no memory for"
            " their labels."
        ) from None
    for place in range(chunks):
        path = layout.small_chunk(plan.split, name, place)
        try:
            data = objects.get(path, chunk_rows * dtype.itemsize + 4)
        except FileNotFoundError:
            raise StoreDamagedError(f"{path} is missing. Run `tesserae repair`.") from None
        body = data[:-4]
        whole = len(body) == chunk_rows * dtype.itemsize
        if not whole or google_crc32c.value(body).to_bytes(4, "little") != data[-4:]:
            raise StoreDamagedError(f"{path} is damaged. Run `tesserae repair`.")
        values[place * chunk_rows : (place + 1) * chunk_rows] = np.frombuffer(body, dtype)
    return values[: plan.num_rows]


def _check_labels(labels: NDArray[np.int32], recipe: Recipe, plan: Plan) -> None:
    least, most = int(labels.min()), int(labels.max())
    if not -1 <= least <= most < len(recipe.classes):
        raise StoreDamagedError(
            f"{layout.array(plan.split, 'label')} holds labels {least} to {most}: expected -1 to"
            f" {len(recipe.classes) - 1}. Run `tesserae repair`."
        )


def _absent_of_commits(objects: Objects, plan: Plan, wanted: tuple[int, ...]) -> NDArray[np.int64]:
    absent = np.ones(plan.num_rows, bool)
    for kept in records.load_commits(objects, plan).values():
        if set(wanted) <= kept.sizes:
            absent[kept.start : kept.stop] = _quarantined(objects, kept)
    return np.flatnonzero(absent)


def _quarantined(objects: Objects, kept: Commit) -> NDArray[np.bool_] | bool:
    if kept.counts.keys() <= {"readable"}:
        return False
    from pipeline.store import table  # Arrow: only where a part must be looked into

    part = table.load_part(objects, kept.table.name, range(kept.start, kept.stop))
    return np.asarray(part["status"].to_numpy() != READABLE)


@dataclass(frozen=True)
class Geometry:
    """Where rows lie in the shard objects of one array, if they are not compressed.

    Chunk k of a shard begins at k * (chunk_bytes + 4): each is followed by its checksum.
    """

    row_bytes: int
    """Bytes of one square, or of one picture's features."""
    shard_rows: int
    chunk_rows: int
    num_rows: int

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk without its checksum."""
        return self.chunk_rows * self.row_bytes

    @property
    def index_bytes(self) -> int:
        """Bytes of a shard's index, with its checksum."""
        return self.shard_rows // self.chunk_rows * 16 + 4

    @property
    def num_shards(self) -> int:
        """Shard objects."""
        return -(-self.num_rows // self.shard_rows)

    def num_chunks(self, shard: int) -> int:
        """Chunks of one shard that hold rows."""
        rows = min(self.shard_rows, self.num_rows - shard * self.shard_rows)
        return -(-rows // self.chunk_rows)

    def num_bytes(self, shard: int) -> int:
        """Size of one shard object."""
        return self.num_chunks(shard) * (self.chunk_bytes + 4) + self.index_bytes

    def places(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and offset in bytes of each row, both (n,) int64."""
        shards, inside = np.divmod(rows, self.shard_rows)
        chunks, rest = np.divmod(inside, self.chunk_rows)
        return shards, chunks * (self.chunk_bytes + 4) + rest * self.row_bytes


def geometry(split: Split, size: int) -> Geometry:
    """The geometry of one size of a split."""
    recipe = split.recipe
    return Geometry(size * size * 3, recipe.shard_rows, recipe.chunk_rows, split.plan.num_rows)
