"""The lines and the table of the study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields

import numpy as np

from workflows.studies.intervals import (
    MIN_VALUES,
    MeanInterval,
    mean_interval,
    paired_interval,
)
from workflows.studies.options import ParityRecipe
from workflows.studies.parity import ARMS, DATALOADER, RANDOM, WINDOWED
from workflows.studies.parity.arm_runs import ArmRun
from workflows.studies.parity.bits import Comparison
from workflows.studies.parity.data import ParityData
from workflows.terminal.formatting import counted, seconds_text

_NAMED = ("network", "image_size", "epochs", "batch_size", "learning_rate", "crop")
"""The options of the recipe that its line always names."""
_FOLLOWING = frozenset({"encoded", "preset", "steps", "eval_every"})
"""The options that its line leaves out: they follow from others, or are named elsewhere."""


def paired_difference(
    runs: Iterable[ArmRun], arm: str, reference: str = DATALOADER
) -> MeanInterval | None:
    """Return the mean difference of an arm to another one, over the seeds that both have.

    Args:
        runs: The finished runs.
        arm: The arm.
        reference: The other arm (default: the DataLoader).

    Returns:
        The mean difference in percentage points; None if there is no such seed.
    """
    accuracy: dict[str, dict[int, float]] = {arm: {}, reference: {}}
    for run in runs:
        if run.arm in accuracy:
            accuracy[run.arm][run.seed] = 100 * run.accuracy
    return paired_interval(accuracy[arm], accuracy[reference])


def comparison_line(comparison: Comparison) -> str:
    """Return the line of a compared setting.

    Args:
        comparison: The comparison.
    """
    name = f"{comparison.setting:<17}"
    if comparison.is_equal:
        return (
            f"{name} equal to the bit: {comparison.tensors:,} tensors of {comparison.values:,}"
            f" numbers, after {counted(comparison.steps, 'step')} of"
            f" {counted(comparison.images, 'image')} in all"
        )
    return f"{name} DIFFERENT: {comparison.difference}"


def run_line(run: ArmRun, num_images: int) -> str:
    """Return the line of a finished run.

    Args:
        run: The run.
        num_images: The number of images that it was trained on, over all epochs.
    """
    return (
        f"seed {run.seed:<3} {run.arm:<11} top-1 {run.accuracy:>6.1%}  cross entropy"
        f" {run.loss:>6.3f}  {seconds_text(run.seconds)}, {num_images / run.seconds:,.0f} images/s"
    )


def largest_class_share(labels: np.ndarray[tuple[int], np.dtype[np.integer]]) -> float:
    """Return the accuracy of always naming the most frequent class: chance, 1/C if all are equal.

    Args:
        labels: (n,) the labels of the evaluated images, n > 0.
    """
    return float(np.bincount(labels).max() / len(labels))


def table_lines(runs: Sequence[ArmRun], *, chance: float, margin: float) -> Iterator[str]:
    """Yield the lines of the table of arms and of its conclusions.

    Args:
        runs: The finished runs, at least one.
        chance: The accuracy of a classifier that has learned nothing, more than 0.
        margin: The difference in accuracy within which an interval is expected, in percentage
            points.
    """
    yield (
        f"{'arm':<11} {'runs':>4} {'mean top-1':>11} {'95 % interval':>17}"
        f"   {'difference to ' + DATALOADER + ', points':<36}"
    )
    means = []
    for arm in ARMS:
        accuracies = [run.accuracy for run in runs if run.arm == arm]
        if not accuracies:
            continue
        mean = mean_interval(accuracies).limited(0, 1)
        means.append(mean.mean)
        interval = f"{mean.low:.1%} to {mean.high:.1%}" if mean.has_interval else "-"
        difference = None if arm == DATALOADER else paired_difference(runs, arm)
        yield (
            f"{arm:<11} {len(accuracies):>4} {means[-1]:>11.2%} {interval:>17}"
            f"   {_difference_cell(difference)}"
        ).rstrip()
    yield f"chance {chance:.2%}; the smallest mean is {min(means) / chance:.1f} times that"
    for arm in ARMS[:2]:
        difference = paired_difference(runs, arm)
        if difference is not None:
            yield _conclusion(arm, difference, margin)
    cost = paired_difference(runs, WINDOWED, RANDOM)
    if cost is not None:
        yield f"{WINDOWED} minus {RANDOM}, points: {_difference_cell(cost)}"


def _difference_cell(difference: MeanInterval | None) -> str:
    if difference is None:
        return ""
    if difference.count < MIN_VALUES:
        return f"{difference.mean:+.2f} (one pair)"
    return (
        f"{difference.mean:+.2f} (95 % {difference.low:+.2f} to {difference.high:+.2f},"
        f" {difference.count} pairs)"
    )


def _conclusion(arm: str, difference: MeanInterval, margin: float) -> str:
    if difference.count < MIN_VALUES:
        return f"{arm}: one pair of runs has no interval. Pass more --seeds."
    interval = f"{difference.low:+.2f} to {difference.high:+.2f} points"
    if difference.is_within(margin):
        return f"{arm}: the whole 95 % interval, {interval}, is within ±{margin:g} points"
    if difference.low > margin or difference.high < -margin:
        return f"{arm}: the whole 95 % interval, {interval}, is outside of ±{margin:g} points"
    advice = ""
    if difference.high - difference.low > 2 * margin:
        advice = ", and is wider than that. Pass more --seeds, which continue this study"
    return f"{arm}: the 95 % interval, {interval}, is NOT within ±{margin:g} points{advice}."


def recipe_line(recipe: ParityRecipe) -> str:
    """Return the recipe in one line: its main options, and those that are not the default.

    Args:
        recipe: The options of the stage.
    """
    defaults = {field.name: field.default for field in fields(recipe)}
    values = {name: getattr(recipe.resolved(), name) for name in _NAMED}
    values |= {
        name: getattr(recipe, name)
        for name, default in defaults.items()
        if name not in (*_NAMED, *_FOLLOWING) and getattr(recipe, name) != default
    }
    return "recipe: " + ", ".join(_option_text(name, value) for name, value in values.items())


def _option_text(name: str, value: object) -> str:
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def window_line(data: ParityData) -> str:
    """Return the line that says how large a window of the arm `windowed` is.

    Args:
        data: The data of the study.
    """
    rows, size = data.window_rows, data.recipe.batch_size
    return (
        f"{WINDOWED}: windows of {rows:,} of the {len(data.samples):,} images,"
        f" {data.window_chunks} chunks of {data.chunk_rows}, are shuffled; a window has"
        f" {rows / size:.1f} batches"
    )
