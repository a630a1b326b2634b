"""The options of the stage `superres`, which are the flags of `tesserae train superres`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from workflows.adversarial.objectives import OBJECTIVES, RELATIVE_OBJECTIVES
from workflows.options.fields import option
from workflows.superres.choices import (
    DEFAULT_SCALE,
    DEGRADATIONS,
    FEATURE_LOSSES,
    NETWORKS,
    PIXEL_LOSSES,
    SCALES,
    STORED,
    largest_pair,
)
from workflows.training.options import TrainingOptions

ORIGINAL_SIDE = 288
"""The side of the originals that --data prepares, in pixels, if patches need no larger ones."""
FASTEST_NETWORK = "fsrcnn"
"""The network that takes the shortest steps."""
BASES = ("bicubic", "none")
"""The images that the network's output is added to."""

_PAIRS = "pairs of images"
_NETWORK = "network"
_LOSS = "loss"
_ADVERSARIAL = "adversarial loss"
_OPTIMISER = "optimiser"
_COMPUTATION = "computation"


@dataclass(frozen=True, kw_only=True)
class SuperresOptions(TrainingOptions):
    """The flags of `tesserae train superres`."""

    steps: int = option(20_000, "number of training steps", minimum=1, group="training")
    batch_size: int = option(
        16, "number of patches in a batch, over all ranks", minimum=1, group="training"
    )
    eval_every: int = option(
        1_000,
        "number of steps between two evaluations, which also save a grid of images",
        minimum=1,
        group="progress and checkpoints",
    )

    scale: int | None = option(
        None,
        "factor of the enlargement",
        implied="the ratio of the stored sizes, else 4",
        choices=SCALES,
        group=_PAIRS,
    )
    degradation: str | None = option(
        None,
        "origin of the low-resolution images: stored reads them beside their originals; bicubic"
        " reduces the originals on the device, as MATLAB does; blur+jpeg blurs them first and"
        " compresses the result",
        implied="stored if the store has two sizes with the ratio of --scale, else bicubic",
        choices=DEGRADATIONS,
        group=_PAIRS,
    )
    patch_size: int = option(
        32,
        "side of the low-resolution patches to train on, in pixels",
        minimum=4,
        maximum=1024,
        metavar="PIXELS",
        group=_PAIRS,
    )
    augment: bool = option(
        True, "turn and mirror patches to one of eight orientations, at random", group=_PAIRS
    )
    blur: tuple[float, ...] = option(
        (0.2, 1.2),
        "smallest and largest standard deviation of the blur of blur+jpeg, in pixels of the"
        " original",
        above=0,
        maximum=10,
        metavar="PIXELS",
        group=_PAIRS,
    )
    jpeg_quality: tuple[int, ...] = option(
        (40, 95),
        "lowest and highest JPEG quality of blur+jpeg",
        minimum=1,
        maximum=100,
        metavar="QUALITY",
        group=_PAIRS,
    )
    evaluated_images: int = option(
        64,
        "largest number of held-out images that are evaluated during training; it is rounded up to"
        " a multiple of 8",
        minimum=1,
        group=_PAIRS,
    )

    network: str = option(
        "span",
        "network: " + "; ".join(f"{name} is {text}" for name, text in NETWORKS.items()),
        choices=tuple(NETWORKS),
        group=_NETWORK,
    )
    base: str | None = option(
        None,
        "image that the network's output is added to: the bicubic enlargement, or none",
        implied="bicubic; none for the lesson's network",
        choices=BASES,
        group=_NETWORK,
    )

    pixel_loss: str = option(
        "l1", "difference of pixels: mean absolute, squared, or smooth", choices=PIXEL_LOSSES,
        group=_LOSS,
    )  # fmt: skip
    pixel_weight: float = option(1.0, "weight of --pixel-loss", minimum=0, group=_LOSS)
    perceptual: str | None = option(
        None,
        "vision model of `transformers`, a folder or a hub name, whose features the perceptual and"
        " the style loss compare",
        implied="no such loss",
        metavar="MODEL",
        group=_LOSS,
    )
    perceptual_blocks: tuple[str, ...] = option(
        (),
        "blocks of that model whose outputs are compared, as its `named_modules` has them",
        metavar="BLOCK",
        group=_LOSS,
    )
    perceptual_block_weights: tuple[float, ...] = option(
        (),
        "weight of each of --perceptual-blocks, such as 0.1 0.8 0.1",
        implied="equal ones that sum to 1",
        minimum=0,
        metavar="WEIGHT",
        group=_LOSS,
    )
    perceptual_loss: str = option(
        "absolute",
        "difference of features: mean squared, mean absolute, or the root of the mean square of"
        " each image",
        choices=FEATURE_LOSSES,
        group=_LOSS,
    )
    perceptual_weight: float = option(1.0, "weight of the perceptual loss", minimum=0, group=_LOSS)
    style_weight: float = option(
        0.0, "weight of the difference of Gram matrices of features", minimum=0, group=_LOSS
    )
    variation_weight: float = option(
        0.0, "weight of the total variation of the enlarged image", minimum=0, group=_LOSS
    )

    adversarial_weight: float = option(
        0.0,
        "weight of the adversarial loss; 0 trains without a critic",
        minimum=0,
        group=_ADVERSARIAL,
    )
    objective: str = option(
        "relativistic",
        "adversarial objective: dcgan is the standard one; relativistic compares each score with"
        " the mean score of the other kind",
        choices=(*OBJECTIVES, *RELATIVE_OBJECTIVES),
        group=_ADVERSARIAL,
    )
    warmup_steps: int | None = option(
        None,
        "number of first steps without the adversarial loss",
        implied="half of --steps",
        minimum=0,
        group=_ADVERSARIAL,
    )
    critic_width: int = option(
        32,
        "number of channels of the critic's first layer",
        minimum=1,
        group=_ADVERSARIAL,
    )
    critic_learning_rate: float = option(
        1e-4, "learning rate of the critic", above=0, group=_ADVERSARIAL
    )

    learning_rate: float = option(5e-4, "learning rate of Adam", above=0, group=_OPTIMISER)
    schedule: str = option(
        "cosine",
        "learning-rate schedule: cosine and linear fall to 0, step is divided by 10 at half of the"
        " run",
        choices=("cosine", "linear", "step", "constant"),
        group=_OPTIMISER,
    )
    ema_decay: float = option(
        0.999,
        "decay of the exponential moving average of the weights, which is evaluated and used; 0"
        " uses the weights themselves",
        minimum=0,
        maximum=0.999999,
        group=_OPTIMISER,
    )
    max_gradient_norm: float | None = option(
        None,
        "norm to which larger gradients are scaled down",
        implied="no limit",
        above=0,
        group=_OPTIMISER,
    )

    precision: str = option(
        "auto",
        "number format of the computation; auto is bfloat16 if the hardware multiplies matrices of"
        " it, else float32",
        choices=("auto", "float32", "bfloat16"),
        group=_COMPUTATION,
    )
    compile: bool = option(False, "compile the network with torch.compile", group=_COMPUTATION)

    def __post_init__(self) -> None:
        """Refuse combinations of options that cannot work.

        Raises:
            ValueError: A value is not allowed, or not together with another one.
        """
        super().__post_init__()
        for name in ("blur", "jpeg_quality"):
            values = getattr(self, name)
            if len(values) != 2 or values[0] > values[1]:
                raise ValueError(
                    f"{_flag(name)} is {' '.join(f'{v:g}' for v in values)}: expected the smallest"
                    " and the largest value."
                )
        self._check_losses()
        if self.adversarial_weight and self.batch_size < 2:
            raise ValueError(
                f"--batch-size is {self.batch_size}: the adversarial loss needs at least 2 patches."
            )
        is_relative = self.adversarial_weight and self.objective in RELATIVE_OBJECTIVES
        if is_relative and self.micro_batch_size is not None:
            raise ValueError(
                f"--micro-batch-size is {self.micro_batch_size}: --objective {self.objective}"
                " compares each score with the mean of the whole batch. Omit it, or pass another"
                " --objective."
            )
        if self.encoded is not None and self.degradation == STORED:
            raise ValueError(
                f"--degradation is {STORED} and --encoded is {self.encoded}: encoded rows have one"
                " size. Omit one of them."
            )

    def _check_losses(self) -> None:
        if self.perceptual is None:
            named = [n for n in ("perceptual_blocks", "style_weight") if getattr(self, n)]
            if named:
                raise ValueError(
                    f"{_flag(named[0])} needs a network: pass --perceptual MODEL, or omit it."
                )
        elif not self.perceptual_blocks:
            raise ValueError(
                f"--perceptual is {self.perceptual}: pass the blocks to compare as well, with"
                " --perceptual-blocks."
            )
        weights = self.perceptual_block_weights
        if weights and len(weights) != len(self.perceptual_blocks):
            raise ValueError(
                f"--perceptual-block-weights has {len(weights)} values for"
                f" {len(self.perceptual_blocks)} blocks: expected one for each."
            )
        has_network_loss = self.perceptual is not None and (
            self.perceptual_weight or self.style_weight
        )
        if not (self.pixel_weight or has_network_loss):
            raise ValueError(
                "--pixel-weight is 0 and there is no perceptual or style loss: nothing says what"
                " the images should be. Give one of them a weight."
            )

    @property
    def block_weights(self) -> tuple[float, ...]:
        """The weight of each of `perceptual_blocks`."""
        count = len(self.perceptual_blocks)
        return self.perceptual_block_weights or (1 / count,) * count if count else ()

    @property
    def critic_starts(self) -> int:
        """The number of first steps without the adversarial loss."""
        return self.steps // 2 if self.warmup_steps is None else self.warmup_steps

    def warmup_text(self, step: int) -> str:
        """Return a short description of the warm-up that the next step belongs to.

        Args:
            step: Number of complete steps, at least 0.
        """
        if self.adversarial_weight and step < self.critic_starts:
            return f"without the adversarial loss until step {self.critic_starts:,}"
        return ""

    def with_absolute_paths(self) -> Self:
        """Return a copy with absolute paths, because ranks run in other working directories."""
        options = super().with_absolute_paths()
        if self.perceptual is None or not Path(self.perceptual).is_dir():
            return options
        return dataclasses.replace(options, perceptual=str(Path(self.perceptual).absolute()))

    def with_recorded_choices(self, recorded: Mapping[str, Any]) -> Self:
        """Return a copy in which options that a run has chosen by itself have the run's values.

        Args:
            recorded: The options of the run by name; empty for a new run.

        Raises:
            ValueError: Encoded rows are named, and the run trains on stored pairs.
        """
        if self.encoded is not None and recorded.get("degradation") == STORED:
            raise ValueError(
                f"--encoded is {self.encoded}: the run trains on stored pairs. Omit it, or pass"
                " another folder with --run."
            )
        options = super().with_recorded_choices(recorded)
        choices = {
            name: recorded[name]
            for name in ("scale", "degradation", "warmup_steps")
            if getattr(self, name) is None and recorded.get(name) is not None
        }
        return dataclasses.replace(options, **choices)

    def prepared_sizes(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sides of the squares that --data prepares, in pixels.

        Args:
            stored: Sides of the squares that the store has already, in pixels, which are taken if
                patches fit into them.
        """
        scale = self.scale or DEFAULT_SCALE
        if self.degradation in (None, STORED):
            pair = largest_pair(stored, self.scale, self.patch_size)
            low = max(self.patch_size, ORIGINAL_SIDE // scale)
            return (low, scale * low) if pair is None else pair
        smallest = scale * self.patch_size
        fitting = [size for size in stored if size >= smallest]
        return (max(fitting) if fitting else max(ORIGINAL_SIDE, smallest),)

    @property
    def held_out_prepared_first(self) -> bool:
        """True, as a run without a held-out split has no evaluation and no samples."""
        return True

    def check_network(self, classes: tuple[str, ...] | None) -> None:
        """Refuse a network of the perceptual loss that cannot be opened or takes no patches.

        Args:
            classes: Not used.

        Raises:
            TesseraeError: The network cannot be opened, lacks a block, or fails on patches.
        """
        if self.perceptual is not None:
            from workflows.superres.loss import check_perceptual  # late: --help must not load torch

            check_perceptual(self)

    def speedup_options(self) -> str:
        """Return the options that make a step faster, as a phrase for the terminal."""
        network = "" if self.network == FASTEST_NETWORK else f", --network {FASTEST_NETWORK}"
        return f"a smaller --patch-size or --batch-size{network}"

    def changeable_on_rewind(self) -> tuple[str, ...]:
        """Return the names of options that may change when a run restarts from an earlier step."""
        return (
            "learning_rate", "critic_learning_rate", "schedule", "pixel_weight",
            "perceptual_weight", "style_weight", "variation_weight", "adversarial_weight",
            "max_gradient_norm", "warmup_steps",
        )  # fmt: skip

    def options_to_lower(self) -> str:
        """Return what to lower after training has diverged, as a phrase for an error message."""
        rate = f"--learning-rate (now {self.learning_rate:g})"
        if not self.adversarial_weight:
            return rate
        return f"{rate} or --critic-learning-rate (now {self.critic_learning_rate:g})"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
