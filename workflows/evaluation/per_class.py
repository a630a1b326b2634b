"""Figures by class: averages over pictures or classes, seen and unseen, and their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workflows.evaluation.ranking import AT_ONCE, KS, Floats, Integers, Places, check_range

DRAWS = 2_000
"""How often classes are drawn for an interval."""


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
    check_range(labels, classes)
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
