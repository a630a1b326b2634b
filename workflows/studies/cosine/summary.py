"""The tables, the figures and the answers of the study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.neighbours.vectors import Doubles
from workflows.reports.figures import Estimate, Figure, Point, interval_figure, point_figure
from workflows.reports.table import Table
from workflows.studies.arm_tables import (
    StudyMetric,
    arm_table,
    conclusions,
    difference_of,
    interval_of,
)
from workflows.studies.cosine.measure import CENTRED, FORMS, PAIRS, RAW, UNIT
from workflows.studies.cosine.rankings import COSINE, MEASURES, RANDOM, K
from workflows.studies.runs import StudyRun

HUBNESS = StudyMetric(name="hubness", heading="hubness", decimals=2, higher_is_better=False)
HUB_METRICS = (
    HUBNESS,
    StudyMetric(name="orphans", heading="no one's neighbour", percent=True, higher_is_better=False),
    StudyMetric(name="largest", heading="largest hub", percent=True, higher_is_better=False),
    StudyMetric(
        name="length_correlation", heading="correlation with length", decimals=2, limits=(-1, 1)
    ),
    StudyMetric(
        name="mean_correlation",
        heading="correlation with cosine to mean",
        decimals=2,
        limits=(-1, 1),
    ),
)
PRECISION = StudyMetric(
    name="precision", heading=f"precision@{K}", percent=True, higher_is_better=True
)
FORM_METRICS = (
    StudyMetric(name="mean_cosine", heading="mean cosine of pairs", limits=(-1, 1)),
    StudyMetric(name="mean_share", heading="share of the mean vector", percent=True),
    StudyMetric(name="dot_cosine", heading="dot and cosine", percent=True),
    StudyMetric(name="cosine_euclidean", heading="cosine and Euclidean", percent=True),
    StudyMetric(name="dot_euclidean", heading="dot and Euclidean", percent=True),
    StudyMetric(name="same", heading="same lists", percent=True),
)
METRICS = {metric.name: metric for metric in FORM_METRICS}
"""The metrics of the forms of vectors, by name."""
RANK_BINS = 20
"""The number of equally large groups of words, by rank, of which lengths are shown."""


def measure_arm(set_name: str, measure: str) -> str:
    """Return the name of the arm of a measure of similarity.

    Args:
        set_name: The name of the vectors, such as `words`.
        measure: One of `rankings.MEASURES`.
    """
    return f"{set_name} by {measure}"


def form_arm(set_name: str, form: str) -> str:
    """Return the name of the arm of a form of the vectors.

    Args:
        set_name: The name of the vectors, such as `words`.
        form: One of `measure.FORMS`.
    """
    return f"{set_name}, {form}"


# --- tables ---------------------------------------------------------------------------------------


def norm_table(quantiles: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the table of the lengths of vectors.

    Args:
        quantiles: The quantiles of each set by name, all with the same names.
    """
    columns = ["vectors", *next(iter(quantiles.values()))]
    rows = [
        [name, *(f"{value:.3f}" for value in values.values())] for name, values in quantiles.items()
    ]
    return Table("Lengths of the vectors", columns, rows, ["vectors"])


def set_tables(set_name: str, runs: Sequence[StudyRun], *, has_labels: bool) -> Iterator[Table]:
    """Yield the tables of a set: the forms of its vectors, and the measures of similarity.

    Args:
        set_name: The name of the vectors.
        runs: All runs.
        has_labels: True if neighbours of the same class were counted.
    """
    yield arm_table(
        f"{set_name}: agreement of the {K} nearest by dot product, cosine and Euclidean distance",
        runs,
        [form_arm(set_name, form) for form in FORMS],
        FORM_METRICS,
    )
    arms = [measure_arm(set_name, measure) for measure in MEASURES]
    yield arm_table(f"{set_name}: hubs among the {K} nearest", runs, arms, HUB_METRICS)
    if has_labels:
        yield arm_table(
            f"{set_name}: neighbours of the same class among the {K} nearest",
            runs,
            arms,
            [PRECISION],
            base=measure_arm(set_name, COSINE),
        )


# --- figures --------------------------------------------------------------------------------------


def hubness_figure(set_names: Sequence[str], runs: Sequence[StudyRun]) -> Figure:
    """Return the figure of hubness by measure of similarity.

    Args:
        set_names: The names of the sets of vectors.
        runs: All runs.
    """
    rows = [
        row
        for set_name in set_names
        for measure in MEASURES
        for row in _estimates(
            runs, measure_arm(set_name, measure), HUBNESS, f"{set_name}: {measure}", set_name
        )
    ]
    return interval_figure(
        f"Hubness of the {K} nearest: 0 is symmetric, larger is worse", rows,
        across="skewness of how often a vector is a neighbour", reference=0,
    )  # fmt: skip


def agreement_figure(set_name: str, runs: Sequence[StudyRun]) -> Figure:
    """Return the figure of the neighbours that two measures have in common, by form.

    Args:
        set_name: The name of the vectors.
        runs: All runs.
    """
    rows = [
        row
        for form in FORMS
        for pair, (first, second) in PAIRS.items()
        for row in _estimates(
            runs, form_arm(set_name, form), METRICS[pair], f"{form}: {first}, {second}", form
        )
    ]
    return interval_figure(
        f"{set_name.capitalize()}: neighbours that two measures have in common", rows,
        across=f"shared among the {K} nearest, %",
    )  # fmt: skip


def precision_figure(set_name: str, runs: Sequence[StudyRun]) -> Figure:
    """Return the figure of neighbours of the same class, as differences to cosine.

    Args:
        set_name: The name of the vectors.
        runs: All runs.
    """
    base = measure_arm(set_name, COSINE)
    rows = []
    for measure in MEASURES:
        if measure == RANDOM:  # chance would stretch the axis
            continue
        arm = measure_arm(set_name, measure)
        difference = difference_of(runs, arm, base, "precision") if measure != COSINE else None
        if difference is not None:
            values = (100 * v for v in (difference.mean, difference.low, difference.high))
            mean, low, high = values
            rows.append(Estimate(label=measure, value=mean, low=low, high=high))
    return interval_figure(
        f"{set_name.capitalize()}: neighbours of the same class, minus those by cosine", rows,
        across=f"points of precision@{K}", reference=0,
    )  # fmt: skip


def _estimates(
    runs: Sequence[StudyRun], arm: str, metric: StudyMetric, label: str, series: str
) -> Iterator[Estimate]:
    interval = interval_of(runs, arm, metric)
    if interval is not None:
        factor = 100 if metric.percent else 1
        value, low, high = (factor * v for v in (interval.mean, interval.low, interval.high))
        yield Estimate(label=label, value=value, low=low, high=high, series=series)


def rank_figure(lengths: Doubles) -> Figure:
    """Return the figure of the lengths of word vectors by rank: medians and middle halves.

    Args:
        lengths: (n,) float64, of the most frequent word first.
    """
    points = []
    for group in np.array_split(np.arange(len(lengths)), min(RANK_BINS, len(lengths))):
        low, middle, high = np.percentile(lengths[group], [25, 50, 75])
        points.append(Point(x=float(group.mean() + 1), y=middle, low=low, high=high))
    return point_figure(
        "Lengths of word vectors by rank: median and middle half of each group", {"words": points},
        across="rank in the file, the most frequent word first", upwards="length",
    )  # fmt: skip


# --- answers --------------------------------------------------------------------------------------


def set_answers(set_name: str, runs: Sequence[StudyRun], *, has_labels: bool) -> Iterator[str]:
    """Yield what was found of a set, in sentences.

    Args:
        set_name: The name of the vectors.
        runs: All runs.
        has_labels: True if neighbours of the same class were counted.
    """
    arms = [measure_arm(set_name, measure) for measure in MEASURES if measure != RANDOM]
    if has_labels:
        yield from conclusions(runs, arms, PRECISION, base=measure_arm(set_name, COSINE))

    def text(form: str, name: str) -> str:
        interval = interval_of(runs, form_arm(set_name, form), METRICS[name])
        assert interval is not None  # every form has it
        return METRICS[name].text(interval)

    yield (
        f"{set_name}: of the {K} nearest, dot product and cosine share {text(RAW, 'dot_cosine')} %"
        f" on the vectors as they are, cosine and Euclidean distance"
        f" {text(RAW, 'cosine_euclidean')} %. At unit length all three have the same list for"
        f" {text(UNIT, 'same')} % of the queries."
    )
    yield (
        f"{set_name}: the mean cosine of two vectors is {text(RAW, 'mean_cosine')}, and"
        f" {text(CENTRED, 'mean_cosine')} after their mean is subtracted."
    )
    yield from conclusions(runs, arms, HUBNESS, base=measure_arm(set_name, COSINE))
