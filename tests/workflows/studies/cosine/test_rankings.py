"""Rankings by each measure: laws, ties, and comparison with slow and with other programs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from pipeline.neighbours import build
from pipeline.neighbours.csls import Hubs, measure_hubs
from tests.workflows.studies.vectors import clustered_vectors
from workflows.studies.cosine import rankings
from workflows.studies.cosine.rankings import (
    CENTRED,
    COSINE,
    CSLS,
    DOT,
    EUCLIDEAN,
    MEASURES,
    RANDOM,
    Space,
    nearest,
)

SEEDS = st.integers(0, 1000)


def random_vectors(seed: int, count: int = 40, dim: int = 5) -> np.ndarray:
    """Return vectors of different lengths, float64."""
    return clustered_vectors(count, dim, seed).astype(np.float64)


def neighbours(vectors: np.ndarray, measure: str, k: int = 10) -> np.ndarray:
    """Return the nearest others of each vector."""
    return nearest(Space(vectors), vectors, measure, seed=0, k=k, exclude_self=True)


@given(SEEDS, st.integers(2, 30), st.booleans())
def test_on_vectors_of_length_1_all_measures_rank_alike(
    seed: int, dim: int, with_copies: bool
) -> None:
    """Dot product, cosine and Euclidean distance have the same lists, equal vectors included."""
    vectors = random_vectors(seed, 40, dim)
    if with_copies:
        vectors[20:] = vectors[:20]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    by_dot = neighbours(units, DOT)
    assert np.array_equal(by_dot, neighbours(units, COSINE))
    assert np.array_equal(by_dot, neighbours(units, EUCLIDEAN))


@given(SEEDS, st.floats(-100, 100), st.floats(0.01, 100))
def test_what_a_measure_does_not_depend_on(seed: int, shift: float, factor: float) -> None:
    """A shift changes no Euclidean ranking, lengths no cosine, and one factor for all no ranking.

    The shift is the same for all vectors, and each has a length of its own.
    """
    vectors = random_vectors(seed)
    moved = vectors + shift * np.linspace(-1, 1, vectors.shape[1])
    assert np.array_equal(neighbours(vectors, EUCLIDEAN), neighbours(moved, EUCLIDEAN))
    assert np.array_equal(neighbours(vectors, CENTRED), neighbours(moved, CENTRED))
    stretched = vectors * np.random.default_rng(seed).uniform(0.5, 2, (len(vectors), 1))
    assert np.array_equal(neighbours(vectors, COSINE), neighbours(stretched, COSINE))
    assert np.array_equal(neighbours(vectors, CSLS), neighbours(stretched, CSLS))
    for measure in (DOT, EUCLIDEAN, COSINE, CENTRED, CSLS):
        assert np.array_equal(neighbours(vectors, measure), neighbours(factor * vectors, measure))


@pytest.mark.parametrize("block", [40, 400, rankings.BLOCK_SCORES])
def test_rankings_are_those_of_slow_programs(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Distances of scipy, and plain loops, in blocks of one, ten and all queries."""
    monkeypatch.setattr(rankings, "BLOCK_SCORES", block)
    vectors = random_vectors(1)
    centred = vectors - vectors.mean(0)
    distances = {
        DOT: -vectors @ vectors.T,
        EUCLIDEAN: cdist(vectors, vectors),
        COSINE: cdist(vectors, vectors, "cosine"),
        CENTRED: cdist(centred, centred, "cosine"),
    }
    for measure, of_pairs in distances.items():
        np.fill_diagonal(of_pairs, np.inf)
        expected = np.argsort(of_pairs, 1, kind="stable")[:, :10]
        assert np.array_equal(neighbours(vectors, measure), expected)


def test_csls_is_that_of_the_search() -> None:
    """The index ranks alike with the same r(b), which is the mean cosine with 10 others."""
    vectors = clustered_vectors(300, 8)
    queries = clustered_vectors(50, 8, seed=1).astype(np.float64)
    space = Space(vectors.astype(np.float64))
    index = build("exact", vectors)
    # The index counts a vector among its own references: with a cosine of 1, and one more of them.
    measured = measure_hubs(index, vectors, 11)
    assert space.hub_means == pytest.approx((11 * measured.means - 1) / 10, abs=1e-6)
    expected = index.search(queries, 10, hubs=Hubs(space.hub_means, 10)).rows
    assert np.array_equal(nearest(space, queries, CSLS, seed=0), expected)


def test_of_equal_vectors_the_lower_row_comes_first() -> None:
    """All measures have the same order of ties."""
    vectors = np.tile(random_vectors(2, 4), (10, 1))
    for measure in (DOT, EUCLIDEAN, COSINE, CENTRED):
        rows = nearest(Space(vectors), vectors[:4], measure, seed=0)
        first = rows[np.arange(4), 0]
        assert np.array_equal(rows, first[:, None] + 4 * np.arange(10))


def test_what_is_equally_near_up_to_rounding_is_in_the_order_of_rows() -> None:
    """A query with equal coordinates is as near to a vector as to any permutation of it."""
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(30)
    vectors = np.array([rng.permutation(vector) for _ in range(200)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = np.full((1, 30), 30**-0.5)
    for measure in (DOT, EUCLIDEAN, COSINE):
        rows = nearest(Space(vectors), query, measure, seed=0)
        assert np.array_equal(rows, [np.arange(10)])


@given(SEEDS)
def test_random_neighbours_are_different_others(seed: int) -> None:
    """They depend on the seed, and each other vector is drawn as often."""
    vectors = random_vectors(0, 30)
    rows = nearest(Space(vectors), vectors, RANDOM, seed=seed, exclude_self=True)
    assert all(len(set(row)) == 10 for row in rows.tolist())
    assert not (rows == np.arange(30)[:, None]).any()
    assert (rows.min(), rows.max()) == (0, 29)
    again = nearest(Space(vectors), vectors, RANDOM, seed=seed + 1, exclude_self=True)
    assert not np.array_equal(rows, again)
    assert MEASURES[-1] == RANDOM
