"""The intervals that the tables of studies show."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from workflows.studies.intervals import (
    MeanInterval,
    confidence_interval,
    mean_interval,
    paired_interval,
)


def test_confidence_interval_is_that_of_students_t() -> None:
    """The interval of 1, 2 and 3 is 2 +- 4.303 / sqrt(3)."""
    assert confidence_interval([1.0, 2.0, 3.0]) == pytest.approx((-0.4841, 4.4841), abs=1e-4)
    assert confidence_interval([1.5]) == (1.5, 1.5)


def test_undefined_values_have_an_undefined_interval() -> None:
    """A correlation of one evaluation is NaN, and so is the interval of several of these."""
    assert all(map(math.isnan, confidence_interval([1.0, math.nan])))


def test_pairs_are_those_of_equal_seeds() -> None:
    """A seed of one side alone does not count."""
    interval = paired_interval({0: 3.0, 1: 5.0, 7: 100.0}, {1: 3.0, 0: 2.0, 8: 1.0})
    assert interval is not None
    assert (interval.count, interval.mean) == (2, 1.5)
    assert (interval.low, interval.high) == pytest.approx(
        (1.5 - 12.7062 / 2, 1.5 + 12.7062 / 2), abs=1e-3
    )
    assert paired_interval({0: 1.0}, {1: 1.0}) is None


def test_an_interval_ends_where_no_value_can_be() -> None:
    """Student's t knows no limits; a mean without an interval is left as it is."""
    interval = mean_interval([0.8, 1.0])
    assert interval.high > 1
    assert interval.limited(0, 1) == replace(interval, low=0, high=1)
    assert mean_interval([0.5, math.nan]).limited(0, 1).has_interval is False
    assert mean_interval([0.5]).limited(0.6, 1).low == 0.5


@pytest.mark.parametrize(
    ("interval", "null", "decimals"),
    [
        (MeanInterval(3, -0.0002, -0.0003, -0.00006), 0, 4),
        (MeanInterval(3, -0.2, -0.3, -0.1), 0, 3),
        (MeanInterval(3, 0.0001, -0.0001, 0.0003), 0, 3),
        (MeanInterval(3, 1.003, 1.0006, 1.005), 1, 3),
        (MeanInterval(3, 1.0002, 1.0001, 1.0003), 1, 4),
        (MeanInterval(1, 0.0001, 0.0001, 0.0001), 0, 3),
    ],
)
def test_numbers_show_the_difference_that_an_interval_excludes(
    interval: MeanInterval, null: float, decimals: int
) -> None:
    """No ends are printed as 0 beside the verdict that they are not."""
    assert interval.decimals(3, null=null) == decimals


def test_a_difference_is_seen_only_if_the_interval_excludes_zero() -> None:
    """One pair, and pairs without a finite difference, show none."""
    assert mean_interval([1.0, 1.1, 0.9]).excludes_zero
    assert not mean_interval([1.0, -1.1, 0.9]).excludes_zero
    assert not mean_interval([1.0]).excludes_zero
    assert not mean_interval([1.0, math.inf]).excludes_zero
