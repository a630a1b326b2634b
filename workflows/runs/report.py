"""The work of `tesserae report`: a run's curves, samples and figures as one HTML page."""

from __future__ import annotations

import argparse
import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from scipy import ndimage

from workflows.reports import charts, html
from workflows.training.errors import DivergedError
from workflows.training.finite import NotFiniteError
from workflows.training.run_folder import RunFolder
from workflows.training.writing import write


class Judged(Protocol):
    """What came of judging a run, whatever its stage."""

    @property
    def step(self) -> int:
        """Of the checkpoint."""

    @property
    def notice(self) -> str:
        """What figures must not be taken for; or nothing."""

    @property
    def tables(self) -> Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        """(title, columns, rows)."""

    @property
    def pictures(self) -> Sequence[tuple[str, bytes]]:
        """(what, PNG)."""

    def figures(self) -> Iterator[tuple[str, str]]:
        """(name, value), for people."""


MEDIAN = 101
"""Steps of the median filter of the critic's curves, as in the paper of WGAN."""
GRIDS = 8
"""Grids over time that are shown."""


def run(args: argparse.Namespace) -> int:
    """Judge what can be judged, and write the page."""
    folder = RunFolder(args.run)
    asked = folder.asked()
    try:
        judged = _judge(folder, asked, args)
    except (DivergedError, NotFiniteError) as e:
        judged = None
        print(f"notice: nothing is judged: {e}", flush=True)
    file = args.run / "report.html"
    write(file, render(folder, asked, judged).encode())
    for line in summary(folder, judged):
        print(line)
    print(f"report: {file}")
    return 0


def _judge(folder: RunFolder, asked: Mapping[str, Any], args: argparse.Namespace) -> Judged | None:
    stage = asked["options"].get("stage", "")
    if folder.newest() is None:
        return None
    if stage.startswith("workflows.wgan."):
        from workflows.wgan.evaluation import judge_run

        return judge_run(
            folder,
            samples=args.samples,
            backbone=args.backbone,
            device=device_of(args.device),
            store=args.store,
        )
    if stage.startswith("workflows.devise."):
        from workflows.devise import report

        found = report.judge_run(
            folder,
            samples=args.samples,
            clip=args.clip,
            device=device_of(args.device),
            store=args.store,
        )
        if found is None:
            print("notice: nothing judges it: there is no split val or test with what it takes.")
            print("  If one was finished since, run the same `tesserae train` again first.")
        return found
    return None


def device_of(named: str | None) -> torch.device:
    """The device of a name, or a GPU if there is one, or the processor.

    Raises:
        ValueError: There is none of that name.
    """
    if named is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(named)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:  # torch says it with either
        first = str(e).splitlines()[0]
        raise ValueError(
            f"--device is {named!r}: expected cpu, or a GPU as cuda:0 ({first})."
        ) from e
    return device


def summary(folder: RunFolder, judged: Judged | None) -> Iterator[str]:
    """The same in a few lines."""
    steps = [line for line in folder.metrics() if line.get("what", "") == ""]
    if steps:
        last = {k: v for k, v in steps[-1].items() if k not in ("step", "generation")}
        said = ", ".join(f"{name} {_figure(value)}" for name, value in last.items())
        yield f"  step {steps[-1]['step']:,}: {said}"
    diverged = folder.diverged()
    if diverged is not None:
        yield f"  {diverged}"
    if judged is not None:
        for name, value in judged.figures():
            yield f"  {name}: {value}"


def _figure(value: float | None) -> str:
    """A figure of a step; `metrics.jsonl` has null for what is not finite."""
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.4g}"


def render(folder: RunFolder, asked: Mapping[str, Any], judged: Judged | None) -> str:
    """The page as one HTML text."""
    lines = folder.metrics()
    steps = [line for line in lines if line.get("what", "") == ""]
    looks = [line for line in lines if line.get("what") == "look"]
    speeds = [line for line in lines if line.get("what") == "speed"]
    body: list[str] = [
        '<p class="quiet">Tesserae run</p>',
        f'<h1 class="mono">{html.text(folder.path.absolute().name)}</h1>',
        html.facts(_facts(asked["options"], steps, speeds)),
        _diverged(folder),
        "<h2>Curves</h2>",
        charts.charts(list(_curves(steps, looks, speeds))),
        *_grids(folder),
        *_judged(judged),
        "<h2>Asked for</h2>",
        _table({**asked["options"], **(asked.get("data") or {})}),
        "<h2>Made with</h2>",
        _table(asked.get("versions", {})),
    ]
    title = f"{folder.path.absolute().name} - Tesserae"
    return html.page(title, filter(None, body), charts.STYLE + STYLE)


STYLE = """
.grids { display: flex; flex-wrap: wrap; gap: 16px; margin-top: 16px; }
.grids figure { margin: 0; max-width: 100%; }
.grids img { display: block; max-width: 100%; image-rendering: pixelated; border-radius: 4px; }
.grids figcaption { font-size: 13px; color: var(--quiet); padding-top: 4px; }
"""


def _diverged(folder: RunFolder) -> str:
    why = folder.diverged()
    return "" if why is None else f'<p class="notice">{html.text(str(why))}</p>'


def _facts(
    options: Mapping[str, Any], steps: list[dict[str, Any]], speeds: list[dict[str, Any]]
) -> Iterator[tuple[str, str, str]]:
    done = steps[-1]["step"] if steps else 0
    yield "steps", f"{done:,}", f"of {options.get('steps', 0):,}"
    if "objective" in options:
        yield "objective", str(options["objective"]), f"{options.get('image_size')} px"
    if speeds:
        rate = float(np.median([line["images_per_second"] for line in speeds]))
        wait = float(np.median([line["wait_share"] for line in speeds]))
        yield "images/s", f"{rate:,.0f}", f"{wait:.1%} of the time waiting for the loader"
    if steps:
        yield "begun", str(steps[-1]["generation"]), "times, at a checkpoint or at the start"


def _curves(
    steps: list[dict[str, Any]], looks: list[dict[str, Any]], speeds: list[dict[str, Any]]
) -> Iterator[str]:
    trained = _series(steps)
    judged = _series(looks)
    if "estimate" in trained:
        both = {f"of training rows, median of {MEDIAN}": smoothed(trained.pop("estimate"))}
        both["of held-out rows"] = judged.pop("held_out_estimate", [])
        yield charts.chart("the critic's estimate", both)
    judged.pop("held_out_critic_loss", None)
    distances = {k: judged.pop(k) for k in list(judged) if k.endswith("_distance")}
    words = {"held_out_distance": "to held-out rows", "train_distance": "to training rows"}
    yield charts.chart(
        "sliced Wasserstein distance of samples",
        {words.get(name, name): points for name, points in distances.items()},
    )
    for name, points in trained.items():
        yield charts.chart(name.replace("_", " "), {f"median of {MEDIAN}": smoothed(points)})
    for name, points in judged.items():
        yield charts.chart(name.replace("_", " "), {"at each look": points})
    speed = _series(speeds)
    yield charts.chart("images/s", {"images/s": speed.get("images_per_second", [])})


def _series(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "generation", "what") and value is not None:
                found.setdefault(name, []).append((float(line["step"]), float(value)))
    return found


def smoothed(points: list[tuple[float, float]], width: int = MEDIAN) -> list[tuple[float, float]]:
    """A curve with each value the median of those around it; the ends are repeated outwards."""
    if not points:
        return []
    values = ndimage.median_filter([y for _, y in points], size=width, mode="nearest")
    return [(x, float(y)) for (x, _), y in zip(points, values, strict=True)]


def _grids(folder: RunFolder) -> Iterator[str]:
    files = sorted((folder.path / "samples").glob("*.png"), key=lambda file: file.stem[-9:])
    if not files:
        return
    places = sorted({round(i * (len(files) - 1) / max(1, GRIDS - 1)) for i in range(GRIDS)})
    yield "<h2>What it makes</h2>"
    figures = [
        picture(files[place].read_bytes(), f"step {int(files[place].stem[-9:]):,}")
        for place in reversed(places)
    ]
    yield f'<div class="grids">{"".join(figures)}</div>'


def picture(png: bytes, caption: str) -> str:
    """A picture inside the page."""
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{html.text(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.text(caption)}</figcaption></figure>"
    )


def _judged(judged: Judged | None) -> Iterator[str]:
    if judged is None:
        return
    yield f"<h2>Judged at step {judged.step:,}</h2>"
    rows = [(html.text(name), html.text(value)) for name, value in judged.figures()]
    yield html.table(["=figure", ">value"], rows)
    if judged.notice:
        yield f'<p class="notice">{html.text(judged.notice)}</p>'
    for title, columns, lines in judged.tables:
        yield f"<h2>{html.text(title)}</h2>"
        yield html.table(columns, [[html.text(cell) for cell in line] for line in lines])
    yield f'<div class="grids">{"".join(picture(png, what) for what, png in judged.pictures)}</div>'


def _table(values: Mapping[str, Any]) -> str:
    rows = [
        (html.text(name.replace("_", " ")), html.code(_shown(value)))
        for name, value in values.items()
    ]
    return html.table(["=name", "value"], rows)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        rest = f", ... ({len(value)})" if len(value) > 12 else ""
        return ", ".join(map(str, value[:12])) + rest
    return str(value)
