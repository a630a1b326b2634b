"""The searches that are compared: exact ones find all, and settings change what they should."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.neighbours import build
from pipeline.neighbours.vectors import measure_lengths
from tests.workflows.studies.vectors import clustered_vectors
from workflows.studies.neighbours import timing
from workflows.studies.neighbours.growth import unit_length
from workflows.studies.neighbours.methods import (
    HNSW,
    LSH,
    METHODS,
    QUICK_METHODS,
    BuildRecord,
    BuiltSearches,
    Method,
)
from workflows.studies.neighbours.timing import (
    RoundQueries,
    measure,
    num_queries,
    recalls,
    round_queries,
)

VECTORS = unit_length(clustered_vectors(700, 20))
SEARCHED, POOL = VECTORS[:500], VECTORS[500:]
MEASURED = measure_lengths(SEARCHED)


def searches(records: list[BuildRecord] | None = None) -> BuiltSearches:
    """Return the searches of 500 vectors."""
    return BuiltSearches(SEARCHED, on_build=(records if records is not None else []).append)


@pytest.fixture(scope="module")
def queries() -> RoundQueries:
    """Return the queries of round 1."""
    return round_queries(POOL, 1, 20, build("exact", SEARCHED))


@pytest.mark.parametrize("method", QUICK_METHODS[:3], ids=lambda m: m.name)
def test_exact_searches_find_all(method: Method, queries: RoundQueries) -> None:
    """Those by numpy and by scikit-learn have the same neighbours in the same order."""
    rows = searches().search(method)(queries.judged.vectors)
    assert np.array_equal(rows, queries.judged.nearest.rows)
    metrics = recalls(MEASURED, queries.judged, rows)
    assert metrics == {"recall_1": 1, "recall_3": 1, "recall_10": 1}
    assert method.chance(500) == 1


def test_recall_counts_the_nearest_that_were_found(queries: RoundQueries) -> None:
    """The first answer, the first three and all ten are counted for themselves."""
    rows = queries.judged.nearest.rows.copy()
    rows[:, 1] = -1
    metrics = recalls(MEASURED, queries.judged, rows)
    assert metrics == pytest.approx({"recall_1": 1, "recall_3": 2 / 3, "recall_10": 0.9})
    rows[:] = -1
    assert set(recalls(MEASURED, queries.judged, rows).values()) == {0.0}


def test_an_index_is_built_once_for_all_its_numbers_of_candidates() -> None:
    """Its build is recorded, with its bytes; more candidates find more."""
    records: list[BuildRecord] = []
    built = searches(records)
    few, many = (
        Method(kind=LSH, name=f"{c}", build_options=(("bits", 64),), candidates=c)
        for c in (26, 200)
    )
    exact = built.exact_index()
    found = [
        recalls(
            exact.vectors,
            round_queries(POOL, 0, 50, exact).judged,
            built.search(method)(POOL[50:100]),
        )["recall_10"]
        for method in (few, many)
    ]
    assert found[0] < found[1]
    assert [(r.kind, r.build_options) for r in records] == [("exact", {}), (LSH, {"bits": 64})]
    assert (records[1].index_bytes, records[1].vector_bytes) == (500 * 8, SEARCHED.nbytes)
    assert few.chance(500) == pytest.approx(26 / 500)
    assert many.chance(100) == 1


def test_a_graph_is_the_same_when_it_is_built_again() -> None:
    """So a study that goes on has the recall of one that was never interrupted."""
    method = next(m for m in METHODS if m.kind == HNSW)
    rows = [searches().search(method)(POOL) for _ in range(2)]
    assert np.array_equal(*rows)


def test_rounds_have_queries_of_their_own() -> None:
    """The halves of a round differ, too; many rounds share few queries."""
    exact = searches().exact_index()
    rounds = [round_queries(POOL, seed, 20, exact) for seed in range(5)]
    halves = [half.vectors for each in rounds for half in (each.choice, each.judged)]
    assert len(np.unique(np.concatenate(halves), axis=0)) == 200
    assert [num_queries(POOL, seeds, 20) for seeds in (1, 5, 6, 10)] == [20, 20, 16, 10]
    with pytest.raises(ValueError, match=r"200 queries for 11 rounds: expected at least 20"):
        num_queries(POOL, 11, 20)


def test_times_are_microseconds_of_a_query(
    queries: RoundQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One takes 4 s of wall time and 1 s of processor time, alone and in a batch."""
    searched = [0]

    def search(vectors: np.ndarray) -> np.ndarray:
        searched[0] += len(vectors)
        return queries.judged.nearest.rows[: len(vectors)]

    clocks = SimpleNamespace(
        perf_counter=lambda: 4.0 * searched[0], thread_time=lambda: 1.0 * searched[0]
    )
    monkeypatch.setattr(timing, "time", clocks)
    metrics = measure(search, MEASURED, queries, threads=1)
    for half in ("", "choice_"):
        for mode in ("single", "batch"):
            assert metrics[f"{half}{mode}_us"] == 4e6
            assert metrics[f"{half}{mode}_cpu_us"] == 1e6


def test_a_measurement_has_recall_and_times_of_both_halves(queries: RoundQueries) -> None:
    """Half of the queries choose settings, and the others judge them."""
    calls = []

    def search(vectors: np.ndarray) -> np.ndarray:
        calls.append(vectors)
        if np.shares_memory(vectors, queries.choice.vectors):
            return np.full((len(vectors), 10), -1)
        return queries.judged.nearest.rows[: len(vectors)]

    metrics = measure(search, MEASURED, queries, threads=1)
    assert metrics["recall_10"] == 1
    assert metrics["choice_recall_10"] == 0
    times = {"single_us", "single_cpu_us", "batch_us", "batch_cpu_us"}
    assert times <= metrics.keys()
    assert {f"choice_{name}" for name in times} <= metrics.keys()
    assert all(metrics[name] >= 0 for name in times)
    assert sum(len(c) == 20 for c in calls) == 6
