"""The nearest vectors by each measure of similarity, computed in float64.

All of them rank the vectors b for a query a, and are written so that larger is nearer:

    dot              a . b
    Euclidean        -|a - b|^2
    cosine           a . b / (|a| |b|)
    centred cosine   the cosine after the mean of the searched vectors is subtracted from both
    CSLS             2 cosine - r(b); r(b) is the mean cosine of b with its 10 nearest
                     (Conneau et al., "Word translation without parallel data", 2018)
    random           neighbours drawn at random, as a control

CSLS also subtracts r(a), which is the same for all b, so it changes no ranking. Conneau et al. take
r(b) over the queries. Here it is taken over the searched vectors, since queries that are judged
must not decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.neighbours.csls import NEAREST
from pipeline.neighbours.vectors import Doubles, Rows

DOT, EUCLIDEAN, COSINE = "dot", "Euclidean", "cosine"
CENTRED, CSLS, RANDOM = "centred cosine", "CSLS", "random"
MEASURES = (DOT, EUCLIDEAN, COSINE, CENTRED, CSLS, RANDOM)
"""The measures of similarity, in the order of the tables."""
K = 10
"""The number of nearest neighbours."""
BLOCK_SCORES = 2**22
"""The number of scores that are computed at once."""
DECIMALS = 10
"""Scores are rounded to so many decimals of the largest, so that equal vectors have equal scores
by every measure; of equal scores the lower row comes first."""


@dataclass(frozen=True)
class Space:
    """The vectors that are searched, and what the measures need of them."""

    vectors: Doubles
    """(n, d) float64, finite and not zero, n more than 10."""

    @cached_property
    def lengths(self) -> Doubles:
        """(n,) float64, the Euclidean lengths of the vectors."""
        return lengths_of(self.vectors)

    @cached_property
    def mean(self) -> Doubles:
        """(d,) float64, the mean of the vectors."""
        return np.asarray(self.vectors.mean(0), np.float64)

    @cached_property
    def centred(self) -> Space:
        """The vectors minus their mean."""
        return Space(self.vectors - self.mean)

    @cached_property
    def hub_means(self) -> Doubles:
        """(n,) float64, r(b): the mean cosine of each vector with its 10 nearest others."""
        means = np.empty(len(self.vectors))
        for part, scores in score_blocks(self, self.vectors, COSINE, exclude_self=True):
            best = np.partition(scores, -NEAREST, 1)[:, -NEAREST:]
            means[part] = best.mean(1)
        return means


def lengths_of(vectors: Doubles) -> Doubles:
    """Return the Euclidean lengths of vectors, (n,) float64.

    Args:
        vectors: (n, d) float64.
    """
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", vectors, vectors)), np.float64)


def score_blocks(
    space: Space, queries: Doubles, measure: str, *, exclude_self: bool = False
) -> Iterator[tuple[slice, Doubles]]:
    """Yield the scores of all vectors for blocks of queries; larger is nearer.

    Args:
        space: The n vectors that are searched.
        queries: (q, d) float64.
        measure: One of `MEASURES` but `random`.
        exclude_self: True if query i is vector i, whose score is then -inf (default False).

    Yields:
        The slice of the queries, and their scores, (b, n) float64.
    """
    if measure == CENTRED:
        yield from score_blocks(
            space.centred, queries - space.mean, COSINE, exclude_self=exclude_self
        )
        return
    score = _score_function(space, measure)
    step = max(1, BLOCK_SCORES // len(space.vectors))
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        scores = score(queries[part])
        if exclude_self:
            scores[np.arange(part.stop - start), np.arange(start, part.stop)] = -np.inf
        yield part, scores


def _score_function(space: Space, measure: str) -> Callable[[Doubles], Doubles]:
    vectors = space.vectors

    def cosines(queries: Doubles) -> Doubles:
        return queries @ vectors.T / lengths_of(queries)[:, None] / space.lengths

    def euclidean(queries: Doubles) -> Doubles:
        lengths = lengths_of(queries)[:, None]
        return 2 * (queries @ vectors.T) - space.lengths**2 - lengths**2

    def csls(queries: Doubles) -> Doubles:
        return 2 * cosines(queries) - space.hub_means

    functions = {
        DOT: lambda queries: queries @ vectors.T,
        EUCLIDEAN: euclidean,
        COSINE: cosines,
        CSLS: csls,
    }
    return functions[measure]


def nearest(
    space: Space,
    queries: Doubles,
    measure: str,
    *,
    seed: int,
    k: int = K,
    exclude_self: bool = False,
) -> Rows:
    """Return the k nearest vectors of each query.

    Args:
        space: The n vectors that are searched.
        queries: (q, d) float64.
        measure: One of `MEASURES`.
        seed: The seed of the measure `random`; without effect on the others.
        k: The number of neighbours, less than n (default 10).
        exclude_self: True if query i is vector i, which is then no neighbour (default False).

    Returns:
        (q, k) int64, nearest first; of equally near vectors the lower row first.
    """
    if measure == RANDOM:
        return _random_rows(len(space.vectors), len(queries), k, seed, exclude_self)
    rows = np.empty((len(queries), k), np.int64)
    for part, scores in score_blocks(space, queries, measure, exclude_self=exclude_self):
        rows[part] = _largest(scores, k)
    return rows


def _largest(scores: Doubles, k: int) -> Rows:
    """Return the rows of the k largest scores of each query; -inf is the least."""
    count = scores.shape[1]
    scale = float(np.abs(scores[np.isfinite(scores)]).max()) or 1.0
    rounded = np.round(np.maximum(scores / scale, -2.0) * 10**DECIMALS).astype(np.int64)
    # Row numbers below the scores in one integer: no two keys are equal, so no order is arbitrary.
    keys = rounded * count + (count - 1 - np.arange(count))
    best = np.argpartition(keys, -k, 1)[:, -k:]
    order = np.argsort(-np.take_along_axis(keys, best, 1), 1)
    return np.asarray(np.take_along_axis(best, order, 1), np.int64)


def _random_rows(count: int, num_queries: int, k: int, seed: int, exclude_self: bool) -> Rows:
    rng = np.random.default_rng([seed, 1])
    others = count - 1 if exclude_self else count
    rows = np.array([rng.choice(others, k, replace=False) for _ in range(num_queries)], np.int64)
    if exclude_self:
        rows += rows >= np.arange(num_queries)[:, None]  # skips the query itself
    return rows
