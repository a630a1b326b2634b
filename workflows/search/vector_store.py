"""The vectors of all images of a split, computed once and stored in the run with an index.

    RUN/search/<split>/<kind>/     an index of `pipeline.neighbours`, and the vectors in it

Vector r is that of row r. A quarantined row has a vector of zeros, which no index ever returns. For
a model that knows images and their mirrored copies, vector N + r is that of the copy of row r. An
index belongs to one model and one state of the split, and is rebuilt for any other.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from cluster.limits import cores
from pipeline import confined
from pipeline.errors import StoreError, TesseraeError
from pipeline.neighbours import KINDS, Index, build, load
from pipeline.neighbours.storage import HEADER
from pipeline.store import records
from pipeline.store.layout import TEMPORARY
from pipeline.store.lease import lease
from pipeline.store.local import LocalObjects
from pipeline.store.split import Split
from workflows.search.model import Model
from workflows.terminal.progress import Progress

EXACT_ROWS = 200_000
"""The number of rows up to which the default index compares every vector."""
MAX_RECALL_QUERIES = 200
"""The number of class vectors, at most, with which the recall of an index is measured."""


@dataclass(frozen=True)
class EmbeddedSplit:
    """A split with its vectors and an index over them."""

    split: Split
    index: Index

    @property
    def name(self) -> str:
        """The name of the split."""
        return self.split.plan.split

    @property
    def num_rows(self) -> int:
        """The number of rows of the split, including quarantined ones."""
        return self.split.plan.num_rows

    @property
    def mirrored(self) -> bool:
        """True if the index also holds the mirrored copy of each row."""
        return len(self.index) > self.num_rows

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """The mask of rows that can be answers, (num_rows,) bool."""
        return np.asarray(self.index.vectors.usable[: self.num_rows], np.bool_)

    def vector(self, row: int) -> NDArray[np.float32]:
        """Return the unit vector of a row, (dim,) float32; zeros for a quarantined row.

        Args:
            row: The number of the row, from 0 to `num_rows` - 1, which is not checked.
        """
        unit: NDArray[np.float32] = self.index.vectors.units(np.array([row]))[0]
        return unit

    def sample(self, count: int) -> NDArray[np.float32]:
        """Return the unit vectors of readable rows that are evenly spread over the split.

        Args:
            count: The maximum number of rows, at least 1.

        Returns:
            (n, dim) float32 with n <= count, in the order of rows; n is 0 if no row is readable.
        """
        rows = np.flatnonzero(self.readable)
        return self.index.vectors.units(rows[:: max(1, -(-len(rows) // count))])


def kind_for(num_rows: int) -> str:
    """Return the kind of index that searches this number of rows in a few milliseconds.

    Args:
        num_rows: The number of rows of the split.

    Returns:
        `exact` up to 200,000 rows, otherwise `hnsw`.
    """
    return "exact" if num_rows <= EXACT_ROWS else "hnsw"


def open_embedded(
    model: Model,
    folder: Path,
    split: Split,
    kind: str | None = None,
    *,
    digests: bool = True,
    stream: TextIO | None = None,
) -> EmbeddedSplit:
    """Open the vectors of a split; compute them if they are missing, outdated or damaged.

    They are outdated if they belong to another model, or to another state of the split. Computed
    vectors and their index are written to `<folder>/<split>/<kind>`; outdated ones of any kind are
    then removed. Two processes that need the same ones wait for each other.

    Args:
        model: The model that embeds the images.
        folder: The folder of the vectors of all splits, directly in the run's folder
            (`RUN/search`); created if it is missing.
        split: The split, such as `Gallery.split` returns.
        kind: The kind of index: `exact`, `lsh` or `hnsw` (default: from `kind_for`).
        digests: True to compare stored vectors with their digests, too (default); sizes and
            indexes always are.
        stream: The stream of progress messages (default: standard error).

    Returns:
        The split with its index; the vectors are in `index.vectors`.

    Raises:
        TesseraeError: The folder cannot be written or leads outside the run, a shard is damaged, a
            library is not installed, or the model does not fit the split.
        ValueError: There is no such kind of index.
    """
    kind = kind or kind_for(split.plan.num_rows)
    if kind not in KINDS:  # found out only after all images were embedded otherwise
        raise ValueError(f"kind is {kind!r}: expected one of {', '.join(KINDS)}.")
    name = split.plan.split
    run = f"{name}-{uuid.uuid4().hex}"
    builder = _VectorBuilder(
        model, split, folder / name, folder / TEMPORARY / run, stream or sys.stderr
    )
    builder.check_links()
    index = builder.load(kind, digests=digests)
    if index is None:
        objects = LocalObjects(str(folder.absolute()), run)
        with lease(objects, name, wait=True, on_wait=_print_waiting):
            # Another process may have built the index while this one waited for the lease.
            index = builder.load(kind, digests=digests)
            if index is None:
                objects.begin()
                try:
                    index = builder.make(kind)
                finally:
                    objects.end()
    return EmbeddedSplit(split, index)


def _print_waiting(holder: str) -> None:
    print(f"waiting for {holder}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _VectorBuilder:
    """A builder of a split's vectors and indexes."""

    model: Model
    split: Split
    index_folder: Path
    """The folder of the split's indexes, with a subfolder for each kind."""
    scratch: Path
    """The temporary folder of this process, which no other process uses."""
    stream: TextIO

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The identity of model and images that an index must have."""
        done = records.load_finish_record(self.split.objects, self.split.plan.split)
        # The plan has names and lengths of the files, and the table the checksums of their bytes.
        return {**self._identity_without_table, "table": None if done is None else done.parts}

    @cached_property
    def _identity_without_table(self) -> dict[str, Any]:
        """The identity that an index of an earlier version has."""
        return {
            "model": self.model.digest,
            "dim": self.model.dim,
            "split": self.split.plan.split,
            "rows": self.split.plan.num_rows,
            "store": self.split.digest,
            "size": self.model.size,
        }

    @property
    def run(self) -> Path:
        """The run's folder, which must contain every file that is written."""
        return self.index_folder.parent.parent

    def check_links(self) -> None:
        """Refuse folders that are links to outside the run: indexes are written and removed there.

        Raises:
            StoreError: A folder leads outside the run.
        """
        for folder in (self.index_folder.parent, *(self.index_folder / kind for kind in KINDS)):
            confined.check_inside(folder, self.run)

    def load(self, kind: str, *, digests: bool) -> Index | None:
        """Load the index of a kind; return None if it is missing, outdated or damaged."""
        identity = self._matching_identity(kind)
        if identity is None:
            return None
        try:
            return load(self.index_folder / kind, identity, digests=digests)
        except TesseraeError:
            return None

    def make(self, kind: str) -> Index:
        """Build an index of a missing kind, from the vectors of another kind if there are any."""
        for other_kind in KINDS:
            if self._matching_identity(other_kind) is None:
                confined.remove_folder(self.index_folder / other_kind, self.run)
        indexes = (self.load(other_kind, digests=True) for other_kind in KINDS)
        source = next((candidate for candidate in indexes if candidate is not None), None)
        embedded = source is None
        if source is None:
            # Vectors are saved before the graph is built, which can take an hour and can fail.
            source = self._embed()
        if embedded and kind == "exact":
            return source
        name = self.split.plan.split
        print(f"{name}: building the index ({kind})", file=self.stream, flush=True)
        probes = None if kind == "exact" else _recall_queries(self.model)
        index = build(kind, source.vectors.array, threads=cores(), probes=probes)
        index.save(self.index_folder / kind, self.identity)
        if embedded:  # the new index holds the same vectors: remove the intermediate copy
            confined.remove_folder(self.index_folder / "exact", self.run)
        return load(self.index_folder / kind, self.identity, digests=False)

    def _matching_identity(self, kind: str) -> dict[str, Any] | None:
        """Return the identity of an existing index if it is the expected one; otherwise None.

        The index need not be loadable: a graph stays if its library is not installed at the moment,
        because it is slow to build.
        """
        try:
            header = json.loads((self.index_folder / kind / HEADER).read_bytes())
            accepted = (self.identity, self._identity_without_table)
            return next((i for i in accepted if i == header["identity"]), None)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _embed(self) -> Index:
        name, num_rows = self.split.plan.split, self.split.plan.num_rows
        readable = self.split.readable
        with (
            _Scratch(self.scratch / "vectors", num_rows, self.model.dim) as scratch,
            Progress(f"{name}: vectors", rows=int(readable.sum()), stream=self.stream) as progress,
        ):
            _fill(self.model, name, readable, scratch, lambda rows: progress.update(rows=rows))
            build("exact", scratch.vectors).save(self.index_folder / "exact", self.identity)
        return load(self.index_folder / "exact", self.identity, digests=False)


def _recall_queries(model: Model) -> NDArray[np.float32] | None:
    vectors = model.class_vectors
    nonzero = vectors[np.abs(vectors).max(1, initial=0) > 0]
    return nonzero[:: max(1, -(-len(nonzero) // MAX_RECALL_QUERIES))] if len(nonzero) else None


def _fill(
    model: Model,
    split: str,
    readable: NDArray[np.bool_],
    scratch: _Scratch,
    count: Callable[[int], None],
) -> None:
    seen = np.zeros(len(readable), np.bool_)
    for rows, vectors in model.embed_split(split):
        is_copy = seen[rows] | _repeated(rows)
        seen[rows] = True
        if is_copy.any() and not scratch.mirrored:
            scratch.mirror()
        writable = readable[rows]
        scratch.vectors[np.where(is_copy, rows + len(readable), rows)[writable]] = vectors[writable]
        count(int((writable & ~is_copy).sum()))
    missing = np.flatnonzero(readable & ~seen)
    if len(missing):
        raise TesseraeError(
            f"the model has no vectors for {len(missing):,} of {int(readable.sum()):,} rows of"
            f" {split}, such as row {missing[0]:,}: it does not fit the store."
        )


def _repeated(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    repeated = np.ones(len(rows), np.bool_)
    repeated[np.unique(rows, return_index=True)[1]] = False
    return repeated


class _Scratch:
    """A file of zeros to write vectors to, on disk because they may exceed the memory."""

    def __init__(self, path: Path, num_rows: int, dim: int) -> None:
        self._path = path
        self._num_rows = num_rows
        self._dim = dim
        self.mirrored = False

    def __enter__(self) -> _Scratch:
        self.vectors = self._map(self._num_rows)
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)

    def mirror(self) -> None:
        """Double the file, to hold the vectors of mirrored copies too."""
        self.mirrored = True
        self.vectors.flush()
        self.vectors = self._map(2 * self._num_rows)

    def _map(self, rows: int) -> np.memmap[Any, np.dtype[np.float32]]:
        with self._path.open("ab") as file:
            # Allocate now: writing to a mapping on a full disk would kill the process (SIGBUS).
            try:
                os.posix_fallocate(file.fileno(), 0, rows * self._dim * 4)
            except OSError as e:
                raise StoreError(f"cannot write vectors to {self._path}: {e.strerror or e}.") from e
        return np.memmap(self._path, np.float32, "r+", shape=(rows, self._dim))
