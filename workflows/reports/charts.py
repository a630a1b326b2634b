"""Curves as SVG inside a page: nothing to load, nothing to run, readable in both colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from workflows.reports.html import text

WIDTH, HEIGHT = 560, 220
LEFT, BOTTOM, TOP, RIGHT = 64, 26, 10, 10
POINTS = 400
"""Of a curve that are drawn: more would not be seen."""
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
    """Curves in one frame, or nothing where there is no point to draw.

    Args:
        title: What they are.
        curves: Name -> (x, y), by ascending x; points that are no numbers are left out.
        across: What x is.
    """
    shown = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in curves.items()
    }
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return ""
    xs = [x for points in shown.values() for x, _ in points]
    ys = [y for points in shown.values() for _, y in points]
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
    for place, (name, points) in enumerate(shown.items()):
        colour = COLOURS[place % len(COLOURS)]
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


def charts(made: Sequence[str]) -> str:
    """Several side by side."""
    return f'<div class="charts">{"".join(filter(None, made))}</div>'


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most `POINTS` of them, the first and the last among them."""
    if len(points) <= POINTS:
        return list(points)
    step = (len(points) - 1) / (POINTS - 1)
    return [points[round(place * step)] for place in range(POINTS)]


def ticks(low: float, high: float) -> list[float]:
    """Some round numbers from at most *low* to at least *high*."""
    most = max(abs(low), abs(high))
    if high - low <= max(1e-9 * most, 1e-300):  # nothing that numbers of this size could show
        margin = most / 2 if most > 1e-300 else 0.5
        low, high = low - margin, high + margin
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    first = math.floor(low / step)
    last = math.ceil(high / step)
    return [place * step for place in range(first, last + 1)]


def _short(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}"
