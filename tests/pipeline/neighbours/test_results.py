"""Figures of answers: recall, copies, hubs, and CSLS by the letter of its paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pipeline.neighbours import Found, build, deduplicate, hubness, recall
from pipeline.neighbours.csls import Hubs, measure


def answers(rows: Any, scores: Any = None) -> Found:
    """Of rows; scores fall from 1 unless they are given."""
    rows = np.array(rows, np.int64)
    falling = 1 - np.arange(rows.shape[1], dtype=np.float32) / 100
    made = np.broadcast_to(falling, rows.shape) if scores is None else np.array(scores)
    return Found(np.where(rows < 0, -np.inf, made).astype(np.float32), rows)


@st.composite
def some_answers(draw: st.DrawFn) -> Found:
    """Different rows, best first, then -1."""
    width, rows = draw(st.integers(1, 8)), []
    for _ in range(draw(st.integers(1, 4))):
        there = draw(st.lists(st.integers(0, 20), max_size=width, unique=True))
        rows.append(there + [-1] * (width - len(there)))
    return answers(rows)


@given(found=some_answers())
def test_what_is_exact_has_a_recall_of_one(found: Found) -> None:
    """In any order of its rows, and NaN where there is nothing to be found."""
    mixed = Found(found.scores[:, ::-1], found.rows[:, ::-1])
    if (found.rows >= 0).any():
        assert recall(found, found) == recall(mixed, found) == 1
    else:
        assert np.isnan(recall(found, found))


@given(found=some_answers(), data=st.data())
def test_recall_is_the_mean_share_of_what_is_found(found: Found, data: st.DataObject) -> None:
    """Each answer that is missing costs its share of its query."""
    lost = data.draw(st.lists(st.booleans(), min_size=found.rows.size, max_size=found.rows.size))
    gone = np.array(lost).reshape(found.rows.shape)
    rest = Found(np.where(gone, -np.inf, found.scores), np.where(gone, -1, found.rows))
    wanted = (found.rows >= 0).sum(1)
    shares = [(rest.rows >= 0).sum(1)[q] / w for q, w in enumerate(wanted) if w]
    if shares:
        assert recall(rest, found) == pytest.approx(np.mean(shares))


def test_an_equal_answer_counts_and_a_lower_one_does_not() -> None:
    """Which of the equal ones is found says nothing."""
    exact = answers([[1, 2, 3]], [[0.9, 0.5, 0.5]])
    assert recall(answers([[1, 7, 2]], [[0.9, 0.5, 0.5]]), exact) == 1
    assert recall(answers([[1, 7, 2]], [[0.9, 0.5, 0.4]]), exact) == 1  # 2 is named
    assert recall(answers([[1, 7, 8]], [[0.9, 0.5, 0.4]]), exact) == pytest.approx(2 / 3)
    assert recall(answers([[5, 6, 7]], [[0.4, 0.3, 0.2]]), exact) == 0
    assert recall(answers([[5, 6]], [[0.9, 0.9]]), answers([[1, -1]], [[0.9, 0]])) == 1


def test_recall_looks_at_no_more_answers_than_the_exact_ones() -> None:
    """More of them than were asked for are no merit."""
    assert recall(answers([[4, 5, 1]], [[0.3, 0.2, 0.9]]), answers([[1, 2]])) == 0
    with pytest.raises(ValueError, match="1 queries were searched, and 2 exactly"):
        recall(answers([[1]]), answers([[1], [2]]))


@given(found=some_answers(), pictures=st.integers(1, 21))
def test_each_picture_is_answered_once_by_its_best_row(found: Found, pictures: int) -> None:
    """In the order in which they were; twice changes nothing; names are as good as a number."""
    once = deduplicate(found, pictures)
    for rows, scores, kept, kept_scores in zip(
        found.rows.tolist(),
        found.scores.tolist(),
        once.rows.tolist(),
        once.scores.tolist(),
        strict=True,
    ):
        best: dict[int, tuple[int, float]] = {}
        for row, score in zip(rows, scores, strict=True):
            if row >= 0:
                best.setdefault(row % pictures, (row, score))
        none = [(-1, -np.inf)] * (len(rows) - len(best))
        assert list(zip(kept, kept_scores, strict=True)) == [*best.values(), *none]
    again = deduplicate(once, np.arange(21) % pictures)
    np.testing.assert_array_equal(again.rows, once.rows)
    np.testing.assert_array_equal(again.scores, once.scores)


@given(rows=st.lists(st.integers(-1, 9), min_size=1, max_size=60))
def test_hubness_is_the_skewness_of_how_often_each_is_answered(rows: list[int]) -> None:
    """As scipy computes it."""
    times = np.bincount([row for row in rows if row >= 0], minlength=10)
    found = hubness(np.array(rows)[:, None], 10)
    if times.std() == 0:
        assert found == 0
    else:
        assert found == pytest.approx(stats.skew(times))


def test_one_hub_among_many_shows() -> None:
    """Answered by every query, while all others are answered alike."""
    rows = np.stack([np.zeros(99, np.int64), np.arange(1, 100)], 1)
    assert hubness(rows, 100) > 9
    assert hubness(rows[:, 1:] - 1, 99) == 0


def csls(
    vectors: NDArray[Any], queries: NDArray[Any], references: NDArray[Any], nearest: int
) -> NDArray[np.float64]:
    """Equation 3 of Conneau et al. 2018, written down once more: (q, n)."""

    def unit(some: NDArray[Any]) -> NDArray[np.float64]:
        wide = some.astype(np.float64)
        return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))

    x, q, t = unit(vectors), unit(queries), unit(references)
    of_query = np.array([np.mean(np.sort(row)[-nearest:]) for row in q @ x.T])
    of_vector = np.array([np.mean(np.sort(row)[-nearest:]) for row in x @ t.T])
    return np.asarray(2 * q @ x.T - of_query[:, None] - of_vector)


@pytest.mark.parametrize("way", ["exact", "torch", "lsh", "hnsw"])
@given(seed=st.integers(0, 2**32), nearest=st.integers(1, 12), k=st.integers(1, 12))
def test_csls_is_what_its_paper_says(way: str, seed: int, nearest: int, k: int) -> None:
    """Exactly, and of candidates that are all there are."""
    rng = np.random.default_rng(seed)
    vectors, queries, references = (
        (rng.standard_normal((n, 5)) + 0.5).astype(np.float32) for n in (40, 6, 9)
    )
    if way == "torch":
        index = build("exact", vectors, device="cpu")
    else:
        index = build(way, vectors, **({"bits": 16} if way == "lsh" else {}))
    found = index.search(queries, k, hubs=measure(index, references, nearest))
    wanted = csls(vectors, queries, references, nearest)
    best = np.sort(wanted, 1)[:, ::-1][:, :k]
    np.testing.assert_allclose(found.scores, best, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(wanted, found.rows, 1), best, atol=1e-6)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("side", [1, -1])
def test_csls_of_a_large_index_is_as_its_paper_says(device: str | None, side: int) -> None:
    """Where most vectors are never computed again, near the references and far from them."""
    rng = np.random.default_rng(0)
    vectors, queries, references = (
        (rng.standard_normal((n, 20)) + 0.5).astype(np.float32) for n in (5000, 30, 50)
    )
    references = side * np.abs(references)
    vectors[:2500] += 1
    index = build("exact", vectors, device=device)
    found = index.search(queries, 5, hubs=measure(index, references))
    wanted = csls(vectors, queries, references, 10)
    assert found.rows.tolist() == np.argsort(-wanted, 1)[:, :5].tolist()


def test_csls_of_a_row_among_others_leaves_out_itself() -> None:
    """From r(query) too, which its cosine with itself would raise."""
    rng = np.random.default_rng(0)
    vectors, references = ((rng.standard_normal((n, 8)) + 0.5).astype(np.float32) for n in (30, 10))
    index = build("exact", vectors)
    hubs = measure(index, references, 4)
    found = index.search(vectors[:5], 3, hubs=hubs, but=np.arange(5))
    for row in range(5):
        others = np.delete(vectors, row, 0)
        wanted = csls(others, vectors[row : row + 1], references, 4)[0]
        np.testing.assert_allclose(found.scores[row], np.sort(wanted)[::-1][:3], atol=1e-6)


def test_csls_has_fewer_hubs() -> None:
    """Among vectors of which some lie in the middle of all."""
    rng = np.random.default_rng(0)
    vectors, queries, references = (
        (rng.standard_normal((n, 60)) + 0.3).astype(np.float32) for n in (1000, 800, 800)
    )
    vectors[:20] = vectors.mean(0) + 0.3 * vectors[:20]
    index = build("exact", vectors)
    plain = hubness(index.search(queries, 10).rows, 1000)
    scaled = hubness(index.search(queries, 10, hubs=measure(index, references)).rows, 1000)
    assert scaled < plain / 2


def test_rows_without_direction_have_no_hubs() -> None:
    """Nor do references; where none is left it is said."""
    vectors = np.array([[1, 0], [0, 0], [0, 1]], np.float32)
    references = np.array([[np.nan, 0], [2, 0]], np.float32)
    index = build("exact", vectors)
    hubs = measure(index, references, 5)
    assert hubs.means.tolist() == [1, 0, 0]
    found = index.search(vectors[:1], 3, hubs=hubs, but=np.array([0]))
    assert found.rows.tolist() == [[2, -1, -1]]
    with pytest.raises(ValueError, match="none of 1 references"):
        measure(index, references[:1])
    with pytest.raises(ValueError, match="hubs of 2 vectors: expected those of 3"):
        index.search(vectors[:1], 1, hubs=Hubs(np.zeros(2), 5))
