"""What the study concludes from runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflows.studies.cut.small import opened_network
from workflows.studies.cut import END, MAP, POOLED
from workflows.studies.cut.experiment import CutArm, arms_of
from workflows.studies.cut.networks import (
    AFTER_DOWN_SAMPLING,
    DOWN_SAMPLING,
    LAST_BLOCK,
    Cut,
    Network,
)
from workflows.studies.cut.summary import (
    CHOSEN,
    TOP1,
    answers_of,
    pareto_front,
    runs_of_network,
    short_name,
)
from workflows.studies.runs import StudyRun

SEEDS = 3


@pytest.fixture(scope="module")
def network(files: Path) -> Network:
    """Return the small network."""
    return opened_network(files)


def _runs(
    arms: list[CutArm], top1: dict[str, float], validation: dict[str, float]
) -> list[StudyRun]:
    """Return runs whose accuracy is .5 unless it is named, .01 more or less by seed."""
    return [
        StudyRun(
            arm=arm.name, seed=seed, seconds=1.0,
            metrics={
                "top1": top1.get(arm.label, 0.5) + 0.01 * (seed - 1),
                "validation_top1": validation.get(arm.label, 0.5),
                "row_bytes": 10.0 * (index + 1),
                "forward_ms": 1.0, "head_seconds": 1.0,
            },
        )
        for seed in range(SEEDS)
        for index, arm in enumerate(arms)
    ]  # fmt: skip


def test_the_chosen_cut_is_that_of_validation(network: Network) -> None:
    """A cut that is better on the test images alone is not chosen."""
    arms = arms_of(network)
    lucky, valid = (f"{network.cuts[i].block}, {POOLED}" for i in (1, 2))
    own = runs_of_network(_runs(arms, {lucky: 0.9, valid: 0.6}, {valid: 0.7}), arms)
    chosen = [run for run in own if run.arm == f"{CHOSEN} (top1)"]
    assert [run.metrics["top1"] for run in chosen] == pytest.approx([0.59, 0.6, 0.61])
    assert not [run for run in own if run.arm == f"{CHOSEN} (hit5)"]  # no run has the metric
    (answer,) = [a for a in answers_of(network, arms, own) if a.startswith("validation chooses")]
    assert answer == (
        f"validation chooses {valid} for probe top-1: 60.0 (57.5 to 62.5) % on the test;"
        " +10.0 (+10.0 to +10.0) points to end, better"
    )


def test_the_lessons_cuts_are_judged_against_the_end(network: Network) -> None:
    """Each is one named row, with its interval and its bytes."""
    arms = arms_of(network)
    assert [(name, cut.block) for name, cut in network.lesson_cuts.items()] == [
        (DOWN_SAMPLING, "encoder.stages.0.layers.1"),
        (AFTER_DOWN_SAMPLING, "encoder.stages.1.layers.0"),
        (LAST_BLOCK, "encoder.stages.1.layers.1"),
    ]
    worse = f"{network.cuts[2].block}, {POOLED}"
    own = runs_of_network(_runs(arms, {worse: 0.3}, {}), arms)
    answers = list(answers_of(network, arms, own))
    (judged,) = [a for a in answers if a.startswith(f"the lesson's cut {DOWN_SAMPLING}, {worse}:")]
    assert "-20.0 (-20.0 to -20.0) points to end, worse" in judged
    sizes = {arm.label: 10.0 * (index + 1) for index, arm in enumerate(arms)}
    ratio = sizes[worse] / sizes[END]
    assert f"{sizes[worse]:.0f} bytes a row, {ratio:.3g} times those of end" in judged
    unseen = f"the lesson's cut {LAST_BLOCK}, {network.cuts[4].block}, {MAP}"
    (equal,) = [a for a in answers if a.startswith(unseen)]
    assert "+0.0 (+0.0 to +0.0) points to end, no difference seen" in equal
    early = [a for a in answers if a.startswith("the notebook's early pooling")]
    assert len(early) == 3
    assert f"points to {worse}, better" in early[0]


@pytest.mark.parametrize(
    ("sides", "named"),
    [
        ((4, 2, 2, 2), {DOWN_SAMPLING: 0, AFTER_DOWN_SAMPLING: 1, LAST_BLOCK: 2}),
        ((4, 4, 2, 2), {DOWN_SAMPLING: 1, LAST_BLOCK: 2}),
        ((4, 4, 4, 2), {DOWN_SAMPLING: 2}),
        ((4, 4, 4, 4), {LAST_BLOCK: 2}),
    ],
)
def test_each_of_the_lessons_cuts_is_named_once(
    network: Network, sides: tuple[int, ...], named: dict[str, int]
) -> None:
    """The end is none of them, however few blocks follow the last down-sampling."""
    cuts = [Cut(f"layers.{i}", (8, side, side), None, i == 3) for i, side in enumerate(sides)]
    found = replace(network, cuts=tuple(cuts)).lesson_cuts
    assert list(found.items()) == [(name, cuts[index]) for name, index in named.items()]


def test_a_single_seed_judges_nothing(network: Network) -> None:
    """It has no interval."""
    arms = arms_of(network)
    runs = [run for run in _runs(arms, {END: 0.9}, {}) if run.seed == 0]
    answers = list(answers_of(network, arms, runs_of_network(runs, arms)))
    assert not any("better" in a or "worse" in a or "no difference" in a for a in answers)
    assert any("one pair of runs has no interval; pass more --seeds" in a for a in answers)


@settings(max_examples=min(50, settings().max_examples), deadline=None)
@given(values=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_no_arm_beats_one_of_the_front(values: list[tuple[int, int]]) -> None:
    """An arm off the front has one on it with no more bytes that is as good."""
    arms = [
        CutArm(None, POOLED, Cut(f"layer.{i}", (1,), None, is_last=False))  # type: ignore[arg-type]
        for i in range(len(values))
    ]
    runs = [
        StudyRun(arm=arm.label, seed=0, seconds=0.0,
                 metrics={"row_bytes": float(size), "top1": float(accuracy)})
        for arm, (size, accuracy) in zip(arms, values, strict=True)
    ]  # fmt: skip
    front = [values[int(label.split(",")[0].split(".")[1])]
             for label in pareto_front(arms, runs, TOP1)]  # fmt: skip
    assert front == sorted(front)
    assert all(a[1] < b[1] for a, b in pairwise(front))
    for size, accuracy in values:
        assert any(s <= size and a >= accuracy for s, a in front)


def test_labels_of_figures_are_the_numbers_of_blocks() -> None:
    """Whole names do not fit."""
    names = ("encoder.stages.2.layers.3", "layer.23", "conv_stem")
    cuts = [Cut(name, (1,), None, is_last=False) for name in names]
    assert [short_name(cut) for cut in cuts] == ["2.3", "23", "stem"]
