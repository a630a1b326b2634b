"""Contrasts of the arms of a study, such as the effect of one factor over all levels of others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workflows.reports.figures import Estimate
from workflows.reports.table import Table
from workflows.studies.arm_tables import StudyMetric, omitted_seeds, verdict
from workflows.studies.intervals import MeanInterval, mean_interval
from workflows.studies.runs import StudyRun
from workflows.terminal.formatting import counted

Factors = Mapping[str, Sequence[str]]
"""The levels of each factor; an arm of a factorial study has a level of each."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A weighted sum of arms, whose mean over seeds says what a change does."""

    label: str
    """A phrase that says which difference it is."""
    weights: Mapping[str, float]
    """The weight of each arm; they sum to 0."""
    name: str = ""
    """A short name, of at most about 35 characters, for figures; empty: the label."""

    def values(self, runs: Sequence[StudyRun], metric: str) -> list[float]:
        """Return the contrast of each seed for which every arm has the metric, by seed.

        Args:
            runs: The finished runs.
            metric: The name of the metric.
        """
        metrics: dict[int, dict[str, float]] = {}
        for run in runs:
            if run.arm in self.weights and metric in run.metrics:
                metrics.setdefault(run.seed, {})[run.arm] = run.metrics[metric]
        return [
            sum(weight * metrics[seed][arm] for arm, weight in self.weights.items())
            for seed in sorted(metrics)
            if metrics[seed].keys() == self.weights.keys()
        ]

    def interval(self, runs: Sequence[StudyRun], metric: str) -> MeanInterval | None:
        """Return the mean over seeds and its interval; None if no seed has the metric in all arms.

        Args:
            runs: The finished runs.
            metric: The name of the metric.
        """
        values = self.values(runs, metric)
        return mean_interval(values) if values else None

    def conclusion(self, runs: Sequence[StudyRun], metric: StudyMetric) -> str:
        """Return the contrast of a metric as a sentence with its interval.

        Args:
            runs: The finished runs.
            metric: The metric.
        """
        difference = self.interval(runs, metric.name)
        subject = f"{self.name} ({self.label})" if self.name else self.label
        if difference is None:
            return f"{subject}, {metric.heading}: undefined, as no seed has it in all arms"
        return f"{subject}, {metric.heading}: {self._numbers(runs, metric, difference)}"

    def cell(self, runs: Sequence[StudyRun], metric: StudyMetric) -> str:
        """Return the contrast of a metric, with its interval and what it shows, for a table.

        Args:
            runs: The finished runs.
            metric: The metric.
        """
        difference = self.interval(runs, metric.name)
        return "-" if difference is None else self._numbers(runs, metric, difference)

    def _numbers(
        self, runs: Sequence[StudyRun], metric: StudyMetric, difference: MeanInterval
    ) -> str:
        omitted = omitted_seeds(runs, self.weights, difference)
        weight = sum(weight for weight in self.weights.values() if weight > 0)
        numbers = f"{metric.difference_text(difference, weight=weight)}{omitted}"
        return f"{numbers}: {verdict(difference, metric)}"


def arm_name(levels: Sequence[str]) -> str:
    """Return the name of the arm with these levels, one of each factor in order."""
    return ", ".join(levels)


def factorial_arms(factors: Factors) -> list[str]:
    """Return the names of the arms with each combination of levels, the last factor fastest."""
    return [arm_name(levels) for levels in itertools.product(*factors.values())]


def difference(level: str, base: str) -> Contrast:
    """Return the contrast of two arms.

    Args:
        level: The name of an arm.
        base: The name of the arm that is subtracted.
    """
    return Contrast(label=f"{level} minus {base}", weights={level: 1.0, base: -1.0})


def main_effect(factors: Factors, factor: str, level: str, base: str) -> Contrast:
    """Return the mean effect of one level against another over all levels of other factors.

    Args:
        factors: The factors.
        factor: The name of the factor.
        level: The level.
        base: The level of the same factor that is subtracted.
    """
    position = list(factors).index(factor)
    averaged = [name for name in factors if name != factor]
    combinations = list(itertools.product(*(factors[name] for name in averaged)))
    weights = {}
    for combination in combinations:
        for chosen, sign in ((level, 1.0), (base, -1.0)):
            levels = [*combination[:position], chosen, *combination[position:]]
            weights[arm_name(levels)] = sign / len(combinations)
    return Contrast(label=f"{level} minus {base}, over {' and '.join(averaged)}", weights=weights)


def interaction(
    factors: Factors, first: tuple[str, str, str], second: tuple[str, str, str]
) -> Contrast:
    """Return by how much the effect of one factor differs between two levels of another one.

    Args:
        factors: The factors.
        first: (factor, level, base): the effect of the level against the base.
        second: (factor, level, base): the levels of the other factor between which it differs.
    """
    weights: dict[str, float] = {}
    for level, sign in ((second[1], 1.0), (second[2], -1.0)):
        fixed = {**factors, second[0]: (level,)}
        for arm, weight in main_effect(fixed, *first).weights.items():
            weights[arm] = sign * weight
    return Contrast(
        label=f"the effect of {first[1]} with {second[1]} minus that with {second[2]}",
        weights=weights,
    )


def contrast_table(
    title: str,
    runs: Sequence[StudyRun],
    contrasts: Sequence[Contrast],
    metrics: Sequence[StudyMetric],
) -> Table:
    """Return the table of contrasts: a row for each, with its interval for each metric.

    Args:
        title: The title of the table.
        runs: The finished runs.
        contrasts: The contrasts, in the order of the rows.
        metrics: The metrics, in the order of the columns.
    """
    rows = [
        [contrast.name or contrast.label, *(contrast.cell(runs, metric) for metric in metrics)]
        for contrast in contrasts
    ]
    columns = ["contrast", *(metric.column for metric in metrics)]
    return Table(title, columns, rows, text_columns=columns)


def chance_note(num_effects: int) -> str:
    """Return the caution that several intervals exclude 0 by chance alone.

    Args:
        num_effects: The number of effects of one metric that a report has.
    """
    return (
        "About 1 in 20 intervals of effects that are 0 excludes 0 by chance; each metric has"
        f" {counted(num_effects, 'effect')} here."
    )


def estimates(
    runs: Sequence[StudyRun], contrasts: Sequence[Contrast], metric: StudyMetric
) -> list[Estimate]:
    """Return the rows of a figure of contrasts; those that are undefined are left out.

    Args:
        runs: The finished runs.
        contrasts: The contrasts, in the order of the rows.
        metric: The metric.
    """
    rows = []
    for contrast in contrasts:
        interval = contrast.interval(runs, metric.name)
        if interval is not None and interval.has_interval:
            rows.append(
                Estimate(
                    label=contrast.name or contrast.label,
                    value=interval.mean,
                    low=interval.low,
                    high=interval.high,
                )
            )
    return rows
