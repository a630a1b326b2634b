"""The options of a GAN. Options left out follow from the objective and the network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from workflows.adversarial.objectives import OBJECTIVES
from workflows.options.fields import option
from workflows.training.options import TrainingOptions, resized_side

NETWORKS = ("conv", "residual", "perceptron")
"""The architectures of generators and critics."""
CRITIC_NORMS = ("batch", "layer", "spectral", "none")
"""The normalisations of critics."""
CONDITIONS = ("none", "projection", "concatenation")
"""The ways in which the critic uses labels; none trains without labels."""

WARMUP_STEPS = 25
"""The number of first steps in which the critic warms up."""
WARMUP_INTERVAL_STEPS = 500
"""The interval, in steps, of further steps in which the critic warms up."""

_IMAGES = "images"
_NETWORKS = "objective and networks"
_OPTIMISER = "optimiser"
_COMPUTATION = "computation"

_OF_OBJECTIVE: dict[str, dict[str, Any]] = {
    # Arjovsky et al. 2017 and their code: momentum would make the critic unstable.
    "wgan": {
        "optimiser": "rmsprop", "learning_rate": 5e-5, "critic_steps": 5,
        "warmup_critic_steps": 100,
    },
    # Gulrajani et al. 2017, algorithm 1; no batch norm, since the penalty is of each row.
    "wgan-gp": {
        "learning_rate": 1e-4, "beta1": 0.0, "beta2": 0.9, "critic_steps": 5,
        "critic_norm": "layer",
    },
    # Miyato et al. 2018, for their residual networks.
    "hinge": {"beta1": 0.0, "beta2": 0.9, "critic_steps": 5},
}  # fmt: skip
_OTHERWISE = {
    # Radford et al. 2016.
    "optimiser": "adam", "learning_rate": 2e-4, "beta1": 0.5, "beta2": 0.999,
    "critic_steps": 1, "warmup_critic_steps": 0, "critic_norm": "batch",
}  # fmt: skip
_WIDTH = {"conv": 64, "residual": 128, "perceptron": 512}


@dataclass(frozen=True, kw_only=True)
class WganOptions(TrainingOptions):
    """The flags of `tesserae train wgan`."""

    image_size: int = option(
        64,
        "side of the generated images, in pixels",
        minimum=8,
        maximum=512,
        metavar="PIXELS",
        group=_IMAGES,
    )
    crop: str = option(
        "none",
        "position at which larger images are cropped to a square: none is the centre, random"
        " a random position",
        choices=("none", "random"),
        group=_IMAGES,
    )
    resize: bool = option(
        True,
        "resize stored images that are at least a quarter larger than --image-size, on the device;"
        " otherwise they are cropped at their stored scale",
        legacy_value=False,
        group=_IMAGES,
    )
    flip: bool = option(
        False, "mirror half of the training images horizontally, at random", group=_IMAGES
    )
    condition: str = option(
        "none",
        "how the networks are conditioned on the class of an image; none ignores classes",
        choices=CONDITIONS,
        group=_IMAGES,
    )
    latent_dim: int = option(
        100,
        "dimension of the noise vector from which an image is generated",
        minimum=1,
        group=_IMAGES,
    )

    objective: str = option(
        "wgan",
        "objective of both networks, which also sets the defaults of other options",
        choices=tuple(OBJECTIVES),
        group=_NETWORKS,
    )
    weight_clip: float | None = option(
        None,
        "largest absolute value of a critic's parameter; 0 does not clip",
        implied="wgan: 0.01, others: 0",
        minimum=0,
        group=_NETWORKS,
    )
    gradient_penalty: float | None = option(
        None,
        "weight of the gradient penalty; 0 leaves it out",
        implied="wgan-gp: 10, others: 0",
        minimum=0,
        group=_NETWORKS,
    )
    critic_steps: int | None = option(
        None,
        "number of critic updates in each step",
        implied="wgan, wgan-gp, hinge: 5, others: 1",
        minimum=1,
        group=_NETWORKS,
    )
    warmup_critic_steps: int | None = option(
        None,
        "number of critic updates in each of the first 25 steps and in every 500th; 0 does as many"
        " as in other steps",
        implied="wgan: 100, others: 0",
        minimum=0,
        group=_NETWORKS,
    )

    generator: str = option(
        "conv", "architecture of the generator", choices=NETWORKS, group=_NETWORKS
    )
    generator_width: int | None = option(
        None,
        "number of channels or units of the generator's narrowest layer",
        implied="conv: 64, residual: 128, perceptron: 512",
        minimum=1,
        group=_NETWORKS,
    )
    generator_norm: bool = option(True, "batch norm in the generator", group=_NETWORKS)
    critic: str = option("conv", "architecture of the critic", choices=NETWORKS, group=_NETWORKS)
    critic_width: int | None = option(
        None,
        "number of channels or units of the critic's narrowest layer",
        implied="conv: 64, residual: 128, perceptron: 512",
        minimum=1,
        group=_NETWORKS,
    )
    critic_norm: str | None = option(
        None,
        "normalisation in the critic",
        implied="batch; wgan-gp: layer; perceptron, or residual with a penalty: none",
        choices=CRITIC_NORMS,
        group=_NETWORKS,
    )
    extra_layers: int = option(
        0, "number of additional 3 x 3 layers in each conv network", minimum=0, group=_NETWORKS
    )

    optimiser: str | None = option(
        None,
        "optimiser of both networks",
        implied="wgan: rmsprop, others: adam",
        choices=("rmsprop", "adam"),
        group=_OPTIMISER,
    )
    learning_rate: float | None = option(
        None,
        "learning rate",
        implied="wgan: 5e-5, wgan-gp: 1e-4, others: 2e-4",
        above=0,
        group=_OPTIMISER,
    )
    beta1: float | None = option(
        None,
        "Adam's decay of the mean gradient",
        implied="wgan-gp, hinge: 0, others: 0.5",
        minimum=0,
        maximum=0.9999,
        group=_OPTIMISER,
    )
    beta2: float | None = option(
        None,
        "Adam's decay of the mean squared gradient",
        implied="wgan-gp, hinge: 0.9, others: 0.999",
        minimum=0,
        maximum=0.999999,
        group=_OPTIMISER,
    )
    learning_rate_decay: bool = option(
        False, "decay the learning rate linearly to 0 at the last step", group=_OPTIMISER
    )
    ema_decay: float = option(
        0.999,
        "decay of the exponential moving average of the generator's weights, which is evaluated and"
        " sampled; 0 uses the weights themselves",
        minimum=0,
        maximum=0.999999,
        group=_OPTIMISER,
    )
    generator_batches: int = option(
        1, "number of batches in each update of the generator", minimum=1, group=_OPTIMISER
    )

    precision: str = option(
        "auto",
        "number format of the computation; auto is bfloat16 if the hardware supports it, else"
        " float32",
        choices=("auto", "float32", "bfloat16"),
        group=_COMPUTATION,
    )
    optimiser_loop: str = option(
        "auto",
        "torch's implementation of the optimiser; auto is fused for adam and foreach for rmsprop",
        choices=("auto", "fused", "foreach", "single"),
        group=_COMPUTATION,
    )
    channels_last: bool = option(True, "channels-last memory layout", group=_COMPUTATION)
    compile: bool = option(False, "compile the networks with torch.compile", group=_COMPUTATION)

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
                "--compile with a gradient penalty: torch cannot compile second derivatives. Pass"
                " only one of them."
            )
        optimiser = self.optimiser or ("rmsprop" if self.objective == "wgan" else "adam")
        if self.optimiser_loop == "fused" and optimiser == "rmsprop":
            raise ValueError(
                "--optimiser-loop is fused: torch has no fused rmsprop. Pass another value, or"
                " --optimiser adam."
            )
        perceptrons = self.generator == self.critic == "perceptron"
        if not perceptrons and self.image_size & (self.image_size - 1):
            raise ValueError(
                f"--image-size is {self.image_size}: expected 8, 16, 32, 64, 128, ..., or any size"
                " with --generator perceptron --critic perceptron."
            )
        if self.critic == "perceptron" and self.critic_norm in ("batch", "layer"):
            raise ValueError(
                f"--critic-norm is {self.critic_norm} with --critic perceptron: expected none or"
                " spectral."
            )

    def resized_side(self, stored: int) -> int | None:
        """Return the side to which the device resizes images before the crop, in pixels.

        Args:
            stored: Side of the stored images, in pixels.

        Returns:
            None without `resize`, or if *stored* is below 1.25 times the image size: images are not
            resized. Otherwise the image size, or for the crop `random` 9/8 of it, rounded and at
            most *stored*.
        """
        return resized_side(stored, self.image_size, crop=self.crop) if self.resize else None

    def check_labels(self, classes: int, unlabelled: int) -> None:
        """Refuse to condition on classes if the split lacks classes or labels.

        Without a condition any split is accepted.

        Args:
            classes: Number of classes of the split's store.
            unlabelled: Number of rows of the split without a label.

        Raises:
            ValueError: There are fewer than two classes, or images without a label; the message
                names `--condition`.
        """
        if self.condition != "none" and (classes < 2 or unlabelled):
            raise ValueError(
                f"--condition is {self.condition}: expected a label for every image, and at least"
                f" two classes; the split has {classes}, and {unlabelled:,} images without a"
                " label."
            )

    @property
    def updates_per_step(self) -> int:
        """The number of updates in a step: those of the critic, and one of the generator."""
        return (self.resolved().critic_steps or 1) + 1

    def updates_after(self, step: int) -> int:
        """Return the total number of updates in the first *step* steps of a run.

        An update is one call of `Wgan.advance`: of the critic or, as the last of each step, of the
        generator. The first 25 steps and then the 501st, 1,001st, ... are a warm-up and have
        `resolved().warmup_critic_steps` updates of the critic if that is not 0.

        Args:
            step: Number of complete steps, at least 0.
        """
        updates = self.updates_per_step
        extra_updates = (self.resolved().warmup_critic_steps or updates - 1) - (updates - 1)
        warmup_steps = min(step, WARMUP_STEPS) + max(0, (step - 1) // WARMUP_INTERVAL_STEPS)
        return step * updates + warmup_steps * extra_updates

    def warmup_text(self, step: int) -> str:
        """Return a description of the critic's warm-up if the next step belongs to it.

        Args:
            step: Number of complete steps, at least 0.

        Returns:
            A phrase such as `warm-up until step 25: 100 critic updates per step`; empty outside of
            the warm-up or without one.
        """
        updates = self.resolved().warmup_critic_steps
        if not updates or (step >= WARMUP_STEPS and step % WARMUP_INTERVAL_STEPS):
            return ""
        until = f" until step {WARMUP_STEPS}" if step < WARMUP_STEPS else ""
        return f"warm-up{until}: {updates:,} critic updates per step"

    def speedup_options(self) -> str:
        """Return the options that make a step faster, as a phrase for the terminal."""
        warm = ", --warmup-critic-steps 0" if self.resolved().warmup_critic_steps else ""
        return (
            "a smaller --image-size (and a store of that size), --generator-width or"
            f" --critic-width, fewer --critic-steps{warm}"
        )

    def changeable_on_rewind(self) -> tuple[str, ...]:
        """Return the names of options that may change when a run restarts from an earlier step."""
        return (
            "learning_rate", "beta1", "beta2", "learning_rate_decay", "weight_clip",
            "gradient_penalty", "critic_steps", "warmup_critic_steps", "precision",
        )  # fmt: skip

    def options_to_lower(self) -> str:
        """Return what to lower after training has diverged, as a phrase for an error message."""
        return f"--learning-rate (now {self.resolved().learning_rate:g})"

    @property
    def penalty_weight(self) -> float:
        """The weight of the gradient penalty; 0 = none."""
        weight = self.gradient_penalty
        return OBJECTIVES[self.objective].penalty if weight is None else weight

    @property
    def clip_limit(self) -> float | None:
        """The limit to which critic parameters are clipped; None = no clipping."""
        limit = OBJECTIVES[self.objective].clip if self.weight_clip is None else self.weight_clip
        return limit or None

    def resolved(self) -> Self:
        """Return a copy in which None is replaced by the objective's and the networks' defaults."""
        follows = {**_OTHERWISE, **_OF_OBJECTIVE.get(self.objective, {})}
        if self.critic == "perceptron" or (self.critic == "residual" and self.penalty_weight):
            follows["critic_norm"] = "none"  # as Gulrajani et al. have it, appendix F
        follows |= {
            "generator_width": _WIDTH[self.generator],
            "critic_width": _WIDTH[self.critic],
            "weight_clip": self.clip_limit or 0.0,
            "gradient_penalty": self.penalty_weight,
        }
        left = {name: value for name, value in follows.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **left)
