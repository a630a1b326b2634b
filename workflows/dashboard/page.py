"""The page of one browser session, redrawn when the state of the dashboard changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bokeh.layouts import column
from bokeh.models import InlineStyleSheet
from bokeh.models.widgets import Div

from workflows.dashboard.state import DashboardState, short_names
from workflows.reports.charts import Chart, Points, chart
from workflows.reports.curve_names import charts_of
from workflows.reports.html import render

REDRAW_MILLISECONDS = 500
MAX_LISTED_WORKERS = 40
TEMPLATES = Path(__file__).with_name("templates")
PARTS = ("progress", "images", "details")
"""The templates of the page's parts. Only a part that has changed is sent to the browser, and the
images, which take the most bytes, change less often than the figures."""


def draw(document: Any, state: DashboardState) -> None:
    """Add the page to the bokeh document of one browser session, and update it twice a second.

    Args:
        document: The empty `bokeh.document.Document` of the session. It gets a title, a root and a
            periodic callback, which ends with the session.
        state: The state to display, which is only read.
    """
    sheet = InlineStyleSheet(css=render(TEMPLATES / "dashboard.css"))
    parts = {
        name: Div(stylesheets=[sheet], sizing_mode="stretch_width", name=f"tesserae-{name}")
        for name in PARTS
    }
    drawn = -1

    def update() -> None:
        """Redraw the page if the state has changed or a run is in progress."""
        nonlocal drawn
        running = any(run.state == "running" for run in state.runs.values())
        if state.version == drawn and not running:
            return
        drawn = state.version
        inserted = values(state, time.monotonic())
        for name, part in parts.items():
            part.text = render(TEMPLATES / f"{name}.html", **inserted)

    update()
    document.title = "Dask: Tesserae"
    document.add_root(column(*parts.values(), sizing_mode="stretch_width", margin=(0, 20)))
    document.add_periodic_callback(update, REDRAW_MILLISECONDS)


def values(state: DashboardState, now: float) -> dict[str, Any]:
    """Return the values that the templates insert; the newest runs and images come first.

    Args:
        state: The state of the dashboard.
        now: The present time in seconds, of the monotonic clock whose times `DashboardState.apply`
            got; the dashboard uses `time.monotonic`.

    Returns:
        `trainings` and `runs` (lists of the dictionaries that `TrainingState.snapshot` and
        `RunState.snapshot` return, with a `label` for a training and `recent_quarantine`, the
        newest row first, for a run), `charts` (a list of `Chart`), `images` (dictionaries with
        `run`, `row`, `caption` and the bytes `jpeg`), `grids` (dictionaries with `run`, which is
        the label of the training, `name`, `step` and the bytes `jpeg`, the oldest first), and
        `max_workers` (the number of workers to list).
    """
    labels = short_names(state.trainings)
    return {
        "trainings": [
            {"label": labels[training.name], **training.snapshot(now)}
            for training in reversed(state.trainings.values())
        ],
        "runs": [
            {**run.snapshot(now), "recent_quarantine": list(reversed(run.quarantine))}
            for run in reversed(state.runs.values())
        ],
        "charts": list(_live_charts(state, labels)),
        "images": list(reversed(state.images)),
        "grids": [
            {"run": labels.get(run, run), "name": name, **grid}
            for (run, name), grid in state.grids.items()
        ],
        "max_workers": MAX_LISTED_WORKERS,
    }


def _live_charts(state: DashboardState, labels: dict[str, str]) -> Iterator[Chart]:
    """Yield the charts; a curve of a single point is left out."""
    rates: dict[str, Points] = {
        f"{run.split}, {run.name}": [((at - run.started) / 60, rate) for at, rate in run.history]
        for run in state.runs.values()
        if len(run.history) > 1
    }
    preparing = chart("Preparation rate", rates, unit="images/s", across="minutes since the start")
    if preparing is not None:
        yield preparing
    yield from charts_of(
        (name, labels.get(run, run), list(points))
        for (run, name), points in state.curves.items()
        if len(points) > 1
    )
