"""A split as a reader sees it: its rows, their labels, and the location of their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.store import layout, records
from pipeline.store.commit import Commit
from pipeline.store.encoded_rows import EncodedRows, read_encoded_rows, read_row_tables
from pipeline.store.encoding import parse_encoding
from pipeline.store.geometry import Geometry
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.records import FinishRecord
from pipeline.store.small_arrays import read_small_array

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
    encoded: Mapping[str, EncodedRows] = field(default_factory=dict)
    """The encoded rows that can be read, by the name of their array, such as `jpeg256@90`."""

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
    objects: Objects,
    split: str,
    sizes: Iterable[int],
    *,
    encoded: Iterable[str] = (),
    allow_partial: bool = False,
) -> Split:
    """Open a split to read some of its sizes or encoded rows; its images are not read yet.

    Only its records, labels and statuses are read, and the offsets and shapes of encoded rows; for
    an unfinished split, the table parts of shards with quarantined rows in place of the statuses,
    and the row tables of the encoded shards.

    Args:
        objects: The objects of the store.
        split: The name of the split.
        sizes: The sides of the squares in pixels; repetitions are ignored, and there may be none.
        encoded: The encodings of the rows, such as `jpeg:256@90`, or the names of their arrays
            (default: none).
        allow_partial: True to open an unfinished split, or sizes or encoded rows that are not
            finished, with the rows whose commits have all of *sizes* and *encoded*, none for a size
            that was never prepared (default: False).

    Returns:
        The split: its recipe, plan, sizes in ascending order, the label of each row in `labels`,
        (num_rows,) int32, in `encoded` the places and sizes of encoded rows, and in `excluded` the
        rows that must not be read, (n,) int64, ascending; `digest` changes if those or their pixels
        change. The excluded rows are the quarantined ones and, if it is opened partially, those
        without such a commit, which may be all.

    Raises:
        ValueError: One of *encoded* is no encoding.
        StoreError: There is no store, or it has no such split; or, unless *allow_partial*, the
            split, one of the sizes or an encoding is not finished; the labels do not fit into
            memory; a record has a format that this version does not read; or the request to an
            object store failed.
        StoreDamagedError: A record, the labels, the statuses, a table part, or the offsets and
            shapes of encoded rows are missing or damaged.
        OSError: The disk reports an error.
        StoreMismatchError: A record belongs to another recipe or plan.
    """
    recipe = records.load_recipe(objects)
    plan = records.load_plan(objects, split)
    requested = tuple(sorted(set(sizes)))
    names = sorted({parse_encoding(text).array_name for text in encoded})
    done = records.load_finish_record(objects, split)
    if done is not None and (done.recipe, done.plan) != (recipe.digest, plan.digest):
        raise StoreMismatchError(
            f"{layout.done(split)} belongs to another recipe or plan. Run `tesserae verify`."
        )
    if (plan.recipe, plan.shard_rows) != (recipe.digest, recipe.shard_rows):
        raise StoreMismatchError(
            f"{layout.plan(split)} belongs to another recipe. Run `tesserae verify`."
        )
    labels = read_small_array(objects, plan, "label", np.dtype("<i4"))
    _check_label_array(labels, recipe, plan)
    if done is not None and {*requested} <= {*done.sizes} and {*names} <= {*done.encoded}:
        status = read_small_array(objects, plan, "status", np.dtype("u1"))
        absent = np.flatnonzero(status != READABLE)
        rows = {name: read_encoded_rows(objects, plan, name) for name in names}
    elif allow_partial:
        commits = [
            commit
            for commit in records.load_commits(objects, plan).values()
            if {*requested} <= commit.sizes and {*names} <= commit.encoded.keys()
        ]
        absent = _absent_of_commits(objects, plan, commits)
        rows = {name: read_row_tables(objects, plan, name, commits) for name in names}
    else:
        raise StoreError(_unfinished_text(split, requested, names, done))
    facts = f"{recipe.digest} {plan.digest} {hashlib.sha256(absent.tobytes()).hexdigest()}"
    opened = Split(
        objects=objects,
        recipe=recipe,
        plan=plan,
        sizes=requested,
        labels=labels,
        excluded=absent,
        digest=hashlib.sha256(facts.encode()).hexdigest(),
        encoded=rows,
    )
    _check_readable_rows_have_bytes(opened)
    return opened


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


def restrict_to_pictures(split: Split, name: str, short_side: int) -> Split:
    """Return a copy of a split that reads only rows whose encoded pictures are large enough.

    Args:
        split: The split to restrict, which is not changed, opened with these encoded rows.
        name: The name of the encoded rows, such as `jpeg256@90`.
        short_side: The smallest short side of a picture that is read, in pixels.

    Returns:
        The split with the same rows and labels, in which the rows of smaller pictures are
        `excluded` too. If there are any, its digest is another.
    """
    small = np.flatnonzero(split.encoded[name].shape.min(1) < short_side)
    excluded = np.union1d(split.excluded, small)
    if len(excluded) == len(split.excluded):
        return split
    facts = f"{split.digest} {name} {short_side}"
    return replace(split, excluded=excluded, digest=hashlib.sha256(facts.encode()).hexdigest())


def _unfinished_text(
    split: str, sizes: Iterable[int], names: Iterable[str], done: FinishRecord | None
) -> str:
    if done is None:
        return (
            f"split {split!r} is not finished. Run the same `tesserae prepare` again to continue."
            " A loader reads the rows that are there with allow_partial=True, as `tesserae loader"
            " --partial` does."
        )
    missing_sizes = [size for size in sizes if size not in done.sizes]
    missing = [parse_encoding(name).text for name in names if name not in done.encoded]
    finished = [parse_encoding(name).text for name in done.encoded]
    option = "--encoded" if not missing_sizes else "--sizes"
    instead = f", or decode its encoded rows: encoded={finished[0]!r}" if finished else ""
    return (
        f"split {split!r} has no finished {_in_words(missing_sizes, missing)}: it has"
        f" {_in_words(sorted(done.sizes), finished)}. Add it with `tesserae prepare"
        f" {option}`{instead if missing_sizes else ''}."
    )


def _in_words(sizes: Sequence[int], encodings: Sequence[str]) -> str:
    squares = [f"{', '.join(map(str, sizes))} px"] if sizes else []
    return ", ".join([*squares, *encodings])


def _check_readable_rows_have_bytes(split: Split) -> None:
    for name, rows in split.encoded.items():
        empty = split.readable & (rows.offset[:, 0] == rows.offset[:, 1])
        if empty.any():
            raise StoreDamagedError(
                f"{layout.array(split.plan.split, name)} has no bytes for the readable row"
                f" {int(empty.argmax()):,}. Run `tesserae repair`."
            )


def _check_label_array(labels: NDArray[np.int32], recipe: Recipe, plan: Plan) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if not -1 <= lowest <= highest < len(recipe.classes):
        raise StoreDamagedError(
            f"{layout.array(plan.split, 'label')} holds labels {lowest} to {highest}: expected -1"
            f" to {len(recipe.classes) - 1}. Run `tesserae repair`."
        )


def _absent_of_commits(
    objects: Objects, plan: Plan, commits: Iterable[Commit]
) -> NDArray[np.int64]:
    absent = np.ones(plan.num_rows, bool)
    for commit in commits:
        absent[commit.start : commit.stop] = _quarantined_mask(objects, commit)
    return np.flatnonzero(absent)


def _quarantined_mask(objects: Objects, commit: Commit) -> NDArray[np.bool_] | bool:
    if commit.counts.keys() <= {"readable"}:
        return False
    from pipeline.store import table  # imports Arrow, needed only for shards with quarantined rows

    part = table.load_part(objects, commit.table.name, range(commit.start, commit.stop))
    return np.asarray(part["status"].to_numpy() != READABLE)
