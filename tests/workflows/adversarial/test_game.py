"""One update of each, against plain torch; and what one of them leaves as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workflows.adversarial import penalties
from workflows.adversarial.critics import ConvCritic, ResidualCritic
from workflows.adversarial.game import Game, Rules
from workflows.adversarial.objectives import OBJECTIVES
from workflows.training.world import World
from workflows.wgan.generators import ConvGenerator

ROWS, SIZE, NOISE = 6, 16, 7


def real_rows(seed: int = 0) -> Tensor:
    return torch.randn(ROWS, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)).tanh()


def noise(seed: int = 1) -> Tensor:
    return torch.randn(ROWS, NOISE, generator=torch.Generator().manual_seed(seed))


def make_game(objective: str, norm: str = "batch", critic: Any = ConvCritic, **rules: Any) -> Game:
    torch.manual_seed(5)
    generator = ConvGenerator(SIZE, NOISE, width=4)
    judge = critic(SIZE, width=4, norm=norm)
    found = OBJECTIVES[objective]
    asked = {"clip": found.clip, "penalty": found.penalty} | rules
    return Game(
        generator,
        judge,
        torch.optim.RMSprop(generator.parameters(), 5e-3),
        torch.optim.RMSprop(judge.parameters(), 5e-3),
        Rules(found, **asked),
        World(),
    )


def plain_losses(objective: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Critic's and generator's, written as the papers do: D after a sigmoid, labels, squares."""
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    entropy = nn.BCELoss()
    if objective in ("wgan", "wgan-gp"):
        return -(real.mean() - fake.mean()), -fake.mean()
    if objective == "dcgan":
        judged = entropy(torch.sigmoid(real), ones) + entropy(torch.sigmoid(fake), zeros)
        return judged, entropy(torch.sigmoid(fake), ones)
    if objective == "lsgan":
        square = nn.MSELoss()
        return square(real, ones) / 2 + square(fake, zeros) / 2, square(fake, ones) / 2
    zero = torch.zeros(1)
    judged = -torch.minimum(zero, -1 + real).mean() - torch.minimum(zero, -1 - fake).mean()
    return judged, -fake.mean()


def plain_slope(critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """The gradient penalty, row by row where no row depends on another."""
    rows = []
    for one, other, part in zip(real, fake, share, strict=True):
        between = (part * one + (1 - part) * other).detach()[None].requires_grad_()
        slope = torch.autograd.grad(critic(between)[0], between, create_graph=True)[0]
        rows.append((slope.pow(2).sum().sqrt() - 1) ** 2)
    return torch.stack(rows).mean()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_critics_and_a_generators_step_are_those_of_plain_torch(objective: str) -> None:
    """All parameters, within what another order of sums makes."""
    game = make_game(objective, "layer" if objective == "wgan-gp" else "batch")
    generator, critic = copy.deepcopy(game.generator), copy.deepcopy(game.critic)
    of_generator = torch.optim.RMSprop(generator.parameters(), 5e-3)
    of_critic = torch.optim.RMSprop(critic.parameters(), 5e-3)
    real, share = real_rows(), torch.linspace(0.1, 0.9, ROWS)
    limit = 0.01 if objective == "wgan" else 1e9

    told = game.critic_update(real, (noise(1),), share=share)
    fake = generator(noise(1)).detach()
    loss, _ = plain_losses(objective, critic(real), critic(fake))
    assert torch.allclose(told["critic_loss"], loss, atol=1e-6)
    if objective == "wgan-gp":
        loss = loss + 10 * plain_slope(critic, real, fake, share)
    of_critic.zero_grad()
    loss.backward()
    of_critic.step()
    for parameter in critic.parameters():
        parameter.data.clamp_(-limit, limit)
    expect_equal(game.critic, critic)

    told = game.generator_update((noise(2),))
    scores = critic(generator(noise(2)))
    _, loss = plain_losses(objective, scores, scores)
    assert torch.allclose(told["generator_loss"], loss, atol=1e-6)
    of_generator.zero_grad()
    loss.backward()
    of_generator.step()
    expect_equal(game.generator, generator)


def expect_equal(found: nn.Module, expected: nn.Module, *, within: float = 2e-6) -> None:
    changed = 0
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=within)
        changed += 1
    assert changed > 3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rows_computed_in_parts_give_the_step_of_all_at_once(objective: str) -> None:
    """Where no row depends on another; parts are not of one length."""
    rows = 7
    games = [make_game(objective, "layer", micro_batch=most) for most in (None, 3)]
    told = []
    for game, parts in zip(games, ({7}, {2, 3}), strict=True):
        seen: set[int] = set()
        game.generator.eval()  # its batch norm looks at no other rows
        game.critic.register_forward_pre_hook(
            lambda _, given, seen=seen: seen.add(len(given[0]))  # type: ignore[misc]
        )
        real = torch.cat([real_rows(0), real_rows(3)])[:rows]
        made = torch.cat([noise(1), noise(2)])[:rows]
        found = game.critic_update(real, (made,), share=torch.linspace(0.1, 0.9, rows))
        other = real.clone()
        found |= game.generator_update(
            (made,), weight=0.5,
            other=lambda fake, part, other=other: (fake - other[part]).abs().mean(),
        )  # fmt: skip
        told.append(found)
        assert seen == parts
    assert told[0].keys() == told[1].keys()
    for name, value in told[0].items():
        torch.testing.assert_close(told[1][name], value, rtol=1e-4, atol=1e-6)
    expect_equal(games[1].critic, games[0].critic, within=5e-5)  # of steps of 5e-3
    expect_equal(games[1].generator, games[0].generator, within=5e-5)


@pytest.mark.parametrize("norm", ["batch", "layer", "spectral"])
@pytest.mark.parametrize("critic", [ConvCritic, ResidualCritic])
def test_an_update_of_one_leaves_the_other_as_it_is_to_the_bit(norm: str, critic: Any) -> None:
    """What a famous notebook got wrong: there the generator's step taught the discriminator too.

    Figures of batch norm and of spectral norm are part of a network.
    """
    game = make_game("dcgan", norm, critic)
    game.critic_update(real_rows(), (noise(),))
    for update, changes, stays in (
        (lambda: game.generator_update((noise(3),)), game.generator, game.critic),
        (lambda: game.critic_update(real_rows(2), (noise(4),)), game.critic, game.generator),
        (lambda: game.judge(real_rows(2), (noise(4),)), None, game.critic),
        (lambda: game.judge(real_rows(2), (noise(4),)), None, game.generator),
    ):
        before = copy.deepcopy(stays.state_dict())
        was = copy.deepcopy(changes.state_dict()) if changes is not None else {}
        update()
        after = stays.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert all(p.requires_grad for p in stays.parameters())
        if changes is not None:
            assert any(not torch.equal(changes.state_dict()[n], v) for n, v in was.items())


def test_a_notebooks_way_to_freeze_would_be_noticed() -> None:
    """One optimiser over both, as it had: the critic is moved by the generator's loss."""
    game = make_game("dcgan")
    both = [*game.generator.parameters(), *game.critic.parameters()]
    optimiser = torch.optim.RMSprop(both, 5e-3)
    before = copy.deepcopy(game.critic.state_dict())
    optimiser.zero_grad()
    OBJECTIVES["dcgan"].generator(game.critic(game.generator(noise()))).backward()
    optimiser.step()
    after = game.critic.state_dict()
    assert not all(torch.equal(after[name], value) for name, value in before.items())


def test_clipping_holds_from_the_beginning_and_after_every_step() -> None:
    """Of any objective, where it is asked for."""
    game = make_game("lsgan", clip=0.02)
    for step in range(3):
        assert max(float(p.detach().abs().max()) for p in game.critic.parameters()) <= 0.02
        game.critic_update(real_rows(step), (noise(step),))


def test_a_penalty_can_be_added_to_any_objective() -> None:
    """And is told."""
    plain, smooth = make_game("hinge", "layer"), make_game("hinge", "layer", penalty=10.0)
    share = torch.rand(ROWS)
    assert "penalty" not in plain.critic_update(real_rows(), (noise(),))
    assert smooth.critic_update(real_rows(), (noise(),), share=share)["penalty"] >= 0
    one, other = (next(iter(g.critic.parameters())) for g in (plain, smooth))
    assert not torch.equal(one, other)


def test_the_slope_of_what_is_known() -> None:
    """A linear critic has that of its weights; a square one, twice the row."""
    real, fake, share = torch.randn(5, 4), torch.randn(5, 4), torch.rand(5)
    weights = torch.tensor([3.0, 0.0, 4.0, 0.0])
    slope = penalties.gradient_penalty(lambda rows: rows @ weights, real, fake, share)
    assert float(slope.detach()) == pytest.approx(16.0)
    slope = penalties.gradient_penalty(lambda rows: rows.square().sum(1), real, fake, share)
    between = share[:, None] * real + (1 - share[:, None]) * fake
    assert float(slope.detach()) == pytest.approx(
        float(((2 * between.norm(dim=1) - 1) ** 2).mean())
    )


def test_other_losses_are_added_to_the_critics_judgement() -> None:
    """As a stage wants that has a target."""
    game, target = make_game("dcgan"), real_rows(9)
    told = game.generator_update(
        (noise(),), weight=0.0, other=lambda made, _: (made - target).abs().mean()
    )
    assert float(told["generator_loss"]) == 0.0
    first = float(told["other_loss"])
    for _ in range(20):
        told = game.generator_update(
            (noise(),), weight=0.0, other=lambda made, _: (made - target).abs().mean()
        )
    assert float(told["other_loss"]) < 0.95 * first
