"""The implementation of `tesserae report`: the page of a run, or of several side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from workflows.options.fields import flags_of
from workflows.reports import html
from workflows.reports.curve_names import charts_of
from workflows.reports.table import Table
from workflows.runs.compare import open_runs, render_comparison
from workflows.runs.curves import (
    MEDIAN_STEPS,
    RATE,
    Points,
    finite_values,
    read_curves,
    smoothed,
)
from workflows.runs.option_text import option_text
from workflows.runs.options import ReportOptions
from workflows.terminal.formatting import share_text, three_digits
from workflows.training.devices import parse_device
from workflows.training.errors import DivergedError
from workflows.training.finite import NonFiniteError
from workflows.training.run_folder import RunFolder
from workflows.training.stage_registry import STAGES, StageEntry, import_object, recorded_name
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
    def tables(self) -> Sequence[Table]:
        """The tables of metrics."""

    @property
    def images(self) -> Sequence[tuple[str, bytes]]:
        """The images, each as its caption and its PNG file."""

    def metrics(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the formatted value of each metric."""


MAX_GRIDS = 8
"""The maximum number of sample grids on the page."""
DATA_OPTIONS = {"split": "split", "stored_size": "size", "rows": "rows", "features": "features"}
"""The entries of `options` that describe the data, and what `data` calls them."""
LABELS = {
    "rows": "digest of the rows", "plan": "digest of the plan", "size": "size, px",
    "encoded": "encoded rows", "sizes": "sizes of the store, px",
    "held_out_size": "size of held-out images, px",
}  # fmt: skip
"""The labels of values on the page that differ from their names in `options.json`."""
STAGELESS_OPTIONS = ("device", "store", "out")
"""The options that have an effect on a run of any stage."""
TEMPLATE = Path(__file__).with_name("templates") / "run.html"
"""The template of the page."""


def run_report(options: ReportOptions) -> int:
    """Evaluate a run, write its page and print a summary; or write a page that compares runs.

    Args:
        options: `runs`, the folders of the runs. With one, the page is `report.html` in it; several
            are not evaluated, and their page is `comparison.html`; `out` is another file for
            either. Of a single run also `device`, the torch device (None = a GPU if there is
            one); `store`, the location of the store (None = as recorded); and what the stage of the
            run evaluates with, as the function `evaluate_for_report` of each stage describes it. A
            notice names those without effect on this stage.

    Returns:
        The exit status: 0, or 1 if images of the evaluation had to be left out. A run that has
        diverged, that has no checkpoint or whose stage has no evaluation gets a page without one.

    Raises:
        TesseraeError: A folder holds no run, its store or a model cannot be opened, or the disk
            is full.
        ValueError: The run is evaluated, and there is no such device, or there are too few images
            for the metrics of `--backbone`.
        OSError: The page cannot be written for another reason than a full disk.
    """
    if len(options.runs) > 1:
        return _compare(options)
    folder = RunFolder(options.runs[0])
    record = folder.read_options()
    try:
        evaluation = _evaluate_run(folder, record, options)
    except (DivergedError, NonFiniteError) as e:
        evaluation = None
        print(f"notice: the run cannot be evaluated: {e}", flush=True)
    file = options.out or folder.path / "report.html"
    write(file, render_run_page(folder, record, evaluation).encode())
    for line in summary(folder, evaluation):
        print(line)
    print(f"report: {file}")
    # Evaluations of stages outside of Tesserae need not say whether they are complete.
    return 0 if getattr(evaluation, "complete", True) else 1


def _compare(options: ReportOptions) -> int:
    for word in flags_of(options, exclude=("out", "runs")):
        if word.startswith("--"):
            print(f"notice: {word.partition('=')[0]} has no effect on a comparison.", flush=True)
    runs = open_runs(options.runs)
    page = render_comparison(runs)
    file = options.out or Path("comparison.html")
    write(file, page.encode())
    for run in runs:
        for line in summary(run.folder, None):
            print(f"{run.label}: {line.strip()}")
    print(f"comparison: {file}")
    return 0


def _evaluate_run(
    folder: RunFolder, record: Mapping[str, Any], options: ReportOptions
) -> RunEvaluation | None:
    name = record["options"].get("stage", "")
    stage = STAGES.get(name)
    if stage is None or stage.evaluate is None:
        return None
    if folder.newest_checkpoint() is None:
        print("notice: the run is not evaluated, as it has no checkpoint yet.", flush=True)
        return None
    for flag in _flags_without_effect(stage, options):
        print(f"notice: {flag} has no effect on a run of {name}.", flush=True)
    evaluation: RunEvaluation | None = import_object(stage.evaluate)(
        folder, options, parse_device(options.device)
    )
    return evaluation


def _flags_without_effect(stage: StageEntry, options: ReportOptions) -> list[str]:
    """Return the flags that were passed, and that the evaluation of a stage does not use."""
    if stage.evaluation_options is None:
        return []
    words = flags_of(options, exclude=(*STAGELESS_OPTIONS, *stage.evaluation_options))
    return [word.partition("=")[0] for word in words if word.startswith("--")]


def summary(folder: RunFolder, evaluation: RunEvaluation | None) -> Iterator[str]:
    """Yield the lines that summarise a run in the terminal.

    They are the metrics of the last step that was recorded, if there is one; why the run diverged,
    if it did; and the metrics of the evaluation, if there is one.

    Args:
        folder: The run folder, whose `metrics.jsonl` is read.
        evaluation: The evaluation of the run, as the function `evaluate_for_report` of its stage
            returns it, of which only `metrics()` is used; None = it has none.

    Yields:
        Lines without a newline, indented by two spaces; nothing if there is nothing to tell.

    Raises:
        TesseraeError: `metrics.jsonl` has invalid content.
    """
    steps = [line for line in folder.metrics() if line.get("what", "") == ""]
    if steps:
        last = {k: v for k, v in steps[-1].items() if k not in ("step", "generation")}
        metrics = ", ".join(f"{name} {_metric(value)}" for name, value in last.items())
        yield f"  step {steps[-1]['step']:,}: {metrics}"
    diverged = folder.diverged()
    if diverged is not None:
        yield f"  {diverged}"
    if evaluation is not None:
        for name, value in evaluation.metrics():
            yield f"  {name}: {value}"


def _metric(value: float | None) -> str:
    """Format a metric of a step; null in `metrics.jsonl` stands for NaN or infinity."""
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.4g}"


def render_run_page(
    folder: RunFolder, record: Mapping[str, Any], evaluation: RunEvaluation | None
) -> str:
    """Return the page of a run as HTML text, which holds its images and needs no other file.

    Args:
        folder: The run folder, whose metrics and samples are read. Nothing is written.
        record: The content of its `options.json`, as `RunFolder.read_options` returns it.
        evaluation: The evaluation of the run, as the function `evaluate_for_report` of its stage
            returns it; None = it has none.

    Raises:
        TesseraeError: `metrics.jsonl` has invalid content.
    """
    lines = folder.metrics()
    steps, speeds = (
        [line for line in lines if line.get("what", "") == kind] for kind in ("", "speed")
    )
    options = dict(record["options"])
    stage = recorded_name(options.pop("stage", ""))
    data = {name: options.pop(key) for key, name in DATA_OPTIONS.items() if key in options}
    return html.render(
        TEMPLATE,
        title=folder.path.absolute().name,
        stage=stage,
        diverged=folder.diverged(),
        facts=list(_facts(record["options"], steps, speeds)),
        charts=list(charts_of(_curves(lines))),
        median_steps=MEDIAN_STEPS,
        samples=list(_sample_grids(folder)),
        evaluation=evaluation,
        options=_pairs(options),
        data=_pairs({**data, **(record.get("data") or {})}),
        versions=_pairs(record.get("versions", {})),
    )


def _facts(
    options: Mapping[str, Any], steps: list[dict[str, Any]], speeds: list[dict[str, Any]]
) -> Iterator[tuple[str, str, str]]:
    done = steps[-1]["step"] if steps else 0
    yield "Steps", f"{done:,}", f"of {options.get('steps', 0):,}"
    if "scale" in options:
        yield "Network", str(options.get("network")), f"enlarges by {options['scale']}"
    elif "objective" in options:
        yield "Objective", str(options["objective"]), f"images of {options.get('image_size')} px"
    rates, waits = (finite_values(speeds, name) for name in (RATE, "wait_share"))
    if rates:
        wait = f"loader wait {share_text(float(np.median(waits)), 1)}" if waits else ""
        yield "Images/s", three_digits(float(np.median(rates))), wait
    if steps:
        # Generations count the starts of the ranks, from 1.
        yield "Restarts", str(steps[-1]["generation"] - 1), ""


def _curves(lines: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, Points]]:
    """Yield the metric, an empty remark and the points of each curve."""
    for name, evaluated, points in read_curves(lines):
        yield name, "", points if evaluated else smoothed(points)


def _sample_grids(folder: RunFolder) -> Iterator[tuple[str, int, bytes]]:
    """Yield the name, the step and the PNG of grids over the whole run, the newest first."""
    grids = (folder.path / "samples").glob(f"*-{'[0-9]' * 9}.png")  # others are not of the run
    files = sorted(grids, key=lambda file: file.stem[-9:])
    last = len(files) - 1
    indices = {round(i * last / max(1, MAX_GRIDS - 1)) for i in range(MAX_GRIDS)} if files else ()
    for index in sorted(indices, reverse=True):
        name, _, step = files[index].stem.rpartition("-")
        yield name, int(step), files[index].read_bytes()


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (LABELS.get(name, name.replace("_", " ")), option_text(value))
        for name, value in values.items()
    ]
