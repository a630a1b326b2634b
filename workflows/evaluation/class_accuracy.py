"""Metrics by class: averages over images or classes, seen and unseen, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workflows.evaluation.ranking import (
    KS,
    MAX_BLOCK_SCORES,
    Floats,
    Integers,
    TrueClassRanks,
    check_range,
)

DRAWS = 2_000
"""The number of bootstrap draws of classes for an interval."""


@dataclass(frozen=True)
class ClassSums:
    """The sums of a metric of images by class, from which averages and intervals are computed."""

    sums: NDArray[np.float64]
    """(C,) the sum over the images of each class."""
    counts: NDArray[np.int64]
    """(C,) the number of images of each class; 0 for a class that is not evaluated."""

    def __post_init__(self) -> None:
        if self.sums.shape != self.counts.shape or not self.counts.any():
            raise ValueError(
                f"sums of shape {self.sums.shape}, {self.counts.sum()} images of"
                f" {self.counts.shape} classes: expected a sum for each class, and at least one"
                " image."
            )

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean of each class, (C,); NaN for classes without images."""
        means = np.full(len(self.sums), np.nan)
        np.divide(self.sums, self.counts, out=means, where=self.counts > 0)
        return means

    @property
    def micro(self) -> float:
        """The mean over images, as in Frome et al. 2013."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def macro(self) -> float:
        """The mean over classes of their means, as in Xian et al. 2018."""
        return float(np.nanmean(self.means))

    def minus(self, other: ClassSums) -> ClassSums:
        """Return the sums of the differences to another method's metric on the same images.

        Args:
            other: The `sums` and `counts` of the other method over the same images, (C,) each; its
                sums are subtracted.

        Returns:
            A new object, whose `sums`, (C,) float64, are those of this one minus those of *other*,
            with the same `counts`; nothing is changed in place.

        Raises:
            ValueError: The numbers of images by class differ.
        """
        if not np.array_equal(self.counts, other.counts):
            raise ValueError(
                f"{self.counts.sum()} and {other.counts.sum()} images, or different classes:"
                " expected the same images for both methods."
            )
        return ClassSums(self.sums - other.sums, self.counts)

    def resampled_means(
        self, draw_counts: NDArray[np.float64], *, macro: bool
    ) -> NDArray[np.float64]:
        """Return the mean of each bootstrap draw, which repeats classes with all their images.

        Args:
            draw_counts: (draws, C) float64, how many times each class is drawn, at least 0.
            macro: True to average over the drawn classes that have images, False to average over
                their images.

        Returns:
            (draws,) float64, NaN where no class with images is drawn.
        """
        parts = (np.nan_to_num(self.means), self.counts > 0) if macro else (self.sums, self.counts)
        sums, weights = (draw_counts @ part.astype(np.float64) for part in parts)
        sums[weights == 0] = np.nan
        return sums / weights


def sum_per_class(values: Floats, labels: Integers, classes: int) -> ClassSums:
    """Sum a metric of images by class.

    Args:
        values: The metric of each image, (n,) float, such as hits or precisions.
        labels: The class of each image, (n,) int, from 0 to C - 1.
        classes: The number of classes, C.

    Returns:
        `sums`, (C,) float64, and `counts`, the numbers of images, (C,) int64, by class; both 0 for
        a class without images. Its `micro` is the mean over images, its `macro` the mean over the
        classes that have images.

    Raises:
        ValueError: There are no images, the numbers of values and labels differ, or a label is
            outside of 0..C-1.
    """
    check_range(labels, classes)
    sums = np.bincount(labels, values, minlength=classes).astype(np.float64)
    return ClassSums(sums, np.bincount(labels, minlength=classes))


@dataclass(frozen=True)
class GeneralisedAccuracy:
    """The accuracy in generalised zero-shot learning, where seen and unseen classes compete.

    An image of either kind is ranked against all classes, not only against those of its own kind,
    which favours the seen classes. Reported as in Xian et al.: Zero-Shot Learning - A Comprehensive
    Evaluation of the Good, the Bad and the Ugly, TPAMI 2018, arXiv 1707.00600.
    """

    seen: float
    """The accuracy on images of seen classes, 0 to 1."""
    unseen: float
    """The accuracy on images of unseen classes, 0 to 1."""

    @property
    def harmonic(self) -> float:
        """The harmonic mean of the two (Xian et al. 2018); 0 if both are."""
        total = self.seen + self.unseen
        return 2 * self.seen * self.unseen / total if total else 0.0


def generalised_accuracy(
    positions: TrueClassRanks,
    labels: Integers,
    seen: NDArray[np.bool_],
    *,
    ks: Sequence[int] = KS,
    macro: bool = True,
) -> dict[int, GeneralisedAccuracy]:
    """Return hit@k of images of seen and of unseen classes among all candidates, for each k.

    Args:
        positions: Ranks of the true classes of n images among the C seen and unseen candidates
            together, as `true_class_ranks` returns them.
        labels: The true classes, (n,) int, as columns of the candidates, 0 to C - 1.
        seen: (C,) bool: True for a candidate that is seen, False for one that is unseen.
        ks: The lengths of lists, k, each at least 1 (default `KS`: 1, 2, 5, 10 and 20).
        macro: True to average over classes, as in Xian et al. 2018 (the default); False to average
            over images.

    Returns:
        By k, the accuracies on images of `seen` and of `unseen` classes, 0 to 1 each, and their
        harmonic mean, `harmonic`.

    Raises:
        ValueError: There are no images of seen classes, or none of unseen classes; a k is less than
            1; a label is outside of 0..C-1; or the numbers of ranks and labels differ.
    """
    accuracies = {}
    for k in ks:
        of_classes = sum_per_class(positions.hits(k), labels, len(seen))
        kinds = np.stack([seen, ~seen]).astype(np.float64)
        rates = of_classes.resampled_means(kinds, macro=macro)
        if np.isnan(rates).any():
            raise ValueError(
                f"{seen[labels].sum()} of {len(labels)} images are of seen classes: expected"
                " images of both seen and unseen classes."
            )
        accuracies[k] = GeneralisedAccuracy(*rates.tolist())
    return accuracies


@dataclass(frozen=True)
class Interval:
    """A metric with a confidence interval over the choice of classes."""

    mean: float
    """The metric itself, the mean over splits."""
    low: float
    """The lower end of the interval."""
    high: float
    """The upper end of the interval."""


@dataclass(frozen=True)
class Difference(Interval):
    """The difference between two methods, with its confidence interval."""

    not_better: float
    """The share of draws, 0 to 1, in which the first method was no better than the second."""


def bootstrap(
    splits: Sequence[ClassSums],
    *,
    macro: bool = True,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of a metric over classes (Efron 1979).

    Classes are drawn with all their images. Images of a class tend to be right or wrong together,
    so drawing images would make intervals too narrow. Splits of the same classes overlap, so each
    draw resamples the classes of all splits together: a class that is drawn twice counts twice in
    every split that holds it out. A split of which no class is drawn is left out of that draw. The
    interval does not cover the variance between training seeds.

    Args:
        splits: The sums and the numbers of images by class of each split, as `sum_per_class`
            returns them, over the same C classes; a class that a split does not hold out has a
            count of 0.
        macro: True to average over classes in each split (the default), False to average over
            images.
        draws: Number of bootstrap draws, at least 1 (default `DRAWS`: 2,000).
        level: Share of draws inside the interval, 0 to 1 (default 0.95).
        seed: Seed of the draws (default 0).

    Returns:
        `mean`, the mean over splits of the metric itself; and the ends of the interval, `low` and
        `high`, the quantiles of the draws that leave out as many on either side.

    Raises:
        ValueError: There is no split, the splits have different numbers of classes, or *level* is
            outside of 0..1.
    """
    return Interval(
        *_mean_and_ends(splits, _resampled_means(splits, macro, draws, seed), macro, level)
    )


def paired_bootstrap(
    ours: Sequence[ClassSums],
    theirs: Sequence[ClassSums],
    *,
    macro: bool = True,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Return the difference of two methods on the same images, with a paired bootstrap interval.

    Each draw repeats classes with all their images, in all splits together and for both methods
    alike, so that classes that are hard for both do not widen the interval.

    Args:
        ours: The sums and the numbers of images by class of the first method, as `sum_per_class`
            returns them, for each split, over the same C classes; a class that a split does not
            hold out has a count of 0.
        theirs: The sums of the second method, for the same splits and images, in the same order,
            which are subtracted.
        macro: True to average over classes in each split (the default), False to average over
            images.
        draws: Number of bootstrap draws, at least 1 (default `DRAWS`: 2,000).
        level: Share of draws inside the interval, 0 to 1 (default 0.95).
        seed: Seed of the draws (default 0).

    Returns:
        `mean`, the mean over splits of the first method's metric minus the second's; the ends of
        its interval, `low` and `high`; and `not_better`, the share of draws, 0 to 1, in which the
        difference is 0 or negative.

    Raises:
        ValueError: There is no split, the methods have different numbers of splits or of images by
            class, the splits have different numbers of classes, or *level* is outside of 0..1.
    """
    splits = [our.minus(their) for our, their in zip(ours, theirs, strict=True)]
    means = _resampled_means(splits, macro, draws, seed)
    # The tolerance is for rounding in sums of shares.
    not_better = float((means <= 1e-12).mean())
    return Difference(*_mean_and_ends(splits, means, macro, level), not_better)


def _resampled_means(
    splits: Sequence[ClassSums], macro: bool, draws: int, seed: int
) -> NDArray[np.float64]:
    """Return the mean over splits of each bootstrap draw of classes, (draws,)."""
    if not splits or len({len(split.counts) for split in splits}) > 1:
        raise ValueError(
            f"splits of {[len(split.counts) for split in splits]} classes: expected one split or"
            " more, all of the same classes; count 0 for those that a split does not hold out."
        )
    union = np.flatnonzero(sum(split.counts for split in splits))
    restricted = [ClassSums(split.sums[union], split.counts[union]) for split in splits]
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, MAX_BLOCK_SCORES // len(union))
    for start in range(0, draws, step):
        block_draws = min(step, draws - start)
        draw_counts = generator.multinomial(
            len(union), [1 / len(union)] * len(union), block_draws
        ).astype(float)
        split_means = [split.resampled_means(draw_counts, macro=macro) for split in restricted]
        means[start : start + block_draws] = np.nanmean(split_means, axis=0)
    return means


def _mean_and_ends(
    splits: Sequence[ClassSums], resampled_means: NDArray[np.float64], macro: bool, level: float
) -> tuple[float, float, float]:
    mean = np.mean([split.macro if macro else split.micro for split in splits])
    low, high = np.quantile(resampled_means, [(1 - level) / 2, (1 + level) / 2])
    return float(mean), float(low), float(high)
