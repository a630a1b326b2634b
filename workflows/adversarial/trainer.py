"""The updates of a critic and of a generator, each of which leaves the other network unchanged.

A stage alternates the two, with any generator and with or without further losses.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workflows.adversarial import penalties
from workflows.adversarial.layers import frozen
from workflows.adversarial.objectives import Objective
from workflows.training.batches import micro_batches
from workflows.training.precision import autocast
from workflows.training.world import World, load_optimiser

Inputs = tuple[Tensor, ...]
"""The inputs of the generator, such as noise and labels: tensors of n rows each."""
Condition = tuple[Tensor, ...]
"""The inputs of the critic beyond the rows that it scores, such as labels: tensors of n rows."""


@dataclass(frozen=True)
class AdversarialConfig:
    """The losses and constraints of both networks, and the precision and size of computations."""

    objective: Objective
    """The losses of the critic and of the generator."""
    clip: float | None = None
    """The limit to which critic parameters are clipped after an update; None = no clipping."""
    penalty: float = 0.0
    """The weight of the gradient penalty."""
    precision: torch.dtype = torch.float32
    """The dtype of operations that autocast may lower; the gradient penalty stays float32."""
    micro_batch: int | None = None
    """The maximum rows computed at once, with accumulated gradients; None = all rows. The means of
    a relative objective are those of the rows that are computed at once, over all ranks."""
    max_gradient_norm: float | None = None
    """The norm to which a larger gradient of the generator is scaled down; None = no limit."""
    joint_batches: bool = False
    """True if the critic scores real and fake rows in one batch, whose batch norm normalises both
    together; False if each kind has a batch of its own."""


class AdversarialTrainer:
    """A generator and a critic with their optimisers, and the updates of both."""

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module | None,
        generator_optimiser: torch.optim.Optimizer,
        critic_optimiser: torch.optim.Optimizer | None,
        config: AdversarialConfig,
        world: World,
    ) -> None:
        """Create a trainer of the networks in their current state; clip the critic if that is due.

        Args:
            generator: A network that maps inputs (n, ...) to fake rows.
            critic: A network that maps real or fake rows (n, ...), and a condition, to scores (n,);
                None for a generator that is updated by further losses alone.
            generator_optimiser: The optimiser of the generator's parameters.
            critic_optimiser: The optimiser of the critic's parameters; None without a critic.
            config: The objective and its settings.
            world: The ranks over which gradients are averaged.
        """
        self.generator = generator
        self.critic = critic
        self.generator_optimiser = generator_optimiser
        self.critic_optimiser = critic_optimiser
        self.config = config
        self.world = world
        if critic is not None and config.clip is not None:  # it holds before the first update too
            penalties.clip(critic.parameters(), config.clip)

    def critic_update(
        self,
        real: Tensor,
        inputs: Inputs,
        condition: Condition = (),
        *,
        alpha: Tensor | None = None,
        replace_fake: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Update the critic once, and leave the generator unchanged.

        Gradients are averaged over all ranks, which must all call it; the critic is clipped
        afterwards if its parameters have a limit. All tensors are on the device of the networks.

        Args:
            real: This rank's real rows, (n, ...) float32; n is at least 1.
            inputs: The inputs of the generator, such as noise: a tuple of tensors with n rows each,
                which are its positional arguments.
            condition: Further inputs of the critic, such as labels: a tuple of tensors with n rows
                each, which follow real and fake rows alike (default: none).
            alpha: (n,) float32 from 0 to 1, the weight of the real row at the points where the
                gradient penalty is evaluated; required if there is a penalty, otherwise ignored.
            replace_fake: A function from fake rows, (m, ...), to those of equal shape that the
                critic is trained on, such as rows of earlier updates (default: the same).

        Returns:
            Means over this rank's rows, 0-d float32 tensors without gradients: `critic_loss`,
            without the penalty; `estimate`, the mean score of real rows minus that of fake rows,
            which for the WGAN objectives is the critic's estimate of the Wasserstein distance, up
            to a factor; and, only if there is a penalty, `penalty`, before its weight.

        Raises:
            AssertionError: There is no critic; or there is a penalty, and *alpha* is None.
        """
        assert self.critic is not None
        assert self.critic_optimiser is not None
        self.critic_optimiser.zero_grad(set_to_none=True)
        weighted_metrics = []
        for rows, weight in micro_batches(len(real), self.config.micro_batch):
            row_condition = tuple(tensor[rows] for tensor in condition)
            with (
                autocast(self.config.precision, self.world.device),
                torch.no_grad(),
                frozen(self.generator),
            ):
                fake = self.generator(*(tensor[rows] for tensor in inputs))
            if replace_fake is not None:
                fake = replace_fake(fake)
            with autocast(self.config.precision, self.world.device):
                real_scores, fake_scores = self._scores(real[rows], fake, row_condition)
            loss = self._critic_loss(real_scores, fake_scores)
            metrics = {"critic_loss": loss.detach()}
            if self.config.penalty:
                assert alpha is not None
                penalty = self._gradient_penalty(real[rows], fake, row_condition, alpha[rows])
                loss = loss + self.config.penalty * penalty
                metrics["penalty"] = penalty.detach()
            metrics["estimate"] = (real_scores.mean() - fake_scores.mean()).detach()
            (weight * loss).backward()  # type: ignore[no-untyped-call]
            weighted_metrics.append((weight, metrics))
        self._step(self.critic, self.critic_optimiser)
        if self.config.clip is not None:
            penalties.clip(self.critic.parameters(), self.config.clip)
        return _weighted_sum(weighted_metrics)

    def generator_update(
        self,
        inputs: Inputs,
        condition: Condition = (),
        *,
        weight: float = 1.0,
        real: Tensor | None = None,
        extra_loss: Callable[[Tensor, slice], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Update the generator once, and leave the critic unchanged.

        Gradients are averaged over all ranks, which must all call it. All tensors are on the device
        of the networks.

        Args:
            inputs: The inputs of the generator, such as noise: a tuple of at least one tensor, with
                this rank's n rows each, at least 1, which are its positional arguments.
            condition: Further inputs of the critic, such as labels: a tuple of tensors with n rows
                each, which follow the fake rows (default: none).
            weight: Weight of the adversarial loss (default 1); with 0 the critic is not called,
                and *extra_loss* is required.
            real: This rank's real rows, (n, ...) float32; required by a relative objective with a
                weight, otherwise ignored (default None).
            extra_loss: A further loss, such as a reconstruction error. It is called with fake rows,
                (m, ...) float32, and the slice of the n rows of *inputs* that they come from, and
                returns its mean over these rows, a 0-d tensor with gradients (default None: no
                further loss).

        Returns:
            Means over this rank's rows, 0-d float32 tensors without gradients: `generator_loss`,
            the adversarial loss times *weight*; and `other_loss`, only if there is an *extra_loss*,
            without a weight.

        Raises:
            AssertionError: The objective is relative, and *real* is None.
        """
        self.generator_optimiser.zero_grad(set_to_none=True)
        weighted_metrics = []
        with nullcontext() if self.critic is None else frozen(self.critic):
            for rows, share in micro_batches(len(inputs[0]), self.config.micro_batch):
                with autocast(self.config.precision, self.world.device):
                    fake = self.generator(*(tensor[rows] for tensor in inputs))
                loss = fake.new_zeros((), dtype=torch.float32)
                if weight:
                    row_condition = tuple(tensor[rows] for tensor in condition)
                    real_rows = None if real is None else real[rows]
                    loss = weight * self._generator_loss(fake, row_condition, real_rows)
                metrics = {"generator_loss": loss.detach()}
                if extra_loss is not None:
                    other = extra_loss(fake.float(), rows)
                    metrics["other_loss"] = other.detach()
                    loss = loss + other
                (share * loss).backward()
                weighted_metrics.append((share, metrics))
            self._step(self.generator, self.generator_optimiser, self.config.max_gradient_norm)
        return _weighted_sum(weighted_metrics)

    @torch.no_grad()
    def evaluate(
        self, real: Tensor, inputs: Inputs, condition: Condition = ()
    ) -> dict[str, Tensor]:
        """Return the critic's metrics on held-out rows without changing either network.

        Networks are called in the mode that they are in; in training mode batch norm normalises by
        the batch of all ranks, which must then all call it. All tensors are on the device of the
        networks.

        Args:
            real: This rank's real rows, (n, ...) float32.
            inputs: The inputs of the generator, such as noise: a tuple of tensors with n rows each,
                which are its positional arguments.
            condition: Further inputs of the critic, such as labels: a tuple of tensors with n rows
                each, which follow real and fake rows alike (default: none).

        Returns:
            `critic_loss`, without a gradient penalty, and `estimate`, the mean score of real rows
            minus that of fake rows: means over this rank's rows, 0-d float32 tensors.
        """
        assert self.critic is not None
        with (
            autocast(self.config.precision, self.world.device),
            frozen(self.generator),
            frozen(self.critic),
        ):
            fake = self.generator(*inputs)
            real_scores, fake_scores = self._scores(real, fake, condition)
        return {
            "estimate": real_scores.mean() - fake_scores.mean(),
            "critic_loss": self._critic_loss(real_scores, fake_scores),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both networks and both optimisers.

        Returns:
            State dictionaries by name: `generator`, `critic`, `generator_optimiser`,
            `critic_optimiser`; without a critic only those of the generator.
        """
        return {name: part.state_dict() for name, part in self._parts().items()}

    def _parts(self) -> dict[str, Any]:
        parts = {
            "generator": self.generator,
            "critic": self.critic,
            "generator_optimiser": self.generator_optimiser,
            "critic_optimiser": self.critic_optimiser,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned; keep the current learning rates.

        It changes both networks and both optimisers in place.

        Args:
            state: State dictionaries by name, `generator`, `critic`, `generator_optimiser` and
                `critic_optimiser`, of the same layers, with tensors on any device. Those of the
                optimisers are not copied on the same device: later updates change them.
        """
        for name, part in self._parts().items():
            if isinstance(part, nn.Module):
                part.load_state_dict(state[name])
            else:
                load_optimiser(part, state[name])

    def _scores(self, real: Tensor, fake: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return the scores of real and of fake rows, whose condition is the same."""
        assert self.critic is not None
        if self.config.joint_batches:
            scores = self.critic(torch.cat([real, fake]), *(torch.cat([c, c]) for c in condition))
            real_scores, fake_scores = scores.float().chunk(2)
            return real_scores, fake_scores
        return self.critic(real, *condition).float(), self.critic(fake, *condition).float()

    def _critic_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        if self.config.objective.relative:
            real_scores, fake_scores = self._relative_scores(real_scores, fake_scores)
        return self.config.objective.critic(real_scores, fake_scores)

    def _generator_loss(self, fake: Tensor, condition: Condition, real: Tensor | None) -> Tensor:
        objective = self.config.objective
        assert self.critic is not None
        with autocast(self.config.precision, self.world.device):
            fake_scores = self.critic(fake, *condition).float()
            if not objective.relative:
                return objective.generator(fake_scores)
            assert real is not None
            real_scores = self.critic(real, *condition).float()
        real_scores, fake_scores = self._relative_scores(real_scores, fake_scores)
        return objective.critic(fake_scores, real_scores)

    def _relative_scores(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of each kind minus the mean score of the other, over all ranks."""
        return real - self.world.batch_mean(fake), fake - self.world.batch_mean(real)

    def _gradient_penalty(
        self, real: Tensor, fake: Tensor, condition: Condition, alpha: Tensor
    ) -> Tensor:
        critic = self.critic
        assert critic is not None

        def score(interpolated: Tensor) -> Tensor:
            scores: Tensor = critic(interpolated, *condition)
            return scores

        return penalties.gradient_penalty(score, real.float(), fake.float(), alpha)

    def _step(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        max_norm: float | None = None,
    ) -> None:
        self.world.average_gradients(network.parameters())
        if max_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), max_norm)
        optimiser.step()


def _weighted_sum(parts: list[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Return the metrics over all rows as the weighted sum of those of each micro-batch."""
    names = parts[0][1]
    return {name: sum(share * metrics[name] for share, metrics in parts) for name in names}  # type: ignore[misc]
