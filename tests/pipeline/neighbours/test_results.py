"""Measures on search results: recall, duplicates, hubness, and CSLS against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pipeline.neighbours import SearchResults, build, deduplicate, hubness, recall
from pipeline.neighbours.csls import Hubs, measure_hubs
from pipeline.neighbours.results import ids_of_rows


def answers(rows: Any, scores: Any = None) -> SearchResults:
    """Return results of *rows*; the default scores fall from 1."""
    rows = np.array(rows, np.int64)
    falling = 1 - np.arange(rows.shape[1], dtype=np.float32) / 100
    given_scores = np.broadcast_to(falling, rows.shape) if scores is None else np.array(scores)
    return SearchResults(np.where(rows < 0, -np.inf, given_scores).astype(np.float32), rows)


@st.composite
def some_answers(draw: st.DrawFn) -> SearchResults:
    """Draw results with different rows, best first, filled up with -1."""
    width, rows = draw(st.integers(1, 8)), []
    for _ in range(draw(st.integers(1, 4))):
        drawn = draw(st.lists(st.integers(0, 20), max_size=width, unique=True))
        rows.append(drawn + [-1] * (width - len(drawn)))
    return answers(rows)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_ids_of_any_integer_dtype_are_those_of_rows(dtype: type) -> None:
    """A missing row has -1 also where the dtype of the ids has no negative numbers."""
    ids = ids_of_rows(np.array([[2, -1, 0]]), np.array([7, 7, 55], dtype))
    assert (ids.dtype, ids.tolist()) == (np.dtype(np.int64), [[55, -1, 7]])


@given(results=some_answers())
def test_exact_results_have_a_recall_of_one(results: SearchResults) -> None:
    """The order of rows does not matter; recall is NaN if there is no exact answer."""
    mixed = SearchResults(results.scores[:, ::-1], results.rows[:, ::-1])
    if (results.rows >= 0).any():
        assert recall(results, results) == recall(mixed, results) == 1
    else:
        assert np.isnan(recall(results, results))


@given(results=some_answers(), data=st.data())
def test_recall_is_the_mean_share_of_exact_answers(
    results: SearchResults, data: st.DataObject
) -> None:
    """Each missing answer lowers recall by its share of its query."""
    lost_flags = data.draw(
        st.lists(st.booleans(), min_size=results.rows.size, max_size=results.rows.size)
    )
    is_lost = np.array(lost_flags).reshape(results.rows.shape)
    remaining = SearchResults(
        np.where(is_lost, -np.inf, results.scores), np.where(is_lost, -1, results.rows)
    )
    expected = (results.rows >= 0).sum(1)
    shares = [(remaining.rows >= 0).sum(1)[q] / w for q, w in enumerate(expected) if w]
    if shares:
        assert recall(remaining, results) == pytest.approx(np.mean(shares))


def test_an_equal_answer_counts_and_a_lower_one_does_not() -> None:
    """A choice among equal scores is arbitrary."""
    exact = answers([[1, 2, 3]], [[0.9, 0.5, 0.5]])
    assert recall(answers([[1, 7, 2]], [[0.9, 0.5, 0.5]]), exact) == 1
    assert recall(answers([[1, 7, 2]], [[0.9, 0.5, 0.4]]), exact) == 1  # 2 is named
    assert recall(answers([[1, 7, 8]], [[0.9, 0.5, 0.4]]), exact) == pytest.approx(2 / 3)
    assert recall(answers([[5, 6, 7]], [[0.4, 0.3, 0.2]]), exact) == 0
    assert recall(answers([[5, 6]], [[0.9, 0.9]]), answers([[1, -1]], [[0.9, 0]])) == 1


def test_recall_compares_only_the_first_k_answers() -> None:
    """Further approximate answers do not raise recall."""
    assert recall(answers([[4, 5, 1]], [[0.3, 0.2, 0.9]]), answers([[1, 2]])) == 0
    with pytest.raises(ValueError, match="1 queries were searched, and 2 exactly"):
        recall(answers([[1]]), answers([[1], [2]]))


@given(results=some_answers(), pictures=st.integers(1, 21))
def test_deduplication_keeps_the_best_row_of_each_id(results: SearchResults, pictures: int) -> None:
    """Order is kept, a second pass changes nothing, and an array of ids equals their number."""
    once = deduplicate(results, pictures)
    for rows, scores, kept_rows, kept_scores in zip(
        results.rows.tolist(),
        results.scores.tolist(),
        once.rows.tolist(),
        once.scores.tolist(),
        strict=True,
    ):
        best: dict[int, tuple[int, float]] = {}
        for row, score in zip(rows, scores, strict=True):
            if row >= 0:
                best.setdefault(row % pictures, (row, score))
        none = [(-1, -np.inf)] * (len(rows) - len(best))
        assert list(zip(kept_rows, kept_scores, strict=True)) == [*best.values(), *none]
    again = deduplicate(once, np.arange(21) % pictures)
    np.testing.assert_array_equal(again.rows, once.rows)
    np.testing.assert_array_equal(again.scores, once.scores)


@given(rows=st.lists(st.integers(-1, 9), min_size=1, max_size=60))
def test_hubness_is_the_skewness_of_answer_counts(rows: list[int]) -> None:
    """The hubness equals the skewness that scipy computes."""
    times = np.bincount([row for row in rows if row >= 0], minlength=10)
    results = hubness(np.array(rows)[:, None], 10)
    if times.std() == 0:
        assert results == 0
    else:
        assert results == pytest.approx(stats.skew(times))


def test_a_single_hub_raises_hubness() -> None:
    """One vector is an answer to every query, while all others are answers equally often."""
    rows = np.stack([np.zeros(99, np.int64), np.arange(1, 100)], 1)
    assert hubness(rows, 100) > 9
    assert hubness(rows[:, 1:] - 1, 99) == 0


def csls(
    vectors: NDArray[Any], queries: NDArray[Any], references: NDArray[Any], nearest: int
) -> NDArray[np.float64]:
    """Return (q, n) CSLS scores, straight from equation 3 of Conneau et al. 2018."""

    def unit(vectors_of_any_length: NDArray[Any]) -> NDArray[np.float64]:
        wide = vectors_of_any_length.astype(np.float64)
        return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))

    x, q, t = unit(vectors), unit(queries), unit(references)
    of_query = np.array([np.mean(np.sort(row)[-nearest:]) for row in q @ x.T])
    of_vector = np.array([np.mean(np.sort(row)[-nearest:]) for row in x @ t.T])
    return np.asarray(2 * q @ x.T - of_query[:, None] - of_vector)


@pytest.mark.parametrize("backend", ["exact", "torch", "lsh", "hnsw"])
@given(seed=st.integers(0, 2**32), nearest=st.integers(1, 12), k=st.integers(1, 12))
def test_csls_scores_match_the_definition(backend: str, seed: int, nearest: int, k: int) -> None:
    """The scores are exact for every kind of index if all vectors are candidates."""
    rng = np.random.default_rng(seed)
    vectors, queries, references = (
        (rng.standard_normal((n, 5)) + 0.5).astype(np.float32) for n in (40, 6, 9)
    )
    if backend == "torch":
        index = build("exact", vectors, device="cpu")
    else:
        index = build(backend, vectors, **({"bits": 16} if backend == "lsh" else {}))
    results = index.search(queries, k, hubs=measure_hubs(index, references, nearest))
    expected = csls(vectors, queries, references, nearest)
    best = np.sort(expected, 1)[:, ::-1][:, :k]
    np.testing.assert_allclose(results.scores, best, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(expected, results.rows, 1), best, atol=1e-6)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("side", [1, -1])
def test_csls_of_a_large_index_matches_the_definition(device: str | None, side: int) -> None:
    """Most vectors are never reranked here, near the references and far from them."""
    rng = np.random.default_rng(0)
    vectors, queries, references = (
        (rng.standard_normal((n, 20)) + 0.5).astype(np.float32) for n in (5000, 30, 50)
    )
    references = side * np.abs(references)
    vectors[:2500] += 1
    index = build("exact", vectors, device=device)
    results = index.search(queries, 5, hubs=measure_hubs(index, references))
    expected = csls(vectors, queries, references, 10)
    assert results.rows.tolist() == np.argsort(-expected, 1)[:, :5].tolist()


def test_csls_excludes_the_query_itself() -> None:
    """The query is left out of r(query), too, which its cosine with itself would raise."""
    rng = np.random.default_rng(0)
    vectors, references = ((rng.standard_normal((n, 8)) + 0.5).astype(np.float32) for n in (30, 10))
    index = build("exact", vectors)
    hubs = measure_hubs(index, references, 4)
    results = index.search(vectors[:5], 3, hubs=hubs, exclude=np.arange(5))
    for row in range(5):
        other_vectors = np.delete(vectors, row, 0)
        expected = csls(other_vectors, vectors[row : row + 1], references, 4)[0]
        np.testing.assert_allclose(results.scores[row], np.sort(expected)[::-1][:3], atol=1e-6)


def test_csls_has_fewer_hubs() -> None:
    """Some of these vectors lie in the middle of all others."""
    rng = np.random.default_rng(0)
    vectors, queries, references = (
        (rng.standard_normal((n, 60)) + 0.3).astype(np.float32) for n in (1000, 800, 800)
    )
    vectors[:20] = vectors.mean(0) + 0.3 * vectors[:20]
    index = build("exact", vectors)
    plain = hubness(index.search(queries, 10).rows, 1000)
    scaled = hubness(index.search(queries, 10, hubs=measure_hubs(index, references)).rows, 1000)
    assert scaled < plain / 2


def test_vectors_without_direction_have_no_csls_mean() -> None:
    """Unusable references are ignored; if none is usable, that is an error."""
    vectors = np.array([[1, 0], [0, 0], [0, 1]], np.float32)
    references = np.array([[np.nan, 0], [2, 0]], np.float32)
    index = build("exact", vectors)
    hubs = measure_hubs(index, references, 5)
    assert hubs.means.tolist() == [1, 0, 0]
    results = index.search(vectors[:1], 3, hubs=hubs, exclude=np.array([0]))
    assert results.rows.tolist() == [[2, -1, -1]]
    with pytest.raises(ValueError, match="all 1 references are zero"):
        measure_hubs(index, references[:1])
    with pytest.raises(ValueError, match="CSLS statistics of 2 vectors: expected those of 3"):
        index.search(vectors[:1], 1, hubs=Hubs(np.zeros(2), 5))
