"""How good answers are: pictures whose vectors were compared with those of candidate classes.

Scores are (n, C), a row for each picture and a column for each candidate; a class is named by its
column. Most figures here are one number for each picture, so that scores that do not fit in memory
can be handed in by parts; `per_class` turns such numbers into averages and intervals.

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
DRAWS = 2_000
"""How often classes are drawn for an interval."""
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
        _check_range(members, candidates)
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
    _check_range(members, candidates)
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
    _check_range(labels, scores.shape[1])


def _check_range(columns: Integers, candidates: int) -> None:
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


@dataclass(frozen=True)
class PerClass:
    """Figures of pictures, by their class: what averages and intervals are taken of."""

    sums: NDArray[np.float64]
    """(C,) over the pictures of each class."""
    counts: NDArray[np.int64]
    """(C,) how many those are; 0 for a class that is not judged."""

    def __post_init__(self) -> None:
        if self.sums.shape != self.counts.shape or not self.counts.any():
            raise ValueError(
                f"sums of shape {self.sums.shape}, {self.counts.sum()} pictures of"
                f" {self.counts.shape} classes: expected a sum for each class, and pictures."
            )

    @property
    def means(self) -> NDArray[np.float64]:
        """(C,) not a number for classes without pictures."""
        blank = np.full(len(self.sums), np.nan)
        np.divide(self.sums, self.counts, out=blank, where=self.counts > 0)
        return blank

    @property
    def micro(self) -> float:
        """The mean over pictures, as in Frome et al. 2013."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def macro(self) -> float:
        """The mean over classes of their means, as in Xian et al. 2018."""
        return float(np.nanmean(self.means))

    def less(self, other: PerClass) -> PerClass:
        """The differences to what another method makes of the same pictures."""
        if not np.array_equal(self.counts, other.counts):
            raise ValueError(
                f"{self.counts.sum()} and {other.counts.sum()} pictures, or of other classes:"
                " expected the same pictures for both methods."
            )
        return PerClass(self.sums - other.sums, self.counts)

    def redrawn(self, drawn: NDArray[np.float64], *, macro: bool) -> NDArray[np.float64]:
        """The average when classes are there so many times, with all their pictures.

        Args:
            drawn: (draws, C), how often each class is there.
            macro: Over classes, not over pictures.

        Returns:
            (draws,), not a number where no class with pictures is there.
        """
        parts = (np.nan_to_num(self.means), self.counts > 0) if macro else (self.sums, self.counts)
        figures, weights = (drawn @ part.astype(np.float64) for part in parts)
        figures[weights == 0] = np.nan
        return figures / weights


def per_class(values: Floats, labels: Integers, classes: int) -> PerClass:
    """Add up a figure of pictures by class.

    Args:
        values: (n,), hits or precisions.
        labels: (n,) the class of each picture.
        classes: How many there are, C.

    Raises:
        ValueError: There are no pictures, or a label is none of 0..C-1.
    """
    _check_range(labels, classes)
    sums = np.bincount(labels, values, minlength=classes).astype(np.float64)
    return PerClass(sums, np.bincount(labels, minlength=classes))


@dataclass(frozen=True)
class Generalised:
    """Accuracy when classes that were learned and others are candidates together."""

    seen: float
    """Of pictures of classes that were learned."""
    unseen: float
    """Of pictures of the others."""

    @property
    def harmonic(self) -> float:
        """The harmonic mean of the two (Xian et al. 2018); 0 if both are."""
        total = self.seen + self.unseen
        return 2 * self.seen * self.unseen / total if total else 0.0


def generalised(
    found: Places,
    labels: Integers,
    seen: NDArray[np.bool_],
    *,
    ks: Sequence[int] = KS,
    macro: bool = True,
) -> dict[int, Generalised]:
    """Judge generalised zero-shot learning: for each k, hit@k of either kind of pictures.

    Args:
        found: Among seen and unseen candidates together.
        labels: (n,) the true classes.
        seen: (C,) which candidates were learned.
        ks: Where lists are cut.
        macro: Averages over classes, as in Xian et al. 2018; else over pictures.

    Raises:
        ValueError: There are no pictures of one kind.
    """
    made = {}
    for k in ks:
        of_classes = per_class(found.hits(k), labels, len(seen))
        kinds = np.stack([seen, ~seen]).astype(np.float64)
        figures = of_classes.redrawn(kinds, macro=macro)
        if np.isnan(figures).any():
            raise ValueError(
                f"of {len(labels)} pictures {seen[labels].sum()} are of seen classes: expected"
                " some of seen classes and some of unseen ones."
            )
        made[k] = Generalised(*figures.tolist())
    return made


@dataclass(frozen=True)
class Interval:
    """A figure, and where it would be with other classes of the same kind."""

    mean: float
    """The figure itself: the mean over splits."""
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """Between two methods."""

    not_better: float
    """Share of draws in which the first was no better than the other."""


def bootstrap(
    splits: Sequence[PerClass],
    *,
    macro: bool = True,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """An interval for a figure, by drawing classes again (Efron 1979; percentiles).

    Classes are drawn with all their pictures: pictures of one class are right and wrong together,
    so that drawing pictures would make intervals too narrow. Splits of the same classes overlap:
    for each draw the classes of all splits together are drawn once, and one that was drawn twice
    is there twice in every split that holds it out. A split of which nothing was drawn is left out
    of that draw. What training by another seed would change is in no interval.

    Args:
        splits: Figures for each split, of the same C classes; counts of 0 where it does not hold
            a class out.
        macro: Averages over classes in each split, else over pictures.
        draws: How many.
        level: Share of draws between the ends.
        seed: Of the draws.

    Raises:
        ValueError: There is no split, or they are not of the same classes.
    """
    return Interval(*_ends(splits, _draw(splits, macro, draws, seed), macro, level))


def compare(
    ours: Sequence[PerClass],
    theirs: Sequence[PerClass],
    *,
    macro: bool = True,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """The difference of two methods on the same pictures, by the same draws for both.

    As `bootstrap`, of the differences: what is hard for both is in neither end of the interval.

    Raises:
        ValueError: As of `bootstrap`; the methods were not judged on the same pictures.
    """
    splits = [our.less(their) for our, their in zip(ours, theirs, strict=True)]
    drawn = _draw(splits, macro, draws, seed)
    not_better = float((drawn <= 1e-12).mean())  # sums of shares are not exact
    return Difference(*_ends(splits, drawn, macro, level), not_better)


def _draw(splits: Sequence[PerClass], macro: bool, draws: int, seed: int) -> NDArray[np.float64]:
    """(draws,) means over splits, of classes drawn from all of them together."""
    if not splits or len({len(split.counts) for split in splits}) > 1:
        raise ValueError(
            f"splits of {[len(split.counts) for split in splits]} classes: expected one split or"
            " more, all of the same classes; count 0 for those that a split does not hold out."
        )
    union = np.flatnonzero(sum(split.counts for split in splits))
    held = [PerClass(split.sums[union], split.counts[union]) for split in splits]
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, AT_ONCE // len(union))
    for start in range(0, draws, step):
        many = min(step, draws - start)
        drawn = generator.multinomial(len(union), [1 / len(union)] * len(union), many).astype(float)
        figures = [split.redrawn(drawn, macro=macro) for split in held]
        means[start : start + many] = np.nanmean(figures, axis=0)
    return means


def _ends(
    splits: Sequence[PerClass], drawn: NDArray[np.float64], macro: bool, level: float
) -> tuple[float, float, float]:
    mean = np.mean([split.macro if macro else split.micro for split in splits])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(mean), float(low), float(high)
