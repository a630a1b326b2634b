"""Tables of arms: means, intervals and paired differences, and what may be concluded from them."""

from __future__ import annotations

import pytest

from workflows.studies.arm_tables import StudyMetric, arm_table, conclusions
from workflows.studies.runs import StudyRun

ACCURACY = StudyMetric(name="accuracy", heading="top-1", percent=True, higher_is_better=True)
DISTANCE = StudyMetric(name="distance", heading="distance", higher_is_better=False)


def runs_of(**arms: list[float]) -> list[StudyRun]:
    """Return runs with the seeds 0, 1, ... by the values of their metric `accuracy`."""
    return [
        StudyRun(arm=arm, seed=seed, metrics={"accuracy": value}, seconds=1.0)
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]


def test_a_row_has_the_mean_and_the_difference_with_their_intervals() -> None:
    """Seeds are paired: the interval of the difference is narrower than those of the means."""
    runs = runs_of(crop=[0.5, 0.6, 0.7], pad=[0.52, 0.61, 0.73])
    table = arm_table("Arms", runs, ["crop", "pad"], [ACCURACY], base="crop")
    assert list(table.columns) == ["arm", "seeds", "top-1, %", "difference to crop, points"]
    assert table.rows[0] == ["crop", "3", "60.0 (35.2 to 84.8)", ""]
    assert table.rows[1] == ["pad", "3", "62.0 (35.8 to 88.2)", "+2.0 (-0.5 to +4.5)"]


def test_an_interval_of_a_share_ends_at_its_limits() -> None:
    """A share below 0 % or above 100 %, and a difference of more than 100 points, cannot be."""
    runs = runs_of(crop=[0.01, 0.3], pad=[0.99, 0.6])
    table = arm_table("Arms", runs, ["crop", "pad"], [ACCURACY], base="crop")
    assert table.rows[0][2] == "15.5 (0.0 to 100.0)"
    assert table.rows[1][3] == "+64.0 (-100.0 to +100.0)"
    correlation = StudyMetric(name="accuracy", heading="correlation", limits=(-1, 1))
    (row,) = arm_table("Arms", runs, ["crop"], [correlation]).rows
    assert row[2] == "0.155 (-1.000 to 1.000)"


def test_a_verdict_has_numbers_that_show_it() -> None:
    """`-0.000 (-0.001 to -0.000): better` would contradict itself."""
    values = {"base": [0.5, 0.6, 0.7], "arm": [0.4998, 0.5996, 0.6997]}
    runs = [
        StudyRun(arm=arm, seed=seed, metrics={"distance": value}, seconds=1.0)
        for arm, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    (line,) = conclusions(runs, ["base", "arm"], DISTANCE, base="base")
    assert line.endswith("-0.0003 (-0.0005 to -0.0001): better")


def test_undefined_metrics_are_counted() -> None:
    """A mean over fewer runs than the arm has says so."""
    runs = [*runs_of(a=[0.5, 0.6]), StudyRun(arm="a", seed=2, metrics={}, seconds=1.0)]
    table = arm_table("Arms", runs, ["a", "b"], [ACCURACY])
    assert table.rows[0][2].endswith(", 2 of 3 runs")
    assert table.rows[1] == ["b", "0", "-"]


def test_a_difference_says_which_seeds_it_leaves_out() -> None:
    """An arm of which the worst runs diverged must not pass for one that always converges."""
    diverged = StudyRun(arm="pad", seed=2, metrics={}, seconds=1.0)
    runs = [*runs_of(crop=[0.5, 0.6, 0.7], pad=[0.7, 0.81]), diverged]
    table = arm_table("Arms", runs, ["crop", "pad"], [ACCURACY], base="crop")
    assert table.rows[1][-1] == "+20.5 (+14.1 to +26.9), 2 of 3 seeds"
    (line,) = conclusions(runs, ["crop", "pad"], ACCURACY, base="crop")
    assert line.endswith("+20.5 (+14.1 to +26.9) points, 2 of 3 seeds: better")


def test_an_arm_without_the_metric_is_named() -> None:
    """An arm that was not run is left out."""
    diverged = [StudyRun(arm="pad", seed=seed, metrics={}, seconds=1.0) for seed in range(2)]
    runs = [*runs_of(crop=[0.5, 0.6]), *diverged]
    assert list(conclusions(runs, ["crop", "pad", "squish"], ACCURACY, base="crop")) == [
        "pad, top-1 minus that of crop: undefined, as no seed has it in both"
    ]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.6, 0.71, 0.8], "better"),
        ([0.4, 0.49, 0.6], "worse"),
        ([0.4, 0.7, 0.7], "no difference seen"),
        ([0.6], "one pair of runs has no interval"),
    ],
)
def test_only_an_interval_without_zero_is_a_difference(values: list[float], verdict: str) -> None:
    """The direction in which the metric is better decides the word."""
    runs = runs_of(crop=[0.5, 0.6, 0.7], pad=values)
    (line,) = conclusions(runs, ["crop", "pad"], ACCURACY, base="crop")
    assert line.startswith("pad, top-1 minus that of crop: ")
    assert verdict in line


def test_a_smaller_distance_is_better() -> None:
    """The direction is that of the metric."""
    runs = [
        StudyRun(arm=arm, seed=seed, metrics={"distance": value + seed}, seconds=1.0)
        for arm, value in (("noise", 3.0), ("gan", 1.0))
        for seed in range(2)
    ]
    runs[-1] = StudyRun(arm="gan", seed=1, metrics={"distance": 2.01}, seconds=1.0)
    (line,) = conclusions(runs, ["noise", "gan"], DISTANCE, base="noise")
    assert line.endswith("better")
