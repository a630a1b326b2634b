"""Curves as SVG: every point is in its position, and names are escaped."""

from __future__ import annotations

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
    chart = charts.chart("loss", {"a": [(0, 1.0), (10, 3.0), (20, 2.0)], "b": [(0, 0.5)]})
    assert chart is not None
    first, second = chart.curves
    assert [x for x, _ in first.points] == sorted(x for x, _ in first.points)
    heights = [y for _, y in first.points]
    assert heights[1] < heights[2] < heights[0] < second.points[0][1]
    for x, y in (*first.points, *second.points):
        assert chart.left <= x <= chart.right
        assert chart.top <= y <= chart.bottom
    assert first.polyline.count(",") == 3


def test_ticks_lie_on_the_axes_at_their_values() -> None:
    """The label of a tick is the value at its place."""
    chart = charts.chart("loss", {"a": [(0, 0.0), (100, 1.0)]})
    assert chart is not None
    bottom, top = chart.y_ticks[0], chart.y_ticks[-1]
    assert (bottom.label, bottom.at) == ("0", chart.bottom)
    assert (top.label, top.at) == ("1", chart.top)
    assert (chart.x_ticks[-1].label, chart.x_ticks[-1].at) == ("100", chart.right)


def test_a_single_point_has_its_tick() -> None:
    """A run that was evaluated once shows at which step."""
    chart = charts.chart("distance", {"a": [(58, 0.3)]})
    assert chart is not None
    assert [tick.label for tick in chart.x_ticks] == ["58"]


def test_few_points_are_marked() -> None:
    """Each is a measurement; of many only the line is drawn."""
    few, many = ([(float(x), 1.0) for x in range(n)] for n in (3, 300))
    chart = charts.chart("loss", {"few": few, "many": many})
    assert chart is not None
    assert [len(curve.marks) for curve in chart.curves] == [3, 0]


def test_nan_is_left_out_and_an_empty_chart_is_empty() -> None:
    """A run may diverge before its first point."""
    chart = charts.chart("loss", {"a": [(0, 1.0), (1, float("nan")), (2, float("inf"))]})
    assert chart is not None
    assert [len(curve.points) for curve in chart.curves] == [1]
    assert charts.chart("loss", {"a": [(0, float("nan"))], "b": []}) is None
