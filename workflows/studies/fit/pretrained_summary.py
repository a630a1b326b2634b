"""The tables, the figure and the answers on a pretrained network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from workflows.classify.evaluation import wilson_interval
from workflows.classify.stage import TOP
from workflows.reports.figures import Estimate, interval_figure
from workflows.reports.table import Table
from workflows.studies.arm_tables import StudyMetric
from workflows.studies.fit import CROP
from workflows.studies.fit.options import FitOptions
from workflows.studies.fit.paired import PairedDifference, paired_difference
from workflows.studies.fit.photographs import PhotographsRecord
from workflows.studies.fit.pretrained import OWN, PolicyHits
from workflows.studies.fit.report_parts import (
    QUESTION,
    cost_table,
    rectangle_notes,
    unreadable_notes,
)
from workflows.studies.fit.shapes import SHAPES, elongation, shape_of
from workflows.studies.fit.stores import EvaluatedImages
from workflows.studies.intervals import MIN_VALUES, MeanInterval
from workflows.studies.report import StudyReport
from workflows.terminal.formatting import counted

_TOP1 = StudyMetric(name="top-1", heading="top-1", percent=True, higher_is_better=True)


def pretrained_report(
    hits: Mapping[str, PolicyHits],
    images: EvaluatedImages,
    record: PhotographsRecord,
    options: FitOptions,
    settings: Mapping[str, Any],
    *,
    size: int,
    own_side: int,
    num_unreadable: int = 0,
) -> StudyReport:
    """Return the report of a pretrained network.

    Args:
        hits: The recognised images by policy.
        images: The evaluated images, those of classes that the network knows.
        record: The record of the photographs, with their numbers and classes.
        options: The options of the study.
        settings: The settings of the folder.
        size: The side of the images that the network takes, in pixels.
        own_side: The side to which its own preprocessing scales the short side, in pixels.
        num_unreadable: The number of images that were left out, as they cannot be decoded.
    """
    top1, top5 = ({name: each.hits(top=top) for name, each in hits.items()} for top in (1, TOP))
    differences = {name: paired_difference(top1[name], top1[CROP]) for name in hits if name != CROP}
    rows = []
    for name in hits:
        difference = differences.get(name)
        rows.append(
            [
                name,
                _share_text(top1[name]),
                "" if difference is None else _difference_text(difference),
                "" if difference is None else f"{difference.gained} / {difference.lost}",
                "" if difference is None else f"{difference.p_value:.2g}",
                _share_text(top5[name]),
            ]
        )
    table = Table(
        "Accuracy in %, with 95 % intervals over images",
        ["policy", "top-1", "difference to crop, points", "gained / lost", "McNemar p", "top-5"],
        rows,
        text_columns=("policy",),
    )
    return StudyReport(
        title="Crop, pad or squish: a pretrained network",
        question=QUESTION,
        answers=options.answers(
            _answer(name, difference) for name, difference in differences.items()
        ),
        tables=[table, _shape_table(top1, images), cost_table(images)],
        figures={
            "differences": interval_figure(
                "Top-1 minus that of crop",
                [
                    Estimate(label=name, value=100 * d.mean, low=100 * d.low, high=100 * d.high)
                    for name, d in differences.items()
                ],
                across="points",
                reference=0,
            )
        },
        notes=[
            *_notes(images, record, size, own_side),
            *unreadable_notes(num_unreadable),
        ],
        settings=settings,
    )


def policy_line(hits: PolicyHits) -> str:
    """Return the line of an evaluated policy.

    Args:
        hits: The recognised images.
    """
    return (
        f"{hits.policy:<14} top-1 {hits.hits().mean():.1%}  top-5 {hits.hits(top=TOP).mean():.1%}"
    )


def _share_text(hits: Any) -> str:
    low, high = wilson_interval(int(hits.sum()), len(hits))
    return f"{100 * hits.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _difference_text(difference: PairedDifference) -> str:
    # It is over many images, so that there is an interval.
    interval = MeanInterval(MIN_VALUES, difference.mean, difference.low, difference.high)
    return _TOP1.difference_text(interval)


def _answer(name: str, difference: PairedDifference) -> str:
    seen = "no difference seen"
    if difference.is_seen:
        seen = "better" if difference.mean > 0 else "worse"
    return f"{name}, top-1 minus that of {CROP}: {_difference_text(difference)} points: {seen}"


def _shape_table(top1: Mapping[str, Any], images: EvaluatedImages) -> Table:
    shapes = shape_of(elongation(images.widths, images.heights))
    counts = [int((shapes == index).sum()) for index in range(len(SHAPES))]
    rows = [
        [
            name,
            *(
                _share_text(hits[shapes == index]) if counts[index] else "-"
                for index in range(len(SHAPES))
            ),
        ]
        for name, hits in top1.items()
    ]
    columns = ["policy", *(f"{s} ({counted(n, 'image')})"
                           for s, n in zip(SHAPES, counts, strict=True))]  # fmt: skip
    title = "Top-1 accuracy in % by the ratio of the longer side to the shorter one"
    return Table(title, columns, rows, text_columns=("policy",))


def _notes(
    images: EvaluatedImages, record: PhotographsRecord, size: int, own_side: int
) -> Iterator[str]:
    num_known = len(np.unique(images.labels))
    yield (
        f"{len(images.labels):,} images of {num_known:,} classes that the network knows by their"
        f" names, of {record.num_evaluated:,} of {len(record.classes):,} classes; the highest score"
        " is that among all classes of the network. Nothing was trained or chosen."
    )
    yield from rectangle_notes(record)
    yield f"Squares have {size} px, the network's input."
    if own_side > size:
        yield (
            f"{OWN} scales the short side to {own_side} px and cuts the central {size} px: the"
            " preprocessing that the network was trained for."
        )
    yield (
        "Intervals: Wilson's for shares, and the bootstrap over images for differences, which are"
        " paired by image; McNemar's test is exact. A difference is seen if its interval excludes 0"
        " and p is below 0.05."
    )
    yield (
        f"Images of split {record.evaluated} may be among those that the network was trained on:"
        " then its accuracy is too high, and differences may be too small."
    )
