"""What a fit does to images, against the boxes that the resizer keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.resize import fit_box
from workflows.studies.fit import CROP, FITS, PAD, SQUISH
from workflows.studies.fit.shapes import SHAPES, elongation, fit_costs, shape_of

SIDES = st.integers(1, 2_000)


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=20))
def test_the_lost_pixels_are_those_outside_of_the_box(sizes: list[tuple[int, int]]) -> None:
    """The oracle is the box that `resize` cuts; pad leaves as much of the square empty."""
    widths, heights = np.array(sizes).T
    lost = []
    for width, height in sizes:
        left, top, right, bottom = fit_box(width, height, CROP)
        lost.append(1 - (right - left) * (bottom - top) / (width * height))
    costs = fit_costs(elongation(widths, heights))
    assert tuple(costs) == FITS
    assert costs[CROP].lost == pytest.approx(np.mean(lost), abs=1e-9)
    assert costs[PAD].empty == pytest.approx(costs[CROP].lost)
    assert (costs[PAD].lost, costs[SQUISH].lost, costs[CROP].empty, costs[SQUISH].empty) == (0,) * 4


def test_a_shape_twice_as_long_is_stretched_by_two() -> None:
    """Portraits and landscapes of the same ratio are alike."""
    ratios = elongation(np.array([10, 20]), np.array([20, 10]))
    costs = fit_costs(ratios)
    assert costs[SQUISH].stretch == pytest.approx(2)
    assert costs[CROP].stretch == costs[PAD].stretch == 1
    assert (costs[PAD].scale, costs[CROP].lost) == (0.5, 0.5)


def test_images_are_grouped_by_their_ratio() -> None:
    """A bound belongs to the group below it; 4:3 and 3:2 are in the middle."""
    ratios = np.array([1, 1.25, 4 / 3, 1.5, 1.6, 1.61, 2])
    assert [SHAPES[index] for index in shape_of(ratios)] == [
        *(SHAPES[0],) * 2, *(SHAPES[1],) * 3, *(SHAPES[2],) * 2,
    ]  # fmt: skip
