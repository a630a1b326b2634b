"""An index of each kind, and what it misses, measured as it is made."""

from __future__ import annotations

import time
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.approximate import Hnsw, HnswOptions, Lsh, LshOptions
from pipeline.neighbours.exact import DeviceScan, Scan
from pipeline.neighbours.index import Index
from pipeline.neighbours.results import recall
from pipeline.neighbours.vectors import Floats, Vectors, measured

KINDS = ("exact", "lsh", "hnsw")

RECALL_AT = 10
"""Of how many nearest it is measured how many are found."""
PROBES = 200
"""Queries with which it is."""
APART = 0.3
"""How far probes are from a vector, as a share of the difference of two others."""


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
    """Make an index.

    Args:
        kind: exact, lsh or hnsw.
        vectors: (n, d) float32 or float16 of any length, in memory or mapped: kept, not copied,
            and not to be changed from here on.
        device: Of torch, such as cuda: what searches exactly, and holds a copy. None: numpy.
        threads: That build. A graph is the same each time only with 1.
        seed: Of what is drawn: rows from which something is learned, probes.
        probes: (q, d) queries with which recall is measured, such as those that will be asked;
            None: vectors moved a little as vectors differ.
        **options: Those of `LshOptions` or `HnswOptions`.

    Raises:
        ValueError: There are no vectors, or an argument is not what is said above.
        TesseraeError: A library or the device is not there.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: expected one of {', '.join(KINDS)}.")
    if not len(vectors):
        raise ValueError("there are no vectors: expected one or more.")
    if device is not None and kind != "exact":
        raise ValueError(f"device is {device!r}: only an exact index is searched on one.")
    if threads < 1:
        raise ValueError(f"threads is {threads}: expected 1 or more.")
    chosen = _options(kind, options)
    started = time.perf_counter()
    kept = measured(vectors)
    index = assembled(kind, kept, _nominator(kind, kept, chosen, seed, threads, device), chosen)
    index.facts.update(
        usable=kept.num_usable,
        seconds=time.perf_counter() - started,
        bytes=index.nominator.num_bytes,
    )
    if kind != "exact":
        index.facts.update(measure_recall(index, _probes(kept, seed) if probes is None else probes))
    return index


def assembled(kind: str, vectors: Vectors, nominator: Any, options: Any) -> Index:
    """An index of parts."""
    candidates = options.candidates if options else 0
    said = asdict(options) if options else {}
    return Index(kind, vectors, nominator, candidates=candidates, options=said)


def measure_recall(index: Index, queries: NDArray[Any]) -> dict[str, Any]:
    """What an index finds of the exact answers to queries, as facts of it."""
    exact = Index("exact", index.vectors, Scan(index.vectors))
    found = index.search(queries, RECALL_AT)
    share = recall(found, exact.search(queries, RECALL_AT)) if len(queries) else 1.0
    return {"recall": share, "recall_at": RECALL_AT, "probes": len(queries)}


def _options(kind: str, options: dict[str, Any]) -> LshOptions | HnswOptions | None:
    make = {"lsh": LshOptions, "hnsw": HnswOptions}.get(kind)
    known = [field.name for field in fields(make)] if make else []
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f"{kind} has no option {name!r}: expected {', '.join(known) or 'none'}."
            )
        if (value is None and name == "dims") or (isinstance(value, int) and value > 0):
            continue
        raise ValueError(f"{name} is {value!r}: expected a whole number above 0.")
    return make(**options) if make else None


def _nominator(
    kind: str, vectors: Vectors, options: Any, seed: int, threads: int, device: str | None
) -> Any:
    if kind == "lsh":
        return Lsh.made(vectors, options, seed, threads)
    if kind == "hnsw":
        return Hnsw.made(vectors, options, seed, threads)
    return Scan(vectors) if device is None else DeviceScan(vectors, device)


def _probes(vectors: Vectors, seed: int) -> Floats:
    """(q, d) float32: vectors moved a little, in directions in which vectors differ."""
    rows = np.flatnonzero(vectors.usable)
    if not len(rows):
        return np.empty((0, vectors.dim), np.float32)
    chosen = np.random.default_rng(seed).choice(rows, (3, PROBES))
    near, one, other = (vectors.units(some) for some in chosen)
    moved = near + APART * (one - other)
    moving = np.abs(moved).max(1) > 0
    return np.asarray(np.where(moving[:, None], moved, near), np.float32)
