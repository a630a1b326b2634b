"""A split as a reader sees it: its rows, their labels, and the location of their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.store import layout, records
from pipeline.store.checksum import CHECKSUM_BYTES, has_valid_checksum
from pipeline.store.commit import Commit
from pipeline.store.geometry import Geometry
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe

READABLE = 0
"""The `status` of a row that holds the pixels of its image."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split that is open for reading."""

    objects: Objects
    recipe: Recipe
    plan: Plan
    sizes: tuple[int, ...]
    """The sides in pixels of the squares that can be read, ascending."""
    labels: NDArray[np.int32]
    """The label of each row, (num_rows,) int32; -1 for none."""
    excluded: NDArray[np.int64]
    """The rows that must not be read, (n,) int64, ascending."""
    digest: str
    """A SHA-256 that changes whenever the readable rows or their pixels change."""

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """The mask of rows that may be read, (num_rows,) bool: False for those in `excluded`."""
        readable = np.ones(self.plan.num_rows, bool)
        readable[self.excluded] = False
        return readable

    @cached_property
    def readable_rows(self) -> NDArray[np.int64]:
        """The rows that may be read, (n,) int64, ascending."""
        return np.flatnonzero(self.readable)

    def geometry(self, size: int) -> Geometry:
        """Return the places of rows in the shard objects of one size of an uncompressed store.

        Args:
            size: The side of the squares in pixels; that the split has it is not checked.

        Returns:
            The places for rows of size * size * 3 bytes; its `locate(rows)` returns the shard and
            the offset of each row. For a compressed store, only its numbers of shards, chunks and
            rows and the length of the index apply, not the offsets and lengths of chunks.
        """
        recipe = self.recipe
        return Geometry(size * size * 3, recipe.shard_rows, recipe.chunk_rows, self.plan.num_rows)


def open_split(
    objects: Objects, split: str, sizes: Iterable[int], *, allow_partial: bool = False
) -> Split:
    """Open a split to read some of its sizes; its images are not read yet.

    Only its records, labels and statuses are read; for an unfinished split, the table parts of
    shards with quarantined rows in place of the statuses.

    Args:
        objects: The objects of the store.
        split: The name of the split.
        sizes: The sides of the squares in pixels; repetitions are ignored.
        allow_partial: True to open an unfinished split, or sizes that are not finished, with the
            rows whose commits have all of *sizes*, none for a size that was never prepared
            (default: False).

    Returns:
        The split: its recipe, plan, sizes in ascending order, the label of each row in `labels`,
        (num_rows,) int32, and in `excluded` the rows that must not be read, (n,) int64, ascending;
        `digest` changes if those or their pixels change. The excluded rows are the quarantined ones
        and, if it is opened partially, those without such a commit, which may be all.

    Raises:
        StoreError: There is no store, or it has no such split; or, unless *allow_partial*, the
            split or one of the sizes is not finished; the labels do not fit into memory; a record
            has a format that this version does not read; or the request to an object store failed.
        StoreDamagedError: A record, the labels, the statuses or a table part are missing or
            damaged.
        OSError: The disk reports an error.
        StoreMismatchError: A record belongs to another recipe or plan.
    """
    recipe = records.load_recipe(objects)
    plan = records.load_plan(objects, split)
    requested = tuple(sorted(set(sizes)))
    done = records.load_finish_record(objects, split)
    if done is not None and (done.recipe, done.plan) != (recipe.digest, plan.digest):
        raise StoreMismatchError(
            f"{layout.done(split)} belongs to another recipe or plan. Run `tesserae verify`."
        )
    if (plan.recipe, plan.shard_rows) != (recipe.digest, recipe.shard_rows):
        raise StoreMismatchError(
            f"{layout.plan(split)} belongs to another recipe. Run `tesserae verify`."
        )
    labels = _read_small_array(objects, plan, "label", np.dtype("<i4"))
    _check_label_array(labels, recipe, plan)
    if done is not None and set(requested) <= set(done.sizes):
        status = _read_small_array(objects, plan, "status", np.dtype("u1"))
        absent = np.flatnonzero(status != READABLE)
    elif allow_partial:
        absent = _absent_of_commits(objects, plan, requested)
    else:
        raise StoreError(_unfinished_text(split, requested, () if done is None else done.sizes))
    facts = f"{recipe.digest} {plan.digest} {hashlib.sha256(absent.tobytes()).hexdigest()}"
    return Split(
        objects=objects,
        recipe=recipe,
        plan=plan,
        sizes=requested,
        labels=labels,
        excluded=absent,
        digest=hashlib.sha256(facts.encode()).hexdigest(),
    )


def restrict_to_labels(split: Split, labels: Iterable[int]) -> Split:
    """Return a copy of a split that reads only the rows of some classes.

    Args:
        split: The split to restrict, which is not changed.
        labels: The labels of the classes to read, 0 to C-1; none gives a split without readable
            rows.

    Returns:
        The split with the same rows and labels, in which all rows of other labels, and those
        without one (-1), are `excluded` too. Its digest is another.

    Raises:
        ValueError: A label is not one of the store's classes.
    """
    allowed = np.array(sorted(set(labels)), np.int64)
    classes = len(split.recipe.classes)
    if len(allowed) and not (allowed[0] >= 0 and allowed[-1] < classes):
        raise ValueError(f"labels are {allowed[0]} to {allowed[-1]}: expected 0 to {classes - 1}.")
    excluded = np.flatnonzero(~np.isin(split.labels, allowed))
    facts = f"{split.digest} {' '.join(map(str, allowed.tolist()))}"
    return replace(
        split,
        excluded=np.union1d(split.excluded, excluded),
        digest=hashlib.sha256(facts.encode()).hexdigest(),
    )


def _unfinished_text(split: str, requested: tuple[int, ...], finished: Iterable[int]) -> str:
    missing = [size for size in requested if size not in finished]
    if not finished:
        return (
            f"split {split!r} is not finished. Run the same `tesserae prepare` again to continue,"
            " or pass allow_partial=True (--partial)."
        )
    return (
        f"split {split!r} has no finished {', '.join(map(str, missing))} px: it has"
        f" {', '.join(map(str, sorted(finished)))}. Add it with `tesserae prepare --sizes`."
    )


def _read_small_array(
    objects: Objects, plan: Plan, name: str, dtype: np.dtype[Any]
) -> NDArray[Any]:
    # The chunks are decoded here because importing zarr would double the start of a loader.
    chunk_rows = layout.small_chunk_rows(plan.num_rows)
    chunks = -(-plan.num_rows // chunk_rows)
    try:
        values = np.empty(chunks * chunk_rows, dtype)
    except MemoryError:
        raise StoreError(
            f"{layout.plan(plan.split)} states {plan.num_rows:,} rows: this machine has too little"
            " memory for their labels."
        ) from None
    num_bytes = chunk_rows * dtype.itemsize + CHECKSUM_BYTES
    for chunk in range(chunks):
        path = layout.small_chunk(plan.split, name, chunk)
        try:
            data = objects.get(path, num_bytes)
        except FileNotFoundError:
            raise StoreDamagedError(f"{path} is missing. Run `tesserae repair`.") from None
        if len(data) != num_bytes or not has_valid_checksum(data):
            raise StoreDamagedError(f"{path} is damaged. Run `tesserae repair`.")
        values[chunk * chunk_rows : (chunk + 1) * chunk_rows] = np.frombuffer(
            data, dtype, chunk_rows
        )
    return values[: plan.num_rows]


def _check_label_array(labels: NDArray[np.int32], recipe: Recipe, plan: Plan) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if not -1 <= lowest <= highest < len(recipe.classes):
        raise StoreDamagedError(
            f"{layout.array(plan.split, 'label')} holds labels {lowest} to {highest}: expected -1"
            f" to {len(recipe.classes) - 1}. Run `tesserae repair`."
        )


def _absent_of_commits(objects: Objects, plan: Plan, sizes: tuple[int, ...]) -> NDArray[np.int64]:
    absent = np.ones(plan.num_rows, bool)
    for commit in records.load_commits(objects, plan).values():
        if set(sizes) <= commit.sizes:
            absent[commit.start : commit.stop] = _quarantined_mask(objects, commit)
    return np.flatnonzero(absent)


def _quarantined_mask(objects: Objects, commit: Commit) -> NDArray[np.bool_] | bool:
    if commit.counts.keys() <= {"readable"}:
        return False
    from pipeline.store import table  # imports Arrow, needed only for shards with quarantined rows

    part = table.load_part(objects, commit.table.name, range(commit.start, commit.stop))
    return np.asarray(part["status"].to_numpy() != READABLE)
