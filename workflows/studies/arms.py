"""The settings of each objective in a study: as in its paper, or alike for all objectives.

Metrics of two objectives compare the objectives only if everything else is equal. Papers differ in
optimiser, rate, critic updates and norm, so a study runs each objective with both settings:

    paper   the defaults of `tesserae train wgan --objective NAME` for optimiser, rates, critic
            updates, norm, clip and penalty, without its warm-up; a study lists other differences
    alike   one optimiser, rate, number of critic updates and no norm for all objectives; only the
            losses differ, and the clip or the penalty that belongs to one of them
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from workflows.studies import SETTINGS
from workflows.wgan.options import WganOptions

ALIKE_CRITIC_STEPS = 5
"""The critic updates in a step of the arms that are alike."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the compared configurations of a study: an objective and its training settings."""

    objective: str
    """The objective, one of `workflows.adversarial.objectives.OBJECTIVES`."""
    settings: str
    """The name of the settings, one of `SETTINGS`."""
    optimiser: str
    """The optimiser, `adam` or `rmsprop`."""
    rate: float
    """The learning rate at the first step."""
    betas: tuple[float, float]
    """Adam's decay rates of the mean gradient and of the mean squared gradient; rmsprop ignores
    them."""
    critic_steps: int
    """The number of critic updates in a step."""
    norm: str
    """The norm of the critic, if its network has one."""
    clip: float | None
    """The largest absolute value of a critic's parameter; None = no limit."""
    penalty: float
    """The weight of the gradient penalty; 0 = none."""
    decays: bool
    """True if the learning rate decays to 0 at the last step."""
    averages: bool
    """True to evaluate a running average of the generator, False to evaluate its last state."""

    @property
    def name(self) -> str:
        """The objective and its settings, as shown in tables."""
        return f"{self.objective}, {self.settings}"

    def describe(self) -> str:
        """Return the settings in one line."""
        betas = f" ({self.betas[0]:g}, {self.betas[1]:g})" if self.optimiser == "adam" else ""
        parts = [
            f"{self.optimiser} {self.rate:g}{betas}{', linear decay' if self.decays else ''}",
            f"{self.critic_steps} critic updates per step",
            f"norm {self.norm}",
            *([f"clip {self.clip:g}"] if self.clip else []),
            *([f"penalty {self.penalty:g}"] if self.penalty else []),
            "EMA of the generator" if self.averages else "last generator",
        ]
        return "; ".join(parts)

    def make_optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return a new RMSprop or fused Adam of a network's parameters, at the arm's `rate`.

        Args:
            network: The network, on its final device: the critic or the generator.
        """
        if self.optimiser == "rmsprop":
            return torch.optim.RMSprop(network.parameters(), self.rate)
        return torch.optim.Adam(network.parameters(), self.rate, self.betas, fused=True)


def make_arm(
    objective: str, settings: str, *, rate: float, norm: str = "none", penalty: float | None = None
) -> Arm:
    """Return the arm of a study: an objective with its training settings.

    Args:
        objective: One of `workflows.adversarial.objectives.OBJECTIVES`, such as `wgan-gp`.
        settings: `paper`, the defaults of `tesserae train wgan` for the objective, or `alike`, the
            same optimiser, learning rate, critic updates and norm for all objectives: Adam, *rate*,
            5 and *norm*.
        rate: Learning rate with the settings `alike`; it has no effect with `paper`.
        norm: Norm of the critic with the settings `alike`, one of
            `workflows.adversarial.layers.NORMS` (default `none`).
        penalty: Weight of the gradient penalty with either settings, if the objective has one
            (default: its paper's).

    Returns:
        The `objective`; the name of its `settings`; its `optimiser`, `adam` or `rmsprop`; `rate`,
        the learning rate; Adam's `betas`; `critic_steps`, the critic updates in a step; the `norm`;
        `clip`, or None; `penalty`, or 0; `decays`, True if the rate decays to 0; and `averages`,
        True if a running average of the generator is evaluated; these two are True with `alike`
        only.

    Raises:
        ValueError: *objective* or *settings* is unknown.
    """
    if settings not in SETTINGS:
        raise ValueError(f"settings are {settings!r}: expected one of {', '.join(SETTINGS)}.")
    paper = WganOptions(objective=objective).resolved()
    weight = paper.penalty_weight
    if weight and penalty is not None:
        weight = penalty
    alike = settings == "alike"
    return Arm(
        objective=objective,
        settings=settings,
        optimiser="adam" if alike else str(paper.optimiser),
        rate=rate if alike else float(paper.learning_rate or 0),
        betas=(0.5, 0.9) if alike else (float(paper.beta1 or 0), float(paper.beta2 or 0)),
        critic_steps=ALIKE_CRITIC_STEPS if alike else int(paper.critic_steps or 1),
        norm=norm if alike else str(paper.critic_norm),
        clip=paper.clip_limit,
        penalty=weight,
        decays=alike,
        averages=alike,
    )
