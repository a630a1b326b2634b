"""The curves of a run, as its metrics have them, and smoothed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from scipy import ndimage

MEDIAN_STEPS = 101
"""The width of the median filter of curves, in steps, as in the paper of WGAN."""
RATE = "images_per_second"
"""The metric of the training rate, in `metrics.jsonl`."""

Points = list[tuple[float, float]]
"""The (x, y) points of a curve, in the order of x."""


def read_curves(lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bool, Points]]:
    """Yield the curves of a run.

    Args:
        lines: The lines of `metrics.jsonl`, as `RunFolder.metrics` returns them.

    Yields:
        The metric, True if it is of evaluations and False if it is of training steps, and the
        (step, value) points: those of steps first, then of evaluations, then the training rate.
        Values that were not finite are left out.
    """
    for name, points in _series(lines, "").items():
        yield name, False, points
    for name, points in _series(lines, "look").items():
        yield name, True, points
    yield RATE, True, _series(lines, "speed").get(RATE, [])


def finite_values(lines: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """Return the values of a metric, without those that lines lack or that were not finite.

    Args:
        lines: Lines of `metrics.jsonl`.
        name: The name of the metric.
    """
    return [float(line[name]) for line in lines if line.get(name) is not None]


def _series(lines: Iterable[Mapping[str, Any]], kind: str) -> dict[str, Points]:
    series: dict[str, Points] = {}
    for line in lines:
        if line.get("what", "") != kind:
            continue
        for name, value in line.items():
            if name not in ("step", "generation", "what") and value is not None:
                series.setdefault(name, []).append((float(line["step"]), float(value)))
    return series


def smoothed(points: Points, width: int = MEDIAN_STEPS) -> Points:
    """Smooth a curve by a median filter.

    Args:
        points: The (x, y) points of the curve, in the order of x.
        width: Width of the filter, in points, at least 1 (default 101); the first and the last
            value are repeated beyond the ends of the curve.

    Returns:
        A new list of as many points with the same x; empty if there are none.
    """
    if not points:
        return []
    values = ndimage.median_filter([y for _, y in points], size=width, mode="nearest")
    return [(x, float(y)) for (x, _), y in zip(points, values, strict=True)]
