"""The intervals that the tables of studies show."""

from __future__ import annotations

import math

import pytest

from workflows.studies.intervals import confidence_interval, mean_interval, paired_interval


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


def test_a_difference_is_seen_only_if_the_interval_excludes_zero() -> None:
    """One pair, and pairs without a finite difference, show none."""
    assert mean_interval([1.0, 1.1, 0.9]).excludes_zero
    assert not mean_interval([1.0, -1.1, 0.9]).excludes_zero
    assert not mean_interval([1.0]).excludes_zero
    assert not mean_interval([1.0, math.inf]).excludes_zero
