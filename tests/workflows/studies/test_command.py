"""The intervals that the tables of studies show."""

from __future__ import annotations

import math

import pytest

from workflows.studies.command import confidence_interval


def test_confidence_interval_is_that_of_students_t() -> None:
    """The interval of 1, 2 and 3 is 2 +- 4.303 / sqrt(3)."""
    assert confidence_interval([1.0, 2.0, 3.0]) == pytest.approx((-0.4841, 4.4841), abs=1e-4)
    assert confidence_interval([1.5]) == (1.5, 1.5)


def test_undefined_values_have_an_undefined_interval() -> None:
    """A correlation of one evaluation is NaN, and so is the interval of several of these."""
    assert all(map(math.isnan, confidence_interval([1.0, math.nan])))
