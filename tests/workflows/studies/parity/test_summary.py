"""The table of the study, and its conclusions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workflows.studies.intervals import MeanInterval
from workflows.studies.options import ParityRecipe
from workflows.studies.parity.arm_runs import ArmRun
from workflows.studies.parity.bits import Comparison
from workflows.studies.parity.summary import (
    comparison_line,
    largest_class_share,
    paired_difference,
    recipe_line,
    run_line,
    table_lines,
)


def runs_of(arm: str, accuracies: list[float]) -> list[ArmRun]:
    """Return runs of an arm with seeds 0, 1, ..."""
    return [
        ArmRun(seed=seed, arm=arm, accuracy=value, loss=1.0, initial_weights="ab", seconds=2.0)
        for seed, value in enumerate(accuracies)
    ]


@given(
    st.lists(
        st.tuples(st.integers(0, 2_000), st.integers(0, 2_000)), min_size=2, max_size=20
    ).filter(lambda pairs: len({ours - theirs for ours, theirs in pairs}) > 1)
)
def test_the_interval_is_that_of_a_paired_t_test(pairs: list[tuple[int, int]]) -> None:
    """Mean and interval of the differences are those of scipy's test of related samples."""
    ours, theirs = ([hits / 2_000 for hits in column] for column in zip(*pairs, strict=True))
    runs = [*runs_of("random", ours), *runs_of("dataloader", theirs)]
    difference = paired_difference(runs, "random")
    assert difference is not None
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert difference.count == len(pairs)
    assert difference.mean == pytest.approx(100 * np.mean(np.array(ours) - theirs), abs=1e-9)
    assert difference.low == pytest.approx(100 * interval.low, abs=1e-6)
    assert difference.high == pytest.approx(100 * interval.high, abs=1e-6)


def test_only_seeds_of_both_arms_are_paired() -> None:
    """A seed that only one of them has finished does not count."""
    runs = [*runs_of("random", [0.5, 0.6, 0.9]), *runs_of("dataloader", [0.4, 0.5])]
    difference = paired_difference(runs, "random")
    assert difference is not None
    assert (difference.count, difference.mean) == (2, pytest.approx(10))
    assert paired_difference(runs, "windowed") is None


@pytest.mark.parametrize(
    ("low", "high", "within"), [(-1.5, 1.5, True), (-1.51, 0, False), (0, 1.6, False)]
)
def test_the_whole_interval_must_be_within_the_margin(
    low: float, high: float, within: bool
) -> None:
    """An end beyond the margin suffices to refuse it, and a single pair has no interval."""
    assert MeanInterval(8, 0.0, low, high).is_within(1.5) is within
    assert not MeanInterval(1, 0.0, 0.0, 0.0).is_within(1.5)


def test_the_table_has_arms_chance_and_conclusions() -> None:
    """It says plainly which intervals are within the margin, which are not, and which are wide."""
    runs = [
        *runs_of("random", [0.200, 0.201, 0.202, 0.203]),
        *runs_of("windowed", [0.10, 0.30, 0.20, 0.25]),
        *runs_of("dataloader", [0.201, 0.200, 0.203, 0.202]),
    ]
    heading, random, windowed, dataloader, chance, *conclusions = table_lines(
        runs, chance=0.005, margin=1.5
    )
    assert heading.split()[:3] == ["arm", "runs", "mean"]
    assert random.split()[:3] == ["random", "4", "20.15%"]
    assert "+0.00 (95 % -0.18 to +0.18, 4 pairs)" in random
    assert "4 pairs" in windowed
    assert dataloader.split()[:3] == ["dataloader", "4", "20.15%"]
    assert "pairs" not in dataloader
    assert chance == "chance 0.50%; the smallest mean is 40.3 times that"
    assert len(conclusions) == 3
    assert conclusions[2] == "windowed minus random, points: +1.10 (95 % -12.38 to +14.58, 4 pairs)"
    assert conclusions[0].endswith("-0.18 to +0.18 points, is within ±1.5 points")
    assert "is NOT within ±1.5 points, and is wider than that" in conclusions[1]


def test_a_clear_loss_is_named_as_one() -> None:
    """An interval beyond the margin is no lack of seeds."""
    runs = [*runs_of("windowed", [0.10, 0.101]), *runs_of("dataloader", [0.2, 0.201])]
    *_, conclusion = table_lines(runs, chance=0.1, margin=1.5)
    assert "windowed: the whole 95 % interval" in conclusion
    assert conclusion.endswith("is outside of ±1.5 points")


def test_a_single_pair_has_no_interval() -> None:
    """One seed gives a difference, and no conclusion."""
    runs = [*runs_of("random", [0.2]), *runs_of("dataloader", [0.2])]
    lines = list(table_lines(runs, chance=0.1, margin=1.5))
    assert "+0.00 (one pair)" in lines[1]
    assert lines[-1] == "random: one pair of runs has no interval. Pass more --seeds."


def test_chance_is_the_share_of_the_most_frequent_class() -> None:
    """It is one in C for balanced classes, and what naming one class gets for others."""
    assert largest_class_share(np.array([0, 1, 2, 3])) == 0.25
    assert largest_class_share(np.array([0, 1, 1, 1])) == 0.75


def test_lines_name_what_was_compared_and_trained() -> None:
    """A difference stands out, and a run has its accuracy and its rate."""
    equal = Comparison("raw, 1 rank", 3, 24, 74, 1_000, "")
    assert comparison_line(equal).startswith("raw, 1 rank       equal to the bit: 74 tensors")
    different = Comparison("raw, 1 rank", 3, 24, 74, 1_000, "the order differs from step 2 on")
    assert comparison_line(different).endswith("DIFFERENT: the order differs from step 2 on")
    line = run_line(runs_of("random", [0.125])[0], 480)
    assert line.startswith("seed 0   random")
    assert "12.5%" in line
    assert "240 images/s" in line


def test_the_recipe_is_one_line() -> None:
    """It has the main options, and those that differ from their defaults."""
    recipe = ParityRecipe(network="resnet9", image_size=32, epochs=20, label_smoothing=0.1,
                          flip=False, steps=500, eval_every=25)  # fmt: skip
    assert recipe_line(recipe) == (
        "recipe: network resnet9, image size 32, epochs 20, batch size 128, learning rate 0.1, crop"
        " resized, no flip, label smoothing 0.1"
    )
