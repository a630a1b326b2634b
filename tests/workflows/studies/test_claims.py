"""Tests of the studies on Gaussians and digits, and of the claims that they measure."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch

from workflows.adversarial.objectives import OBJECTIVES
from workflows.studies import SETTINGS, digits, gaussians
from workflows.studies.options import DigitsOptions, GaussiansOptions
from workflows.wgan.options import WganOptions


@pytest.mark.slow
def test_modes_and_near_points_of_known_sets_are_counted() -> None:
    """The data set covers all modes, and single points cover at most their own."""
    metrics = gaussians.measure_points(gaussians.draw_points(20_000, ("test",)))
    assert metrics.modes == 25
    assert metrics.good == pytest.approx(
        1 - 2.718281828 ** (-4.5), abs=0.005
    )  # Rayleigh's distribution
    assert metrics.distance < 0.06
    two = gaussians.measure_points(torch.tensor([[1.0, 2.1], [0.5, 0.5]]))
    assert (two.modes, two.good) == (1, 0.5)
    outside = gaussians.measure_points(torch.full((10, 2), 0.5))
    assert (outside.modes, outside.good) == (0, 0.0)


@pytest.mark.slow
def test_the_number_of_modes_does_not_distinguish_noise_from_the_set() -> None:
    """Noise covers all modes too, but differs in good points and in distance."""
    controls = gaussians.controls()
    noise, fitted, same = (
        controls["uniform noise"],
        controls["one Gaussian"],
        controls["real data"],
    )
    assert noise.modes == fitted.modes == same.modes == 25
    assert noise.good < 0.1
    assert fitted.good < 0.1
    assert same.good > 0.98
    assert same.distance < noise.distance < fitted.distance


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equal_settings_differ_only_in_their_losses(objective: str) -> None:
    """Settings of papers have the defaults of `train wgan`."""
    arm, first = (digits.arm_of(name, "alike") for name in (objective, "dcgan"))
    alone = {"objective": "dcgan", "clip": None, "penalty": 0.0}
    assert dataclasses.replace(arm, **alone) == first
    paper = digits.arm_of(objective, "paper")
    options = WganOptions(objective=objective).resolved()
    assert (paper.optimiser, paper.rate) == (options.optimiser, options.learning_rate)
    assert (paper.critic_steps, paper.norm) == (options.critic_steps, options.critic_norm)
    assert (paper.clip or 0, paper.penalty) == (options.weight_clip, options.gradient_penalty)
    assert f"{paper.critic_steps} critic updates per step; norm {paper.norm}" in paper.describe()
    for settings in SETTINGS:
        description = digits.arm_of(objective, settings).describe()
        assert description.endswith("EMA of the generator")
        assert "decay" not in description
    assert "linear decay" in gaussians.arm_of(objective, "alike").describe()
    assert gaussians.arm_of(objective, "paper").describe().endswith("last generator")


def test_a_correlation_excludes_the_first_fifth_of_a_run() -> None:
    """The metrics have not settled during that time."""
    curves = digits.TrainingCurves(list(range(10)), [0, 9, *range(8)], [5, 5, *range(8)])
    assert curves.correlation == 1
    curves = digits.TrainingCurves(list(range(10)), [1, 2, *range(8)], [1, 2, *range(8, 0, -1)])
    assert curves.correlation == -1


def test_digits_are_split_without_overlap() -> None:
    """Pixels are in [-1, 1], and a Gaussian is nearer to the digits than noise."""
    data = digits.load_digits(3)
    assert len(data.train) + len(data.held_out) == 1_797
    assert float(data.train.min()) == -1
    assert float(data.train.max()) == 1
    noise = torch.rand_like(data.held_out) * 2 - 1
    from workflows.evaluation.sliced import sliced_wasserstein

    apart = digits.controls(data)
    assert apart["training rows"] < apart["Gaussian"] < 0.2 * apart["uniform noise"]
    rows = sliced_wasserstein(noise, data.held_out)
    assert apart["uniform noise"] == pytest.approx(rows, rel=0.05)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_penalised_critic_covers_the_grid() -> None:
    """At least 23 of 25 modes are covered, with four fifths of all points near one."""
    penalised = gaussians.run_arm(
        gaussians.arm_of("wgan-gp", "alike"), steps=GaussiansOptions().steps
    )
    unpenalised = gaussians.run_arm(
        gaussians.arm_of("dcgan", "alike"), steps=GaussiansOptions().steps
    )
    sys.stderr.write(f"wgan-gp {penalised}, dcgan {unpenalised}\n")
    assert penalised.modes >= 23
    assert penalised.good >= 0.8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_critics_estimate_tracks_the_quality_of_digits() -> None:
    """The rank correlation is high in five runs, which end nearer than a Gaussian."""
    for seed in range(5):
        data = digits.load_digits(seed)
        arm = digits.arm_of("wgan-gp", "paper")
        curves = digits.run_arm(arm, data, seed=seed, steps=DigitsOptions().steps)
        sys.stderr.write(f"{seed}: {curves.correlation:.3f}, {curves.distance[-1]:.4f}\n")
        assert curves.correlation >= 0.7
        assert curves.distance[-1] < digits.controls(data)["Gaussian"]
