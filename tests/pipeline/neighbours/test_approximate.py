"""Approximate indexes: their recall is measured, and what they return is exact."""

from __future__ import annotations

import builtins
import contextlib
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.neighbours import Index, build, recall
from pipeline.neighbours.approximate import limit_faiss_threads

SMALL: dict[str, dict[str, Any]] = {
    "lsh": {"bits": 128, "candidates": 200},
    "hnsw": {"links": 8, "ef_construction": 40, "ef_search": 40},
}
KINDS = sorted(SMALL)


def clustered(count: int, dim: int = 32, part: int = 0) -> NDArray[np.float32]:
    """Return (count, dim) vectors around 50 centres, with a decaying spectrum."""
    centres = np.random.default_rng(0).standard_normal((50, dim))
    rng = np.random.default_rng([1, part])
    spread = centres[rng.integers(50, size=count)] + rng.standard_normal((count, dim))
    return np.asarray(spread * np.arange(1, dim + 1) ** -0.7, np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_grows_with_candidates(kind: str) -> None:
    """A tenth of the vectors as candidates suffices for a recall of 99 %."""
    vectors, queries = clustered(4000), clustered(200, part=1)
    index, exact = build(kind, vectors, **SMALL[kind]), build("exact", vectors)
    exact_results = exact.search(queries, 10)
    shares = [
        recall(index.search(queries, 10, candidates=count), exact_results)
        for count in (16, 60, 400)
    ]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    assert shares[-1] > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_results_have_exact_cosines_in_order(kind: str) -> None:
    """The results are those of an exact index with some left out."""
    vectors, queries = clustered(3000), clustered(50, part=1)
    results = build(kind, vectors, **SMALL[kind]).search(queries, 10, candidates=30)
    every = build("exact", vectors).search(queries, len(vectors))
    for query in range(len(queries)):
        ranks = [int(np.flatnonzero(every.rows[query] == row)[0]) for row in results.rows[query]]
        assert ranks == sorted(set(ranks))
        assert results.scores[query].tolist() == every.scores[query, ranks].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_recorded_recall_is_the_measured_one(kind: str) -> None:
    """Recall is measured on the given probes, or on displaced vectors by default."""
    vectors, queries = clustered(4000), clustered(300, part=1)
    index = build(kind, vectors, probes=queries, **SMALL[kind])
    exact = build("exact", vectors).search(queries, 10)
    assert index.facts["recall"] == recall(index.search(queries, 10), exact)
    assert (index.facts["recall_at"], index.facts["probes"]) == (10, 300)
    assert f"recall@10 {index.facts['recall']:.3f} of 300 queries" in str(index)
    own = build(kind, vectors, **SMALL[kind]).facts
    assert own["probes"] == 200
    assert own["recall"] == pytest.approx(index.facts["recall"], abs=0.1)


def test_a_poor_index_records_its_low_recall() -> None:
    """The graph has hardly any links and its walk is as short as possible."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20_000, 64)).astype(np.float32)
    poor = build("hnsw", vectors, links=2, ef_construction=4, ef_search=1)
    assert poor.facts["recall"] < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_allowed_set_is_compared_completely(kind: str) -> None:
    """Rows far from the query are found, too, when few rows are allowed."""
    vectors, queries = clustered(4000), clustered(20, part=1)
    index, exact = build(kind, vectors, **SMALL[kind]), build("exact", vectors)
    for keep in (np.arange(0, 4000, 400), np.arange(0, 4000, 40)):
        results, exact_results = (
            index.search(queries, 10, keep=keep),
            exact.search(queries, 10, keep=keep),
        )
        assert (results.rows >= 0).all()
        assert recall(results, exact_results) > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_vectors_are_ignored(kind: str) -> None:
    """Half of the vectors are zero or not finite; recall of the others is unaffected."""
    vectors, queries = clustered(4000), clustered(100, part=1)
    vectors[::4], vectors[1::4] = 0, np.nan
    index = build(kind, vectors, **SMALL[kind])
    results = index.search(queries, 10)
    assert (results.rows % 4 >= 2).all()
    assert recall(results, build("exact", vectors).search(queries, 10)) > 0.9
    assert index.facts["usable"] == 2000
    odd_results = index.search(queries, 10, keep=np.arange(1, 4000, 2))
    assert (odd_results.rows % 4 == 3).all()


def save_and_read(index: Index, folder: Path) -> list[bytes]:
    """Save an index and return the bytes of all its parts, sorted."""
    index.save(folder, {})
    return sorted(file.read_bytes() for file in folder.glob("*-*"))


@pytest.mark.parametrize("kind", KINDS)
def test_one_thread_builds_the_same_index_each_time(kind: str, tmp_path: Path) -> None:
    """The files of two builds are identical."""
    vectors = clustered(3000)
    first, again = (
        save_and_read(build(kind, vectors, **SMALL[kind]), tmp_path / str(i)) for i in (1, 2)
    )
    assert first == again
    assert len(first) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_by_several_threads_has_the_same_recall(kind: str) -> None:
    """The thread count of faiss is as before afterwards."""
    vectors, queries = clustered(3000), clustered(100, part=1)
    exact = build("exact", vectors).search(queries, 10)
    before = faiss.omp_get_max_threads()
    index = build(kind, vectors, threads=2, **SMALL[kind])
    assert faiss.omp_get_max_threads() == before
    assert recall(index.search(queries, 10), exact) > 0.9


def test_the_thread_limit_is_restored_after_an_error() -> None:
    """Other users of faiss in this process keep their number of threads."""
    before = faiss.omp_get_max_threads()
    inside = 0
    with contextlib.suppress(ZeroDivisionError), limit_faiss_threads(before + 1):
        inside = faiss.omp_get_max_threads()
        raise ZeroDivisionError
    assert inside == before + 1
    assert faiss.omp_get_max_threads() == before


def test_a_graph_reduces_vectors_that_vary_in_few_directions() -> None:
    """Vectors that vary in all directions are not reduced; *dims* overrides the choice."""
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((2000, 96)).astype(np.float32)
    steep = flat * np.where(np.arange(96) < 20, 1, 0.01).astype(np.float32)
    widths = [
        build("hnsw", vectors, **SMALL["hnsw"]).generator.state()["axes"].shape[1]
        for vectors in (flat, steep)
    ]
    assert widths == [95, 31]  # the residual length is one more number
    with_dims = build("hnsw", flat, dims=48, **SMALL["hnsw"])
    assert with_dims.generator.state()["axes"].shape == (96, 47)
    assert with_dims.facts["bytes"] < build("hnsw", flat, **SMALL["hnsw"]).facts["bytes"]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("annoy", {}, "kind is 'annoy': expected one of exact, lsh, hnsw"),
        ("exact", {"bits": 2}, "exact has no option 'bits': expected none"),
        ("lsh", {"links": 2}, "lsh has no option 'links': expected bits, candidates"),
        ("hnsw", {"links": 0}, "links is 0: expected a whole number above 0"),
        ("hnsw", {"dims": 17}, "dims is 17: expected 2 to 16"),
        ("hnsw", {"links": 1}, "links is 1: expected 2 or more"),
        ("hnsw", {"links": 1.5}, "links is 1.5"),
        ("hnsw", {"threads": 0}, "threads is 0"),
    ],
)
def test_options_that_a_kind_does_not_have_are_refused(
    kind: str, options: Any, message: str
) -> None:
    """The error lists the options that the kind has."""
    with pytest.raises(ValueError, match=message):
        build(kind, np.eye(4, dtype=np.float32), **options)


def test_a_missing_library_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to install it; exact search works without it."""
    plain = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return plain(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    vectors = np.eye(4, dtype=np.float32)
    for kind in KINDS:
        with pytest.raises(TesseraeError, match="run `make setup EXTRAS=search`"):
            build(kind, vectors)
    assert build("exact", vectors).search(vectors, 1).rows.ravel().tolist() == [0, 1, 2, 3]
