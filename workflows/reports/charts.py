"""Line charts: the geometry that the macro `chart` of the templates draws as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

MAX_POINTS = 400
"""The number of points that are drawn of a curve; more would not be visible."""
MIN_LEFT, LABEL_GAP, DIGIT_WIDTH = 46, 8, 7.7
"""The room in pixels to the left of a plot: at least this, or that of its longest label, whose
characters have at most this width at the font size of the pages."""
MAX_MARKED_POINTS = 24
"""The number of points up to which each is marked, since so few are single measurements."""

Points = Sequence[tuple[float, float]]
"""The (x, y) points of a curve."""


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    at: float
    """The coordinate of the tick along its axis."""
    label: str
    """The text at the tick."""


@dataclass(frozen=True)
class Curve:
    """A curve of a chart."""

    name: str
    """The name of the curve in the legend."""
    points: tuple[tuple[float, float], ...]
    """The (x, y) coordinates of its points in the chart."""

    @property
    def polyline(self) -> str:
        """The points, as the attribute of an SVG polyline."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)

    @property
    def marks(self) -> tuple[tuple[float, float], ...]:
        """The points that are marked: all of them, or none of many."""
        return self.points if len(self.points) <= MAX_MARKED_POINTS else ()


@dataclass(frozen=True)
class Chart:
    """A line chart. Its coordinates are pixels where it is not scaled."""

    width: ClassVar[int] = 400
    height: ClassVar[int] = 220
    right: ClassVar[int] = 382
    """The right edge of the plotted area; `left`, `top` and `bottom` are the others."""
    top: ClassVar[int] = 10
    bottom: ClassVar[int] = 184
    title: str
    unit: str
    """The unit of the y axis; empty if it has none."""
    across: str
    """The name of the x axis, with its unit."""
    curves: tuple[Curve, ...]
    """The curves that have a point, in the order in which they were passed."""
    x_ticks: tuple[Tick, ...]
    """The ticks of the x axis, from left to right."""
    y_ticks: tuple[Tick, ...]
    """The ticks of the y axis, from bottom to top."""
    left: float
    """The left edge of the plotted area, with room for the labels of the y axis."""


def chart(
    title: str, curves: Mapping[str, Points], *, unit: str = "", across: str = "step"
) -> Chart | None:
    """Return the geometry of a line chart.

    Args:
        title: The title of the chart.
        curves: The (x, y) points of each curve, by name; by ascending x. Points that are not finite
            are left out, and of more than 400 only 400 are kept.
        unit: The unit of the y axis (default: none).
        across: The name of the x axis, with its unit (default `step`).

    Returns:
        The chart, whose `curves`, each with `name` and `points`, and `x_ticks` and `y_ticks`, each
        with `at` and `label`, are in pixels of a drawing of 400 x 220, with a y axis that points
        down; None if there is no finite point to draw. A curve without a finite point is left out.
    """
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in curves.items()
    }
    xs = [x for points in finite.values() for x, _ in points]
    ys = [y for points in finite.values() for _, y in points]
    if not xs:
        return None
    left, right = min(xs), max(xs)
    levels = ticks(min(ys), max(ys))
    low, high = levels[0], levels[-1]
    inside = [x for x in ticks(left, right) if left <= x <= right]
    labels = [_tick_label(level) for level in levels]
    edge = max(MIN_LEFT, LABEL_GAP + DIGIT_WIDTH * max(map(len, labels)))

    def at_x(x: float) -> float:
        return edge + (x - left) / ((right - left) or 1) * (Chart.right - edge)

    def at_y(y: float) -> float:
        return Chart.bottom - (y - low) / ((high - low) or 1) * (Chart.bottom - Chart.top)

    return Chart(
        title,
        unit,
        across,
        tuple(
            Curve(name, tuple((at_x(x), at_y(y)) for x, y in thinned(points)))
            for name, points in finite.items()
            if points
        ),
        tuple(Tick(at_x(x), _tick_label(x)) for x in inside or [left]),
        tuple(Tick(at_y(level), label) for level, label in zip(levels, labels, strict=True)),
        edge,
    )


def thinned(points: Points) -> list[tuple[float, float]]:
    """Return at most 400 of the points of a curve, evenly spaced, with the first and the last.

    Args:
        points: The (x, y) points of a curve; a curve with no more is returned whole, as a new list.
    """
    if len(points) <= MAX_POINTS:
        return list(points)
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(index * step)] for index in range(MAX_POINTS)]


def ticks(low: float, high: float) -> list[float]:
    """Return evenly spaced round numbers for the ticks of an axis, in ascending order.

    Args:
        low: The smallest value to show, finite; the first tick is at most this.
        high: The largest value to show, finite and at least *low*; the last tick is at least this.

    Returns:
        Four to six numbers, whose steps are 1, 2, 2.5 or 5 times a power of ten. A range too narrow
        to label is widened.
    """
    magnitude = max(abs(low), abs(high))
    if high - low <= max(1e-9 * magnitude, 1e-300):  # too narrow a range for labels of this size
        margin = magnitude / 2 if magnitude > 1e-300 else 0.5
        low, high = low - margin, high + margin
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    first = math.floor(low / step)
    last = math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]


def _tick_label(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}"
