"""Candidates without looking at every vector, by faiss.

lsh: each vector as bits, on which side of a threshold its share of each random direction is
(Charikar, "Similarity estimation techniques from rounding algorithms", 2002). The rows whose bits
differ least are named. It takes little memory, and time that still grows with the rows.

hnsw: each vector linked to near ones, on levels (Malkov and Yashunin, "Efficient and robust
approximate nearest neighbor search using hierarchical navigable small world graphs", 2018). The
graph is one of shorter vectors in bfloat16: what they have of the directions that hold `ENERGY` of
all squares, and how long the rest is. A walk reads nothing else, and memory is what it waits for;
what is lost by it the exact comparison of candidates makes up for. Without the rest the shorter
ones would differ in length, and products would lead the walk to the longest. Built with more than
one thread the graph is another each time, since it depends on which comes first; with one it is
not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import TesseraeError
from pipeline.neighbours.exact import Candidates
from pipeline.neighbours.vectors import Doubles, Floats, Mask, Rows, Vectors, blocks

ENERGY = 0.94
"""Share of the squares that is enough for a graph: measured by benchmarks/neighbours.py."""
LANES = 16
"""Numbers that are multiplied at once: the library takes twice as long for other lengths."""
SAMPLE = 65536
"""Vectors from which it is learned in which directions they differ."""


@dataclass(frozen=True)
class LshOptions:
    """How an index of bits is made."""

    bits: int = 512
    """Of a vector."""
    candidates: int = 512
    """Rows that are compared exactly."""


@dataclass(frozen=True)
class HnswOptions:
    """How a graph is made."""

    links: int = 32
    """Of a vector on each level, twice as many on the lowest: M."""
    ef_construction: int = 200
    """Rows among which its neighbours are looked for."""
    ef_search: int = 192
    """Rows among which those of a query are, and that are compared exactly."""
    dims: int | None = None
    """Numbers of the shorter vectors, best a multiple of 16; None: as `ENERGY` has it."""

    @property
    def candidates(self) -> int:
        """Rows that are compared exactly."""
        return self.ef_search


class Lsh:
    """Bits of vectors."""

    slack: float | None = None

    def __init__(self, codes: Any) -> None:
        self._codes = codes

    @classmethod
    def made(cls, vectors: Vectors, options: LshOptions, seed: int, threads: int) -> Lsh:
        """Of all vectors. Those that are not usable have bits too, and are never named."""
        codes = faiss().IndexLSH(vectors.dim, options.bits, True, True)  # rotated, with thresholds
        with threads_of_faiss(threads):
            codes.train(vectors.units(sample(vectors, seed)))
            for part in blocks(len(vectors), vectors.dim):
                codes.add(vectors.units(part))
        return cls(codes)

    def nominate(self, queries: Doubles, count: int, allowed: Mask, extra: Doubles) -> Candidates:
        """As of `Scan`, but without a bound."""
        _, rows = self._codes.search(queries.astype(np.float32), count)
        return _named(rows, allowed)

    def state(self) -> dict[str, Any]:
        """See `Nominator`."""
        return {"codes": self._codes}

    @property
    def num_bytes(self) -> int:
        """In memory, without the vectors."""
        return int(self._codes.ntotal * self._codes.code_size)


class Hnsw:
    """A graph of shorter vectors."""

    slack: float | None = None

    def __init__(self, graph: Any, axes: Floats, rows: Rows) -> None:
        """Take a graph.

        Args:
            graph: Of faiss.
            axes: (d, e - 1) float32, what makes a vector of e numbers of one of d.
            rows: (m,) int64, the usable ones: which row each vertex is.
        """
        self._graph = graph
        self._axes = axes
        self._asking = np.pad(axes, ((0, 0), (0, 1)))  # of the rest's direction nothing is known
        self._rows = rows

    @classmethod
    def made(cls, vectors: Vectors, options: HnswOptions, seed: int, threads: int) -> Hnsw:
        """Of the usable vectors."""
        library = faiss()
        axes = _axes(vectors.units(sample(vectors, seed)), options.dims)
        graph = library.IndexHNSWSQ(
            axes.shape[1] + 1,
            library.ScalarQuantizer.QT_bf16,
            options.links,
            library.METRIC_INNER_PRODUCT,
        )
        graph.hnsw.efConstruction = options.ef_construction
        rows = np.flatnonzero(vectors.usable)
        with threads_of_faiss(threads):
            for part in blocks(len(rows), vectors.dim):
                graph.add(_shorter(vectors.units(rows[part]), axes))
        return cls(graph, axes, rows)

    def nominate(self, queries: Doubles, count: int, allowed: Mask, extra: Doubles) -> Candidates:
        """As of `Scan`, but without a bound."""
        how = faiss().SearchParametersHNSW(efSearch=count)
        shorter = queries.astype(np.float32) @ self._asking
        _, places = self._graph.search(shorter, count, params=how)
        return _named(np.where(places < 0, -1, self._rows[places]), allowed)

    def state(self) -> dict[str, Any]:
        """See `Nominator`."""
        return {"graph": self._graph, "axes": self._axes}

    @property
    def num_bytes(self) -> int:
        """In memory, without the vectors: shorter ones, links and levels."""
        links = self._graph.hnsw.neighbors
        return int(self._graph.ntotal * (2 * self._graph.d + 12) + 4 * links.size())


def _named(rows: Rows, allowed: Mask) -> Candidates:
    named = np.where((rows >= 0) & allowed[rows], rows, -1)
    return Candidates(named, np.full(len(rows), np.inf))


def sample(vectors: Vectors, seed: int) -> Rows:
    """Some of the usable rows, in order; all if there are not many."""
    rows = np.flatnonzero(vectors.usable)
    if len(rows) <= SAMPLE:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, SAMPLE, replace=False))


def _axes(units: Floats, dims: int | None) -> Floats:
    """(d, e - 1) float32: the directions along which the squares are largest, and zeros."""
    dim = units.shape[1]
    most = LANES * (dim // LANES + 1)
    squares, axes = np.linalg.eigh(units.T.astype(np.float64) @ units)
    if dims is None:
        shares = np.cumsum(squares[::-1]) / max(squares.sum(), 1e-300)
        needed = int(np.searchsorted(shares, ENERGY)) + 1
        dims = LANES * (needed // LANES + 1)
    if not 2 <= dims <= most:
        raise ValueError(f"dims is {dims}: expected 2 to {most} for vectors of {dim}.")
    made = np.zeros((dim, dims - 1), np.float32)
    width = min(dim, dims - 1)
    made[:, :width] = axes[:, ::-1][:, :width]
    return made


def _shorter(units: Floats, axes: Floats) -> Floats:
    """(m, e) float32: what units have of the axes, and how long the rest is."""
    kept = units @ axes
    rest = np.sqrt(np.maximum(0, 1 - np.einsum("nd,nd->n", kept, kept)))
    return np.concatenate([kept, rest[:, None]], 1)


def faiss() -> Any:
    """The library.

    Raises:
        TesseraeError: It is not installed.
    """
    try:
        import faiss as library
    except ImportError as e:
        raise TesseraeError(
            f"nearest neighbours other than exact need the package faiss-cpu ({e}): run"
            " `make setup EXTRAS=devise`."
        ) from e
    return library


@contextlib.contextmanager
def threads_of_faiss(threads: int) -> Iterator[None]:
    """So many of its threads, for as long as it takes."""
    library = faiss()
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(threads)
    try:
        yield
    finally:
        library.omp_set_num_threads(before)
