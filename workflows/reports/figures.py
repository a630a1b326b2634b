"""Figures as SVG files of their own, with a legend, for a light and for a dark page.

A figure is 600 pixels wide and can be read at that width. `templates/figure.svg` draws it: its
colours follow the preference of whoever looks at it, and it needs no other file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from workflows.reports.charts import Tick, ticks
from workflows.reports.html import TEMPLATES, render

WIDTH = 600
"""The width of a figure in pixels."""
CHARACTER_WIDTH = 7.2
"""The largest mean width of a character in a label, in pixels."""
MARGIN, TITLE_HEIGHT, LINE_HEIGHT = 14, 40, 20
"""The room around a figure, that of its title, and that of a line of text, in pixels."""
ROW_HEIGHT = 24
"""The height of a row of an interval figure, in pixels."""
SERIES_STEP = 6
"""The distance, in pixels, between joined series with intervals at the same x value."""
PLOT_HEIGHT = 300
"""The height of the plotted area of a point figure, in pixels."""
LABEL_PLACES = (
    (8, 4, "start"), (-8, 4, "end"), (0, -9, "middle"), (0, 18, "middle"),
    (8, -9, "start"), (8, 18, "start"), (-8, -9, "end"), (-8, 18, "end"),
)  # fmt: skip
"""The places of the label of a point, the best one first: the distance of its anchor in pixels,
and the anchor."""
MAX_LABEL_SHARE = 0.45
"""The largest share of the width that the labels of an interval figure get."""
NUM_COLOURS = 6
"""The number of colours of the style sheet; further series begin with the first one again."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A row of an interval figure: a labelled value with its interval."""

    label: str
    """The text to the left of the row."""
    value: float
    """The value, finite."""
    low: float
    """The lower end of its interval; the value itself if it has none."""
    high: float
    """The upper end."""
    series: str = ""
    """The name of the series, which decides the colour; empty if there is only one."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a point figure."""

    x: float
    """The value along the x axis; more than 0 if that is logarithmic."""
    y: float
    """The value along the y axis; more than 0 if that is logarithmic."""
    low: float | None = None
    """The lower end of the interval of `y`; None if it has none."""
    high: float | None = None
    """The upper end."""
    label: str = ""
    """The text beside the point; empty for none."""


@dataclass(frozen=True)
class PlottedPoint:
    """A drawn point with its interval, in pixels of the figure."""

    x: float
    y: float
    colour: int
    """The number of its colour, from 1."""
    x_span: tuple[float, float] | None = None
    """The ends of a horizontal interval."""
    y_span: tuple[float, float] | None = None
    """The ends of a vertical interval."""


@dataclass(frozen=True)
class Text:
    """A text of a figure, whose baseline begins, is centred or ends at a position in pixels."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    """The part of the text at the position: `start`, `middle` or `end`."""
    role: str = "quiet"
    """The class of the style sheet: `quiet`, `ink` or `title`."""


@dataclass(frozen=True)
class Figure:
    """A figure in pixels, ready to be drawn."""

    title: str
    height: float
    left: float
    """The left edge of the plotted area; `right`, `top` and `bottom` are the others."""
    right: float
    top: float
    bottom: float
    texts: tuple[Text, ...]
    """All texts but those of the ticks."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[PlottedPoint, ...]
    lines: tuple[tuple[int, str], ...] = ()
    """The (colour, points of an SVG polyline) of each joined series."""
    legend: tuple[tuple[float, float, int], ...] = ()
    """The (x, y, colour) of each coloured dot of the legend."""
    reference: float | None = None
    """The x position of a vertical reference line, such as that of no difference."""
    width: int = WIDTH


def svg(figure: Figure) -> str:
    """Return the text of an SVG file.

    Args:
        figure: The figure.
    """
    return render(TEMPLATES / "figure.svg", figure=figure)


def interval_figure(
    title: str, estimates: Sequence[Estimate], *, across: str, reference: float | None = None
) -> Figure:
    """Return a figure of one row for each value: a dot, and a line that spans its interval.

    Args:
        title: The title, at most about 75 characters.
        estimates: The rows from top to bottom, at least one.
        across: The name of the x axis, with its unit.
        reference: A value at which a vertical line is drawn, such as 0 for differences (default:
            none).
    """
    values = [v for row in estimates for v in (row.low, row.value, row.high)]
    values += [] if reference is None else [reference]
    levels = ticks(min(values), max(values))
    longest = max(len(row.label) for row in estimates)
    left = MARGIN + min(CHARACTER_WIDTH * longest + 8, MAX_LABEL_SHARE * WIDTH)
    right, top = WIDTH - MARGIN - 8, TITLE_HEIGHT
    bottom = top + ROW_HEIGHT * len(estimates) + 4

    def at_x(value: float) -> float:
        return left + (value - levels[0]) / (levels[-1] - levels[0]) * (right - left)

    names = list(dict.fromkeys(row.series for row in estimates))
    marks, texts = [], [Text(MARGIN, 22, title, role="title")]
    for index, row in enumerate(estimates):
        y = top + ROW_HEIGHT * (index + 0.5) + 2
        colour = names.index(row.series) % NUM_COLOURS + 1
        marks.append(
            PlottedPoint(at_x(row.value), y, colour, x_span=(at_x(row.low), at_x(row.high)))
        )
        texts.append(Text(left - 8, y + 4, row.label, "end", "ink"))
    texts.append(Text((left + right) / 2, bottom + 38, across, "middle"))
    figure = Figure(
        title,
        bottom + 46,
        left,
        right,
        top,
        bottom,
        tuple(texts),
        tuple(Tick(at_x(level), _number(level)) for level in levels),
        (),
        tuple(marks),
        reference=None if reference is None else at_x(reference),
    )
    return _with_legend(figure, names)


def point_figure(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    across: str,
    upwards: str,
    log_x: bool = False,
    log_y: bool = False,
    joined: bool = False,
) -> Figure:
    """Return a figure of points in a plane, with the intervals of their y values.

    Args:
        title: The title, at most about 75 characters.
        series: The points of each series, by name; at least one point in all.
        across: The name of the x axis, with its unit.
        upwards: The name of the y axis, with its unit, which is written below the title.
        log_x: True for a logarithmic x axis (default False).
        log_y: True for a logarithmic y axis (default False); intervals must then be above 0, too.
        joined: True to join the points of a series by lines, in their order (default False). With
            intervals, the series are then drawn a few pixels beside each other.
    """
    points = [point for group in series.values() for point in group]
    ys = [y for p in points for y in (p.y, p.low, p.high) if y is not None]
    levels = _log_ticks(ys) if log_y else ticks(min(ys), max(ys))
    xs = [p.x for p in points]
    x_levels = _log_ticks(xs) if log_x else ticks(min(xs), max(xs))
    left = MARGIN + 8 + CHARACTER_WIDTH * max(len(_number(level)) for level in levels)
    right, top = WIDTH - MARGIN - 8, TITLE_HEIGHT + LINE_HEIGHT
    bottom = top + PLOT_HEIGHT

    def at_x(value: float) -> float:
        return left + _share(value, x_levels, log=log_x) * (right - left)

    def at_y(value: float) -> float:
        return bottom - _share(value, levels, log=log_y) * (bottom - top)

    # Series that are joined usually have the same x values, where their intervals would overlap.
    step = SERIES_STEP if joined and any(point.low is not None for point in points) else 0
    marks, lines, labels = [], [], []
    for index, group in enumerate(series.values()):
        colour = index % NUM_COLOURS + 1
        shift = step * (index - (len(series) - 1) / 2)
        for point in group:
            span = None
            if point.low is not None and point.high is not None:
                span = at_y(point.low), at_y(point.high)
            x = at_x(point.x) + shift
            marks.append(PlottedPoint(x, at_y(point.y), colour, y_span=span))
            if point.label:
                labels.append(Text(x, at_y(point.y), point.label, role="ink"))
        if joined:
            path = " ".join(f"{at_x(p.x) + shift:.1f},{at_y(p.y):.1f}" for p in group)
            lines.append((colour, path))
    figure = Figure(
        title,
        bottom + 46,
        left,
        right,
        top,
        bottom,
        (
            Text(MARGIN, 22, title, role="title"),
            Text(MARGIN, 22 + LINE_HEIGHT, upwards),
            Text((left + right) / 2, bottom + 38, across, "middle"),
            *_placed(labels, marks, left, right),
        ),
        tuple(Tick(at_x(level), _number(level)) for level in x_levels),
        tuple(Tick(at_y(level), _number(level)) for level in levels),
        tuple(marks),
        tuple(lines),
    )
    return _with_legend(figure, list(series))


def _with_legend(figure: Figure, names: Sequence[str]) -> Figure:
    """Return a figure with a legend below it; with a single series there is none."""
    if len(names) < 2:
        return figure
    dots, texts = [], []
    x, y = float(MARGIN), figure.height + 14
    for index, name in enumerate(names):
        width = 16 + CHARACTER_WIDTH * len(name) + 16
        if x > MARGIN and x + width > WIDTH - MARGIN:
            x, y = float(MARGIN), y + LINE_HEIGHT
        dots.append((x + 5, y - 4, index % NUM_COLOURS + 1))
        texts.append(Text(x + 16, y, name))
        x += width
    return replace(figure, height=y + 12, texts=(*figure.texts, *texts), legend=tuple(dots))


def _placed(
    labels: Sequence[Text], marks: Sequence[PlottedPoint], left: float, right: float
) -> list[Text]:
    """Return the labels of points, moved to where they cover neither each other, points nor axes.

    A label that finds no free position is left out: its value is in the table beside the figure.
    """
    occupied = [(m.x - 4, m.y - 4, m.x + 4, m.y + 4) for m in marks]
    occupied += [(m.x - 2, m.y_span[1], m.x + 2, m.y_span[0]) for m in marks if m.y_span]
    placed = []
    for label in labels:
        width = CHARACTER_WIDTH * len(label.text)
        for dx, dy, anchor in LABEL_PLACES:
            x, y = label.x + dx, label.y + dy
            start = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
            box = (start - 3, y - 11, start + width + 3, y + 3)
            inside = left <= box[0] and start + width <= right + MARGIN
            if inside and not any(_overlap(box, b) for b in occupied):
                occupied.append(box)
                placed.append(replace(label, x=x, y=y, anchor=anchor))
                break
    return placed


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _share(value: float, levels: Sequence[float], *, log: bool) -> float:
    """Return the position of a value between the first and the last tick of an axis, 0 to 1."""
    low, high = levels[0], levels[-1]
    if log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Return powers of ten that enclose positive values, or 1, 2 and 5 times them of a few."""
    low, high = math.log10(min(values)), math.log10(max(values))
    if high - low >= 2:
        return [10.0**power for power in range(math.floor(low), math.ceil(high) + 1)]
    steps = [
        factor * 10.0**power
        for power in range(math.floor(low) - 1, math.ceil(high) + 2)
        for factor in (1, 2, 5)
    ]
    first = max(step for step in steps if step <= min(values))
    last = min(step for step in steps if step >= max(values) and step > first)
    return [step for step in steps if first <= step <= last]


def _number(value: float) -> str:
    """Format the label of a tick, such as `20k` or `0.25`."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}"
