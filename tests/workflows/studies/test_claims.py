"""What networks here learn, measured: the claims of papers on small sets."""

from __future__ import annotations

import sys

import pytest
import torch

from workflows.studies import digits, gaussians


def test_points_are_good_near_a_centre_and_find_it() -> None:
    """Of the set itself nearly all are, and all centres are found; of one point, one."""
    found = gaussians.judge(gaussians.draw(20_000, ("test",)))
    assert found.modes == 25
    assert found.good == pytest.approx(1 - 2.718281828 ** (-4.5), abs=0.005)  # of Rayleigh's
    assert gaussians.judge(torch.tensor([[1.0, 2.1], [0.5, 0.5]])) == gaussians.Found(1, 0.5)
    assert gaussians.judge(torch.full((10, 2), 0.5)) == gaussians.Found(0, 0.0)


def test_a_correlation_is_that_of_what_is_after_settling() -> None:
    """Its first fifth says nothing."""
    course = digits.Course(list(range(10)), [0, 9, *range(8)], [5, 5, *range(8)])
    assert course.correlation == 1
    course = digits.Course(list(range(10)), [1, 2, *range(8)], [1, 2, *range(8, 0, -1)])
    assert course.correlation == -1


def test_digits_are_dealt_out_without_any_in_both() -> None:
    """In [-1, 1]; a Gaussian is nearer to them than noise."""
    data = digits.load(3)
    assert len(data.train) + len(data.held_out) == 1_797
    assert float(data.train.min()) == -1
    assert float(data.train.max()) == 1
    noise = torch.rand_like(data.held_out) * 2 - 1
    from workflows.evaluation.sliced import sliced_wasserstein

    assert digits.gaussian(data) < 0.2 * sliced_wasserstein(noise, data.held_out)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_penalised_critic_finds_the_grid() -> None:
    """At least 23 of 25 modes, with four fifths of all points near one."""
    found = gaussians.run("wgan-gp")
    beside = gaussians.run("dcgan")
    sys.stderr.write(f"wgan-gp {found}, dcgan {beside}\n")
    assert found.modes >= 23
    assert found.good >= 0.8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_critics_estimate_tracks_how_good_digits_are() -> None:
    """By rank, in each of five runs; and they end nearer than a Gaussian of the same pixels."""
    for seed in range(5):
        data = digits.load(seed)
        course = digits.run("wgan-gp", data, seed=seed)
        sys.stderr.write(f"{seed}: {course.correlation:.3f}, {course.distance[-1]:.4f}\n")
        assert course.correlation >= 0.7
        assert course.distance[-1] < digits.gaussian(data)
