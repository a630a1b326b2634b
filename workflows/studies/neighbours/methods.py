"""The searches that are compared, and how each is built."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.neighbours import Index, build
from pipeline.neighbours.vectors import Floats, Rows

K = 10
"""The number of neighbours that are searched for."""
NUMPY, SKLEARN, EXACT, LSH, HNSW = "numpy", "scikit-learn", "exact", "lsh", "hnsw"
APPROXIMATE = (LSH, HNSW)
"""The kinds of index that may miss neighbours."""

Search = Callable[[Floats], Rows]
"""A function of (q, d) queries that returns the rows of their 10 nearest, (q, 10), nearest
first."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A search with its settings."""

    kind: str
    """`numpy`, `scikit-learn`, or a kind of index of `pipeline.neighbours`."""
    name: str
    """The name in the tables."""
    build_options: tuple[tuple[str, int], ...] = ()
    """The options with which the index is built."""
    candidates: int | None = None
    """The number of vectors that a query compares exactly; None: all."""

    def chance(self, count: int) -> float:
        """Return the recall of as many candidates that were drawn at random.

        Args:
            count: The number of vectors that are searched.
        """
        return 1.0 if self.candidates is None else min(1.0, self.candidates / count)


def _lsh(bits: int, candidates: int) -> Method:
    return Method(
        kind=LSH,
        name=f"lsh {bits} bits, {candidates} candidates",
        build_options=(("bits", bits),),
        candidates=candidates,
    )


def _hnsw(links: int, ef_construction: int, ef_search: int) -> Method:
    return Method(
        kind=HNSW,
        name=f"hnsw M {links}, efSearch {ef_search}",
        build_options=(("links", links), ("ef_construction", ef_construction)),
        candidates=ef_search,
    )


_EXACT = tuple(Method(kind=kind, name=kind) for kind in (NUMPY, SKLEARN, EXACT))
METHODS = (
    *_EXACT,
    *(
        _lsh(bits, candidates)
        for bits, candidates in ((128, 128), (256, 64), (256, 256), (512, 64), (512, 256))
    ),
    _lsh(1024, 64),
    *(_hnsw(16, 100, ef_search) for ef_search in (32, 64, 128)),
    *(_hnsw(32, 200, ef_search) for ef_search in (32, 64, 128)),
)
"""The searches of the study, in the order of the tables and of a round."""
QUICK_METHODS = (
    *_EXACT, _lsh(256, 64), _lsh(512, 128), _hnsw(16, 100, 32), _hnsw(16, 100, 96)
)  # fmt: skip
"""The searches of the small version."""


@dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """What it cost to build a search: a line of `builds.jsonl`."""

    count: int
    """The number of vectors."""
    kind: str
    build_options: dict[str, int]
    seconds: float
    """How long it took."""
    cpu_seconds: float
    """The processor time that it took."""
    vector_bytes: int
    """The bytes of the vectors in memory, which every search needs."""
    index_bytes: int
    """The bytes in memory beside the vectors: bits, or the graph with its reduced vectors."""


class BuiltSearches:
    """The searches of one set of vectors, each built when it is first needed."""

    def __init__(self, vectors: Floats, *, on_build: Callable[[BuildRecord], None]) -> None:
        """Keep the vectors; nothing is built yet.

        Args:
            vectors: (n, d) float32 of length 1.
            on_build: A function that is called with the cost of each build.
        """
        self.vectors = vectors
        self._on_build = on_build
        self._built: dict[tuple[str, tuple[tuple[str, int], ...]], Any] = {}

    def exact_index(self) -> Index:
        """Return the exact index, with whose answers the others are compared."""
        index: Index = self._of(Method(kind=EXACT, name=EXACT))
        return index

    def search(self, method: Method) -> Search:
        """Return the search of a method.

        Args:
            method: The method, whose index is built unless it was built before.

        Raises:
            TesseraeError: faiss is not installed.
        """
        built = self._of(method)
        if isinstance(built, Index):
            return lambda queries: built.search(queries, K, candidates=method.candidates).rows
        search: Search = built
        return search

    def _of(self, method: Method) -> Any:
        key = method.kind, method.build_options
        if key not in self._built:
            self._built[key] = self._build(method)
        return self._built[key]

    def _build(self, method: Method) -> Any:
        started, cpu_started = time.perf_counter(), time.process_time()
        built: Any
        if method.kind == NUMPY:
            built = matrix_search(self.vectors)
        elif method.kind == SKLEARN:
            built = _sklearn_search(self.vectors)
        else:
            options: dict[str, Any] = dict(method.build_options)
            # By one thread, since a graph that several build differs from build to build. The study
            # measures recall itself: one probe is the least that `build` measures.
            built = build(method.kind, self.vectors, threads=1, probes=self.vectors[:1], **options)
        self._on_build(
            BuildRecord(
                count=len(self.vectors),
                kind=method.kind,
                build_options=dict(method.build_options),
                seconds=time.perf_counter() - started,
                cpu_seconds=time.process_time() - cpu_started,
                vector_bytes=self.vectors.nbytes,
                index_bytes=int(built.facts["bytes"]) if isinstance(built, Index) else 0,
            )
        )
        return built


def matrix_search(vectors: Floats) -> Search:
    """Return a search by one matrix product with all vectors, as one writes it with numpy.

    Args:
        vectors: (n, d) float32 of length 1, n more than 10.
    """

    def search(queries: Floats) -> Rows:
        scores = queries @ vectors.T
        best = np.argpartition(scores, -K, 1)[:, -K:]
        order = np.argsort(-np.take_along_axis(scores, best, 1), 1)
        return np.take_along_axis(best, order, 1)

    return search


def _sklearn_search(vectors: Floats) -> Search:
    """Return the exact search of the course's notebook."""
    from sklearn.neighbors import NearestNeighbors

    fitted = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine").fit(vectors)

    def search(queries: Floats) -> Rows:
        return np.asarray(fitted.kneighbors(queries, return_distance=False), np.int64)

    return search
