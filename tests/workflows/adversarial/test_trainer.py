"""Tests of each update against plain torch, and of what an update leaves unchanged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.workflows.training.worlds import in_ranks
from workflows.adversarial import penalties
from workflows.adversarial.critics import ConvCritic, ResidualCritic
from workflows.adversarial.objectives import OBJECTIVES, RELATIVE_OBJECTIVES
from workflows.adversarial.trainer import AdversarialConfig, AdversarialTrainer
from workflows.training.world import World
from workflows.wgan.generators import ConvGenerator

ROWS, SIZE, NOISE = 6, 16, 7


def real_rows(seed: int = 0) -> Tensor:
    """Return random images in [-1, 1]."""
    return torch.randn(ROWS, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)).tanh()


def noise(seed: int = 1) -> Tensor:
    """Return random inputs of the generator."""
    return torch.randn(ROWS, NOISE, generator=torch.Generator().manual_seed(seed))


def make_trainer(
    objective: str, norm: str = "batch", critic: Any = ConvCritic, **config: Any
) -> AdversarialTrainer:
    """Return a trainer of small networks with an objective and its constraints."""
    torch.manual_seed(5)
    generator = ConvGenerator(SIZE, NOISE, width=4)
    network = critic(SIZE, width=4, norm=norm)
    loss = {**OBJECTIVES, **RELATIVE_OBJECTIVES}[objective]
    settings = {"clip": loss.clip, "penalty": loss.penalty} | config
    return AdversarialTrainer(
        generator,
        network,
        torch.optim.RMSprop(generator.parameters(), 5e-3),
        torch.optim.RMSprop(network.parameters(), 5e-3),
        AdversarialConfig(loss, **settings),
        World(),
    )


def plain_losses(objective: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return the critic's and the generator's losses in the notation of the papers."""
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    entropy = nn.BCELoss()
    if objective in ("wgan", "wgan-gp"):
        return -(real.mean() - fake.mean()), -fake.mean()
    if objective == "dcgan":
        critic_loss = entropy(torch.sigmoid(real), ones) + entropy(torch.sigmoid(fake), zeros)
        return critic_loss, entropy(torch.sigmoid(fake), ones)
    if objective == "lsgan":
        square = nn.MSELoss()
        return square(real, ones) / 2 + square(fake, zeros) / 2, square(fake, ones) / 2
    zero = torch.zeros(1)
    critic_loss = -torch.minimum(zero, -1 + real).mean() - torch.minimum(zero, -1 - fake).mean()
    return critic_loss, -fake.mean()


def plain_slope(critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Return the gradient penalty, computed row by row; rows must be independent."""
    rows = []
    for real_row, fake_row, part in zip(real, fake, share, strict=True):
        between = (part * real_row + (1 - part) * fake_row).detach()[None].requires_grad_()
        slope = torch.autograd.grad(critic(between)[0], between, create_graph=True)[0]
        rows.append((slope.pow(2).sum().sqrt() - 1) ** 2)
    return torch.stack(rows).mean()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_updates_equal_those_of_plain_torch(objective: str) -> None:
    """All parameters agree within the rounding of another summation order."""
    trainer = make_trainer(objective, "layer" if objective == "wgan-gp" else "batch")
    generator, critic = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.critic)
    of_generator = torch.optim.RMSprop(generator.parameters(), 5e-3)
    of_critic = torch.optim.RMSprop(critic.parameters(), 5e-3)
    real, share = real_rows(), torch.linspace(0.1, 0.9, ROWS)
    limit = 0.01 if objective == "wgan" else 1e9

    metrics = trainer.critic_update(real, (noise(1),), alpha=share)
    fake = generator(noise(1)).detach()
    loss, _ = plain_losses(objective, critic(real), critic(fake))
    assert torch.allclose(metrics["critic_loss"], loss, atol=1e-6)
    if objective == "wgan-gp":
        loss = loss + 10 * plain_slope(critic, real, fake, share)
    of_critic.zero_grad()
    loss.backward()
    of_critic.step()
    for parameter in critic.parameters():
        parameter.data.clamp_(-limit, limit)
    expect_equal(trainer.critic, critic)

    metrics = trainer.generator_update((noise(2),))
    scores = critic(generator(noise(2)))
    _, loss = plain_losses(objective, scores, scores)
    assert torch.allclose(metrics["generator_loss"], loss, atol=1e-6)
    of_generator.zero_grad()
    loss.backward()
    of_generator.step()
    expect_equal(trainer.generator, generator)


def expect_equal(actual: nn.Module, expected: nn.Module, *, within: float = 2e-6) -> None:
    """Check that two networks have nearly equal parameters."""
    changed = 0
    for actual_parameter, expected_parameter in zip(
        actual.parameters(), expected.parameters(), strict=True
    ):
        torch.testing.assert_close(actual_parameter, expected_parameter, rtol=1e-4, atol=within)
        changed += 1
    assert changed > 3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_micro_batches_give_the_update_of_the_batch(objective: str) -> None:
    """Micro-batches of unequal length give the update of the whole batch."""
    rows = 7
    trainers = [make_trainer(objective, "layer", micro_batch=limit) for limit in (None, 3)]
    all_metrics = []
    for trainer, parts in zip(trainers, ({7}, {2, 3}), strict=True):
        seen: set[int] = set()
        trainer.generator.eval()  # so that its batch norm does not mix rows
        trainer.critic.register_forward_pre_hook(
            lambda _, arguments, seen=seen: seen.add(len(arguments[0]))  # type: ignore[misc]
        )
        real = torch.cat([real_rows(0), real_rows(3)])[:rows]
        inputs = torch.cat([noise(1), noise(2)])[:rows]
        metrics = trainer.critic_update(real, (inputs,), alpha=torch.linspace(0.1, 0.9, rows))
        target = real.clone()
        metrics |= trainer.generator_update(
            (inputs,), weight=0.5,
            extra_loss=lambda fake, part, target=target: (fake - target[part]).abs().mean(),
        )  # fmt: skip
        all_metrics.append(metrics)
        assert seen == parts
    assert all_metrics[0].keys() == all_metrics[1].keys()
    for name, value in all_metrics[0].items():
        torch.testing.assert_close(all_metrics[1][name], value, rtol=1e-4, atol=1e-6)
    expect_equal(
        trainers[1].critic, trainers[0].critic, within=5e-5
    )  # updates are of the order of 5e-3
    expect_equal(trainers[1].generator, trainers[0].generator, within=5e-5)


@pytest.mark.parametrize("norm", ["batch", "layer", "spectral"])
@pytest.mark.parametrize("critic", [ConvCritic, ResidualCritic])
def test_an_update_leaves_the_other_network_unchanged(norm: str, critic: Any) -> None:
    """An update changes neither parameters nor running statistics of the other network."""
    trainer = make_trainer("dcgan", norm, critic)
    trainer.critic_update(real_rows(), (noise(),))
    for update, changes, stays in (
        (lambda: trainer.generator_update((noise(3),)), trainer.generator, trainer.critic),
        (
            lambda: trainer.critic_update(real_rows(2), (noise(4),)),
            trainer.critic,
            trainer.generator,
        ),
        (lambda: trainer.evaluate(real_rows(2), (noise(4),)), None, trainer.critic),
        (lambda: trainer.evaluate(real_rows(2), (noise(4),)), None, trainer.generator),
    ):
        before = copy.deepcopy(stays.state_dict())
        was = copy.deepcopy(changes.state_dict()) if changes is not None else {}
        update()
        after = stays.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert all(p.requires_grad for p in stays.parameters())
        if changes is not None:
            assert any(not torch.equal(changes.state_dict()[n], v) for n, v in was.items())


def test_a_shared_optimiser_changes_the_critic() -> None:
    """A single optimiser over both networks would move the critic by the generator's loss."""
    trainer = make_trainer("dcgan")
    both = [*trainer.generator.parameters(), *trainer.critic.parameters()]
    optimiser = torch.optim.RMSprop(both, 5e-3)
    before = copy.deepcopy(trainer.critic.state_dict())
    optimiser.zero_grad()
    OBJECTIVES["dcgan"].generator(trainer.critic(trainer.generator(noise()))).backward()
    optimiser.step()
    after = trainer.critic.state_dict()
    assert not all(torch.equal(after[name], value) for name, value in before.items())


def test_weights_are_clipped_before_and_after_every_update() -> None:
    """A weight clip applies to any objective."""
    trainer = make_trainer("lsgan", clip=0.02)
    for step in range(3):
        assert max(float(p.detach().abs().max()) for p in trainer.critic.parameters()) <= 0.02
        trainer.critic_update(real_rows(step), (noise(step),))


def test_a_penalty_can_be_added_to_any_objective() -> None:
    """The penalty is reported, and changes the update."""
    plain, smooth = make_trainer("hinge", "layer"), make_trainer("hinge", "layer", penalty=10.0)
    share = torch.rand(ROWS)
    assert "penalty" not in plain.critic_update(real_rows(), (noise(),))
    assert smooth.critic_update(real_rows(), (noise(),), alpha=share)["penalty"] >= 0
    plain_parameter, smooth_parameter = (next(iter(g.critic.parameters())) for g in (plain, smooth))
    assert not torch.equal(plain_parameter, smooth_parameter)


def test_the_gradient_penalty_of_known_critics_is_exact() -> None:
    """The critics are a linear and a quadratic function."""
    real, fake, share = torch.randn(5, 4), torch.randn(5, 4), torch.rand(5)
    weights = torch.tensor([3.0, 0.0, 4.0, 0.0])
    slope = penalties.gradient_penalty(lambda rows: rows @ weights, real, fake, share)
    assert float(slope.detach()) == pytest.approx(16.0)
    slope = penalties.gradient_penalty(lambda rows: rows.square().sum(1), real, fake, share)
    between = share[:, None] * real + (1 - share[:, None]) * fake
    assert float(slope.detach()) == pytest.approx(
        float(((2 * between.norm(dim=1) - 1) ** 2).mean())
    )


def test_a_further_loss_is_added_to_the_adversarial_loss() -> None:
    """A further loss with a target is minimised without the critic."""
    trainer, target = make_trainer("dcgan"), real_rows(9)
    metrics = trainer.generator_update(
        (noise(),), weight=0.0, extra_loss=lambda fake, _: (fake - target).abs().mean()
    )
    assert float(metrics["generator_loss"]) == 0.0
    first = float(metrics["other_loss"])
    for _ in range(20):
        metrics = trainer.generator_update(
            (noise(),), weight=0.0, extra_loss=lambda fake, _: (fake - target).abs().mean()
        )
    assert float(metrics["other_loss"]) < 0.95 * first


def test_joint_batches_are_normalised_together() -> None:
    """The critic sees one batch of both kinds; without batch norm that changes nothing."""
    for norm, is_equal in (("batch", False), ("none", True)):
        apart, joint = (make_trainer("dcgan", norm, joint_batches=joint) for joint in (False, True))
        metrics = [t.evaluate(real_rows(), (noise(),))["critic_loss"] for t in (apart, joint)]
        assert torch.equal(metrics[0], metrics[1]) == is_equal
        fake = joint.generator(noise())
        real_scores, fake_scores = joint.critic(torch.cat([real_rows(), fake])).chunk(2)
        expected = OBJECTIVES["dcgan"].critic(real_scores, fake_scores)
        torch.testing.assert_close(metrics[1], expected)
    for trainer in (apart, joint):
        trainer.critic_update(real_rows(), (noise(),))
    expect_equal(joint.critic, apart.critic)


def test_the_critic_is_trained_on_replaced_rows() -> None:
    """Earlier rows can stand for new ones, and the loss is that of what the critic got."""
    plain, replaced = make_trainer("dcgan"), make_trainer("dcgan")
    earlier = real_rows(7)
    seen = []

    def replace(fake: Tensor) -> Tensor:
        seen.append(fake)
        return earlier

    metrics = replaced.critic_update(real_rows(), (noise(),), replace_fake=replace)
    torch.testing.assert_close(seen[0], plain.generator(noise()).detach())
    expected = plain.config.objective.critic(plain.critic(real_rows()), plain.critic(earlier))
    torch.testing.assert_close(metrics["critic_loss"], expected.detach())


# --- relative objectives, a missing critic, a limited gradient ------------------------------------


def relative_losses(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return both losses of the relativistic average objective, written out for each row."""
    entropy = nn.BCELoss()
    ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
    real_chance = torch.sigmoid(real - fake.mean())
    fake_chance = torch.sigmoid(fake - real.mean())
    return (
        entropy(real_chance, ones) + entropy(fake_chance, zeros),
        entropy(fake_chance, ones) + entropy(real_chance, zeros),
    )


def test_a_relative_objective_compares_scores_with_the_mean_of_the_others() -> None:
    """Both updates equal those of the formula in plain torch."""
    trainer = make_trainer("relativistic", "layer")
    generator, critic = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.critic)
    assert critic is not None
    of_generator = torch.optim.RMSprop(generator.parameters(), 5e-3)
    of_critic = torch.optim.RMSprop(critic.parameters(), 5e-3)
    real = real_rows()

    metrics = trainer.critic_update(real, (noise(1),))
    loss, _ = relative_losses(critic(real), critic(generator(noise(1)).detach()))
    torch.testing.assert_close(metrics["critic_loss"], loss.detach())
    loss.backward()
    of_critic.step()
    assert trainer.critic is not None
    expect_equal(trainer.critic, critic)

    metrics = trainer.generator_update((noise(2),), weight=0.5, real=real)
    _, loss = relative_losses(critic(real), critic(generator(noise(2))))
    torch.testing.assert_close(metrics["generator_loss"], 0.5 * loss.detach())
    (0.5 * loss).backward()
    of_generator.step()
    expect_equal(trainer.generator, generator)
    evaluated = trainer.evaluate(real, (noise(3),))["critic_loss"]
    with torch.no_grad():
        expected, _ = relative_losses(critic(real), critic(generator(noise(3))))
    torch.testing.assert_close(evaluated, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(AssertionError):
        trainer.generator_update((noise(2),))


def relative_update(world: World) -> list[Tensor]:
    """Return the parameters of both networks after an update of each, and their metrics."""
    trainer = make_trainer("relativistic", "layer")
    trainer.generator.eval()  # whose batch norm does not cover all ranks
    trainer.world = world
    part = world.part(ROWS)
    metrics = trainer.critic_update(real_rows()[part], (noise(1)[part],))
    metrics |= trainer.generator_update((noise(2)[part],), real=real_rows(3)[part])
    assert trainer.critic is not None
    parameters = [*trainer.generator.parameters(), *trainer.critic.parameters()]
    return [*(p.detach() for p in parameters), *(world.mean(v) for v in metrics.values())]


@pytest.mark.slow
def test_a_relative_objective_of_two_ranks_is_that_of_one(tmp_path: Path) -> None:
    """The means are over all ranks, and gradients flow through them to each rank."""
    expected = relative_update(World())
    for of_rank in in_ranks(relative_update, 2, tmp_path):
        for actual, of_one in zip(of_rank, expected, strict=True):
            torch.testing.assert_close(actual, of_one, rtol=1e-4, atol=5e-5)


def gradients_of_batch_mean(world: World) -> list[Tensor]:
    """Return the averaged gradient of a loss that has the mean of all ranks' scores, squared."""
    weight = nn.Parameter(torch.tensor([2.0, -1.0]))
    rows = torch.arange(8.0).view(4, 2)[world.part(4)]
    scores = rows @ weight
    loss = (scores - world.batch_mean(scores**2)).square().mean()
    loss.backward()
    world.average_gradients([weight])
    assert weight.grad is not None
    return [weight.grad, world.batch_mean(scores).detach()]


@pytest.mark.slow
def test_gradients_through_a_mean_over_ranks_are_those_of_the_batch(tmp_path: Path) -> None:
    """Each rank's loss depends on the scores of the others."""
    expected = gradients_of_batch_mean(World())
    for of_rank in in_ranks(gradients_of_batch_mean, 2, tmp_path):
        torch.testing.assert_close(of_rank, expected)


def test_a_generator_is_trained_without_a_critic() -> None:
    """Its state has the generator alone, and restores it."""
    torch.manual_seed(5)
    trainer, other = (
        AdversarialTrainer(
            generator, None, torch.optim.Adam(generator.parameters(), 1e-3), None,
            AdversarialConfig(OBJECTIVES["wgan"], clip=0.01), World(),
        )
        for generator in (ConvGenerator(SIZE, NOISE, width=4) for _ in range(2))
    )  # fmt: skip
    target = real_rows()

    def update(of: AdversarialTrainer) -> Tensor:
        return of.generator_update(
            (noise(),), weight=0.0, extra_loss=lambda fake, rows: (fake - target[rows]).abs().mean()
        )["other_loss"]

    first = update(trainer)
    state = copy.deepcopy(trainer.state_dict())
    assert state.keys() == {"generator", "generator_optimiser"}
    other.load_state_dict(state)
    assert torch.equal(update(other), update(trainer))
    assert update(trainer) < first
    with pytest.raises(AssertionError):
        trainer.critic_update(target, (noise(),))


def test_a_larger_gradient_is_scaled_to_its_limit() -> None:
    """The limit holds for the norm over all parameters; a smaller gradient stays."""
    gradients = {}
    for limit in (None, 1e-3, 1e9):
        trainer = make_trainer("dcgan", max_gradient_norm=limit)
        trainer.generator_update((noise(),))
        gradients[limit] = torch.cat([p.grad.flatten() for p in trainer.generator.parameters()
                                      if p.grad is not None])  # fmt: skip
    norm = gradients[None].norm()
    assert norm > 1e-2
    torch.testing.assert_close(gradients[1e-3], gradients[None] * (1e-3 / norm), rtol=1e-3, atol=0)
    assert torch.equal(gradients[1e9], gradients[None])
