"""Ranking metrics of images whose vectors were compared with those of candidate classes.

Scores are (n, C), a row for each image and a column for each candidate; a class is identified by
its column. Most metrics here are one number for each image, so that scores that do not fit in
memory can be passed in parts; averages and intervals come from `evaluation.class_accuracy`.

Candidates with equal scores have no order: a metric is the mean over all their orders, computed
exactly. Scores that are all equal therefore give chance, and the order of columns has no effect.

Classes of one name share a vector. In Frome et al. 2013 (DeViSE) a term among the nearest is
expanded to all its classes, each of which takes a position in a list that is cut at k. Nothing
orders them, so their scores are equal: of three classes "crib" the right one is first in a third of
the orders. Classes in one of the *groups* have equal scores even if rounding makes their products
differ. (The paper's duplicates, classes found by several terms, cannot occur: a class has one
vector here.) To count any class of a group as right, pass a column for each vector instead of one
for each class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
"""An array of floating-point numbers."""
Integers = NDArray[np.integer[Any]]
"""An array of integers."""
Groups = Sequence[Sequence[int]]
"""Groups of classes, as columns of scores: the classes of a group share a vector, and no class is
in two groups."""

KS = (1, 2, 5, 10, 20)
"""The lengths of answer lists in Frome et al. 2013."""
MAX_BLOCK_SCORES = 2**22
"""The maximum number of scores that are processed at once."""
NO_PATH = int(np.iinfo(np.int16).max)
"""The distance, in hops, of two classes without a connecting path."""


@dataclass(frozen=True)
class TrueClassRanks:
    """The rank of each image's true class among the candidates, ordered by descending score."""

    above: NDArray[np.int64]
    """(n,) the number of candidates with a higher score."""
    tied: NDArray[np.int64]
    """(n,) the number of candidates with the same score, including the true class."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """The rank from 0, the mean over all orders of ties: (n,)."""
        return self.above + (self.tied - 1) / 2

    def hits(self, k: int) -> NDArray[np.float64]:
        """Return the probability, for each image, that its true class is among the first *k*.

        Classes with equal scores are in random order.

        Args:
            k: The length of the list, at least 1.

        Returns:
            (n,) float64, 0 to 1, for the n images; without ties either 0 or 1.

        Raises:
            ValueError: k is less than 1.
        """
        return np.clip((_positive(k) - self.above) / self.tied, 0, 1)


def true_class_ranks(scores: Floats, labels: Integers, *, groups: Groups = ()) -> TrueClassRanks:
    """Return the ranks of the true classes among the candidates.

    Args:
        scores: (n, C) float, higher is nearer. They are not changed.
        labels: The true classes, (n,) int, as columns of *scores*, 0 to C - 1.
        groups: A list of columns for each set of classes that share a vector; no class is in two
            (default: none). Each class gets the highest score of its group, so that they tie.

    Returns:
        For each image `above`, the number of candidates with a higher score, and `tied`, the number
        of those with the same score, including the true class: (n,) int64 each.

    Raises:
        ValueError: Shapes do not match, a score is NaN, a label or a class of a group has no
            column, or a class is in two groups.
    """
    _check_scores_and_labels(scores, labels)
    above, tied = np.empty((2, len(labels)), np.int64)
    for part, block in _score_blocks(scores, groups):
        own = np.take_along_axis(block, labels[part, None], axis=1)
        above[part] = (block > own).sum(axis=1)
        tied[part] = (block == own).sum(axis=1)
    return TrueClassRanks(above, tied)


def hit_rates(positions: TrueClassRanks, ks: Sequence[int] = KS) -> dict[int, float]:
    """Return flat hit@k: the share of images with their class among the first k, 0 to 1.

    An image whose class ties with others counts in part. Frome et al.: DeViSE: A Deep
    Visual-Semantic Embedding Model, NIPS 2013.

    Args:
        positions: The numbers of candidates above and tied with the true classes of n images, n >
            0, as `true_class_ranks` returns them.
        ks: The lengths of lists, each at least 1 (default `KS`: 1, 2, 5, 10 and 20).

    Returns:
        hit@k by k, in the order of *ks*.

    Raises:
        ValueError: A k is less than 1.
    """
    return {k: float(positions.hits(k).mean()) for k in ks}


def chance(num_correct: float, candidates: int) -> float:
    """Return the expected metric of random scores, 0 to 1: *num_correct* / *candidates*, at most 1.

    Args:
        num_correct: For hit@k, k; for hierarchical precision, the number of classes that count as
            correct.
        candidates: The number of candidates, at least 1.
    """
    return min(1.0, num_correct / candidates)


def top_k(scores: Floats, k: int, *, groups: Groups = ()) -> NDArray[np.int64]:
    """Return the first *k* candidates of each image for display; ties are in column order.

    Args:
        scores: (n, C) float, n > 0, higher is nearer. They are not changed.
        k: The number of candidates, 1 to C.
        groups: A list of columns for each set of classes that share a vector; no class is in two
            (default: none). Each class gets the highest score of its group, so that they tie.

    Returns:
        Columns of *scores*, (n, k) int64, best first.

    Raises:
        ValueError: k is outside of 1..C, a score is NaN, a class of a group has no column, or a
            class is in two groups.
    """
    best = np.empty((len(scores), k), np.int64)
    for part, block in _score_blocks(scores, groups):
        top_scores = _top_scores(block, k)
        order = np.lexsort((top_scores.columns, -top_scores.scores, top_scores.rows))
        first = np.searchsorted(top_scores.rows, np.arange(len(block)))
        best[part] = top_scores.columns[order[first[:, None] + np.arange(k)]]
    return best


def hierarchical_precision(
    scores: Floats,
    labels: Integers,
    correct: Mapping[int, Mapping[int, Collection[int]]],
    *,
    groups: Groups = (),
) -> dict[int, NDArray[np.float64]]:
    """Return the hierarchical precision of the first k answers (Frome et al. 2013).

    Candidates with equal scores have no order: the precision is the mean over all their orders.

    Args:
        scores: (n, C) float, higher is nearer. They are not changed.
        labels: The true classes, (n,) int, as columns of *scores*, 0 to C - 1.
        correct: k -> label -> the columns of the classes that count as right, for any ks from 1 to
            C and, at each, every label that occurs in *labels*.
        groups: A list of columns for each set of classes that share a vector; no class is in two
            (default: none). Each class gets the highest score of its group, so that they tie.

    Returns:
        By each k of *correct*, the share of the first k answers of an image that count as right, 0
        to 1, (n,) float64. hp@k is its mean.

    Raises:
        ValueError: Shapes do not match, a score is NaN, a class has no column, a class is in two
            groups, a label has no set, or k is outside of 1..C.
    """
    _check_scores_and_labels(scores, labels)
    precisions = {k: np.empty(len(labels)) for k in correct}
    for part, block in _score_blocks(scores, groups):
        top_scores = _top_scores(block, max(correct, default=1))
        occurring, label_index = np.unique(labels[part], return_inverse=True)
        for k, sets in correct.items():
            correct_answers = _membership(occurring, sets, k, block.shape[1])[
                label_index[top_scores.rows], top_scores.columns
            ]
            hits = np.bincount(
                top_scores.rows, top_scores.within(k) * correct_answers, minlength=len(block)
            )
            precisions[k][part] = hits / k
    return precisions


def same_class_precision(
    nearest: Integers,
    query_classes: Integers,
    labels: Integers,
    k: int,
    *,
    query_rows: Integers | None = None,
) -> NDArray[np.float64]:
    """Return precision@k of a search among images: the share of the k nearest with the same class.

    Args:
        nearest: Rows found for each query, (q, m) int, nearest first; -1 for no row, which is a
            miss. m is at least k, and more than k if the query is among its own results.
        query_classes: The class of each query, (q,) int, at least 0.
        labels: The class of each row, (N,) int, N > 0, -1 for none.
        k: The number of rows that count, at least 1.
        query_rows: The row of each query itself, (q,) int, which is left out of its results
            (default None: queries are not among the rows).

    Returns:
        The share for each query, 0 to 1, (q,) float64.

    Raises:
        ValueError: Fewer than k rows are left for a query, k is less than 1, a query has no class,
            or a row found is outside of -1..N-1.
    """
    if not -1 <= nearest.min(initial=-1) <= nearest.max(initial=-1) < len(labels):
        raise ValueError(
            f"rows {nearest.min()} to {nearest.max()} are among the results: expected"
            f" 0..{len(labels) - 1}, and -1 for none."
        )
    if query_classes.min(initial=0) < 0:
        raise ValueError(f"a query has class {query_classes.min()}: exclude those without a class.")
    is_other = np.full(nearest.shape, True)
    if query_rows is not None:
        is_other = nearest != query_rows[:, None]
    fewest = is_other.sum(axis=1).min(initial=_positive(k))
    if fewest < k:
        raise ValueError(
            f"a query has {fewest} results besides itself: expected {k} or more; search for one"
            " row more than k."
        )
    is_counted = is_other & (np.cumsum(is_other, axis=1) <= k)
    is_correct = is_counted & (nearest >= 0) & (labels[nearest] == query_classes[:, None])
    return np.asarray(is_correct.sum(axis=1) / k)


@dataclass(frozen=True)
class Hops:
    """The distances of first answers from the true class in a hierarchy."""

    shares: dict[int, float]
    """The share of images by number of hops, ascending; `NO_PATH` means no connecting path."""
    mean: float
    """The mean number of hops over images with a connecting path; NaN without any."""


def hops(scores: Floats, labels: Integers, distances: Integers, *, groups: Groups = ()) -> Hops:
    """Return the distribution of hops between the true class and the first answer.

    Args:
        scores: (n, C) float, n > 0, higher is nearer. Several first answers share the weight of an
            image.
        labels: The true classes, (n,) int, as columns of *scores*, 0 to C - 1.
        distances: Hops between classes, (C, C) int16 from 0, in the order of columns, with the true
            class as the first index; `NO_PATH` (32,767) where there is no path.
        groups: A list of columns for each set of classes that share a vector; no class is in two
            (default: none). Each class gets the highest score of its group, so that they tie.

    Returns:
        `shares`, the share of images, 0 to 1, by number of hops, ascending, without numbers that do
        not occur, and by `NO_PATH` for those without a path; and `mean`, the mean number over
        images with a path, NaN without any.

    Raises:
        ValueError: There are no images, *distances* is not (C, C), shapes do not match, a score is
            NaN, a class has no column, or a class is in two groups.
    """
    _check_scores_and_labels(scores, labels)
    if not len(labels) or distances.shape != (scores.shape[1],) * 2:
        raise ValueError(
            f"{len(labels)} images, {scores.shape[1]} candidates, distances of shape"
            f" {distances.shape}: expected images, and a distance between any two candidates."
        )
    counts = np.zeros(NO_PATH + 1)
    for part, block in _score_blocks(scores, groups):
        top_scores = _top_scores(block, 1)
        num_hops = distances[labels[part][top_scores.rows], top_scores.columns]
        counts += np.bincount(num_hops, top_scores.within(1), minlength=len(counts))
    connected = counts[:-1]
    mean = connected @ np.arange(NO_PATH) / connected.sum() if connected.any() else np.nan
    shares = {
        int(num_hops): float(counts[num_hops] / len(labels)) for num_hops in np.flatnonzero(counts)
    }
    return Hops(shares, float(mean))


@dataclass(frozen=True)
class _TopScores:
    """The scores that may be among the first k of their row; ties can make them more than k."""

    rows: NDArray[np.int64]
    """(f,) the row of each score, ascending."""
    columns: NDArray[np.int64]
    """(f,) the column of each score."""
    scores: Floats
    """(f,) the scores."""
    edges: Floats
    """(b, k) the k best scores of each row, best first."""

    def within(self, k: int) -> NDArray[np.float64]:
        """Return the share of orders of ties with each score among the first *k*, (f,)."""
        edge = self.edges[:, _positive(k) - 1]
        above, on_edge = self.scores > edge[self.rows], self.scores == edge[self.rows]
        room = k - np.bincount(self.rows[above], minlength=len(edge))
        share = room / np.bincount(self.rows[on_edge], minlength=len(edge))
        return np.where(above, 1.0, on_edge * share[self.rows])


def _top_scores(block: Floats, k: int) -> _TopScores:
    candidates = block.shape[1]
    if _positive(k) > candidates:
        raise ValueError(f"k is {k}: expected at most the number of candidates, {candidates}.")
    best = np.partition(block, candidates - k, axis=1)[:, candidates - k :]
    edges = np.sort(best, axis=1)[:, ::-1]
    rows, columns = np.nonzero(block >= edges[:, -1:])
    return _TopScores(rows, columns, block[rows, columns], edges)


def _membership(
    labels: Integers, sets: Mapping[int, Collection[int]], k: int, candidates: int
) -> NDArray[np.bool_]:
    """Return True where a candidate counts as correct, (l, C) for l labels."""
    is_correct = np.full((len(labels), candidates), False)
    for row, label in zip(is_correct, labels.tolist(), strict=True):
        if label not in sets:
            raise ValueError(f"class {label} has no correct set at k = {k}: expected one.")
        members = np.fromiter(sets[label], np.int64)
        check_range(members, candidates)
        row[members] = True
    return is_correct


def _score_blocks(scores: Floats, groups: Groups) -> Iterator[tuple[slice, Floats]]:
    """Yield blocks of rows in which the classes of a group have equal scores."""
    together = [np.array(group, np.int64) for group in groups]
    _check_groups(together, scores.shape[1])
    step = max(1, MAX_BLOCK_SCORES // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        block = scores[start : start + step]
        if np.isnan(block).any():
            raise ValueError(
                f"rows {start} to {start + len(block) - 1} have NaN scores: expected finite"
                " vectors, none of length 0."
            )
        if together:  # the caller's scores stay unchanged
            block = block.copy()
        for group in together:
            block[:, group] = block[:, group].max(axis=1, keepdims=True)
        yield slice(start, start + len(block)), block


def _check_groups(groups: Sequence[Integers], candidates: int) -> None:
    members = np.concatenate([np.empty(0, np.int64), *groups])
    check_range(members, candidates)
    twice = np.flatnonzero(np.bincount(members) > 1)
    if len(twice):
        raise ValueError(
            f"class {twice[0]} is in two groups, or twice in one: expected one vector."
        )


def _check_scores_and_labels(scores: Floats, labels: Integers) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"scores of shape {scores.shape}, labels of shape {labels.shape}: expected a row of"
            " scores and a label for each image."
        )
    check_range(labels, scores.shape[1])


def check_range(columns: Integers, candidates: int) -> None:
    """Raise ValueError if a column is outside of 0..candidates-1; otherwise do nothing.

    Args:
        columns: Columns of scores, or labels, an array of integers of any shape, possibly empty.
        candidates: The number of columns.

    Raises:
        ValueError: A column is out of range; the message names the first.
    """
    wrong = columns[(columns < 0) | (columns >= candidates)]
    if len(wrong):
        raise ValueError(
            f"class {wrong[0]} is none of {candidates} candidates: expected 0..{candidates - 1};"
            " exclude images of other classes."
        )


def _positive(k: int) -> int:
    if k < 1:
        raise ValueError(f"k is {k}: expected 1 or more.")
    return k
