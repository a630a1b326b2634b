"""How each objective is set up in a study: as its paper has it, or all of them alike.

Figures of two objectives say something of the objectives alone only where all else is the same.
Papers differ in optimiser, rate, critic updates and norm, so a study runs each objective both ways:

    paper   optimiser, rates, critic updates, norm, clip and penalty that `tesserae train wgan
            --objective NAME` takes by default, without its warm-up; a study says what else differs
    alike   one optimiser, rate, number of critic updates and no norm for all; only the losses, and
            the clip or the penalty that belongs to one of them, differ
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from workflows.studies import SETTINGS
from workflows.wgan.options import Options

ALIKE_CRITIC_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One objective with all that it is trained with."""

    objective: str
    settings: str
    """One of `SETTINGS`."""
    optimiser: str
    """`adam` or `rmsprop`."""
    rate: float
    """Learning rate at the first step."""
    betas: tuple[float, float]
    """Adam's decay rates."""
    critic_steps: int
    """Critic updates in a step."""
    norm: str
    """Norm of the critic, where it has one."""
    clip: float | None
    """Largest absolute value of a critic's parameter; None = no limit."""
    penalty: float
    """Weight of the gradient penalty; 0 = none."""
    decays: bool
    """Whether the learning rate falls to 0 until the last step."""
    averages: bool
    """Whether a running average of the generator is judged, and not its last state."""

    @property
    def name(self) -> str:
        """Objective and settings."""
        return f"{self.objective}, {self.settings}"

    def describe(self) -> str:
        """Return the settings in one line."""
        betas = f" ({self.betas[0]:g}, {self.betas[1]:g})" if self.optimiser == "adam" else ""
        parts = [
            f"{self.optimiser} {self.rate:g}{betas}{', rate falls to 0' if self.decays else ''}",
            f"{self.critic_steps} critic updates a step",
            f"norm {self.norm}",
            *([f"clip {self.clip:g}"] if self.clip else []),
            *([f"penalty {self.penalty:g}"] if self.penalty else []),
            "average of the generator" if self.averages else "last generator",
        ]
        return "; ".join(parts)

    def make_optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return an optimiser of *network*'s parameters."""
        if self.optimiser == "rmsprop":
            return torch.optim.RMSprop(network.parameters(), self.rate)
        return torch.optim.Adam(network.parameters(), self.rate, self.betas, fused=True)


def make_arm(
    objective: str, settings: str, *, rate: float, norm: str = "none", penalty: float | None = None
) -> Arm:
    """Return the arm of *objective*.

    Args:
        objective: One of `workflows.adversarial.objectives.OBJECTIVES`.
        settings: One of `SETTINGS`.
        rate: Learning rate of the arms that are alike.
        norm: Norm of the critic in the arms that are alike; a perceptron's in all.
        penalty: Weight of the gradient penalty where the objective has one (default: its paper's).

    Raises:
        ValueError: There are no such settings.
    """
    if settings not in SETTINGS:
        raise ValueError(f"settings are {settings!r}: expected one of {', '.join(SETTINGS)}.")
    paper = Options(objective=objective).filled()
    weight = paper.penalty_weight
    if weight and penalty is not None:
        weight = penalty
    alike = settings == "alike"
    return Arm(
        objective=objective,
        settings=settings,
        optimiser="adam" if alike else str(paper.optimiser),
        rate=rate if alike else float(paper.rate or 0),
        betas=(0.5, 0.9) if alike else (float(paper.beta1 or 0), float(paper.beta2 or 0)),
        critic_steps=ALIKE_CRITIC_STEPS if alike else int(paper.critic_steps or 1),
        norm=norm if alike else str(paper.critic_norm),
        clip=paper.clip_limit,
        penalty=weight,
        decays=alike,
        averages=alike,
    )
