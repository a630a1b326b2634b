"""How good answers are: pictures whose vectors were compared with those of candidate classes.

Scores are (n, C), a row for each picture and a column for each candidate; a class is named by its
column. Most figures here are one number for each picture, so that scores that do not fit in memory
can be handed in by parts; `evaluation.per_class` turns such numbers into averages and intervals.

Candidates with the same score are in random order: what is counted is the mean over all orders,
computed exactly. So equal scores throughout give chance, and the order of columns decides nothing.

Classes of one name have one vector. In Frome et al. 2013 (DeViSE) a term among the nearest is
expanded to all its classes, each of which takes a place in a list that is cut at k.
Nothing puts them in order, so they are equal scores: of three classes "crib" the right one is first
in a third of the orders. As *groups* they are equal whatever the last bit of a product says. (The
paper's duplicates, classes found by several terms, do not arise: a class has one vector here.) Who
wants any of them to be right has a column for each vector, not for each class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Groups = Sequence[Sequence[int]]

KS = (1, 2, 5, 10, 20)
"""Where lists of answers are cut in Frome et al. 2013."""
AT_ONCE = 2**22
"""Scores that are looked at in one go."""
UNJOINED = int(np.iinfo(np.int16).max)
"""Hops between two classes that no path joins."""


@dataclass(frozen=True)
class Places:
    """Where the true class of each picture stands among the candidates."""

    above: NDArray[np.int64]
    """(n,) candidates with a higher score."""
    tied: NDArray[np.int64]
    """(n,) candidates with its score, itself among them."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """(n,) its place, 0 for the first: the mean over the orders of what is tied."""
        return self.above + (self.tied - 1) / 2

    def hits(self, k: int) -> NDArray[np.float64]:
        """(n,) the share of orders in which it is among the first *k*: 0 or 1 without ties."""
        return np.clip((_positive(k) - self.above) / self.tied, 0, 1)


def places(scores: Floats, labels: Integers, *, groups: Groups = ()) -> Places:
    """Find the true class of each picture among the candidates.

    Args:
        scores: (n, C), higher is nearer.
        labels: (n,) the true classes.
        groups: Classes that have one vector, and so one score: the highest that any of them has.

    Raises:
        ValueError: Shapes do not fit, a score is no number, a class has no column.
    """
    _check_labels(scores, labels)
    above, tied = np.empty((2, len(labels)), np.int64)
    for part, block in _blocks(scores, groups):
        own = np.take_along_axis(block, labels[part, None], axis=1)
        above[part] = (block > own).sum(axis=1)
        tied[part] = (block == own).sum(axis=1)
    return Places(above, tied)


def hit_rates(found: Places, ks: Sequence[int] = KS) -> dict[int, float]:
    """Flat hit@k: the share of pictures whose class is among the first k (Frome et al. 2013)."""
    return {k: float(found.hits(k).mean()) for k in ks}


def chance(right: float, candidates: int) -> float:
    """The share of right answers when nothing is known.

    Of hit@k, *right* is k; of hierarchical precision, at any k, how many classes count as right.
    """
    return min(1.0, right / candidates)


def top(scores: Floats, k: int, *, groups: Groups = ()) -> NDArray[np.int64]:
    """(n, k) the first *k* candidates, best first, to be shown; ties in the order of columns."""
    best = np.empty((len(scores), k), np.int64)
    for part, block in _blocks(scores, groups):
        front = _front(block, k)
        order = np.lexsort((front.columns, -front.scores, front.rows))
        first = np.searchsorted(front.rows, np.arange(len(block)))
        best[part] = front.columns[order[first[:, None] + np.arange(k)]]
    return best


def hierarchical_precision(
    scores: Floats,
    labels: Integers,
    correct: Mapping[int, Mapping[int, Collection[int]]],
    *,
    groups: Groups = (),
) -> dict[int, NDArray[np.float64]]:
    """Precision of the first k answers, near classes counting as right (Frome et al. 2013).

    Args:
        scores: (n, C), higher is nearer.
        labels: (n,) the true classes.
        correct: For each k, and each label that occurs, the classes that count as right.
        groups: As of `places`.

    Returns:
        For each k (n,): the share of the first k that are in the label's set. hp@k is its mean.

    Raises:
        ValueError: As of `places`; a label has no set; k is none of 1..C.
    """
    _check_labels(scores, labels)
    found = {k: np.empty(len(labels)) for k in correct}
    for part, block in _blocks(scores, groups):
        front = _front(block, max(found, default=1))
        occurring, which = np.unique(labels[part], return_inverse=True)
        for k, sets in correct.items():
            right = _membership(occurring, sets, k, block.shape[1])[
                which[front.rows], front.columns
            ]
            hits = np.bincount(front.rows, front.within(k) * right, minlength=len(block))
            found[k][part] = hits / k
    return found


def same_class(
    found: Integers, wanted: Integers, labels: Integers, k: int, *, own: Integers | None = None
) -> NDArray[np.float64]:
    """Precision@k of a search among pictures: the share of the k nearest that have the class.

    Args:
        found: (q, m) rows that were found for each query, nearest first, -1 for none: a miss.
        wanted: (q,) the class of each query.
        labels: (N,) the class of each row, -1 for none.
        k: How many are looked at.
        own: (q,) the query's own row, which is left out: of queries that are among the rows.

    Returns:
        (q,), the share for each query.

    Raises:
        ValueError: Fewer than k are left, a query has no class, a row is none of 0..N-1.
    """
    if not -1 <= found.min(initial=-1) <= found.max(initial=-1) < len(labels):
        raise ValueError(
            f"rows {found.min()} to {found.max()} were found: expected 0..{len(labels) - 1}, and"
            " -1 for none."
        )
    if wanted.min(initial=0) < 0:
        raise ValueError(f"a query has class {wanted.min()}: leave out those that have none.")
    others = np.full(found.shape, True) if own is None else found != own[:, None]
    least = others.sum(axis=1).min(initial=_positive(k))
    if least < k:
        raise ValueError(
            f"{least} other rows were found for a query: expected {k} or more; search for one"
            " more than are looked at."
        )
    looked_at = others & (np.cumsum(others, axis=1) <= k)
    right = looked_at & (found >= 0) & (labels[found] == wanted[:, None])
    return np.asarray(right.sum(axis=1) / k)


@dataclass(frozen=True)
class Hops:
    """How far first answers are from the truth, in a hierarchy."""

    shares: dict[int, float]
    """Hops -> share of pictures, nearest first; under `UNJOINED` those that no path joins."""
    mean: float
    """Hops, over those that a path joins; not a number if none is."""


def hops(scores: Floats, labels: Integers, distances: Integers, *, groups: Groups = ()) -> Hops:
    """Count pictures by the hops between their class and the first answer.

    Args:
        scores: (n, C), higher is nearer. Of several first answers each has its part.
        labels: (n,) the true classes.
        distances: (C, C) int16, hops between classes, `UNJOINED` where no path is.
        groups: As of `places`.

    Raises:
        ValueError: As of `places`; there are no pictures, or not as many distances.
    """
    _check_labels(scores, labels)
    if not len(labels) or distances.shape != (scores.shape[1],) * 2:
        raise ValueError(
            f"{len(labels)} pictures, {scores.shape[1]} candidates, distances of shape"
            f" {distances.shape}: expected pictures, and a distance between any two candidates."
        )
    counts = np.zeros(UNJOINED + 1)
    for part, block in _blocks(scores, groups):
        front = _front(block, 1)
        far = distances[labels[part][front.rows], front.columns]
        counts += np.bincount(far, front.within(1), minlength=len(counts))
    joined = counts[:-1]
    mean = joined @ np.arange(UNJOINED) / joined.sum() if joined.any() else np.nan
    shares = {int(far): float(counts[far] / len(labels)) for far in np.flatnonzero(counts)}
    return Hops(shares, float(mean))


@dataclass(frozen=True)
class _Front:
    """The scores of a block that may be among the first k of their row: with ties, more than k."""

    rows: NDArray[np.int64]
    """(f,) ascending."""
    columns: NDArray[np.int64]
    scores: Floats
    edges: Floats
    """(b, k) the best scores of each row, best first."""

    def within(self, k: int) -> NDArray[np.float64]:
        """(f,) the share of orders of what is tied in which each is among the first *k*."""
        edge = self.edges[:, _positive(k) - 1]
        above, at = self.scores > edge[self.rows], self.scores == edge[self.rows]
        room = k - np.bincount(self.rows[above], minlength=len(edge))
        share = room / np.bincount(self.rows[at], minlength=len(edge))
        return np.where(above, 1.0, at * share[self.rows])


def _front(block: Floats, k: int) -> _Front:
    candidates = block.shape[1]
    if _positive(k) > candidates:
        raise ValueError(f"{k} answers among {candidates} candidates: expected no more than those.")
    best = np.partition(block, candidates - k, axis=1)[:, candidates - k :]
    edges = np.sort(best, axis=1)[:, ::-1]
    rows, columns = np.nonzero(block >= edges[:, -1:])
    return _Front(rows, columns, block[rows, columns], edges)


def _membership(
    labels: Integers, sets: Mapping[int, Collection[int]], k: int, candidates: int
) -> NDArray[np.bool_]:
    """(l, C) which candidates count as right for each of *labels*."""
    right = np.full((len(labels), candidates), False)
    for row, label in zip(right, labels.tolist(), strict=True):
        if label not in sets:
            raise ValueError(f"class {label} has no correct set at k = {k}: expected one.")
        members = np.fromiter(sets[label], np.int64)
        check_range(members, candidates)
        row[members] = True
    return right


def _blocks(scores: Floats, groups: Groups) -> Iterator[tuple[slice, Floats]]:
    """Rows that are looked at in one go, with one score for each group."""
    together = [np.array(group, np.int64) for group in groups]
    _check_groups(together, scores.shape[1])
    step = max(1, AT_ONCE // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        block = scores[start : start + step]
        if np.isnan(block).any():
            raise ValueError(
                f"rows {start} to {start + len(block) - 1} have scores that are no numbers:"
                " expected finite vectors, none of length 0."
            )
        if together:
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


def _check_labels(scores: Floats, labels: Integers) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"scores of shape {scores.shape}, labels of shape {labels.shape}: expected a row of"
            " scores and a label for each picture."
        )
    check_range(labels, scores.shape[1])


def check_range(columns: Integers, candidates: int) -> None:
    """Refuse columns that are none of 0..candidates-1, with a ValueError."""
    wrong = columns[(columns < 0) | (columns >= candidates)]
    if len(wrong):
        raise ValueError(
            f"class {wrong[0]} is none of {candidates} candidates: expected 0..{candidates - 1};"
            " leave out pictures of others."
        )


def _positive(k: int) -> int:
    if k < 1:
        raise ValueError(f"the first {k} answers: expected 1 or more.")
    return k
