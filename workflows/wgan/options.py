"""The options of a GAN. Options left out follow from the objective and the network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from workflows.adversarial.objectives import OBJECTIVES
from workflows.training.options import TrainingOptions, option, shrunk_side

NETWORKS = ("conv", "residual", "perceptron")
CRITIC_NORMS = ("batch", "layer", "spectral", "none")
CONDITIONS = ("none", "projection", "concatenation")

WARM_STEPS = 25
"""The number of first steps in which the critic warms up."""
WARM_EVERY = 500
"""The interval, in steps, of further steps in which the critic warms up."""

_OUTPUT = "pictures"
_PLAY = "objective and networks"
_SPEED = "computation"

_OF_OBJECTIVE: dict[str, dict[str, Any]] = {
    # Arjovsky et al. 2017 and their code: momentum would make the critic unstable.
    "wgan": {
        "optimiser": "rmsprop", "rate": 5e-5, "critic_steps": 5, "warm_critic_steps": 100,
    },
    # Gulrajani et al. 2017, algorithm 1; no batch norm, since the penalty is of each row.
    "wgan-gp": {
        "rate": 1e-4, "beta1": 0.0, "beta2": 0.9, "critic_steps": 5, "critic_norm": "layer",
    },
    # Miyato et al. 2018, for their residual networks.
    "hinge": {"beta1": 0.0, "beta2": 0.9, "critic_steps": 5},
}  # fmt: skip
_OTHERWISE = {
    # Radford et al. 2016.
    "optimiser": "adam", "rate": 2e-4, "beta1": 0.5, "beta2": 0.999,
    "critic_steps": 1, "warm_critic_steps": 0, "critic_norm": "batch",
}  # fmt: skip
_WIDTH = {"conv": 64, "residual": 128, "perceptron": 512}


@dataclass(frozen=True, kw_only=True)
class WganOptions(TrainingOptions):
    """The flags of `tesserae train wgan`."""

    image_size: int = option(
        64, "side of the pictures, in pixels", least=8, most=512, group=_OUTPUT
    )
    crop: str = option(
        "none",
        "position of the square crop of larger pictures: none = the centre",
        choices=("none", "random"),
        group=_OUTPUT,
    )
    shrink: bool = option(
        True, "resize stored pictures that are a quarter larger or more, on the device; otherwise a"
        " square of --image-size is cut out of them as they are", before=False, group=_OUTPUT,
    )  # fmt: skip
    flip: bool = option(False, "mirror half of the pictures", group=_OUTPUT)
    condition: str = option(
        "none",
        "how the networks use the class of a picture; none = they ignore it",
        choices=CONDITIONS,
        group=_OUTPUT,
    )
    noise: int = option(
        100, "random numbers from which a picture is generated", least=1, group=_OUTPUT
    )

    objective: str = option(
        "wgan",
        "objective of both networks, which also sets defaults of other options",
        choices=tuple(OBJECTIVES),
        group=_PLAY,
    )
    clip: float | None = option(
        None,
        "largest absolute value of a critic's parameter; 0 = no limit (wgan: 0.01, others: 0)",
        least=0,
        group=_PLAY,
    )
    penalty: float | None = option(
        None, "weight of the gradient penalty; 0 = none (wgan-gp: 10)", least=0, group=_PLAY
    )
    critic_steps: int | None = option(
        None, "updates of the critic in a step (wgan, wgan-gp, hinge: 5, others: 1)", least=1,
        group=_PLAY,
    )  # fmt: skip
    warm_critic_steps: int | None = option(
        None, "updates of the critic in each of the first 25 steps and in every 500th; 0 = as in"
        " other steps (wgan: 100)",
        least=0, group=_PLAY,
    )  # fmt: skip

    generator: str = option(
        "conv", "kind of the generator's network", choices=NETWORKS, group=_PLAY
    )
    generator_width: int | None = option(
        None,
        "units of the generator's narrowest layer (conv 64, residual 128, perceptron 512)",
        least=1,
        group=_PLAY,
    )
    generator_norm: bool = option(True, "batch norm in the generator", group=_PLAY)
    critic: str = option("conv", "kind of the critic's network", choices=NETWORKS, group=_PLAY)
    critic_width: int | None = option(
        None, "units of the critic's narrowest layer (conv 64, residual 128, perceptron 512)",
        least=1, group=_PLAY,
    )  # fmt: skip
    critic_norm: str | None = option(
        None, "norm in the critic (wgan-gp: layer, residual none; perceptron: none; others: batch)",
        choices=CRITIC_NORMS, group=_PLAY,
    )  # fmt: skip
    extra_layers: int = option(
        0, "additional 3 x 3 layers in both conv networks", least=0, group=_PLAY
    )

    optimiser: str | None = option(
        None,
        "optimiser of both networks (wgan: rmsprop, others: adam)",
        choices=("rmsprop", "adam"),
    )
    rate: float | None = option(
        None, "learning rate (wgan: 5e-5, wgan-gp: 1e-4, others: 2e-4)", above=0
    )
    beta1: float | None = option(
        None,
        "Adam's decay of the mean gradient (wgan-gp, hinge: 0, others: 0.5)",
        least=0,
        most=0.9999,
    )
    beta2: float | None = option(
        None,
        "Adam's decay of the squared gradient (wgan-gp, hinge: 0.9, others: 0.999)",
        least=0,
        most=0.999999,
    )
    decay: bool = option(False, "decay the learning rate linearly to 0 at the last step")
    ema: float = option(
        0.999, "decay of the running average of the generator, which is evaluated; 0 = no average",
        least=0, most=0.999999,
    )  # fmt: skip
    generator_batches: int = option(1, "batches in an update of the generator", least=1)

    precision: str = option(
        "auto",
        "dtype of the computation: auto = bfloat16 if the hardware supports it, else float32",
        choices=("auto", "float32", "bfloat16"),
        group=_SPEED,
    )
    optimiser_loop: str = option(
        "auto",
        "torch's implementation of the optimiser: auto = fused for adam, foreach for rmsprop",
        choices=("auto", "fused", "foreach", "single"),
        group=_SPEED,
    )
    channels_last: bool = option(True, "channels-last memory layout", group=_SPEED)
    compile: bool = option(False, "compile the networks with torch.compile", group=_SPEED)

    def __post_init__(self) -> None:
        """Refuse combinations of options that cannot work.

        Raises:
            ValueError: A value is not allowed, or not together with another one.
        """
        super().__post_init__()
        if self.batch_size < 2:
            raise ValueError("--batch-size is 1: expected at least 2, for batch norm.")
        if self.compile and self.penalty_weight:
            raise ValueError(
                "--compile with a gradient penalty: torch compiles no gradient of a gradient."
                " Leave one of them out."
            )
        optimiser = self.optimiser or ("rmsprop" if self.objective == "wgan" else "adam")
        if self.optimiser_loop == "fused" and optimiser == "rmsprop":
            raise ValueError("--optimiser-loop is fused: torch has no fused rmsprop.")
        perceptrons = self.generator == self.critic == "perceptron"
        if not perceptrons and self.image_size & (self.image_size - 1):
            raise ValueError(
                f"--image-size is {self.image_size}: expected 8, 16, 32, 64, 128, ..., or"
                " perceptrons, which make any size."
            )
        if self.critic == "perceptron" and self.critic_norm in ("batch", "layer"):
            raise ValueError("--critic-norm is of conv and residual: a perceptron has spectral.")

    def shrunk_side(self, stored: int) -> int | None:
        """Return the side to which the device resizes pictures; None = it does not resize them."""
        return shrunk_side(stored, self.image_size, crop=self.crop) if self.shrink else None

    def check_labels(self, classes: int, unlabelled: int) -> None:
        """Refuse to condition on classes if the split lacks classes or labels.

        Raises:
            ValueError: There are fewer than two classes, or rows without a label.
        """
        if self.condition != "none" and (classes < 2 or unlabelled):
            raise ValueError(
                f"--condition is {self.condition}: expected labels of every picture, and at least"
                f" two classes; the split has {classes}, and {unlabelled:,} pictures without one."
            )

    @property
    def usual_updates(self) -> int:
        """The number of updates in a step: those of the critic, and one of the generator."""
        return (self.filled().critic_steps or 1) + 1

    def updates_to(self, step: int) -> int:
        """Return the number of updates, of both networks, in the first *step* steps."""
        usual = self.usual_updates
        more = (self.filled().warm_critic_steps or usual - 1) - (usual - 1)
        warm = min(step, WARM_STEPS) + max(0, (step - 1) // WARM_EVERY)
        return step * usual + warm * more

    def warming(self, step: int) -> str:
        """Return a description of the critic's warm-up after *step* steps; empty outside of one."""
        updates = self.filled().warm_critic_steps
        if not updates or (step >= WARM_STEPS and step % WARM_EVERY):
            return ""
        until = f" until step {WARM_STEPS}" if step < WARM_STEPS else ""
        return f"warm-up{until}: {updates:,} critic updates a step"

    def quicker(self) -> str:
        """Return the options that make a step faster, as a phrase for the terminal."""
        warm = ", --warm-critic-steps 0" if self.filled().warm_critic_steps else ""
        return (
            "a smaller --image-size (with a store of that size), --generator-width or"
            f" --critic-width, fewer --critic-steps{warm}"
        )

    def changeable(self) -> tuple[str, ...]:
        """Return the options that may change when a run goes back to an earlier step."""
        return (
            "rate", "beta1", "beta2", "decay", "clip", "penalty", "critic_steps",
            "warm_critic_steps", "precision",
        )  # fmt: skip

    def to_lower(self) -> str:
        """Return the option to lower, with its value, after training has diverged."""
        return f"--rate (now {self.filled().rate:g})"

    @property
    def penalty_weight(self) -> float:
        """The weight of the gradient penalty; 0 = none."""
        return OBJECTIVES[self.objective].penalty if self.penalty is None else self.penalty

    @property
    def clip_limit(self) -> float | None:
        """The limit to which critic parameters are clipped; None = no clipping."""
        limit = OBJECTIVES[self.objective].clip if self.clip is None else self.clip
        return limit or None

    def filled(self) -> Self:
        """Return a copy in which None is replaced by the objective's and the networks' defaults."""
        follows = {**_OTHERWISE, **_OF_OBJECTIVE.get(self.objective, {})}
        if self.critic == "perceptron" or (self.critic == "residual" and self.penalty_weight):
            follows["critic_norm"] = "none"  # as Gulrajani et al. have it, appendix F
        follows |= {
            "generator_width": _WIDTH[self.generator],
            "critic_width": _WIDTH[self.critic],
            "clip": self.clip_limit or 0.0,
            "penalty": self.penalty_weight,
        }
        left = {name: value for name, value in follows.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **left)
