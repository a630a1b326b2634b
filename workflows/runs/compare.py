"""The page that compares several training runs: their curves, and the options that differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from workflows.reports import html
from workflows.reports.curve_names import curve_name_of
from workflows.reports.table import Table
from workflows.runs.curves import MEDIAN_STEPS, RATE, Points, finite_values, read_curves, smoothed
from workflows.runs.option_text import option_text
from workflows.terminal.formatting import three_digits
from workflows.training.run_folder import RunFolder

if TYPE_CHECKING:
    from bokeh.models import LayoutDOM
    from bokeh.models.renderers import GlyphRenderer
    from bokeh.plotting import figure

MAX_POINTS = 2_000
"""The number of points that are kept of a curve, evenly spaced."""
DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")
"""The lines of the curves of one run in one chart, such as of training and of held-out images."""
SCALES, FORMS = ("Linear", "Log"), ("Smoothed", "Raw", "Both")
"""The labels of the buttons."""
ALPHAS = ((1.0, 0.0), (0.0, 1.0), (1.0, 0.35))
"""The opacity of smoothed and of raw lines in each of `FORMS`."""
TEMPLATE = Path(__file__).with_name("templates") / "comparison.html"
"""The template of the page."""


@dataclass(frozen=True)
class ComparedRun:
    """A run on the page."""

    label: str
    """The name of its folder, or its path if another run has the same name."""
    folder: RunFolder
    record: Mapping[str, Any]
    """The content of its `options.json`."""
    lines: Sequence[Mapping[str, Any]]
    """The lines of its `metrics.jsonl` that count."""


class _Curve(NamedTuple):
    run: int
    """The number of the run on the page."""
    name: str
    raw: Points
    smooth: Points


def open_runs(paths: Sequence[Path]) -> list[ComparedRun]:
    """Open runs for a comparison.

    Args:
        paths: The run folders, in the order of the page.

    Raises:
        TesseraeError: A folder holds no run, or its options or its metrics are invalid.
    """
    names = Counter(path.absolute().name for path in paths)
    runs = []
    for path in paths:
        name = path.absolute().name
        folder = RunFolder(path)
        label = name if names[name] == 1 else str(path)
        runs.append(ComparedRun(label, folder, folder.read_options(), folder.metrics()))
    return runs


def render_comparison(runs: Sequence[ComparedRun]) -> str:
    """Return the page of several runs as HTML text, which needs no other file.

    Its charts have a button for a logarithmic axis, one for smoothed or raw values, and show the
    values below the pointer. A click on a run in a legend hides its curves.

    Args:
        runs: The runs, at least one.
    """
    from bokeh.embed import components
    from bokeh.resources import Resources

    charts = list(_charts(runs))
    script, divs = components([_controls(charts), *(c.layout for c in charts)])
    return html.render(
        TEMPLATE,
        title="Comparison of " + ", ".join(run.label for run in runs),
        summary=_summary(runs),
        differences=_differences(runs),
        median_steps=MEDIAN_STEPS,
        library=Resources("inline", components=["bokeh", "bokeh-widgets"]).render_js(),
        script=script,
        controls=divs[0],
        charts=divs[1:],
    )


def _summary(runs: Sequence[ComparedRun]) -> Table:
    """Return a table of the runs: the stage, the steps, the rate and whether they diverged."""
    rows = []
    for run in runs:
        kinds = [line.get("what", "") for line in run.lines]
        steps = [line for line, kind in zip(run.lines, kinds, strict=True) if kind == ""]
        finite = finite_values((line for line in run.lines if line.get("what") == "speed"), RATE)
        rows.append(
            (
                run.label,
                str(run.record["options"].get("stage", "")),
                f"{steps[-1]['step'] if steps else 0:,}",
                three_digits(float(np.median(finite))) if finite else "-",
                "diverged" if "diverged" in kinds else "",
            )
        )
    columns = ("Run", "Stage", "Steps", "Images/s, median", "")
    return Table("Runs", columns, rows, text_columns=("Run", "Stage", ""))


def _differences(runs: Sequence[ComparedRun]) -> Table:
    """Return a table of the options, data and versions that are not the same for all runs."""
    sections = [
        {
            (section, name): value
            for section in ("options", "data", "versions")
            for name, value in (run.record.get(section) or {}).items()
        }
        for run in runs
    ]
    names = dict.fromkeys(name for section in sections for name in section)
    rows = []
    for name in names:
        values = [section.get(name) for section in sections]
        if any(value != values[0] for value in values):
            label = name[1] if name[0] == "options" else f"{name[0]}: {name[1]}"
            rows.append((label.replace("_", " "), *map(option_text, values)))
    columns = ("Option", *(run.label for run in runs))
    return Table("Options that differ", columns, rows, text_columns=columns)


# --- charts ---------------------------------------------------------------------------------------


class _DrawnChart(NamedTuple):
    layout: LayoutDOM
    scales: tuple[LayoutDOM, ...]
    """The figure with a linear axis, and that with a logarithmic one."""
    smooth: list[GlyphRenderer[Any]]
    raw: list[GlyphRenderer[Any]]


def _charts(runs: Sequence[ComparedRun]) -> Iterator[_DrawnChart]:
    groups: dict[tuple[str, str], list[_Curve]] = {}
    for number, run in enumerate(runs):
        for metric, evaluated, points in read_curves(run.lines):
            title, name, unit = curve_name_of(metric)
            scaled = [(x, 100 * y) for x, y in points] if unit == "%" else points
            finite = [(x, y) for x, y in scaled if math.isfinite(y)]
            smooth = finite if evaluated else smoothed(finite)
            if finite:
                curve = _Curve(number, name, _thinned(finite), _thinned(smooth))
                groups.setdefault((title, unit), []).append(curve)
    for (title, unit), curves in groups.items():
        yield _chart(f"{title} ({unit})" if unit else title, curves, runs)


def _chart(title: str, curves: Sequence[_Curve], runs: Sequence[ComparedRun]) -> _DrawnChart:
    from bokeh.layouts import column
    from bokeh.palettes import Category10, Category20

    colours = Category10[10] if len(runs) <= 10 else Category20[20]
    names = list(dict.fromkeys(curve.name for curve in curves))
    smooth: list[GlyphRenderer[Any]] = []
    raw: list[GlyphRenderer[Any]] = []
    plots = [_plot(title, "linear"), _plot(title, "log")]
    for plot, logarithmic in zip(plots, (False, True), strict=True):
        for curve in curves:
            for points, renderers in ((curve.raw, raw), (curve.smooth, smooth)):
                # Values without a logarithm leave a gap in the line.
                y = [math.nan if logarithmic and value <= 0 else value for _, value in points]
                label = runs[curve.run].label
                data: dict[str, Any] = {"x": [x for x, _ in points], "y": y}
                line = plot.line(
                    "x",
                    "y",
                    source=data,
                    name=f"{label}: {curve.name}",
                    color=colours[curve.run % len(colours)],
                    line_dash=DASHES[names.index(curve.name) % len(DASHES)],
                    line_alpha=1.0 if renderers is smooth else 0.0,
                    line_width=2 if renderers is smooth else 1,
                    legend_label=label if len(names) == 1 else f"{label}: {curve.name}",
                )
                renderers.append(line)
        plot.legend.click_policy = "hide"
        plot.legend.label_text_font_size = "12px"
        plot.add_layout(plot.legend[0], "right")  # where it covers no curve
    plots[1].visible = False
    return _DrawnChart(column(*plots, sizing_mode="stretch_width"), tuple(plots), smooth, raw)


def _plot(title: str, scale: Literal["linear", "log"]) -> figure:
    from bokeh.models import HoverTool
    from bokeh.plotting import figure

    options: dict[str, Any] = {
        "x_axis_label": "step",
        "y_axis_type": scale,
        "tools": "pan,box_zoom,wheel_zoom,reset,save",
        "active_scroll": None,
    }
    plot: figure = figure(title=title, height=320, sizing_mode="stretch_width", **options)
    tips = [("curve", "$name"), ("step", "@x{0,0}"), ("value", "@y{0.0000}")]
    plot.add_tools(HoverTool(tooltips=tips, mode="mouse", line_policy="nearest"))
    plot.toolbar.logo = None
    return plot


def _controls(charts: Sequence[_DrawnChart]) -> LayoutDOM:
    from bokeh.layouts import row
    from bokeh.models import CustomJS
    from bokeh.models.widgets import RadioButtonGroup

    scales = RadioButtonGroup(labels=list(SCALES), active=0, name="scale")
    forms = RadioButtonGroup(labels=list(FORMS), active=0, name="form")
    plots = [chart.scales for chart in charts]
    code = "plots.forEach(pair => pair.forEach((p, i) => { p.visible = i == cb_obj.active }))"
    scales.js_on_change("active", CustomJS(args={"plots": plots}, code=code))
    # Whether a line is visible is for the legend, which switches both lines of a curve together.
    lines = {
        "smooth": [line.glyph for chart in charts for line in chart.smooth],
        "raw": [line.glyph for chart in charts for line in chart.raw],
        "alphas": ALPHAS,
    }
    code = (
        "const [smoothed, raws] = alphas[cb_obj.active];"
        "smooth.forEach(line => { line.line_alpha = smoothed });"
        "raw.forEach(line => { line.line_alpha = raws })"
    )
    forms.js_on_change("active", CustomJS(args=lines, code=code))
    return row(scales, forms)


def _thinned(points: Points) -> Points:
    if len(points) <= MAX_POINTS:
        return points
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(index * step)] for index in range(MAX_POINTS)]
