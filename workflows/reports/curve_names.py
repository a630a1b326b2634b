"""The charts of training: which metrics share one, and what the metrics are called for people.

`metrics.jsonl` and the dashboard name metrics as the stages do (docs/reference/runs.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from workflows.reports.charts import Chart, Points, chart

TRAINING, HELD_OUT = "training images", "held-out images"


class CurveName(NamedTuple):
    """The names of a metric in a chart."""

    chart: str
    """The title of the chart."""
    curve: str
    """The name of the curve in it."""
    unit: str = ""
    """The unit of the values; in percent, fractions are multiplied by 100."""


_NAMES = {
    "loss": CurveName("Loss", TRAINING),
    "cosine": CurveName("Cosine similarity of images and their class", TRAINING),
    "estimate": CurveName("Critic score: real minus generated", TRAINING),
    "held_out_estimate": CurveName("Critic score: real minus generated", HELD_OUT),
    "critic_loss": CurveName("Critic loss", TRAINING),
    "held_out_critic_loss": CurveName("Critic loss", HELD_OUT),
    "generator_loss": CurveName("Generator loss", TRAINING),
    "penalty": CurveName("Gradient penalty", TRAINING),
    "held_out_distance": CurveName("Sliced Wasserstein distance of samples", f"to {HELD_OUT}"),
    "train_distance": CurveName("Sliced Wasserstein distance of samples", f"to {TRAINING}"),
    "other_loss": CurveName("Mean absolute error, pixels in [-1, 1]", TRAINING),
    "held_out_error": CurveName("Mean absolute error, pixels in [-1, 1]", HELD_OUT),
    "train_error": CurveName("Mean absolute error, pixels in [-1, 1]", f"{TRAINING}, evaluated"),
    "saturation": CurveName("Saturation: mean range of a pixel's channels", "coloured images"),
    "true_saturation": CurveName("Saturation: mean range of a pixel's channels", "original images"),
    "accuracy": CurveName("Accuracy", TRAINING, "%"),
    "held_out_accuracy": CurveName("Accuracy", HELD_OUT, "%"),
    "held_out_top5": CurveName("Accuracy", f"{HELD_OUT}, top-5", "%"),
    "held_out_loss": CurveName("Loss", HELD_OUT),
    "pixel_loss": CurveName("Pixel loss, weighted", TRAINING),
    "perceptual_loss": CurveName("Perceptual loss, weighted", TRAINING),
    "style_loss": CurveName("Style loss, weighted", TRAINING),
    "variation_loss": CurveName("Total variation, weighted", TRAINING),
    "held_out_psnr": CurveName(f"PSNR of luma, {HELD_OUT}", "network", "dB"),
    "bicubic_psnr": CurveName(f"PSNR of luma, {HELD_OUT}", "bicubic", "dB"),
    "held_out_ssim": CurveName(f"SSIM of luma, {HELD_OUT}", "network"),
    "images_per_second": CurveName("Training rate", "all ranks", "images/s"),
}
_HITS = re.compile(r"(seen|validation)_hit(\d+)")


def curve_name_of(metric: str) -> CurveName:
    """Return the names of a metric for people.

    Args:
        metric: The name of the metric in `metrics.jsonl`, such as `critic_loss`. An unknown one, of
            a later version, gets a chart of its own, named after it, without a unit.

    Returns:
        The title of the `chart`, the name of the `curve` in it, and the `unit` of its values (`%`,
        for which fractions are multiplied by 100, `dB`, `images/s`, or empty).
    """
    hits = _HITS.fullmatch(metric)
    if hits is not None:
        return CurveName(f"hit@k of {hits[1]} classes", f"hit@{hits[2]}", "%")
    return _NAMES.get(metric, CurveName(metric.replace("_", " ").capitalize(), TRAINING))


def charts_of(curves: Iterable[tuple[str, str, Points]]) -> Iterator[Chart]:
    """Yield the charts of some metrics, in the order of their first curves.

    Args:
        curves: The (metric, remark, points) of each curve: the metric as in `metrics.jsonl`; a
            remark that follows the name of the curve, empty if there is none; and the (x, y)
            points, by ascending x. Hit rates are fractions from 0 to 1, and are drawn in percent.

    Yields:
        A chart for each title and unit, with the curves of all metrics that share it; a chart
        without a finite point is left out.
    """
    groups: dict[tuple[str, str], dict[str, Points]] = {}
    for metric, remark, points in curves:
        title, name, unit = curve_name_of(metric)
        scaled = [(x, 100 * y) for x, y in points] if unit == "%" else points
        groups.setdefault((title, unit), {})[f"{name}, {remark}" if remark else name] = scaled
    for (title, unit), group in groups.items():
        drawn = chart(title, group, unit=unit)
        if drawn is not None:
            yield drawn
