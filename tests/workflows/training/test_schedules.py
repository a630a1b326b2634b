"""Tests of the schedules of the learning rate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workflows.training.schedules import SCHEDULES, learning_rate_factor


@given(
    schedule=st.sampled_from(SCHEDULES),
    steps=st.integers(1, 300),
    warmup=st.integers(0, 300),
    milestones=st.lists(st.integers(1, 300), max_size=4),
)
def test_the_rate_rises_to_its_full_value_and_never_rises_again(
    schedule: str, steps: int, warmup: int, milestones: list[int]
) -> None:
    """The warm-up is a line; afterwards the factor falls, and stays within 0 to 1."""
    factors = [
        learning_rate_factor(schedule, step, steps, warmup_steps=warmup, milestones=milestones)
        for step in range(max(steps, warmup) + 3)
    ]
    assert factors[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert all(0 <= factor <= 1 for factor in factors)
    if schedule in ("cosine", "linear", "constant") and warmup < steps:
        assert factors[warmup] == 1
    if schedule in ("cosine", "linear") and warmup < steps:
        assert factors[steps] == pytest.approx(0, abs=1e-12)
        assert factors[steps - 1] > 0


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "constant"])
def test_a_schedule_equals_that_of_torch(schedule: str) -> None:
    """Each step has the rate that torch's scheduler gives it."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    schedulers = torch.optim.lr_scheduler
    expected = {
        "cosine": lambda: schedulers.CosineAnnealingLR(optimiser, 20),
        "linear": lambda: schedulers.LinearLR(optimiser, 1.0, 0.0, 20),
        "step": lambda: schedulers.MultiStepLR(optimiser, [4, 9, 9], 0.5),
        "constant": lambda: schedulers.ConstantLR(optimiser, 1.0),
    }[schedule]()
    for step in range(20):
        factor = learning_rate_factor(schedule, step, 20, milestones=(4, 9, 9), decay=0.5)
        assert factor == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12)
        optimiser.step()
        expected.step()


def test_the_learning_rate_of_devise_rises_and_falls() -> None:
    """The factors are those of earlier versions, so that its runs go on as they began."""
    factors = [learning_rate_factor("cosine", step, 100, warmup_steps=10) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.001
