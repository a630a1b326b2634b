"""Tests that two ranks compute what one computes on the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cluster.ranks.rank_process import Rank
from tests.devices import DEVICES
from tests.workflows.training.worlds import in_ranks
from workflows.training.world import BatchNorm, World, join

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
"""The tolerance for sums over ranks, whose order differs from sums over rows."""


def net() -> nn.Sequential:
    """Return two convolutions with batch norm between them."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), BatchNorm(8), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3)
    )


def three_steps(world: World) -> dict[str, Tensor]:
    """Return the state of a network trained for three steps on this rank's rows."""
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
    """Return the gradients of a gradient penalty, differentiated twice through batch norm."""
    model = net()
    images = world.normal(8, 3, 11, 11, key=("penalty",)).requires_grad_()
    scores = model(images).mean((1, 2, 3))
    (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()
    world.average_gradients(model.parameters())
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.slow
def test_two_ranks_take_the_step_of_one(tmp_path: Path) -> None:
    """Weights and running statistics of two ranks equal those of one."""
    alone = three_steps(World())
    for state in in_ranks(three_steps, 2, tmp_path):
        for name, value in state.items():
            torch.testing.assert_close(value, alone[name], **CLOSE)


def test_a_gradient_penalty_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    """A row's gradient includes its effect on rows of the other rank."""
    alone = penalised(World())
    assert any(gradient.abs().max() > 1e-3 for gradient in alone)
    for gradients in in_ranks(penalised, 2, tmp_path):
        for gradient, expected in zip(gradients, alone, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_batch_norm_equals_torchs() -> None:
    """Batch norm equals torch's to the bit in a world of one, and checks its input."""
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
def test_draws_do_not_depend_on_the_world(ranks: int, seed: int, step: int) -> None:
    """The parts of all ranks form the whole draw, and other keys give other draws."""
    batch = World().normal(12, 5, key=(seed, step, "noise"))
    parts = [World(rank, ranks).normal(12, 5, key=(seed, step, "noise")) for rank in range(ranks)]
    assert torch.equal(torch.cat(parts), batch)
    for key in ((seed + 1, step, "noise"), (seed, step + 1, "noise"), (seed, step, "other")):
        assert not torch.equal(World().normal(12, 5, key=key), batch)


def test_dropout_depends_on_key_and_rank() -> None:
    """Equal keys give a rank equal draws, whatever was drawn before; ranks have others."""
    draws = []
    for rank, key in ((0, (1, "a")), (0, (1, "a")), (1, (1, "a")), (0, (2, "a")), (0, (1, "b"))):
        torch.rand(3)
        World(rank, 2).seed_dropout(key)
        draws.append(torch.rand(8).tolist())
    assert draws[0] == draws[1]
    assert len({tuple(values) for values in draws}) == 4


def test_an_uneven_batch_is_refused() -> None:
    """A batch that does not divide evenly among the ranks is refused."""
    with pytest.raises(ValueError, match="batch of 10"):
        World(0, 4).part(10)


@pytest.mark.parametrize("device", DEVICES)
def test_a_single_rank_can_have_a_process_group(tmp_path: Path, device: str) -> None:
    """A sum over one rank changes nothing, and the group is closed at the end of the block.

    It uses NCCL on a GPU, with gloo for decisions, and gloo elsewhere.
    """
    rank = Rank(rank=0, world=1, generation=1, host="127.0.0.1", gpu=device == "cuda")
    with join(rank, tmp_path, connect_alone=True) as world:
        assert dist.get_backend() == ("nccl" if rank.gpu else "gloo")
        values = torch.arange(5.0, device=world.device)
        dist.all_reduce(values)
        assert values.tolist() == [0, 1, 2, 3, 4]
        assert (world.control is not None) == rank.gpu
    assert not dist.is_initialized()
    with join(rank, tmp_path) as world:
        assert not dist.is_initialized()
