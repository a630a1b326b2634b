"""Recall and time of a search with the queries of a round.

Other programs on the machine lengthen the wall time of a search, and hardly its processor time. So
both are measured. A round measures every search with the same queries, and times are compared
within a round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from threadpoolctl import ThreadpoolController

from pipeline.neighbours import Index, SearchResults, recall
from pipeline.neighbours.approximate import limit_faiss_threads
from pipeline.neighbours.vectors import Floats, Rows, Vectors, directions
from workflows.studies.neighbours.methods import K, Search
from workflows.studies.neighbours.options import MIN_QUERIES
from workflows.terminal.formatting import counted

RECALL_AT = (1, 3, 10)
"""The numbers of nearest neighbours of which recall is measured; the notebook shows 3."""
MIN_SINGLE_QUERIES, MAX_SINGLE_QUERIES = 10, 30
"""The range of the number of queries that are searched one at a time."""
MAX_SCANNED = 2_000_000
"""The number of vectors that single queries are compared with in all, above the least number of
queries: exact searches of many vectors would take most of the time of the study."""
BATCH_REPEATS = 3
"""How often a batch is searched."""
MICROSECONDS = 1e6


@dataclass(frozen=True)
class Queries:
    """Queries and their true neighbours."""

    vectors: Floats
    """(q, d) float32 of length 1."""
    nearest: SearchResults
    """The 10 nearest of each, by exact search."""


@dataclass(frozen=True)
class RoundQueries:
    """The queries of a round: those by which settings are chosen, and those that judge them."""

    choice: Queries
    judged: Queries


def num_queries(pool: Floats, rounds: int, limit: int) -> int:
    """Return the number of queries in each half of a round, as no query is of two rounds.

    Args:
        pool: (m, d) float32, the queries of all rounds.
        rounds: The number of rounds.
        limit: The largest number.

    Raises:
        ValueError: The pool has too few queries for so many rounds.
    """
    count = min(limit, len(pool) // (2 * rounds))
    if count < MIN_QUERIES:
        raise ValueError(
            f"there are {len(pool):,} queries for {counted(rounds, 'round')}: expected at least"
            f" {2 * MIN_QUERIES} for each, of which one half chooses settings and the other judges"
            " them. Pass fewer --seeds, or more vectors."
        )
    return count


def round_queries(pool: Floats, seed: int, count: int, exact: Index) -> RoundQueries:
    """Return the queries of a round, which no other round has, with their true neighbours.

    Args:
        pool: (m, d) float32 of length 1, the queries of all rounds, in random order.
        seed: The number of the round, from 0.
        count: The number of queries in each half.
        exact: The exact index of the vectors that are searched.
    """
    start = 2 * count * seed
    choice, judged = pool[start : start + count], pool[start + count : start + 2 * count]
    return RoundQueries(
        Queries(choice, exact.search(choice, K)), Queries(judged, exact.search(judged, K))
    )


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Limit BLAS and faiss to *threads* threads inside the block.

    Args:
        threads: The number of threads, at least 1.

    Raises:
        TesseraeError: faiss is not installed.
    """
    with limit_faiss_threads(threads), ThreadpoolController().limit(limits=threads):
        yield


def measure(
    search: Search, vectors: Vectors, queries: RoundQueries, *, threads: int
) -> dict[str, float]:
    """Return the recall and the times of a search.

    Args:
        search: The search; one query is searched before any is timed.
        vectors: The vectors that are searched.
        queries: The queries of a round.
        threads: Number of threads that search.

    Returns:
        `recall_1`, `recall_3` and `recall_10`, the shares of the nearest vectors of the judged
        queries that are among the answers; medians in microseconds a query: `single_us` and
        `single_cpu_us`, wall and processor time of single queries, and `batch_us` and
        `batch_cpu_us`, of all of them at once; and the same names with `choice_` before them, of
        the queries that settings are chosen by.
    """
    search(queries.judged.vectors[:1])
    metrics = _half(search, vectors, queries.judged, threads)
    of_choice = _half(search, vectors, queries.choice, threads)
    return metrics | {f"choice_{name}": value for name, value in of_choice.items()}


def _half(search: Search, vectors: Vectors, queries: Queries, threads: int) -> dict[str, float]:
    # Threads of the progress display do not count; those of the search do, if it has several.
    clock = time.thread_time if threads == 1 else time.process_time
    num_singles = max(MIN_SINGLE_QUERIES, min(MAX_SINGLE_QUERIES, MAX_SCANNED // len(vectors)))
    singles = list(queries.vectors[:num_singles, None])
    single, single_cpu, _ = _median_times(search, singles, clock)
    batch, batch_cpu, rows = _median_times(search, [queries.vectors] * BATCH_REPEATS, clock)
    count = len(queries.vectors)
    return {
        **recalls(vectors, queries, rows),
        "single_us": MICROSECONDS * single,
        "single_cpu_us": MICROSECONDS * single_cpu,
        "batch_us": MICROSECONDS * batch / count,
        "batch_cpu_us": MICROSECONDS * batch_cpu / count,
    }


def _median_times(
    search: Search, requests: Sequence[Floats], clock: Callable[[], float]
) -> tuple[float, float, Rows]:
    """Return the median wall and processor seconds of a request, and the rows of the last one."""
    walls, cpus = [], []
    for request in requests:
        started, cpu_started = time.perf_counter(), clock()
        rows = search(request)
        cpus.append(clock() - cpu_started)
        walls.append(time.perf_counter() - started)
    return statistics.median(walls), statistics.median(cpus), rows


def recalls(vectors: Vectors, queries: Queries, rows: Rows) -> dict[str, float]:
    """Return the recall of the 1, 3 and 10 nearest of some answers, by name.

    An answer that is as near as the last of the nearest counts as one of them.

    Args:
        vectors: The vectors that are searched.
        queries: The queries.
        rows: (q, 10) int64, the answers, nearest first; -1 for missing ones.
    """
    units = directions(queries.vectors, vectors.dim)
    scores = vectors.cosines(units, np.maximum(rows, 0)).astype(np.float32)
    results = SearchResults(np.where(rows < 0, np.float32(-np.inf), scores), rows)
    nearest = queries.nearest
    return {
        f"recall_{k}": recall(results, SearchResults(nearest.scores[:, :k], nearest.rows[:, :k]))
        for k in RECALL_AT
    }
