"""Means over the seeds of a study, and their 95 % confidence intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

MAX_DECIMALS = 12
"""The largest number of decimals of a printed number: smaller differences are rounding errors."""
MIN_VALUES = 2
"""The number of values from which on their mean has an interval."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean, or a mean difference of pairs, with its 95 % interval by Student's t distribution."""

    count: int
    """The number of values, or of pairs."""
    mean: float
    """The mean."""
    low: float
    """The lower end of the interval; the mean itself if there is a single value."""
    high: float
    """The upper end."""

    @property
    def has_interval(self) -> bool:
        """True if there are enough values for an interval, and all of them are finite."""
        return self.count >= MIN_VALUES and math.isfinite(self.low) and math.isfinite(self.high)

    def limited(self, low: float, high: float) -> MeanInterval:
        """Return a copy whose interval ends where no value can be, such as below 0 % of a share.

        Student's t knows no such limits. The part that is cut off has no true mean in it, so that
        the confidence stays 95 %.

        Args:
            low: The smallest possible value.
            high: The largest possible value.
        """
        if not self.has_interval:
            return self
        return replace(self, low=max(low, self.low), high=min(high, self.high))

    def excludes(self, value: float) -> bool:
        """Return True if there is an interval, and a value is outside of it.

        Args:
            value: The value, such as 1 for a ratio that would mean no difference.
        """
        return self.has_interval and not self.low <= value <= self.high

    def decimals(self, minimum: int, *, null: float = 0.0, unit: float = 1.0) -> int:
        """Return the number of decimals with which its ends differ from a value that it excludes.

        With fewer ones, `0.000 (0.000 to 0.001)` would stand beside the verdict of a difference.

        Args:
            minimum: The least number of decimals, which is returned if *null* is not excluded.
            null: The value, 1 for ratios (default 0).
            unit: The number that values are multiplied by, 100 for percent (default 1).
        """
        if not self.excludes(null):
            return minimum
        ends = [unit * (end - null) for end in (self.low, self.high)]
        return next(
            (n for n in range(minimum, MAX_DECIMALS) if all(round(end, n) for end in ends)),
            MAX_DECIMALS,
        )

    def is_within(self, margin: float) -> bool:
        """Return True if the whole interval lies within a margin around 0.

        Args:
            margin: The largest absolute value. A mean without an interval never lies within it.
        """
        return self.has_interval and -margin <= self.low and self.high <= margin

    @property
    def excludes_zero(self) -> bool:
        """True if the whole interval is on one side of 0, so that a difference was seen."""
        return self.excludes(0)


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean, by Student's t distribution.

    Args:
        values: The values, at least one.

    Returns:
        (low, high); of a single value, both ends are the value itself, and of values with NaN or
        infinity both are NaN.
    """
    if len(values) < MIN_VALUES:
        return values[0], values[0]
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    # Imported here: the options of the studies must not load scipy.
    from scipy import stats

    half_width = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return mean - half_width, mean + half_width


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Return the mean of values and its interval.

    Args:
        values: The values, at least one; with NaN or infinity among them, mean and interval are
            NaN.
    """
    is_finite = all(map(math.isfinite, values))
    mean = statistics.mean(values) if is_finite else math.nan
    return MeanInterval(len(values), mean, *confidence_interval(values))


def geometric_interval(values: Sequence[float]) -> MeanInterval:
    """Return the geometric mean of positive values, such as rates, and the interval of it.

    Args:
        values: The values, at least one, all more than 0.
    """
    logs = mean_interval([math.log(value) for value in values])
    return MeanInterval(logs.count, *map(math.exp, (logs.mean, logs.low, logs.high)))


def paired_interval(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> MeanInterval | None:
    """Return the mean of the differences of pairs, such as two arms with the same seed.

    Args:
        values: The value of each seed.
        reference: The value of each seed that is subtracted.

    Returns:
        The mean of the differences and its interval, over the seeds that both have; None if there
        is no such seed.
    """
    differences = [values[seed] - reference[seed] for seed in sorted(values.keys() & reference)]
    return mean_interval(differences) if differences else None


def paired_ratio(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> MeanInterval | None:
    """Return the geometric mean of the ratios of pairs, such as the rates of a round.

    Args:
        values: The value of each seed, more than 0.
        reference: The value of each seed that it is divided by, more than 0.

    Returns:
        The mean ratio and its interval, which is that of the logarithms; None if no seed has both.
    """
    ratios = [values[seed] / reference[seed] for seed in sorted(values.keys() & reference)]
    return geometric_interval(ratios) if ratios else None


def p_value(values: Sequence[float]) -> float:
    """Return the two-sided p-value of Student's t test that the mean of values is 0.

    Args:
        values: The values, such as differences of pairs, at least one and all finite.

    Returns:
        The probability, 0 to 1, of a mean at least as far from 0 if the true one is 0; NaN for a
        single value; and for equal values 0, or 1 if all of them are 0.
    """
    if len(values) < MIN_VALUES:
        return math.nan
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    if deviation == 0:
        return float(mean == 0)
    from scipy import stats

    return float(2 * stats.t.sf(abs(mean) / deviation * len(values) ** 0.5, len(values) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that are adjusted for their number.

    Holm: A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of
    Statistics 6, 1979. If each hypothesis whose adjusted value is below 0.05 is rejected, a true
    one among them is rejected with a probability of at most 0.05, however the tests depend on
    each other.

    Args:
        p_values: The p-values of the tests, 0 to 1 or NaN.

    Returns:
        The adjusted values in the order of the tests, 0 to 1; NaN stays NaN, and is not counted.
    """
    ascending = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(ascending):
        largest = max(largest, min(1.0, (len(ascending) - rank) * p))
        adjusted[index] = largest
    return adjusted
