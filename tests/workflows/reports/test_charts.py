"""Curves as SVG: every point is in its position, and names are escaped."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workflows.reports import charts

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@given(low=NUMBERS, high=NUMBERS)
@example(low=0.0, high=5e-324)
@example(low=5e-324, high=5e-324)
@example(low=1e6, high=1e6 + 1e-9)
def test_ticks_enclose_the_data(low: float, high: float) -> None:
    """There are two to seven ticks, at equal distances."""
    low, high = min(low, high), max(low, high)
    ticks = charts.ticks(low, high)
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 7
    steps = [b - a for a, b in pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


@given(points=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=2_000))
def test_long_curves_are_thinned(points: list[tuple[float, float]]) -> None:
    """The first and the last point are always kept."""
    thinned = charts.thinned(points)
    assert len(thinned) <= charts.MAX_POINTS
    assert thinned[0] == points[0]
    assert thinned[-1] == points[-1]


def test_points_are_within_the_frame_in_order() -> None:
    """A larger value is drawn further up."""
    html = charts.chart("loss", {"a": [(0, 1.0), (10, 3.0), (20, 2.0)], "b": [(0, 0.5)]})
    (first,) = re.findall(r'<polyline points="([^"]*)" fill="none" stroke="var', html)
    points = [tuple(map(float, pair.split(","))) for pair in first.split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[1][1] < points[2][1] < points[0][1]
    assert all(0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in points)
    assert "<circle" in html


def test_nan_is_left_out_and_an_empty_chart_is_empty() -> None:
    """A run may diverge before its first point."""
    html = charts.chart("loss", {"a": [(0, 1.0), (1, float("nan")), (2, float("inf"))]})
    assert "nan" not in html
    assert "inf" not in html
    assert charts.chart("loss", {"a": [(0, float("nan"))], "b": []}) == ""


def test_names_are_escaped() -> None:
    """Markup in titles and in names of curves is text."""
    html = charts.chart("<script>", {"<b>x</b>": [(0, 1.0), (1, 2.0)]})
    assert "<script>" not in html
    assert "<b>" not in html
