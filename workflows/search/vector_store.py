"""The vectors of all pictures of a split, made once, and kept in the run with an index over them.

    RUN/search/<split>/<kind>/     an index of `pipeline.neighbours`, and the vectors in it

Vector r is that of row r. A row that has none, being in quarantine, is zeros, which no index ever
answers with. Where a model knows pictures and their mirrored copies, vector N + r is the copy of
row r. An index belongs to one model and one state of the split: another makes it anew.
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

from cluster.cores import cores
from pipeline import confined
from pipeline.errors import StoreError, TesseraeError
from pipeline.neighbours import KINDS, Index, build, load
from pipeline.neighbours.storage import HEADER
from pipeline.store.layout import TEMPORARY
from pipeline.store.lease import lease
from pipeline.store.objects import LocalObjects
from pipeline.store.split import Split
from workflows.search.model import Model
from workflows.terminal.progress import Progress

EXACT_ROWS = 200_000
"""Up to which every vector is looked at, unless another kind is asked for."""
PROBES = 200
"""Class vectors with which it is measured what an index misses."""


@dataclass(frozen=True)
class Embedded:
    """A split's vectors, ready to be searched."""

    split: Split
    index: Index

    @property
    def name(self) -> str:
        """Of the split."""
        return self.split.plan.split

    @property
    def num_rows(self) -> int:
        """Rows of the split, those in quarantine among them."""
        return self.split.plan.num_rows

    @property
    def mirrored(self) -> bool:
        """Whether each row's mirrored copy is there too."""
        return len(self.index) > self.num_rows

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        """(num_rows,) bool: which rows can be answered."""
        return np.asarray(self.index.vectors.usable[: self.num_rows], np.bool_)

    def vector(self, row: int) -> NDArray[np.float32]:
        """(dim,) of length 1: that of a row."""
        found: NDArray[np.float32] = self.index.vectors.units(np.array([row]))[0]
        return found

    def sample(self, count: int) -> NDArray[np.float32]:
        """(at most count, dim): of rows all over the split."""
        rows = np.flatnonzero(self.readable)
        return self.index.vectors.units(rows[:: max(1, -(-len(rows) // count))])


def kind_for(num_rows: int) -> str:
    """What searches so many rows in a few milliseconds."""
    return "exact" if num_rows <= EXACT_ROWS else "hnsw"


def open_embedded(
    model: Model,
    folder: Path,
    split: Split,
    kind: str | None = None,
    *,
    digests: bool = True,
    stream: TextIO | None = None,
) -> Embedded:
    """Open a split's vectors; make what is not there, or is of another model or other pictures.

    Args:
        model: Whose vectors.
        folder: Where they are kept, of all splits.
        split: Whose pictures.
        kind: exact, lsh or hnsw; None: what suits the number of rows.
        digests: Whether all bytes are compared with their digests.
        stream: Where progress is shown (standard error).

    Raises:
        TesseraeError: They cannot be written, or a library is not installed.
    """
    kind = kind or kind_for(split.plan.num_rows)
    name = split.plan.split
    run = f"{name}-{uuid.uuid4().hex}"
    making = _Making(model, split, folder / name, folder / TEMPORARY / run, stream or sys.stderr)
    making.check_links()
    index = making.load(kind, digests=digests)
    if index is None:
        objects = LocalObjects(str(folder.absolute()), run)
        with lease(objects, name, wait=True, waiting=_say_waiting):
            index = making.load(kind, digests=digests)  # made while it was waited for
            if index is None:
                objects.begin()
                try:
                    index = making.make(kind)
                finally:
                    objects.end()
    return Embedded(split, index)


def _say_waiting(holder: str) -> None:
    print(f"waiting for {holder}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _Making:
    """A split's vectors on their way."""

    model: Model
    split: Split
    place: Path
    """Where its indexes are kept, a folder for each kind."""
    scratch: Path
    """A folder of this run alone."""
    stream: TextIO

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What an index must be of."""
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
        """The run's folder, in which all of it lies."""
        return self.place.parent.parent

    def check_links(self) -> None:
        """Refuse folders that are links out of the run's: indexes are written and removed there.

        Raises:
            StoreError: One is.
        """
        for folder in (self.place.parent, *(self.place / kind for kind in KINDS)):
            confined.check_inside(folder, self.run)

    def load(self, kind: str, *, digests: bool) -> Index | None:
        """What is there of a kind; None: nothing, or of something else, or damaged."""
        if not (self.place / kind).is_dir():
            return None
        try:
            return load(self.place / kind, self.identity, digests=digests)
        except TesseraeError:
            return None

    def make(self, kind: str) -> Index:
        """An index of a kind that is not there, from the vectors of another if there is one."""
        for other in KINDS:
            if not self._is_there(other):
                confined.remove_folder(self.place / other, self.run)
        found = (self.load(other, digests=True) for other in KINDS)
        source = next((index for index in found if index is not None), None)
        embedded = source is None
        if source is None:
            source = self._embed()  # durable before a graph is built for an hour
        if embedded and kind == "exact":
            return source
        name = self.split.plan.split
        print(f"{name}: building the index ({kind})", file=self.stream, flush=True)
        probes = None if kind == "exact" else _probes(self.model)
        made = build(kind, source.vectors.array, threads=cores(), probes=probes)
        made.save(self.place / kind, self.identity)
        if embedded:  # the other has all of its vectors
            confined.remove_folder(self.place / "exact", self.run)
        return load(self.place / kind, self.identity, digests=False)

    def _is_there(self, kind: str) -> bool:
        """Whether there is an index of these vectors, though it may not be possible to load it."""
        try:
            said = json.loads((self.place / kind / HEADER).read_bytes())
            return bool(said["identity"] == self.identity)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False

    def _embed(self) -> Index:
        name, num_rows = self.split.plan.split, self.split.plan.num_rows
        readable = np.ones(num_rows, np.bool_)
        readable[self.split.absent] = False
        with (
            _Scratch(self.scratch / "vectors", num_rows, self.model.dim) as scratch,
            Progress(f"{name}: vectors", rows=int(readable.sum()), stream=self.stream) as progress,
        ):
            _fill(self.model, name, readable, scratch, lambda rows: progress.update(rows=rows))
            build("exact", scratch.vectors).save(self.place / "exact", self.identity)
        return load(self.place / "exact", self.identity, digests=False)


def _probes(model: Model) -> NDArray[np.float32] | None:
    vectors = model.class_vectors
    known = vectors[np.abs(vectors).max(1, initial=0) > 0]
    return known[:: max(1, -(-len(known) // PROBES))] if len(known) else None


def _fill(
    model: Model,
    split: str,
    readable: NDArray[np.bool_],
    scratch: _Scratch,
    count: Callable[[int], None],
) -> None:
    seen = np.zeros(len(readable), np.bool_)
    for rows, vectors in model.rows(split):
        again = seen[rows] | _repeated(rows)
        seen[rows] = True
        if again.any() and not scratch.mirrored:
            scratch.mirror()
        whole = readable[rows]
        scratch.vectors[np.where(again, rows + len(readable), rows)[whole]] = vectors[whole]
        count(int((whole & ~again).sum()))
    missing = np.flatnonzero(readable & ~seen)
    if len(missing):
        raise TesseraeError(
            f"the model has no vectors of {len(missing):,} of {int(readable.sum()):,} rows of"
            f" {split}, such as row {missing[0]:,}: it does not fit the store."
        )


def _repeated(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    found = np.ones(len(rows), np.bool_)
    found[np.unique(rows, return_index=True)[1]] = False
    return found


class _Scratch:
    """Zeros to write vectors to, on the disk: they may be more than memory holds."""

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
        """Make room for as many again."""
        self.mirrored = True
        self.vectors.flush()
        self.vectors = self._map(2 * self._num_rows)

    def _map(self, rows: int) -> np.memmap[Any, np.dtype[np.float32]]:
        with self._path.open("ab") as file:
            try:  # a full disk is an error here, and a dead process when a mapping is written
                os.posix_fallocate(file.fileno(), 0, rows * self._dim * 4)
            except OSError as e:
                raise StoreError(f"no room for vectors at {self._path}: {e.strerror or e}.") from e
        return np.memmap(self._path, np.float32, "r+", shape=(rows, self._dim))
