"""The updates of a critic and of a generator, each of which leaves the other as it is.

A stage that has a generator of its own, from noise or from pictures, with or without other losses,
takes these in turn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workflows.adversarial import penalties
from workflows.adversarial.layers import frozen
from workflows.adversarial.objectives import Objective
from workflows.training.batches import parts
from workflows.training.world import World, load_optimiser

Inputs = tuple[Tensor, ...]
Condition = tuple[Tensor, ...]


@dataclass(frozen=True)
class Rules:
    """How it is played."""

    objective: Objective
    clip: float | None = None
    """To what the critic's parameters are clipped after its update; None = they are not."""
    penalty: float = 0.0
    """The weight of the gradient penalty."""
    precision: torch.dtype = torch.float32
    """Of what can do with less than float32, as autocast decides; a penalty is float32."""
    micro_batch: int | None = None
    """Most rows that are computed at once; gradients of the others are added. None = all."""


class Game:
    """A generator and a critic, their optimisers, and what they play."""

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        generator_optimiser: torch.optim.Optimizer,
        critic_optimiser: torch.optim.Optimizer,
        rules: Rules,
        world: World,
    ) -> None:
        """Take them as they are.

        Args:
            generator: Called with inputs (n, ...); its output is what the critic looks at.
            critic: Called with what was made, or the real rows, and a condition -> (n,).
            generator_optimiser: Of the generator's parameters.
            critic_optimiser: Of the critic's.
            rules: What is played.
            world: Whose gradients are averaged.
        """
        self.generator = generator
        self.critic = critic
        self.generator_optimiser = generator_optimiser
        self.critic_optimiser = critic_optimiser
        self.rules = rules
        self.world = world
        if rules.clip is not None:  # as it will be after every update
            penalties.clip(critic.parameters(), rules.clip)

    def critic_update(
        self,
        real: Tensor,
        inputs: Inputs,
        condition: Condition = (),
        *,
        share: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """One step of the critic. Nothing of the generator changes.

        Args:
            real: (n, ...).
            inputs: Of the generator, for as many rows.
            condition: What else the critic is given, with the real and with the made rows.
            share: (n,) from 0 to 1, for the gradient penalty.

        Returns:
            `critic_loss`; `estimate`, the mean score of real less that of made rows; `penalty`,
            where there is one: 0-d, of this rank's rows.
        """
        self.critic_optimiser.zero_grad(set_to_none=True)
        told = []
        for rows, weight in parts(len(real), self.rules.micro_batch):
            given = tuple(each[rows] for each in condition)
            with self._cast(), torch.no_grad(), frozen(self.generator):
                fake = self.generator(*(each[rows] for each in inputs))
            with self._cast():
                real_scores = self.critic(real[rows], *given).float()
                fake_scores = self.critic(fake, *given).float()
            loss = self.rules.objective.critic(real_scores, fake_scores)
            found = {"critic_loss": loss.detach()}
            if self.rules.penalty:
                assert share is not None
                slope = self._slope(real[rows], fake, given, share[rows])
                loss = loss + self.rules.penalty * slope
                found["penalty"] = slope.detach()
            found["estimate"] = (real_scores.mean() - fake_scores.mean()).detach()
            (weight * loss).backward()  # type: ignore[no-untyped-call]
            told.append((weight, found))
        self._step(self.critic, self.critic_optimiser)
        if self.rules.clip is not None:
            penalties.clip(self.critic.parameters(), self.rules.clip)
        return _joined(told)

    def generator_update(
        self,
        inputs: Inputs,
        condition: Condition = (),
        *,
        weight: float = 1.0,
        other: Callable[[Tensor, slice], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """One step of the generator. Nothing of the critic changes.

        Args:
            inputs: Of the generator.
            condition: What else the critic is given.
            weight: Of the critic's judgement.
            other: What else is to be minimised, given what was made of which rows: a mean over
                them.

        Returns:
            `generator_loss`, and `other_loss` where there is one: 0-d, of this rank's rows.
        """
        self.generator_optimiser.zero_grad(set_to_none=True)
        told = []
        with frozen(self.critic):
            for rows, share in parts(len(inputs[0]), self.rules.micro_batch):
                with self._cast():
                    fake = self.generator(*(each[rows] for each in inputs))
                loss = fake.new_zeros((), dtype=torch.float32)
                if weight:
                    with self._cast():
                        scores = self.critic(fake, *(each[rows] for each in condition)).float()
                    loss = weight * self.rules.objective.generator(scores)
                found = {"generator_loss": loss.detach()}
                if other is not None:
                    extra = other(fake.float(), rows)
                    found["other_loss"] = extra.detach()
                    loss = loss + extra
                (share * loss).backward()
                told.append((share, found))
            self._step(self.generator, self.generator_optimiser)
        return _joined(told)

    @torch.no_grad()
    def judge(self, real: Tensor, inputs: Inputs, condition: Condition = ()) -> dict[str, Tensor]:
        """`critic_loss` and `estimate` on other rows, as `critic_update`; nothing changes."""
        with self._cast(), frozen(self.generator), frozen(self.critic):
            fake = self.generator(*inputs)
            real_scores = self.critic(real, *condition).float()
            fake_scores = self.critic(fake, *condition).float()
        return {
            "estimate": real_scores.mean() - fake_scores.mean(),
            "critic_loss": self.rules.objective.critic(real_scores, fake_scores),
        }

    def state_dict(self) -> dict[str, Any]:
        """All that an update depends on."""
        return {
            "generator": self.generator.state_dict(),
            "critic": self.critic.state_dict(),
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["critic"])
        load_optimiser(self.generator_optimiser, state["generator_optimiser"])
        load_optimiser(self.critic_optimiser, state["critic_optimiser"])

    def _slope(self, real: Tensor, fake: Tensor, condition: Condition, share: Tensor) -> Tensor:
        def score(between: Tensor) -> Tensor:
            scores: Tensor = self.critic(between, *condition)
            return scores

        return penalties.gradient_penalty(score, real.float(), fake.float(), share)

    def _step(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self.world.average_gradients(network.parameters())
        optimiser.step()

    def _cast(self) -> contextlib.AbstractContextManager[object]:
        lower = self.rules.precision != torch.float32
        if not lower:
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, self.rules.precision)


def _joined(parts: list[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """The figures of all rows, of those of each part and its share."""
    names = parts[0][1]
    return {name: sum(share * told[name] for share, told in parts) for name in names}  # type: ignore[misc]
