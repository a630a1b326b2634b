"""Paired differences over images, against a bootstrap that draws the images themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.studies.fit.paired import paired_difference

HITS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def test_the_interval_is_that_of_drawing_images() -> None:
    """Drawing the numbers of images that one method alone hits is the same as drawing images."""
    generator = np.random.default_rng(1)
    first, second = generator.random((2, 300)) < np.array([[0.7], [0.6]])
    difference = paired_difference(first, second, draws=20_000)
    drawn = generator.integers(300, size=(20_000, 300))
    means = (first.astype(float) - second)[drawn].mean(1)
    assert difference.mean == pytest.approx(first.mean() - second.mean())
    assert (difference.low, difference.high) == pytest.approx(
        np.quantile(means, [0.025, 0.975]), abs=0.007
    )


def test_mcnemars_test_of_a_known_table() -> None:
    """Of 12 images that one method alone hits, 10 on one side: 2 * (1 + 12 + 66) / 2^12."""
    first = np.array([True] * 10 + [False] * 2 + [True] * 30)
    second = np.array([False] * 10 + [True] * 2 + [True] * 30)
    difference = paired_difference(first, second)
    assert (difference.gained, difference.lost) == (10, 2)
    assert difference.p_value == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert difference.is_seen


def test_four_images_on_one_side_are_no_difference() -> None:
    """The bootstrap excludes 0, although chance has them on one side once in eight times."""
    first = np.array([True] * 4 + [False] * 96)
    difference = paired_difference(first, np.zeros(100, bool))
    assert difference.low > 0
    assert difference.p_value == pytest.approx(1 / 8)
    assert not difference.is_seen


@given(HITS)
def test_the_mean_lies_in_the_interval_and_changes_its_sign(pairs: list[tuple[bool, bool]]) -> None:
    """Equal methods have no difference, and no interval that excludes 0."""
    first, second = np.array(pairs, bool).T
    forth, back = paired_difference(first, second), paired_difference(second, first)
    assert forth.low <= forth.mean + 1e-12
    assert forth.mean <= forth.high + 1e-12
    assert (forth.mean, forth.gained, forth.p_value) == (-back.mean, back.lost, back.p_value)
    same = paired_difference(first, first)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert not same.is_seen
