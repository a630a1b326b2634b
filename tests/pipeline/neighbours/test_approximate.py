"""Kinds that do not look at every vector: what they miss is known, what they answer is exact."""

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
from pipeline.neighbours.approximate import threads_of_faiss

SMALL: dict[str, dict[str, Any]] = {
    "lsh": {"bits": 128, "candidates": 200},
    "hnsw": {"links": 8, "ef_construction": 40, "ef_search": 40},
}
KINDS = sorted(SMALL)


def clustered(count: int, dim: int = 32, part: int = 0) -> NDArray[np.float32]:
    """Vectors around 50 centres, in a spectrum that decays."""
    centres = np.random.default_rng(0).standard_normal((50, dim))
    rng = np.random.default_rng([1, part])
    spread = centres[rng.integers(50, size=count)] + rng.standard_normal((count, dim))
    return np.asarray(spread * np.arange(1, dim + 1) ** -0.7, np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_most_of_the_exact_answers_are_found(kind: str) -> None:
    """By a search that nominates a tenth of the vectors; more candidates find more."""
    vectors, queries = clustered(4000), clustered(200, part=1)
    index, exact = build(kind, vectors, **SMALL[kind]), build("exact", vectors)
    wanted = exact.search(queries, 10)
    shares = [
        recall(index.search(queries, 10, candidates=count), wanted) for count in (16, 60, 400)
    ]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    assert shares[-1] > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_answered_has_its_exact_cosine_and_order(kind: str) -> None:
    """Answers are those of an exact index, with some left out."""
    vectors, queries = clustered(3000), clustered(50, part=1)
    found = build(kind, vectors, **SMALL[kind]).search(queries, 10, candidates=30)
    every = build("exact", vectors).search(queries, len(vectors))
    for query in range(len(queries)):
        places = [int(np.flatnonzero(every.rows[query] == row)[0]) for row in found.rows[query]]
        assert places == sorted(set(places))
        assert found.scores[query].tolist() == every.scores[query, places].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_recall_that_an_index_states_is_what_was_found(kind: str) -> None:
    """Measured on probes: those that are given, or vectors that were moved a little."""
    vectors, queries = clustered(4000), clustered(300, part=1)
    index = build(kind, vectors, probes=queries, **SMALL[kind])
    exact = build("exact", vectors).search(queries, 10)
    assert index.facts["recall"] == recall(index.search(queries, 10), exact)
    assert (index.facts["recall_at"], index.facts["probes"]) == (10, 300)
    assert f"recall@10 {index.facts['recall']:.3f} of 300 queries" in str(index)
    own = build(kind, vectors, **SMALL[kind]).facts
    assert own["probes"] == 200
    assert own["recall"] == pytest.approx(index.facts["recall"], abs=0.1)


def test_an_index_that_misses_half_says_so() -> None:
    """A graph of hardly any links, walked as briefly as can be."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20_000, 64)).astype(np.float32)
    poor = build("hnsw", vectors, links=2, ef_construction=4, ef_search=1)
    assert poor.facts["recall"] < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_of_many_are_all_answered(kind: str) -> None:
    """However far they are: then they are compared one by one."""
    vectors, queries = clustered(4000), clustered(20, part=1)
    index, exact = build(kind, vectors, **SMALL[kind]), build("exact", vectors)
    for keep in (np.arange(0, 4000, 400), np.arange(0, 4000, 40)):
        found, wanted = index.search(queries, 10, keep=keep), exact.search(queries, 10, keep=keep)
        assert (found.rows >= 0).all()
        assert recall(found, wanted) > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_without_direction_do_no_harm(kind: str) -> None:
    """Half of them zero or not finite: the others are found as if those were not there."""
    vectors, queries = clustered(4000), clustered(100, part=1)
    vectors[::4], vectors[1::4] = 0, np.nan
    index = build(kind, vectors, **SMALL[kind])
    found = index.search(queries, 10)
    assert (found.rows % 4 >= 2).all()
    assert recall(found, build("exact", vectors).search(queries, 10)) > 0.9
    assert index.facts["usable"] == 2000
    odd = index.search(queries, 10, keep=np.arange(1, 4000, 2))
    assert (odd.rows % 4 == 3).all()


def saved(index: Index, folder: Path) -> list[bytes]:
    """The bytes of all parts."""
    index.save(folder, {})
    return sorted(file.read_bytes() for file in folder.glob("*-*"))


@pytest.mark.parametrize("kind", KINDS)
def test_one_thread_builds_the_same_index_each_time(kind: str, tmp_path: Path) -> None:
    """To the last byte of its files."""
    vectors = clustered(3000)
    first, again = (saved(build(kind, vectors, **SMALL[kind]), tmp_path / str(i)) for i in (1, 2))
    assert first == again
    assert len(first) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_more_threads_find_as_much(kind: str) -> None:
    """And leave the number of the library's threads as it was."""
    vectors, queries = clustered(3000), clustered(100, part=1)
    exact = build("exact", vectors).search(queries, 10)
    before = faiss.omp_get_max_threads()
    index = build(kind, vectors, threads=2, **SMALL[kind])
    assert faiss.omp_get_max_threads() == before
    assert recall(index.search(queries, 10), exact) > 0.9


def test_the_number_of_threads_comes_back_after_an_error() -> None:
    """Whoever else uses the library in this process is not slowed."""
    before = faiss.omp_get_max_threads()
    inside = 0
    with contextlib.suppress(ZeroDivisionError), threads_of_faiss(before + 1):
        inside = faiss.omp_get_max_threads()
        raise ZeroDivisionError
    assert inside == before + 1
    assert faiss.omp_get_max_threads() == before


def test_a_graph_is_one_of_shorter_vectors_where_that_loses_little() -> None:
    """Of those that differ along few directions; of others it is one of whole vectors."""
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((2000, 96)).astype(np.float32)
    steep = flat * np.where(np.arange(96) < 20, 1, 0.01).astype(np.float32)
    widths = [
        build("hnsw", vectors, **SMALL["hnsw"]).nominator.state()["axes"].shape[1]
        for vectors in (flat, steep)
    ]
    assert widths == [95, 31]  # and a number that says how long the rest is
    asked = build("hnsw", flat, dims=48, **SMALL["hnsw"])
    assert asked.nominator.state()["axes"].shape == (96, 47)
    assert asked.facts["bytes"] < build("hnsw", flat, **SMALL["hnsw"]).facts["bytes"]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("annoy", {}, "kind is 'annoy': expected one of exact, lsh, hnsw"),
        ("exact", {"bits": 2}, "exact has no option 'bits': expected none"),
        ("lsh", {"links": 2}, "lsh has no option 'links': expected bits, candidates"),
        ("hnsw", {"links": 0}, "links is 0: expected a whole number above 0"),
        ("hnsw", {"dims": 17}, "dims is 17: expected 2 to 16"),
        ("hnsw", {"links": 1.5}, "links is 1.5"),
        ("hnsw", {"threads": 0}, "threads is 0"),
    ],
)
def test_options_that_a_kind_does_not_have_are_refused(kind: str, options: Any, said: str) -> None:
    """With those that it has."""
    with pytest.raises(ValueError, match=said):
        build(kind, np.eye(4, dtype=np.float32), **options)


def test_a_missing_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """That says how to get it; exact search does without."""
    plain = builtins.__import__

    def without(name: str, *args: Any, **words: Any) -> Any:
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return plain(name, *args, **words)

    monkeypatch.setattr(builtins, "__import__", without)
    vectors = np.eye(4, dtype=np.float32)
    for kind in KINDS:
        with pytest.raises(TesseraeError, match="run `make setup EXTRAS=devise`"):
            build(kind, vectors)
    assert build("exact", vectors).search(vectors, 1).rows.ravel().tolist() == [0, 1, 2, 3]
