"""Norms, centring, hubness, agreement, and neighbours of the same class, of a sample of vectors."""

from __future__ import annotations

import numpy as np

from pipeline.neighbours import hubness
from pipeline.neighbours.vectors import Doubles, Rows
from workflows.studies.cosine.rankings import (
    COSINE,
    DOT,
    EUCLIDEAN,
    Space,
    lengths_of,
    nearest,
)
from workflows.studies.vector_sets import VectorSet

RAW, UNIT, CENTRED, CENTRED_UNIT = "raw", "unit length", "centred", "centred, unit length"
FORMS = (RAW, UNIT, CENTRED, CENTRED_UNIT)
"""The forms of the vectors in which dot product, cosine and Euclidean distance are compared."""
PAIRS = {
    "dot_cosine": (DOT, COSINE),
    "cosine_euclidean": (COSINE, EUCLIDEAN),
    "dot_euclidean": (DOT, EUCLIDEAN),
}
"""The pairs of measures that are compared, by the name of the metric."""
MAX_SAMPLE_SHARE = 0.8
"""The largest share of a set that a sample has: samples of different seeds must differ."""


def sample_of(vector_set: VectorSet, rows: int, seed: int) -> Rows:
    """Return the rows of the sample of a seed, ascending.

    Args:
        vector_set: The vectors.
        rows: The number of rows; at most 80 % of the vectors are drawn.
        seed: The seed.

    Returns:
        (m,) int64, without repetition.
    """
    count = min(rows, int(MAX_SAMPLE_SHARE * len(vector_set.vectors)))
    drawn = np.random.default_rng([seed, 0]).choice(len(vector_set.vectors), count, replace=False)
    return np.sort(drawn)


def in_form(vectors: Doubles, form: str) -> Doubles:
    """Return vectors in one of `FORMS`: as they are, scaled to length 1, or minus their mean.

    Args:
        vectors: (n, d) float64, not zero.
        form: One of `FORMS`.

    Returns:
        (n, d) float64.
    """
    if form in (CENTRED, CENTRED_UNIT):
        vectors = vectors - vectors.mean(0)
    if form in (UNIT, CENTRED_UNIT):
        vectors = vectors / lengths_of(vectors)[:, None]
    return vectors


def form_metrics(vectors: Doubles, form: str) -> dict[str, float]:
    """Return how anisotropic vectors are in a form, and how far three measures agree on them.

    Args:
        vectors: (n, d) float64, the sample in its raw form.
        form: One of `FORMS`.

    Returns:
        `mean_cosine`, the mean over all pairs of vectors; `mean_share`, the squared length of the
        mean vector as a share of the mean squared length; `dot_cosine`, `cosine_euclidean` and
        `dot_euclidean`, the shares of the 10 nearest that two measures have in common; and `same`,
        the share of vectors whose 10 nearest are the same in the same order by all three.
    """
    space = Space(in_form(vectors, form))
    lists = {
        measure: nearest(space, space.vectors, measure, seed=0, exclude_self=True)
        for measure in (DOT, COSINE, EUCLIDEAN)
    }
    same = (lists[DOT] == lists[COSINE]) & (lists[COSINE] == lists[EUCLIDEAN])
    return {
        "mean_cosine": mean_cosine(space),
        "mean_share": float(space.mean @ space.mean / np.mean(space.lengths**2)),
        **{name: overlap(lists[a], lists[b]) for name, (a, b) in PAIRS.items()},
        "same": float(same.all(1).mean()),
    }


def mean_cosine(space: Space) -> float:
    """Return the mean cosine of all pairs of different vectors.

    Args:
        space: The vectors, at least 2.
    """
    count = len(space.vectors)
    total = (space.vectors / space.lengths[:, None]).sum(0)
    return float((total @ total - count) / (count * (count - 1)))


def overlap(first: Rows, second: Rows) -> float:
    """Return the mean share of the neighbours that two lists have in common.

    Args:
        first: (q, k) int64, different rows for each query.
        second: (q, k) int64.

    Returns:
        0 to 1.
    """
    common = (first[:, :, None] == second[:, None, :]).any(2)
    return float(common.mean())


def hub_metrics(vectors: Doubles, measure: str, seed: int) -> dict[str, float]:
    """Return how often vectors are among the 10 nearest of others, and which ones are it often.

    Radovanovic et al., "Hubs in space: popular nearest neighbors in high-dimensional data", JMLR
    2010: N_k is the number of vectors of which a vector is among the k nearest.

    Args:
        vectors: (n, d) float64, each of which is a query among the others.
        measure: One of `rankings.MEASURES`.
        seed: The seed of the measure `random`.

    Returns:
        `hubness`, the skewness of N_10; `orphans`, the share of vectors that are no one's
        neighbour; `largest`, the largest N_10 as a share of the queries; and Spearman's rank
        correlations of N_10: `length_correlation` with the length of the vector, and
        `mean_correlation` with its cosine to the mean vector.
    """
    from scipy import stats  # not at the top: it takes long to import

    space = Space(vectors)
    rows = nearest(space, vectors, measure, seed=seed, exclude_self=True)
    counts = np.bincount(rows.ravel(), minlength=len(vectors))
    to_mean = vectors @ space.mean / space.lengths
    return {
        "hubness": hubness(rows, len(vectors)),
        "orphans": float((counts == 0).mean()),
        "largest": float(counts.max() / len(vectors)),
        "length_correlation": _rank_correlation(stats, counts, space.lengths),
        "mean_correlation": _rank_correlation(stats, counts, to_mean),
    }


def _rank_correlation(stats: object, counts: Rows, values: Doubles) -> float:
    """Return Spearman's correlation; NaN if the values are equal up to rounding."""
    if np.ptp(values) <= 1e-9 * np.abs(values).max() or not np.ptp(counts):
        return float("nan")
    return float(stats.spearmanr(counts, values).statistic)  # type: ignore[attr-defined]


def precision(
    space: Space, labels: Rows, queries: Doubles, query_labels: Rows, measure: str, seed: int
) -> float:
    """Return the mean share of the 10 nearest that have the class of their query.

    Args:
        space: The n vectors that are searched.
        labels: (n,) int64, their classes.
        queries: (q, d) float64, vectors of another split.
        query_labels: (q,) int64, their classes.
        measure: One of `rankings.MEASURES`.
        seed: The seed of the measure `random`.

    Returns:
        0 to 1.
    """
    rows = nearest(space, queries, measure, seed=seed)
    return float((labels[rows] == query_labels[:, None]).mean())


def norm_quantiles(lengths: Doubles) -> dict[str, float]:
    """Return the least length of vectors, five quantiles, and the largest one, by name.

    Args:
        lengths: (n,) float64, the lengths of the vectors.
    """
    shares = {
        "least": 0,
        "5 %": 5,
        "25 %": 25,
        "median": 50,
        "75 %": 75,
        "95 %": 95,
        "largest": 100,
    }
    values = np.percentile(lengths, list(shares.values()))
    return dict(zip(shares, values.tolist(), strict=True))
