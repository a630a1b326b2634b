"""Contrasts of arms: effects of a factor over the levels of others, and interactions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.studies.arm_tables import StudyMetric
from workflows.studies.contrasts import (
    contrast_table,
    difference,
    estimates,
    factorial_arms,
    interaction,
    main_effect,
)
from workflows.studies.intervals import holm, p_value
from workflows.studies.runs import StudyRun

FACTORS = {"loss": ("a", "b", "c"), "clip": ("no", "yes"), "optimiser": ("x", "y")}
METRIC = StudyMetric(name="value", heading="value", higher_is_better=False)


def runs_of(value: object, seeds: int = 3) -> list[StudyRun]:
    """Return a run of each arm and seed, with the value that a function of its levels returns."""
    return [
        StudyRun(
            arm=", ".join(levels),
            seed=seed,
            metrics={"value": value(*levels) + 100 * seed},  # type: ignore[operator]
            seconds=1.0,
        )
        for seed in range(seeds)
        for levels in itertools.product(*FACTORS.values())
    ]


def test_effects_of_an_additive_model_are_its_terms() -> None:
    """Main effects are exact, interactions are 0, and differences between seeds cancel."""
    terms = {"a": 0.0, "b": 2.0, "c": -1.0, "no": 0.0, "yes": 5.0, "x": 0.0, "y": 0.5}
    runs = runs_of(lambda *levels: sum(terms[level] for level in levels))
    assert sorted({run.arm for run in runs}) == sorted(factorial_arms(FACTORS))
    for factor, level, base in (("loss", "c", "a"), ("clip", "yes", "no"), ("optimiser", "y", "x")):
        interval = main_effect(FACTORS, factor, level, base).interval(runs, "value")
        assert interval is not None
        assert interval.count == 3
        assert (interval.mean, interval.low, interval.high) == pytest.approx((terms[level],) * 3)
    between = interaction(FACTORS, ("clip", "yes", "no"), ("loss", "b", "a"))
    assert between.values(runs, "value") == pytest.approx([0.0] * 3)


def test_an_interaction_is_the_difference_of_effects() -> None:
    """A clip that only works with one loss is seen as such."""
    runs = runs_of(lambda loss, clip, optimiser: 4.0 * (loss == "b" and clip == "yes"))
    between = interaction(FACTORS, ("clip", "yes", "no"), ("loss", "b", "a"))
    assert between.values(runs, "value") == pytest.approx([4.0] * 3)
    assert main_effect(FACTORS, "clip", "yes", "no").values(runs, "value") == pytest.approx(
        [4.0 / 3] * 3
    )


def test_a_seed_that_lacks_an_arm_is_left_out() -> None:
    """A run that diverged has no metric; a contrast without any seed is undefined."""
    runs = runs_of(lambda *levels: 1.0)
    diverged = [
        StudyRun(arm=run.arm, seed=run.seed, metrics={}, seconds=1.0)
        if run.arm == "b, yes, x" and run.seed == 1
        else run
        for run in runs
    ]
    effect = main_effect(FACTORS, "loss", "b", "a")
    assert len(effect.values(diverged, "value")) == 2
    assert ", 2 of 3 seeds: no difference seen" in effect.conclusion(diverged, METRIC)
    assert " seeds" not in effect.conclusion(runs, METRIC)
    nothing = difference("b, yes, x", "missing")
    assert nothing.interval(diverged, "value") is None
    assert "undefined" in nothing.conclusion(diverged, METRIC)
    table = contrast_table("effects", diverged, [effect, nothing], [METRIC])
    assert [row[1] for row in table.rows] == [
        "+0.000 (+0.000 to +0.000), 2 of 3 seeds: no difference seen", "-",
    ]  # fmt: skip
    assert [row.label for row in estimates(diverged, [effect, nothing], METRIC)] == [effect.label]


def test_a_conclusion_claims_no_more_than_its_interval() -> None:
    """A difference counts only if its interval excludes 0."""
    runs = runs_of(lambda loss, clip, optimiser: -3.0 if clip == "yes" else 0.0)
    assert main_effect(FACTORS, "clip", "yes", "no").conclusion(runs, METRIC).endswith(": better")
    same = main_effect(FACTORS, "loss", "b", "a").conclusion(runs, METRIC)
    assert same.endswith("+0.000 (+0.000 to +0.000): no difference seen")


def test_a_short_name_stands_before_the_label() -> None:
    """Figures and tables have the name alone, for which they have room."""
    runs = runs_of(lambda *levels: 1.0)
    named = replace(main_effect(FACTORS, "clip", "yes", "no"), name="clip")
    text = named.conclusion(runs, METRIC)
    assert text.startswith("clip (yes minus no, over loss and optimiser), value: +0.000")
    assert [row.label for row in estimates(runs, [named], METRIC)] == ["clip"]
    assert contrast_table("effects", runs, [named], [METRIC]).rows[0][0] == "clip"


def test_p_values_are_those_of_scipy() -> None:
    """The test is that of the paired differences."""
    from scipy import stats

    values = [0.3, -0.1, 0.4, 0.25]
    assert p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert math.isnan(p_value([1.0]))
    assert (p_value([1.0, 1.0]), p_value([0.0, 0.0])) == (0.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_adjusted_p_values_follow_holm(p_values: list[float]) -> None:
    """Each lies between the value and Bonferroni's, keeps the order, and ignores undefined ones."""
    adjusted = holm(p_values)
    count = len(p_values)
    assert all(p <= a <= min(1.0, count * p) for p, a in zip(p_values, adjusted, strict=True))
    assert min(adjusted) == pytest.approx(min(1.0, count * min(p_values)))
    by_value = sorted(zip(p_values, adjusted, strict=True))
    assert [a for _, a in by_value] == sorted(adjusted)
    with_nan = holm([math.nan, *p_values])
    assert math.isnan(with_nan[0])
    assert with_nan[1:] == adjusted


def test_holm_on_a_known_example() -> None:
    """Holm's steps: 4 * 0.005, 3 * 0.01, 2 * 0.03 and 0.04, which may not fall below the last."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
