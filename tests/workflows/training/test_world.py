"""Two ranks make what one makes of the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.workflows.training.worlds import in_ranks
from workflows.training.world import BatchNorm, World

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
"""Sums over ranks are in another order than over rows."""


def net() -> nn.Sequential:
    """Two convolutions, batch norm between them."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), BatchNorm(8), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3)
    )


def three_steps(world: World) -> dict[str, Tensor]:
    """The state of a net that was trained on part of a batch."""
    model = net()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        images = world.normal(12, 3, 11, 11, key=(7, step, "images"))
        optimiser.zero_grad()
        model(images).square().mean().backward()
        world.average_gradients(model.parameters())
        optimiser.step()
    return model.state_dict()


def penalised(world: World) -> list[Tensor]:
    """The gradients of a gradient penalty (differentiated twice, through batch norm)."""
    model = net()
    images = world.normal(8, 3, 11, 11, key=("penalty",)).requires_grad_()
    scores = model(images).mean((1, 2, 3))
    (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()
    world.average_gradients(model.parameters())
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.slow
def test_two_ranks_take_the_step_of_one(tmp_path: Path) -> None:
    """Weights, and batch norm's running figures."""
    alone = three_steps(World())
    for state in in_ranks(three_steps, 2, tmp_path):
        for name, value in state.items():
            torch.testing.assert_close(value, alone[name], **CLOSE)


def test_a_gradient_penalty_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    """Where a row's gradient depends on rows of the other rank, too."""
    alone = penalised(World())
    assert any(gradient.abs().max() > 1e-3 for gradient in alone)
    for gradients in in_ranks(penalised, 2, tmp_path):
        for found, expected in zip(gradients, alone, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_batch_norm_is_torchs() -> None:
    """In a world of one, to the bit; and not of other shapes."""
    images = torch.randn(4, 8, 5, 5)
    ours, theirs = BatchNorm(8), nn.BatchNorm2d(8)
    assert torch.equal(ours(images), theirs(images))
    assert torch.equal(ours.running_var, theirs.running_var)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))
    with pytest.raises(ValueError, match="3 dimensions"):
        ours.train()(images[0])


@given(
    ranks=st.sampled_from([1, 2, 3, 4]),
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**7),
)
def test_what_is_drawn_does_not_depend_on_the_world(ranks: int, seed: int, step: int) -> None:
    """The parts of all ranks are the whole; another key is another draw."""
    whole = World().normal(12, 5, key=(seed, step, "noise"))
    parts = [World(rank, ranks).normal(12, 5, key=(seed, step, "noise")) for rank in range(ranks)]
    assert torch.equal(torch.cat(parts), whole)
    for other in ((seed + 1, step, "noise"), (seed, step + 1, "noise"), (seed, step, "other")):
        assert not torch.equal(World().normal(12, 5, key=other), whole)


def test_a_batch_is_dealt_out_evenly_or_not_at_all() -> None:
    """No rank has more than another."""
    with pytest.raises(ValueError, match="batch of 10"):
        World(0, 4).part(10)
