"""The tables, figures and answers on new networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workflows.classify.stage import TOP
from workflows.reports.figures import Estimate, Figure, Point, interval_figure, point_figure
from workflows.reports.table import Table
from workflows.studies.arm_tables import (
    StudyMetric,
    arm_table,
    difference_of,
    interval_of,
    verdict,
)
from workflows.studies.fit import CROP, FITS, SQUISH
from workflows.studies.fit.options import FitOptions
from workflows.studies.fit.photographs import PhotographsRecord
from workflows.studies.fit.report_parts import (
    QUESTION,
    cost_table,
    rectangle_notes,
    unreadable_notes,
)
from workflows.studies.fit.shapes import SHAPES, elongation, shape_of
from workflows.studies.fit.stores import EvaluatedImages
from workflows.studies.fit.training import QueryHits, mask_of, metric_name
from workflows.studies.intervals import MeanInterval, mean_interval
from workflows.studies.report import StudyReport
from workflows.studies.runs import StudyRun
from workflows.terminal.formatting import seconds_text

TOP1 = StudyMetric(name="top-1", heading="top-1", percent=True, higher_is_better=True)
TOP5 = StudyMetric(name="top-5", heading="top-5", percent=True, higher_is_better=True)


def cell_name(trained: str, query: str) -> str:
    """Return the name of a pair of fits, such as `train crop, query pad`.

    Args:
        trained: The fit of the training images.
        query: The fit of the evaluated images.
    """
    return f"train {trained}, query {query}"


BASE = cell_name(CROP, CROP)
"""The pair that all others are compared with."""
NOTEBOOK = cell_name(CROP, SQUISH)
"""The pair of the notebook of 2017: its index is cropped, and its query is squished."""
CELLS = tuple(cell_name(trained, query) for trained in FITS for query in FITS)
"""The names of all pairs."""


def cells_of(runs: Sequence[StudyRun]) -> list[StudyRun]:
    """Return the metrics of each pair of fits as a run of its own, whose arm is the pair.

    Args:
        runs: The finished runs, whose arms are the fits of the training images.
    """
    return [
        StudyRun(
            arm=cell_name(run.arm, query),
            seed=run.seed,
            metrics={
                name: run.metrics[full]
                for name, full in _metric_names(query).items()
                if full in run.metrics
            },
            seconds=run.seconds,
        )
        for run in runs
        for query in FITS
    ]


def _metric_names(query: str) -> dict[str, str]:
    names = {"top-1": metric_name(query), "top-5": metric_name(query, top=TOP)}
    return names | {shape: metric_name(query, shape=shape) for shape in SHAPES}


def run_line(run: StudyRun) -> str:
    """Return the line of a finished run.

    Args:
        run: The run.
    """
    accuracies = "  ".join(f"{query} {run.metrics[metric_name(query)]:>6.1%}" for query in FITS)
    return (
        f"seed {run.seed:<3} train {run.arm:<7} top-1 by query: {accuracies} "
        f" {seconds_text(run.seconds)}"
    )


def training_report(
    runs: Sequence[StudyRun],
    hits: Sequence[QueryHits],
    images: EvaluatedImages,
    record: PhotographsRecord,
    options: FitOptions,
    settings: Mapping[str, Any],
    *,
    num_unreadable: int = 0,
) -> StudyReport:
    """Return the report of new networks.

    Args:
        runs: The finished runs, whose arms are the fits of the training images.
        hits: The recognised images of each run and query; those of other runs are left out.
        images: The evaluated images.
        record: The record of the photographs, with their numbers and classes.
        options: The options of the study.
        settings: The settings of the folder.
        num_unreadable: The number of images that were left out, as they cannot be decoded.
    """
    cells = cells_of(runs)
    finished = {(run.arm, run.seed) for run in runs}
    shares = _recognised_shares([each for each in hits if (each.arm, each.seed) in finished])
    tables = [_cross_table(cells), _difference_table(cells, shares), _shape_table(cells)]
    if any("top-5" in cell.metrics for cell in cells):
        tables.append(arm_table("Top-5 accuracy", cells, CELLS, [TOP5], base=BASE))
    tables += [cost_table(images)]
    return StudyReport(
        title="Crop, pad or squish",
        question=QUESTION,
        answers=options.answers(_answers(cells, shares)),
        tables=tables,
        figures=dict(_figures(cells, images)),
        notes=[
            *_notes(images, record, options),
            *unreadable_notes(num_unreadable),
        ],
        settings=settings,
    )


def _cross_table(cells: Sequence[StudyRun]) -> Table:
    rows = []
    for trained in FITS:
        means = (interval_of(cells, cell_name(trained, query), TOP1) for query in FITS)
        rows.append([trained, *("-" if mean is None else TOP1.text(mean) for mean in means)])
    columns = ["trained on", *(f"query {query}" for query in FITS)]
    title = "Top-1 accuracy in %, with 95 % intervals over seeds"
    return Table(title, columns, rows, text_columns=("trained on",))


def _recognised_shares(hits: Sequence[QueryHits]) -> dict[str, NDArray[np.float64]]:
    """Return the share of the seeds that recognise each image, (n,), by the name of the pair."""
    # A run that was killed before it was recorded has left hits, which the repeated run equals.
    latest = {(each.arm, each.query, each.seed): each.bits for each in hits}
    of_pairs: dict[str, list[NDArray[np.bool_]]] = {}
    for (trained, query, _), bits in latest.items():
        of_pairs.setdefault(cell_name(trained, query), []).append(mask_of(bits))
    return {name: np.mean(masks, axis=0) for name, masks in of_pairs.items()}


def _difference_table(
    cells: Sequence[StudyRun], shares: Mapping[str, NDArray[np.float64]]
) -> Table:
    rows = []
    for trained in FITS:
        matched = cell_name(trained, trained)
        for query in FITS:
            name = cell_name(trained, query)
            row = [f"{name} (the notebook's mix)" if name == NOTEBOOK else name]
            for base in (BASE, matched):
                row += ["", ""] if name == base else _difference_cells(cells, shares, name, base)
            rows.append(row)
    columns = ["arm", f"to {BASE}", "over images", "to its own query", "own query, over images"]
    title = (
        "Differences in top-1 accuracy, in points, with intervals over seeds, and over images of"
        " the mean over seeds"
    )
    return Table(title, columns, rows, text_columns=("arm",))


def _difference_cells(
    cells: Sequence[StudyRun], shares: Mapping[str, NDArray[np.float64]], name: str, base: str
) -> list[str]:
    over_seeds = difference_of(cells, name, base, TOP1.name)
    if over_seeds is None:
        return ["-", "-"]
    over_images = _over_images(shares, name, base)
    numbers = f"({100 * over_images.low:+.1f} to {100 * over_images.high:+.1f})"
    return [TOP1.difference_text(over_seeds), numbers]


def _over_images(shares: Mapping[str, NDArray[np.float64]], name: str, base: str) -> MeanInterval:
    return mean_interval((shares[name] - shares[base]).tolist())


def _shape_table(cells: Sequence[StudyRun]) -> Table:
    metrics = [StudyMetric(name=shape, heading=shape, percent=True) for shape in SHAPES]
    title = "Top-1 accuracy by the ratio of the longer side to the shorter one"
    return arm_table(title, cells, CELLS, metrics)


def _answers(cells: Sequence[StudyRun], shares: Mapping[str, NDArray[np.float64]]) -> Iterator[str]:
    def answers(trained: str, query: str, base: str) -> Iterator[str]:
        """Yield the sentence on the difference of a pair of fits to its base, if it has one."""
        name = cell_name(trained, query)
        over_seeds = difference_of(cells, name, base, TOP1.name)
        if name == base or over_seeds is None:
            return
        # Both kinds of chance are to be excluded: that of training, and that of the images.
        over_images = _over_images(shares, name, base)
        is_decided = over_images.excludes_zero or not over_seeds.has_interval
        text, images_text = _difference_cells(cells, shares, name, base)
        yield (
            f"{name}, {TOP1.heading} minus that of {base}: {text} points, over images"
            f" {images_text}: {verdict(over_seeds if is_decided else over_images, TOP1)}"
        )

    for fit in FITS:
        yield from answers(fit, fit, BASE)
    for line in answers(CROP, SQUISH, BASE):
        yield f"The notebook's mix: {line}"
    for trained in FITS:
        for query in FITS:
            # The mix of the notebook has its sentence already.
            if query != trained and cell_name(trained, query) != NOTEBOOK:
                yield from answers(trained, query, cell_name(trained, trained))


def _figures(cells: Sequence[StudyRun], images: EvaluatedImages) -> Iterator[tuple[str, Figure]]:
    estimates = list(_difference_estimates(cells))
    if estimates:
        title = f"Top-1 minus that of {BASE}"
        yield "differences", interval_figure(title, estimates, across="points", reference=0)
    ratios = elongation(images.widths, images.heights)
    shapes = shape_of(ratios)
    centres = {
        name: float(ratios[shapes == index].mean())
        for index, name in enumerate(SHAPES)
        if (shapes == index).any()
    }
    pairs = [*((fit, fit) for fit in FITS), (CROP, SQUISH)]
    names = [cell_name(trained, query) for trained, query in pairs]
    series = {name: list(_shape_points(cells, name, centres)) for name in names}
    if any(series.values()):
        yield (
            "shapes",
            point_figure(
                "Top-1 by shape",
                series,
                across="longer side / shorter side, mean of the images",
                upwards="top-1 accuracy, %",
                joined=True,
            ),
        )


def _difference_estimates(cells: Sequence[StudyRun]) -> Iterator[Estimate]:
    for trained in FITS:
        for query in FITS:
            name = cell_name(trained, query)
            difference = difference_of(cells, name, BASE, TOP1.name) if name != BASE else None
            if difference is not None:
                yield Estimate(
                    label=name,
                    value=100 * difference.mean,
                    low=100 * difference.low,
                    high=100 * difference.high,
                    series=f"trained on {trained}",
                )


def _shape_points(
    cells: Sequence[StudyRun], name: str, centres: Mapping[str, float]
) -> Iterator[Point]:
    for shape, centre in centres.items():
        mean = interval_of(cells, name, replace(TOP1, name=shape))
        if mean is not None:
            yield Point(x=centre, y=100 * mean.mean, low=100 * mean.low, high=100 * mean.high)


def _notes(
    images: EvaluatedImages, record: PhotographsRecord, options: FitOptions
) -> Iterator[str]:
    labels = images.labels
    chance = float(np.bincount(labels).max() / len(labels))
    yield (
        f"{record.num_train:,} training and {len(labels):,} evaluated images of"
        f" {len(record.classes):,} classes; chance, the share of the largest class, is"
        f" {chance:.1%}."
    )
    yield from rectangle_notes(record)
    yield (
        "Each seed trains a network on each fit from the same initial weights, with the same images"
        " in the same order and the same mirror images and shifts; it keeps scale and aspect ratio."
    )
    yield (
        "Intervals are Student's t. Those over seeds cover the randomness of training, for these"
        " evaluated images; those over images are of the mean over these seeds, paired by image,"
        " and cover the choice of the images. A difference is seen only if both exclude 0."
    )
    if options.validation:
        yield (
            "A fifth of the training images was evaluated and the others were trained on; the"
            " held-out split was not read."
        )
    else:
        yield (
            f"Evaluated images are those of split {record.evaluated}, which chose no setting:"
            " epochs and learning rate were fixed before, the same for all fits."
        )
    yield f"The control is the shape {SHAPES[0]}, which every fit changes least."
