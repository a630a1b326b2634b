"""Builds an index of each kind and measures its recall."""

from __future__ import annotations

import time
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.approximate import Hnsw, HnswOptions, Lsh, LshOptions
from pipeline.neighbours.exact import ExactDeviceScan, ExactScan
from pipeline.neighbours.index import Index
from pipeline.neighbours.results import recall
from pipeline.neighbours.vectors import Floats, Vectors, measure_lengths

KINDS = ("exact", "lsh", "hnsw")

RECALL_AT = 10
"""The number of nearest vectors of which recall is measured."""
NUM_PROBES = 200
"""The number of queries with which recall is measured."""
PROBE_DISTANCE = 0.3
"""The distance of a probe from its vector, as a share of the difference of two others."""


def build(
    kind: str,
    vectors: NDArray[Any],
    *,
    device: str | None = None,
    threads: int = 1,
    seed: int = 0,
    probes: NDArray[Any] | None = None,
    **options: Any,
) -> Index:
    """Build an index of *vectors*, which finds those with the largest cosines.

    Args:
        kind: The kind of index: `exact` (all vectors are compared), `lsh` (bits) or `hnsw` (a
            graph).
        vectors: (n, d) float32 or float16 of any length, in memory or mapped. They are not copied
            and must not be changed afterwards. Those that are zero or not finite are never a
            result.
        device: The torch device, such as cuda, that holds a copy and searches exactly. None: numpy
            on the processor. Only for exact.
        threads: The number of threads that build (default: 1). A graph is reproducible only with 1.
        seed: The seed of what is drawn: the training sample and the probes.
        probes: (q, d) float32 queries of any length but zero with which recall is measured, best
            like those to be searched for; None: vectors that are displaced a little in directions
            in which vectors differ. Unused for exact.
        **options: Each an `int` above 0. For lsh `bits` of a vector (default: 512) and `candidates`
            that are compared exactly (512). For hnsw `links` of a vector (32, at least 2),
            `ef_construction`, the rows among which they are chosen (200), `ef_search`, the rows
            that a query visits and compares exactly (192), and `dims` of the reduced vectors, 2 to
            16 * (d // 16 + 1) (default: None, the vectors decide). For exact there are no options.

    Returns:
        The index. Its `facts` hold the measurements of the build: the number of `usable` vectors,
        the `seconds` it took, the `bytes` in memory beside the vectors and, unless it is exact, the
        `recall`, 0 to 1, of the `recall_at` nearest over `probes` queries.

    Raises:
        ValueError: There are no vectors, they have another shape or dtype, or an argument is
            unknown or out of its range.
        TesseraeError: A library or the device is missing, or the device has too little memory.

    Examples:
        >>> vectors = np.random.default_rng(0).standard_normal((100, 8), np.float32)
        >>> index = tesserae.build_index("exact", vectors)
        >>> results = index.search(vectors[:2], 5)
        >>> results.rows.shape, results.rows[:, 0].tolist()
        ((2, 5), [0, 1])
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: expected one of {', '.join(KINDS)}.")
    if not len(vectors):
        raise ValueError("there are no vectors: expected one or more.")
    if device is not None and kind != "exact":
        raise ValueError(f"device is {device!r}: only an exact index is searched on one.")
    if threads < 1:
        raise ValueError(f"threads is {threads}: expected 1 or more.")
    checked_options = _index_options(kind, options)
    started = time.perf_counter()
    measured_vectors = measure_lengths(vectors)
    index = assemble(
        kind,
        measured_vectors,
        _candidate_generator(kind, measured_vectors, checked_options, seed, threads, device),
        checked_options,
    )
    index.facts.update(
        usable=measured_vectors.num_usable,
        seconds=time.perf_counter() - started,
        bytes=index.generator.num_bytes,
    )
    if kind != "exact":
        index.facts.update(
            measure_recall(
                index, _probe_queries(measured_vectors, seed) if probes is None else probes
            )
        )
    return index


def assemble(kind: str, vectors: Vectors, generator: Any, options: Any) -> Index:
    """Return the index that consists of parts that were built or read before.

    Args:
        kind: The kind of index: exact, lsh or hnsw.
        vectors: The vectors to be searched, as `measure_lengths` returns them.
        generator: The source of candidates in these vectors, an object: an `ExactScan`,
            `ExactDeviceScan`, `Lsh` or `Hnsw`.
        options: The `LshOptions` or `HnswOptions` of the generator; None for exact.

    Returns:
        The index, with empty `facts`.
    """
    candidates = options.candidates if options else 0
    option_values = asdict(options) if options else {}
    return Index(kind, vectors, generator, candidates=candidates, options=option_values)


def measure_recall(index: Index, queries: NDArray[Any]) -> dict[str, Any]:
    """Return the recall of an index, measured against an exact search for the same queries.

    Args:
        index: The index; its `facts` are not changed.
        queries: (q, d) of a floating-point dtype, of any length but zero.

    Returns:
        Entries for `Index.facts`: `recall`, the share of the 10 nearest vectors that the index
        finds, 0 to 1 (1 if there are no queries, or no vectors that can be found); `recall_at`, 10;
        and `probes`, the number of queries.

    Raises:
        ValueError: A query is zero or not finite, or the queries have another shape or dtype.
    """
    exact = Index("exact", index.vectors, ExactScan(index.vectors))
    results = index.search(queries, RECALL_AT)
    # There may be nothing to find; and NaN could not be saved, since JSON has none.
    measurable = len(queries) and index.vectors.num_usable
    share = recall(results, exact.search(queries, RECALL_AT)) if measurable else 1.0
    return {"recall": share, "recall_at": RECALL_AT, "probes": len(queries)}


def _index_options(kind: str, options: dict[str, Any]) -> LshOptions | HnswOptions | None:
    make = {"lsh": LshOptions, "hnsw": HnswOptions}.get(kind)
    names = [field.name for field in fields(make)] if make else []
    for name, value in options.items():
        if name not in names:
            raise ValueError(
                f"{kind} has no option {name!r}: expected {', '.join(names) or 'none'}."
            )
        if (value is None and name == "dims") or (isinstance(value, int) and value > 0):
            continue
        raise ValueError(f"{name} is {value!r}: expected a whole number above 0.")
    return make(**options) if make else None


def _candidate_generator(
    kind: str, vectors: Vectors, options: Any, seed: int, threads: int, device: str | None
) -> Any:
    if kind == "lsh":
        return Lsh.build(vectors, options, seed, threads)
    if kind == "hnsw":
        return Hnsw.build(vectors, options, seed, threads)
    return ExactScan(vectors) if device is None else ExactDeviceScan(vectors, device)


def _probe_queries(vectors: Vectors, seed: int) -> Floats:
    """Return (q, d) float32: vectors displaced in directions in which vectors differ."""
    rows = np.flatnonzero(vectors.usable)
    if not len(rows):
        return np.empty((0, vectors.dim), np.float32)
    chosen = np.random.default_rng(seed).choice(rows, (3, NUM_PROBES))
    near, first, second = (vectors.units(drawn) for drawn in chosen)
    moved = near + PROBE_DISTANCE * (first - second)
    moving = np.abs(moved).max(1) > 0
    return np.asarray(np.where(moving[:, None], moved, near), np.float32)
