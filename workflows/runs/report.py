"""The implementation of `tesserae report`: a run's curves, samples and metrics as a page."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from scipy import ndimage

from workflows.reports import charts, html
from workflows.runs.options import ReportOptions
from workflows.training.errors import DivergedError
from workflows.training.finite import NotFiniteError
from workflows.training.run_folder import RunFolder
from workflows.training.writing import write


class RunEvaluation(Protocol):
    """The protocol of an evaluation of a run, which each stage implements."""

    @property
    def step(self) -> int:
        """The number of complete steps at the evaluated checkpoint."""

    @property
    def notice(self) -> str:
        """Cautions about the metrics; empty if there are none."""

    @property
    def tables(self) -> Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        """The tables, each as its title, its column headings and its rows."""

    @property
    def pictures(self) -> Sequence[tuple[str, bytes]]:
        """The pictures, each as its caption and its PNG file."""

    def figures(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the formatted value of each metric."""


MEDIAN_STEPS = 101
"""The width of the median filter of curves, in steps, as in the paper of WGAN."""
MAX_GRIDS = 8
"""The maximum number of sample grids on the page."""


def run(options: ReportOptions) -> int:
    """Evaluate the run that *options* name, write its page, and return the exit status."""
    folder = RunFolder(options.run)
    record = folder.asked()
    try:
        evaluation = _evaluate(folder, record, options)
    except (DivergedError, NotFiniteError) as e:
        evaluation = None
        print(f"notice: the run cannot be evaluated: {e}", flush=True)
    file = options.run / "report.html"
    write(file, render(folder, record, evaluation).encode())
    for line in summary(folder, evaluation):
        print(line)
    print(f"report: {file}")
    return 0


def _evaluate(
    folder: RunFolder, record: Mapping[str, Any], options: ReportOptions
) -> RunEvaluation | None:
    stage = record["options"].get("stage", "")
    if folder.newest() is None:
        return None
    if stage.startswith("workflows.wgan."):
        from workflows.wgan.evaluation import evaluate_run

        return evaluate_run(
            folder,
            samples=options.samples,
            backbone=options.backbone,
            device=device_of(options.device),
            store=options.store,
        )
    if stage.startswith("workflows.devise."):
        from workflows.devise import report

        evaluation = report.evaluate_run(
            folder,
            samples=options.samples,
            clip=options.clip_model,
            device=device_of(options.device),
            store=options.store,
        )
        if evaluation is None:
            print("notice: the run is not evaluated: no split val or test has the data it needs.")
            print("  If such a split has been finished since, run the same `tesserae train` first.")
        return evaluation
    return None


def device_of(named: str | None) -> torch.device:
    """Return the device with a name; without a name a GPU if there is one, else the CPU.

    Raises:
        ValueError: No device has that name.
    """
    if named is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(named)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:  # torch raises either for a missing device
        first = str(e).splitlines()[0]
        raise ValueError(
            f"--device is {named!r}: expected cpu, or a GPU as cuda:0 ({first})."
        ) from e
    return device


def summary(folder: RunFolder, evaluation: RunEvaluation | None) -> Iterator[str]:
    """Yield a summary of the report, as lines for the terminal."""
    steps = [line for line in folder.metrics() if line.get("what", "") == ""]
    if steps:
        last = {k: v for k, v in steps[-1].items() if k not in ("step", "generation")}
        metrics = ", ".join(f"{name} {_figure(value)}" for name, value in last.items())
        yield f"  step {steps[-1]['step']:,}: {metrics}"
    diverged = folder.diverged()
    if diverged is not None:
        yield f"  {diverged}"
    if evaluation is not None:
        for name, value in evaluation.figures():
            yield f"  {name}: {value}"


def _figure(value: float | None) -> str:
    """Format a metric of a step; null in `metrics.jsonl` stands for NaN or infinity."""
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.4g}"


def render(folder: RunFolder, record: Mapping[str, Any], evaluation: RunEvaluation | None) -> str:
    """Return the page as HTML.

    Args:
        folder: The run folder.
        record: The content of its `options.json`.
        evaluation: The evaluation of the run; None = it has none.
    """
    lines = folder.metrics()
    steps = [line for line in lines if line.get("what", "") == ""]
    evaluations = [line for line in lines if line.get("what") == "look"]
    speeds = [line for line in lines if line.get("what") == "speed"]
    body: list[str] = [
        '<p class="quiet">Tesserae run</p>',
        f'<h1 class="mono">{html.text(folder.path.absolute().name)}</h1>',
        html.facts(_facts(record["options"], steps, speeds)),
        _diverged(folder),
        "<h2>Curves</h2>",
        charts.charts(list(_curves(steps, evaluations, speeds))),
        *_grids(folder),
        *_evaluation(evaluation),
        "<h2>Options</h2>",
        _table({**record["options"], **(record.get("data") or {})}),
        "<h2>Versions</h2>",
        _table(record.get("versions", {})),
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
        yield "images/s", f"{rate:,.0f}", f"loader wait {wait:.1%}"
    if steps:
        yield "starts", str(steps[-1]["generation"]), ""


def _curves(
    steps: list[dict[str, Any]], evaluations: list[dict[str, Any]], speeds: list[dict[str, Any]]
) -> Iterator[str]:
    trained = _series(steps)
    evaluated = _series(evaluations)
    if "estimate" in trained:
        estimates = {
            f"training rows, median of {MEDIAN_STEPS} steps": smoothed(trained.pop("estimate"))
        }
        estimates["held-out rows"] = evaluated.pop("held_out_estimate", [])
        yield charts.chart("critic's estimate", estimates)
    evaluated.pop("held_out_critic_loss", None)
    distances = {k: evaluated.pop(k) for k in list(evaluated) if k.endswith("_distance")}
    words = {"held_out_distance": "to held-out rows", "train_distance": "to training rows"}
    yield charts.chart(
        "sliced Wasserstein distance of samples",
        {words.get(name, name): points for name, points in distances.items()},
    )
    for name, points in trained.items():
        yield charts.chart(
            name.replace("_", " "), {f"median of {MEDIAN_STEPS} steps": smoothed(points)}
        )
    for name, points in evaluated.items():
        yield charts.chart(name.replace("_", " "), {"evaluations": points})
    speed = _series(speeds)
    yield charts.chart("images/s", {"images/s": speed.get("images_per_second", [])})


def _series(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "generation", "what") and value is not None:
                series.setdefault(name, []).append((float(line["step"]), float(value)))
    return series


def smoothed(
    points: list[tuple[float, float]], width: int = MEDIAN_STEPS
) -> list[tuple[float, float]]:
    """Return a curve smoothed by a median filter of *width* values, with repeated ends."""
    if not points:
        return []
    values = ndimage.median_filter([y for _, y in points], size=width, mode="nearest")
    return [(x, float(y)) for (x, _), y in zip(points, values, strict=True)]


def _grids(folder: RunFolder) -> Iterator[str]:
    files = sorted((folder.path / "samples").glob("*.png"), key=lambda file: file.stem[-9:])
    if not files:
        return
    indices = sorted(
        {round(i * (len(files) - 1) / max(1, MAX_GRIDS - 1)) for i in range(MAX_GRIDS)}
    )
    yield "<h2>Samples</h2>"
    figures = [
        picture(files[index].read_bytes(), f"step {int(files[index].stem[-9:]):,}")
        for index in reversed(indices)
    ]
    yield f'<div class="grids">{"".join(figures)}</div>'


def picture(png: bytes, caption: str) -> str:
    """Return an HTML figure with the picture embedded in it."""
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{html.text(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.text(caption)}</figcaption></figure>"
    )


def _evaluation(evaluation: RunEvaluation | None) -> Iterator[str]:
    if evaluation is None:
        return
    yield f"<h2>Evaluation at step {evaluation.step:,}</h2>"
    rows = [(html.text(name), html.text(value)) for name, value in evaluation.figures()]
    yield html.table(["=figure", ">value"], rows)
    if evaluation.notice:
        yield f'<p class="notice">{html.text(evaluation.notice)}</p>'
    for title, columns, lines in evaluation.tables:
        yield f"<h2>{html.text(title)}</h2>"
        yield html.table(columns, [[html.text(cell) for cell in line] for line in lines])
    figures = [picture(png, caption) for caption, png in evaluation.pictures]
    yield f'<div class="grids">{"".join(figures)}</div>'


def _table(values: Mapping[str, Any]) -> str:
    rows = [
        (html.text(name.replace("_", " ")), html.code(_display_value(value)))
        for name, value in values.items()
    ]
    return html.table(["=name", "value"], rows)


def _display_value(value: Any) -> str:
    if isinstance(value, list):
        suffix = f", ... ({len(value)})" if len(value) > 12 else ""
        return ", ".join(map(str, value[:12])) + suffix
    return str(value)
