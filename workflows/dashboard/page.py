"""The bokeh document of one browser session, redrawn when the state of the dashboard changes."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any, Literal

from bokeh.layouts import column
from bokeh.models import ColumnDataSource, DataRange1d, DatetimeTickFormatter, InlineStyleSheet
from bokeh.models.widgets import Div
from bokeh.palettes import Category10
from bokeh.plotting import figure

from workflows.dashboard.state import DashboardState, RunState, short_names
from workflows.reports.html import STYLE, bar, facts, table, text
from workflows.terminal.formatting import seconds_text, share_text, three_digits

REDRAW_MILLISECONDS = 500
MAX_LISTED_WORKERS = 40
RULES = """
:host { --ground: #fbfbfa; --card: #fff; --ink: #1c1d20; --quiet: #63666d; --line: #e3e3df;
  --accent: #2f6f5e; --track: #ecece8; --warn: #9a4a12; --warn-ground: #fdf3e7;
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "Noto Sans", sans-serif; }
h2 { margin: 28px 0 10px; } .bk-clearfix { width: 100%; } .facts { margin: 0; }
.wide { margin-top: 14px; } .pictures { display: flex; flex-wrap: wrap; gap: 10px; }
.pictures figure { margin: 0; width: 88px; } .pictures img { display: block; max-width: 256px; }
.pictures figcaption { font-size: 12px; color: var(--quiet); overflow-wrap: anywhere; }
"""


def draw(document: Any, board: DashboardState) -> None:
    """Add the page to the bokeh document of one browser session, and update it periodically."""
    sheet = InlineStyleSheet(css=STYLE[STYLE.index("* {") :] + RULES)
    head = Div(stylesheets=[sheet], sizing_mode="stretch_width", name="tesserae-head")
    foot = Div(stylesheets=[sheet], sizing_mode="stretch_width", name="tesserae-foot")
    rates = _CurvePlot("images/s", "datetime")
    training = {title: _CurvePlot(title, "linear") for title in (*_KINDS.values(), OTHER_CURVES)}
    drawn = -1

    def update() -> None:
        """Redraw everything if the state has changed or a run is in progress."""
        nonlocal drawn
        now = time.monotonic()
        running = any(run.state == "running" for run in board.runs.values())
        if board.version == drawn and not running:
            return
        drawn = board.version
        head.text = "".join(_head(board, now))
        foot.text = "".join(_foot(board, now))
        offset = time.time() - now
        # The history has monotonic times; the plot's axis shows wall-clock milliseconds.
        rates.show(
            {
                f"{run.split}, {run.name}": [
                    ((at + offset) * 1e3, rate) for at, rate in run.history
                ]
                for run in board.runs.values()
            }
        )
        labels = short_names(board.trainings)
        for title, lines in training.items():
            lines.show(
                {
                    f"{labels.get(run, run)}, {name.replace('_', ' ')}": list(points)
                    for (run, name), points in board.curves.items()
                    if _title(name) == title
                }
            )

    update()
    document.title = "Dask: Tesserae"
    document.add_root(
        column(
            head,
            rates.plot,
            *(lines.plot for lines in training.values()),
            foot,
            sizing_mode="stretch_width",
            margin=(0, 20),
        )
    )
    document.add_periodic_callback(update, REDRAW_MILLISECONDS)


_KINDS = {"estimate": "critic estimate", "distance": "distance", "error": "error"}
"""The plot of each curve, by a part of the curve's name."""
OTHER_CURVES = "training"
"""The title of the plot of all other curves."""


def _title(name: str) -> str:
    return next((title for part, title in _KINDS.items() if part in name), OTHER_CURVES)


class _CurvePlot:
    """A plot of named curves that grow over time."""

    def __init__(self, title: str, axis: Literal["datetime", "linear"]) -> None:
        self.plot = figure(
            title=title,
            height=220,
            sizing_mode="stretch_width",
            x_axis_type=axis,
            toolbar_location=None,
            visible=False,
            y_range=DataRange1d(start=0) if axis == "datetime" else DataRange1d(),
        )
        if axis == "datetime":
            self.plot.xaxis.formatter = DatetimeTickFormatter(seconds="%H:%M:%S")
        self._source = ColumnDataSource({"xs": [], "ys": [], "name": [], "colour": []})
        self.plot.multi_line(
            "xs", "ys", color="colour", legend_field="name", line_width=2, source=self._source
        )
        self.plot.add_layout(self.plot.legend[0], "right")

    def show(self, curves: dict[str, list[tuple[float, float]]]) -> None:
        """Replace the plotted curves by *curves*; those with a single point are left out."""
        curves = {name: points for name, points in curves.items() if len(points) > 1}
        self.plot.visible = bool(curves)
        colours = Category10[10]
        self._source.data = {
            "xs": [[x for x, _ in points] for points in curves.values()],
            "ys": [[y for _, y in points] for points in curves.values()],
            "name": [_plain(name) for name in curves],
            "colour": [colours[i % len(colours)] for i in range(len(curves))],
        }


def _plain(name: str) -> str:
    # A legend draws plain text, without markup; control characters would appear as boxes.
    return "".join(c if c.isprintable() else "?" for c in name)


def _head(board: DashboardState, now: float) -> Iterator[str]:
    if not board.runs and not board.trainings:
        yield "<h2>Tesserae</h2><p class='quiet'>No run has reported to this scheduler yet. Start"
        yield " one with <code>tesserae prepare ... --cluster ADDRESS</code>.</p>"
    labels = short_names(board.trainings)
    for training in reversed(board.trainings.values()):
        yield from _training(training.snapshot(now), labels[training.name])
    for run in reversed(board.runs.values()):
        yield from _run(run, run.snapshot(now))


def _training(now: dict[str, Any], name: str) -> Iterator[str]:
    yield f"<h2>Training of <code>{text(name)}</code>: {text(now['state'])}</h2>"
    yield f"<p class='quiet'><code>{text(now['folder'])}</code></p>"
    if now["why"]:
        yield f'<p class="notice">{text(now["why"])}</p>'
    wait = now.get("wait_share")
    left = now["seconds_left"]
    entries = [
        ("Step", f"{now['step']:,}", f"of {now['steps']:,}"),
        ("Ranks", f"{now['ranks']}", ""),
        (
            "Images/s",
            three_digits(now.get("images_per_second", 0.0)),
            "" if wait is None else f"loader wait {wait:.1%}",
        ),
        (
            ("Time", seconds_text(now["seconds"]), "")
            if left is None
            else ("Time left", seconds_text(left), f"after {seconds_text(now['seconds'])}")
        ),
    ]
    yield facts(entries)


def _run(run: RunState, now: dict[str, Any]) -> Iterator[str]:
    features = f"Features <code>{text(run.features)}</code> of " if run.features else ""
    split = f"{text(run.split)} of <code>{text(run.store)}</code>"
    yield f"<h2>{features}{split}: {text(run.state)}</h2>"
    if run.why:
        yield f'<p class="notice">{text(run.why)}</p>'
    yield facts(_figures(now, running=run.state == "running"))
    if not now["sizes"]:
        return
    yield table(
        ["=Size", ">Rows stored", ">of", "|"],
        (
            [f"{size} px", f"{rows['done']:,}", f"{rows['rows']:,}", bar(_share(rows))]
            for size, rows in now["sizes"].items()
        ),
    )


def _foot(board: DashboardState, now: float) -> Iterator[str]:
    if board.pictures:
        yield '<h2>Latest images</h2><div class="pictures">'
        for picture in reversed(board.pictures):
            yield _picture(picture["jpeg"], "jpeg", picture["caption"])
        yield "</div>"
    if board.grids:
        yield '<h2>Samples</h2><div class="pictures">'
        labels = short_names(board.trainings)
        for (name, title), grid in board.grids.items():
            caption = f"{labels.get(name, name)}, {title}, step {grid['step']}"
            yield _picture(grid["jpeg"], "jpeg", caption)
        yield "</div>"
    for run in reversed(board.runs.values()):
        yield from _run_foot(run, run.snapshot(now))


def _run_foot(run: RunState, snapshot: dict[str, Any]) -> Iterator[str]:
    if snapshot["workers"]:
        yield f"<h2>Workers of {text(run.split)}, {text(run.name)}</h2>"
        yield table(["=Worker", ">Images/s", ">Rows", ">Shards"], _workers(snapshot["workers"]))
    bad = {status: n for status, n in snapshot["counts"].items() if status != "readable" and n}
    if bad:
        yield f"<h2>Quarantine of {text(run.split)}</h2>"
        rows = sorted(bad.items(), key=lambda entry: -entry[1])
        yield table(["=Reason", ">Rows"], ([text(why), f"{n:,}"] for why, n in rows))
    if run.quarantine:
        lines = (
            [f"{row['row']:,}", text(row["key"]), text(row["status"]), text(row["reason"])]
            for row in reversed(run.quarantine)
        )
        yield table([">Row", "Key", "=Status", "Reason"], lines)


def _workers(workers: dict[str, Any]) -> Iterator[list[str]]:
    fastest = sorted(workers.items(), key=lambda entry: -entry[1]["images_per_second"])
    for name, worker in fastest[:MAX_LISTED_WORKERS]:
        rate = three_digits(worker["images_per_second"])
        yield [text(name), rate, f"{worker['rows']:,}", f"{worker['shards']:,}"]
    if len(fastest) > MAX_LISTED_WORKERS:
        yield [f"and {len(fastest) - MAX_LISTED_WORKERS:,} more", "", "", ""]


def _picture(data: bytes, kind: str, caption: str) -> str:
    encoded = base64.b64encode(data).decode("ascii")
    return (
        f'<figure><img alt="" src="data:image/{kind};base64,{encoded}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def _figures(now: dict[str, Any], *, running: bool) -> Iterator[tuple[str, str, str]]:
    yield "Rows done", f"{now['rows_done']:,}", f"of {now['rows']:,}"
    for name, field, unit in (
        ("Images/s", "images_per_second", 1),
        ("MB/s in", "bytes_in_per_second", 1e6),
        ("MB/s out", "bytes_out_per_second", 1e6),
    ):
        run = three_digits(now[field]["run"] / unit)
        if running:
            yield name, three_digits(now[field]["now"] / unit), f"{run} over the run"
        else:
            yield name, run, ""
    left = now["seconds_left"]
    if running and left is not None:
        yield "Time left", seconds_text(left), f"after {seconds_text(now['seconds'])}"
    else:
        yield "Time", seconds_text(now["seconds"]), ""
    rows = sum(now["counts"].values())
    bad = rows - now["counts"].get("readable", 0)
    yield "Quarantined", f"{bad:,}", share_text(bad, rows) if bad else ""


def _share(rows: dict[str, int]) -> float:
    return rows["done"] / rows["rows"] if rows["rows"] else 1.0
