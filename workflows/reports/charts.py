"""Line charts as inline SVG, without scripts, for light and dark colour schemes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from workflows.reports.html import text

WIDTH, HEIGHT = 560, 220
LEFT, BOTTOM, TOP, RIGHT = 64, 26, 10, 10
MAX_POINTS = 400
"""The number of points that are drawn of a curve; more would not be visible."""
COLOURS = ("var(--accent)", "#c2703d", "#5b7fb5", "#9a6fb0", "#a39132", "#b8566b")

STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 16px; }
.charts figure { margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: 12px 14px; }
.charts figcaption { font-size: 13px; color: var(--quiet); margin-bottom: 6px; }
.charts svg { display: block; width: 100%; height: auto; }
.charts text { font-size: 11px; fill: var(--quiet); font-variant-numeric: tabular-nums; }
.charts .grid { stroke: var(--line); stroke-width: 1; }
.charts .key { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 12px; color: var(--ink); }
.charts .key i { display: inline-block; width: 14px; height: 3px; border-radius: 2px;
  vertical-align: middle; margin-right: 5px; }
"""

Points = Sequence[tuple[float, float]]


def chart(title: str, curves: Mapping[str, Points], *, across: str = "step") -> str:
    """Return a line chart as HTML, or '' if there is no point to draw.

    Args:
        title: The title of the chart.
        curves: The (x, y) points of each curve, by ascending x; points that are not finite are left
            out.
        across: The name of the x axis (default `step`).
    """
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in curves.items()
    }
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return ""
    xs = [x for points in finite.values() for x, _ in points]
    ys = [y for points in finite.values() for _, y in points]
    left, right = min(xs), max(xs)
    marks = ticks(min(ys), max(ys))
    low, high = marks[0], marks[-1]

    def at_x(x: float) -> float:
        return LEFT + (x - left) / ((right - left) or 1) * (WIDTH - LEFT - RIGHT)

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - (y - low) / ((high - low) or 1) * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at_y(mark):.1f}"'
        f' y2="{at_y(mark):.1f}"/><text x="{LEFT - 6}" y="{at_y(mark) + 4:.1f}"'
        f' text-anchor="end">{_short(mark)}</text>'
        for mark in marks
    ]
    parts += [
        f'<text x="{at_x(x):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{_short(x)}</text>'
        for x in ticks(left, right)
        if left <= x <= right
    ]
    keys = []
    for index, (name, points) in enumerate(finite.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in thinned(points))
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"'
            ' stroke-linejoin="round"/>'
        )
        if len(points) == 1:
            x, y = points[0]
            parts.append(f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="{colour}"/>')
        keys.append(f'<span><i style="background: {colour}"></i>{text(name)}</span>')
    return (
        f"<figure><figcaption>{text(title)}, by {text(across)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">'
        f'{"".join(parts)}</svg><div class="key">{"".join(keys)}</div></figure>'
    )


def charts(figures: Sequence[str]) -> str:
    """Return several results of `chart` side by side; empty ones are left out."""
    return f'<div class="charts">{"".join(filter(None, figures))}</div>'


def thinned(points: Points) -> list[tuple[float, float]]:
    """Return at most `MAX_POINTS` evenly spaced points, the first and the last included."""
    if len(points) <= MAX_POINTS:
        return list(points)
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(index * step)] for index in range(MAX_POINTS)]


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers for an axis, from at most *low* to at least *high*."""
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


def _short(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}"
