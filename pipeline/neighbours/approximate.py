"""Approximate candidate generators, which use faiss and do not visit every vector.

lsh: each vector is stored as bits, each of which says on which side of a threshold its projection
on a random direction lies (Charikar, "Similarity estimation techniques from rounding algorithms",
2002). The candidates are the rows whose bits differ least. It takes little memory; search time
still grows linearly with the number of rows.

hnsw: each vector is linked to near ones, on several levels (Malkov and Yashunin, "Efficient and
robust approximate nearest neighbor search using hierarchical navigable small world graphs", 2018).
The graph holds reduced vectors in bfloat16: the projections on the principal directions that hold
`KEPT_ENERGY_SHARE` of the sum of squares, and the length of the residual. A walk reads nothing
else, and memory access is what limits it; the exact comparison of candidates corrects the loss of
precision. Without the residual the reduced vectors would differ in length, and inner products would
lead the walk to the longest ones. A graph built by more than one thread differs from build to
build, since it depends on the order of insertion; one built by a single thread is reproducible.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import TesseraeError
from pipeline.installation import install_advice
from pipeline.neighbours.exact import Candidates
from pipeline.neighbours.vectors import Doubles, Floats, Mask, Rows, Vectors, blocks

KEPT_ENERGY_SHARE = 0.94
"""The share of the sum of squares that a graph keeps; with less, walks are faster and find less."""
SIMD_WIDTH = 16
"""The SIMD width of faiss in numbers: other vector lengths take it twice as long."""
MAX_TRAINING_VECTORS = 65536
"""The maximum number of vectors from which the directions are estimated."""


@dataclass(frozen=True)
class LshOptions:
    """Options for building an index of bits."""

    bits: int = 512
    """The number of bits of a vector."""
    candidates: int = 512
    """The number of rows that are compared exactly for each query."""


@dataclass(frozen=True)
class HnswOptions:
    """Options for building a graph."""

    links: int = 32
    """The number of links of a vector on each level (M); the lowest level has twice as many."""
    ef_construction: int = 200
    """The number of rows among which the neighbours of a new vector are chosen."""
    ef_search: int = 192
    """The number of rows that a query visits and compares exactly."""
    dims: int | None = None
    """The length of the reduced vectors, best a multiple of 16; None: by `KEPT_ENERGY_SHARE`."""

    @property
    def candidates(self) -> int:
        """The number of rows that are compared exactly for each query."""
        return self.ef_search


class Lsh:
    """A candidate generator that compares bits of vectors."""

    error_bound: float | None = None

    def __init__(self, codes: Any) -> None:
        self._codes = codes

    @classmethod
    def build(cls, vectors: Vectors, options: LshOptions, seed: int, threads: int) -> Lsh:
        """Build the bits of all vectors, by which a search chooses its candidates.

        Args:
            vectors: The vectors to be searched, from `measure_lengths`. Those that are zero or not
                finite get bits, too, but the argument `allowed` of `generate` must exclude them.
            options: Its `bits` is the number of bits of a vector; its `candidates` is not used
                here.
            seed: The seed that draws the vectors from which the thresholds are estimated.
            threads: The number of threads of faiss, at least 1.

        Returns:
            A new generator of candidates, which holds the bits but not the vectors.

        Raises:
            TesseraeError: faiss is not installed.
        """
        codes = faiss().IndexLSH(vectors.dim, options.bits, True, True)  # rotated, with thresholds
        with limit_faiss_threads(threads):
            codes.train(vectors.units(sample(vectors, seed)))
            for part in blocks(len(vectors), vectors.dim):
                codes.add(vectors.units(part))
        return cls(codes)

    def generate(self, queries: Doubles, count: int, allowed: Mask, extra: Doubles) -> Candidates:
        """Return the rows whose bits differ least from those of each query.

        Args:
            queries: (q, d) float64 of length 1, q > 0.
            count: The number of candidates for each query, > 0.
            allowed: (n,) bool; rows that are not allowed are replaced by -1 afterwards.
            extra: Unused: candidates are chosen by their bits alone.

        Returns:
            The candidates: `rows`, (q, count) int64 in any order, -1 for missing ones; and `bound`,
            (q,) float64, infinite: other rows may be nearer.
        """
        _, rows = self._codes.search(queries.astype(np.float32), count)
        return _as_candidates(rows, allowed)

    def state(self) -> dict[str, Any]:
        """Return the parts to save beside the vectors, by name: faiss indexes and arrays."""
        return {"codes": self._codes}

    @property
    def num_bytes(self) -> int:
        """The size in memory, in bytes, without the vectors."""
        return int(self._codes.ntotal * self._codes.code_size)


class Hnsw:
    """A candidate generator that walks a graph of reduced vectors."""

    error_bound: float | None = None

    def __init__(self, graph: Any, axes: Floats, rows: Rows) -> None:
        """Wrap a graph of faiss.

        Args:
            graph: The graph, an index of faiss with m vertices of e numbers each.
            axes: (d, e - 1) float32, the projection of vectors of d numbers to reduced ones.
            rows: (m,) int64, the row of each vertex, ascending; unusable rows have no vertex.
        """
        self._graph = graph
        self._axes = axes
        self._query_axes = np.pad(axes, ((0, 0), (0, 1)))  # a query's residual is unknown
        self._rows = rows

    @classmethod
    def build(cls, vectors: Vectors, options: HnswOptions, seed: int, threads: int) -> Hnsw:
        """Build a graph of the vectors that are finite and not zero.

        Args:
            vectors: The vectors to be searched, from `measure_lengths`.
            options: Its `links`, `ef_construction` and `dims`: the number of links of a vector, of
                the rows among which they are chosen, and of the dimensions that vectors are reduced
                to (None: as many as hold 94 % of the squares). Its `ef_search` is not used here.
            seed: The seed that draws the vectors from which the reduction is estimated.
            threads: The number of threads of faiss, at least 1; the graph is reproducible only with
                1.

        Returns:
            A new generator of candidates, which holds the graph with reduced vectors, but not the
            vectors themselves.

        Raises:
            ValueError: `links` is less than 2; or `dims` is less than 2, or more than
                16 * (d // 16 + 1) for vectors of d numbers.
            TesseraeError: faiss is not installed.
        """
        library = faiss()
        if options.links < 2:  # faiss divides by its logarithm, and the process would crash
            raise ValueError(f"links is {options.links}: expected 2 or more.")
        axes = _principal_axes(vectors.units(sample(vectors, seed)), options.dims)
        graph = library.IndexHNSWSQ(
            axes.shape[1] + 1,
            library.ScalarQuantizer.QT_bf16,
            options.links,
            library.METRIC_INNER_PRODUCT,
        )
        graph.hnsw.efConstruction = options.ef_construction
        rows = np.flatnonzero(vectors.usable)
        with limit_faiss_threads(threads):
            for part in blocks(len(rows), vectors.dim):
                graph.add(_reduced_vectors(vectors.units(rows[part]), axes))
        return cls(graph, axes, rows)

    def generate(self, queries: Doubles, count: int, allowed: Mask, extra: Doubles) -> Candidates:
        """Return the rows that a walk through the graph, which must not be empty, finds.

        Args:
            queries: (q, d) float64 of length 1, q > 0.
            count: The number of candidates for each query, > 0, and of vectors that the walk keeps.
            allowed: (n,) bool; rows that are not allowed are replaced by -1 afterwards.
            extra: Unused: candidates are chosen by their cosines alone.

        Returns:
            The candidates: `rows`, (q, count) int64 in any order, -1 for missing ones; and `bound`,
            (q,) float64, infinite: other rows may be nearer.
        """
        parameters = faiss().SearchParametersHNSW(efSearch=count)
        reduced = queries.astype(np.float32) @ self._query_axes
        _, vertices = self._graph.search(reduced, count, params=parameters)
        return _as_candidates(np.where(vertices < 0, -1, self._rows[vertices]), allowed)

    def state(self) -> dict[str, Any]:
        """Return the parts to save beside the vectors, by name: faiss indexes and arrays."""
        return {"graph": self._graph, "axes": self._axes}

    @property
    def num_bytes(self) -> int:
        """The size in memory, in bytes, without the vectors: reduced ones, links and levels."""
        links = self._graph.hnsw.neighbors
        return int(self._graph.ntotal * (2 * self._graph.d + 12) + 4 * links.size())


def _as_candidates(rows: Rows, allowed: Mask) -> Candidates:
    candidates = np.where((rows >= 0) & allowed[rows], rows, -1)
    return Candidates(candidates, np.full(len(rows), np.inf))


def sample(vectors: Vectors, seed: int) -> Rows:
    """Return the rows to train with: at most 65,536, of vectors that are finite and not zero.

    Args:
        vectors: The vectors to draw from, as `measure_lengths` returns them.
        seed: The seed of the draw; unused if at most 65,536 rows can be drawn.

    Returns:
        (m,) int64, ascending, without repetition: all of these rows, or 65,536 drawn at random.
    """
    rows = np.flatnonzero(vectors.usable)
    if len(rows) <= MAX_TRAINING_VECTORS:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, MAX_TRAINING_VECTORS, replace=False))


def _principal_axes(units: Floats, dims: int | None) -> Floats:
    """Return (d, e - 1) float32: the principal directions, padded with columns of zeros."""
    dim = units.shape[1]
    max_dims = SIMD_WIDTH * (dim // SIMD_WIDTH + 1)
    squares, axes = np.linalg.eigh(units.T.astype(np.float64) @ units)
    if dims is None:
        shares = np.cumsum(squares[::-1]) / max(squares.sum(), 1e-300)
        needed = int(np.searchsorted(shares, KEPT_ENERGY_SHARE)) + 1
        dims = SIMD_WIDTH * (needed // SIMD_WIDTH + 1)
    if not 2 <= dims <= max_dims:
        raise ValueError(f"dims is {dims}: expected 2 to {max_dims} for vectors of {dim}.")
    padded = np.zeros((dim, dims - 1), np.float32)
    width = min(dim, dims - 1)
    padded[:, :width] = axes[:, ::-1][:, :width]
    return padded


def _reduced_vectors(units: Floats, axes: Floats) -> Floats:
    """Return (m, e) float32: projections of units on the axes, and lengths of the residuals."""
    projected = units @ axes
    residual = np.sqrt(np.maximum(0, 1 - np.einsum("nd,nd->n", projected, projected)))
    return np.concatenate([projected, residual[:, None]], 1)


def faiss() -> Any:
    """Return the faiss library.

    Raises:
        TesseraeError: It is not installed.
    """
    try:
        import faiss as library
    except ImportError as e:
        raise TesseraeError(
            f"nearest neighbours other than exact need the package faiss-cpu ({e}):"
            f" {install_advice('search')}."
        ) from e
    return library


@contextlib.contextmanager
def limit_faiss_threads(threads: int) -> Iterator[None]:
    """Limit the OpenMP threads of the faiss calls that this thread makes inside the block.

    Calls of other threads are not limited. At the end of the block the number is what it was
    before, also after an error. The block yields None.

    Args:
        threads: The number of threads, at least 1.

    Raises:
        TesseraeError: faiss is not installed.
    """
    library = faiss()
    # OpenMP keeps the number for the thread: what was set before is restored, also after an error.
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(threads)
    try:
        yield
    finally:
        library.omp_set_num_threads(before)
