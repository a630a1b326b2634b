"""Tables and conclusions about the arms of a study, with intervals over its seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from workflows.reports.table import Table
from workflows.studies.intervals import (
    MeanInterval,
    geometric_interval,
    mean_interval,
    paired_interval,
    paired_ratio,
)
from workflows.studies.runs import StudyRun


@dataclass(frozen=True, kw_only=True)
class StudyMetric:
    """A metric of runs, and how it is shown."""

    name: str
    """The name of the metric in `StudyRun.metrics`."""
    heading: str
    """The heading of its column."""
    percent: bool = False
    """True if values are fractions, which are shown in percent, and their differences in points."""
    decimals: int = 3
    """The number of decimals; one in percent."""
    is_rate: bool = False
    """True for positive values that are compared by their ratios, such as rates and times: their
    mean is the geometric one."""
    limits: tuple[float, float] | None = None
    """The smallest and the largest possible value, at which intervals end; None: 0 and 1 for shares
    in percent, and no limits for others."""
    higher_is_better: bool | None = None
    """True if larger values are better, False if smaller ones are, None if neither is."""

    def text(self, interval: MeanInterval) -> str:
        """Return a mean with its interval, such as `71.3 (69.8 to 72.9)`.

        Args:
            interval: The mean of values of this metric and its interval.
        """
        return self._text(interval, f".{self._min_decimals}f")

    def difference_text(self, interval: MeanInterval, *, weight: float = 1.0) -> str:
        """Return a mean difference with its interval, such as `+1.2 (-0.3 to +2.7)`.

        It has as many decimals as show that an interval excludes 0, where it does.

        Args:
            interval: The mean difference of values of this metric, and its interval.
            weight: The sum of the positive weights of a contrast, which multiplies the largest
                possible difference (default 1, for a difference of two means).
        """
        low, high = self.range
        limit = weight * (high - low)
        decimals = interval.decimals(self._min_decimals, unit=self._unit)
        return self._text(interval.limited(-limit, limit), f"+.{decimals}f")

    def _text(self, interval: MeanInterval, form: str) -> str:
        mean, low, high = (
            f"{self._unit * value:{form}}" for value in (interval.mean, interval.low, interval.high)
        )
        return f"{mean} ({low} to {high})" if interval.has_interval else mean

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest possible value."""
        if self.limits is not None:
            return self.limits
        return (0.0, 1.0) if self.percent else (-math.inf, math.inf)

    @property
    def _unit(self) -> float:
        return 100.0 if self.percent else 1.0

    @property
    def _min_decimals(self) -> int:
        return 1 if self.percent else self.decimals

    @property
    def column(self) -> str:
        """The heading of the column of means, with the unit."""
        return f"{self.heading}, %" if self.percent else self.heading


def interval_of(runs: Iterable[StudyRun], arm: str, metric: StudyMetric) -> MeanInterval | None:
    """Return the mean of a metric over the runs of an arm, with its interval.

    Args:
        runs: Runs of any arms.
        arm: The name of the arm.
        metric: The metric; runs without it are left out.

    Returns:
        The mean and its interval, which ends at the limits of the metric; None if no run of the
        arm has the metric.
    """
    values = list(values_of(runs, arm, metric.name).values())
    if not values:
        return None
    interval = geometric_interval(values) if metric.is_rate else mean_interval(values)
    return interval.limited(*metric.range)


def difference_of(
    runs: Sequence[StudyRun], arm: str, base: str, metric: str
) -> MeanInterval | None:
    """Return the mean difference of an arm to another one, over the seeds that both have.

    Args:
        runs: Runs of any arms.
        arm: The name of the arm.
        base: The name of the arm that is subtracted.
        metric: The name of the metric.

    Returns:
        The mean difference and its interval; None if no seed has both.
    """
    return paired_interval(*(values_of(runs, name, metric) for name in (arm, base)))


def ratio_of(runs: Sequence[StudyRun], arm: str, base: str, metric: str) -> MeanInterval | None:
    """Return the geometric mean of the ratios of an arm to another one, over seeds of both.

    Args:
        runs: Runs of any arms.
        arm: The name of the arm.
        base: The name of the arm that it is divided by.
        metric: The name of the metric, whose values are more than 0.

    Returns:
        The mean ratio and its interval; None if no seed has both.
    """
    return paired_ratio(*(values_of(runs, name, metric) for name in (arm, base)))


def values_of(runs: Iterable[StudyRun], arm: str, metric: str) -> dict[int, float]:
    """Return the values of a metric by seed, of the runs of an arm that have it.

    Args:
        runs: Runs of any arms.
        arm: The name of the arm.
        metric: The name of the metric.
    """
    return {
        run.seed: run.metrics[metric] for run in runs if run.arm == arm and metric in run.metrics
    }


def arm_table(
    title: str,
    runs: Sequence[StudyRun],
    arms: Sequence[str],
    metrics: Sequence[StudyMetric],
    *,
    base: str | None = None,
) -> Table:
    """Return the table of arms: a row for each, with the mean of each metric and its interval.

    Args:
        title: The title of the table.
        runs: The finished runs.
        arms: The names of the arms, in the order of the rows.
        metrics: The metrics, in the order of the columns.
        base: The arm to which the differences of the other arms are shown (default: no
            differences).
    """
    columns = ["arm", "seeds"]
    for metric in metrics:
        columns.append(metric.column)
        if base is not None:
            columns.append(f"difference to {base}{', points' if metric.percent else ''}")
    rows = []
    for arm in arms:
        num_runs = sum(run.arm == arm for run in runs)
        cells = [arm, f"{num_runs}"]
        for metric in metrics:
            cells.append(_mean_text(interval_of(runs, arm, metric), metric, num_runs))
            if base is not None:
                cells.append(_difference_cell(runs, arm, base, metric))
        rows.append(cells)
    return Table(title, columns, rows, text_columns=("arm",))


def _mean_text(interval: MeanInterval | None, metric: StudyMetric, num_runs: int) -> str:
    if interval is None:
        return "-"
    defined = "" if interval.count == num_runs else f", {interval.count} of {num_runs} runs"
    return f"{metric.text(interval)}{defined}"


def _difference_cell(runs: Sequence[StudyRun], arm: str, base: str, metric: StudyMetric) -> str:
    """Return the difference of an arm to its base; empty if no seed has both."""
    difference = difference_of(runs, arm, base, metric.name) if arm != base else None
    if difference is None:
        return ""
    return f"{metric.difference_text(difference)}{omitted_seeds(runs, (arm, base), difference)}"


def omitted_seeds(runs: Iterable[StudyRun], arms: Collection[str], interval: MeanInterval) -> str:
    """Return how many seeds a difference is over, such as `, 2 of 3 seeds`; empty if it is all.

    A seed is left out if the metric is undefined in a run of it, as after training that diverged.

    Args:
        runs: The finished runs.
        arms: The names of all arms that are compared.
        interval: The mean difference.
    """
    seeds_of = [{run.seed for run in runs if run.arm == arm} for arm in arms]
    count = len(set.intersection(*seeds_of))
    return "" if interval.count == count else f", {interval.count} of {count} seeds"


def conclusions(
    runs: Sequence[StudyRun], arms: Sequence[str], metric: StudyMetric, *, base: str
) -> Iterator[str]:
    """Yield a sentence on the difference of each arm to another one.

    A difference was seen only if its whole 95 % interval is on one side of 0. An arm that has
    finished runs, but no seed with the metric in both, has a sentence that says so.

    Args:
        runs: The finished runs.
        arms: The names of the arms; *base* among them is left out.
        metric: The metric that is compared.
        base: The arm that the others are compared with.
    """
    finished = {run.arm for run in runs}
    for arm in arms:
        if arm == base or not {arm, base} <= finished:
            continue
        subject = f"{arm}, {metric.heading} minus that of {base}"
        difference = difference_of(runs, arm, base, metric.name)
        if difference is None:
            yield f"{subject}: undefined, as no seed has it in both"
            continue
        unit = " points" if metric.percent else ""
        omitted = omitted_seeds(runs, (arm, base), difference)
        numbers = f"{metric.difference_text(difference)}{unit}{omitted}"
        yield f"{subject}: {numbers}: {verdict(difference, metric)}"


def verdict(difference: MeanInterval, metric: StudyMetric) -> str:
    """Return what a difference shows, such as `better` or `no difference seen`.

    Args:
        difference: The mean difference of values of the metric, and its interval.
        metric: The metric, which says whether higher values are better.
    """
    if not difference.has_interval:
        return "one pair of runs has no interval; pass more --seeds"
    if not difference.excludes_zero:
        return "no difference seen"
    if metric.higher_is_better is None:
        return "higher" if difference.mean > 0 else "lower"
    return "better" if (difference.mean > 0) == metric.higher_is_better else "worse"
