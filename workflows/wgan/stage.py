"""The training stage of GANs: a step is some updates of the critic and one of the generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.augment import Augment
from workflows.adversarial.critics import ConvCritic, ResidualCritic, VectorCritic
from workflows.adversarial.objectives import OBJECTIVES
from workflows.adversarial.trainer import AdversarialConfig, AdversarialTrainer
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.training.averaging import average_of
from workflows.training.batches import Batches, RankBatch
from workflows.training.image_grid import to_uint8
from workflows.training.options import resized_side
from workflows.training.precision import training_precision
from workflows.training.stage import Data
from workflows.training.world import World
from workflows.wgan.generators import ConvGenerator, ResidualGenerator, VectorGenerator
from workflows.wgan.options import WARMUP_INTERVAL_STEPS, WARMUP_STEPS, WganOptions

SAMPLES = 64
"""The number of images in a grid of samples."""
EVALUATION_ROWS = 512
"""The number of rows, generated and real, that an evaluation compares."""
RGB = (0.5, 0.5, 0.5)
"""The mean and the standard deviation, as shares of 255, that normalise pixels to [-1, 1]."""


class Wgan:
    """The stage of `tesserae train wgan`: a generator and a critic that learn from a store."""

    def __init__(self, options: WganOptions, data: Data, world: World) -> None:
        """Create both networks and their optimisers.

        Torch's global generator draws the weights.

        Args:
            options: The options of the stage.
            data: The loaders of training and held-out rows, and the classes.
            world: The rank that the stage runs in, with its device.
        """
        self.options = options = options.resolved()
        self.world = world
        self.step = 0
        self._critic_updates = 0
        self._critic_metrics: dict[str, Tensor] = {}
        self.classes = len(data.classes) if options.condition != "none" else 0
        generator, critic = (
            make_generator(options, self.classes),
            make_critic(options, self.classes),
        )
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        for network in (generator, critic):
            network.to(world.device, memory_format=layout)  # type: ignore[call-overload]
        config = AdversarialConfig(
            OBJECTIVES[options.objective],
            clip=options.clip_limit,
            penalty=options.penalty_weight,
            precision=training_precision(options.precision, world.device),
            micro_batch=options.micro_batch_size,
        )
        self.trainer = AdversarialTrainer(
            generator, critic, _optimiser(options, generator), _optimiser(options, critic),
            config, world,
        )  # fmt: skip
        self.average = average_of(generator, options.ema_decay)
        if options.compile:
            generator.compile()
            critic.compile()
        augment = Augment(
            size=options.image_size, crop=options.crop, flip=options.flip, mean=RGB, std=RGB,
            seed=options.seed, resize=options.resized_side(data.train.sizes[0]),
        )  # fmt: skip
        self.batches = Batches(data.train, augment, world, ranks_on_host=data.ranks_on_host)
        self._data = data
        self._plain = gan_evaluation_augmentation(options, data.train.sizes[0])

    # --- updates --------------------------------------------------------------------------------

    def advance(self) -> dict[str, Tensor]:
        """Update the critic, or the generator, which completes the step.

        Returns:
            0-d float32 tensors over this rank's rows. Of a critic: `critic_loss`, `estimate` (the
            mean score of real rows minus that of fake rows) and, with a gradient penalty,
            `penalty`. Of a generator: `generator_loss`, and the metrics of the step's last critic
            update, averaged over ranks.
        """
        critic_steps = self._critic_steps()
        if self._critic_updates < critic_steps:
            metrics = self._update_critic()
            self._critic_updates += 1
            if (
                self._critic_updates == critic_steps
            ):  # a step reports the metrics of its last critic update
                self._critic_metrics = {
                    name: self.world.mean(value) for name, value in metrics.items()
                }
            return metrics
        metrics = self._critic_metrics | self._update_generator()
        self.average.update_parameters(self.trainer.generator)
        self.step += 1
        self._critic_updates = 0
        return metrics

    def _critic_steps(self) -> int:
        options = self.options
        is_warmup = self.step < WARMUP_STEPS or self.step % WARMUP_INTERVAL_STEPS == 0
        return (is_warmup and options.warmup_critic_steps) or options.critic_steps or 1

    def _update_critic(self) -> dict[str, Tensor]:
        options, rows = self.options, self.options.batch_size
        assert self.trainer.critic_optimiser is not None
        self._set_rate(self.trainer.critic_optimiser)
        batch = self.batches.take()
        key = (options.seed, self.step, self._critic_updates)
        alpha = None
        if options.penalty_weight:
            alpha = self.world.uniform(rows, key=(*key, "share"))
        condition = self._condition(batch.labels)
        noise = self.world.normal(rows, options.latent_dim, key=(*key, "noise"))
        images = self._laid_out(batch.images)
        return self.trainer.critic_update(images, (noise, *condition), condition, alpha=alpha)

    def _update_generator(self) -> dict[str, Tensor]:
        options = self.options
        rows = options.batch_size * options.generator_batches
        self._set_rate(self.trainer.generator_optimiser)
        key = (options.seed, self.step, "generator")
        noise = self.world.normal(rows, options.latent_dim, key=(*key, "noise"))
        condition: tuple[Tensor, ...] = ()
        if self.classes:
            condition = (self.world.integers(rows, self.classes, key=(*key, "labels")),)
        return self.trainer.generator_update((noise, *condition), condition)

    def _condition(self, labels: Tensor) -> tuple[Tensor, ...]:
        return (labels,) if self.classes else ()

    def _set_rate(self, optimiser: torch.optim.Optimizer) -> None:
        if self.options.learning_rate_decay:
            remaining = max(0.0, 1 - self.step / self.options.steps)
            for group in optimiser.param_groups:
                group["lr"] = self.options.learning_rate * remaining  # type: ignore[operator]  # `resolved` has set it

    def _laid_out(self, images: Tensor) -> Tensor:
        return images if self.options.channels_last else images.contiguous()

    # --- evaluation -----------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images with the averaged generator, which stays in evaluation mode.

        Args:
            noise: Standard normal numbers, (n, latent_dim) float32, on the device of the stage; n
                is at least 1.
            labels: (n,) int64 on the same device, required by a conditional generator; None for any
                other.

        Returns:
            (n, 3, size, size) float32 in [-1, 1], on that device and without gradients, where size
            is the option `image_size`.

        Raises:
            AssertionError: The generator is conditional, and *labels* is None.
        """
        self.average.eval()
        condition = () if labels is None else (labels,)
        return torch.cat(
            [
                self.average(*part).float()
                for part in zip(
                    *(rows.split(self.options.batch_size) for rows in (noise, *condition)),
                    strict=True,
                )
            ]
        )

    def evaluate(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """Evaluate the critic and the averaged generator on held-out rows.

        Returns:
            `held_out_critic_loss`; `held_out_estimate`, the mean score of held-out rows minus that
            of samples; and `held_out_distance`, the sliced Wasserstein distance of samples to
            held-out rows. Without a held-out split there is only `train_distance`, to training
            rows. And the image grid `samples`, (64, size, size, 3) uint8.
        """
        one_rank = World(device=self.world.device)
        noise = one_rank.normal(
            EVALUATION_ROWS, self.options.latent_dim, key=(self.options.seed, "look")
        )
        labels = (
            torch.arange(EVALUATION_ROWS, device=one_rank.device) % self.classes
            if self.classes
            else None
        )
        samples = self.sample(noise, labels)
        metrics = self._evaluate_critic()
        name = "train" if self._data.held_out is None else "held_out"
        real = torch.cat([batch.images for batch in self._rows(one_rank, EVALUATION_ROWS)])
        metrics[f"{name}_distance"] = sliced_wasserstein(samples[: len(real)], real[: len(samples)])
        return metrics, {"samples": to_uint8(samples[:SAMPLES])}

    def _evaluate_critic(self) -> dict[str, float]:
        if self._data.held_out is None:
            return {}
        batch_metrics: list[dict[str, Tensor]] = []
        for index, batch in enumerate(self._rows(self.world, EVALUATION_ROWS)):
            key = (self.options.seed, "judge", index)
            noise = self.world.normal(self.options.batch_size, self.options.latent_dim, key=key)
            condition = self._condition(batch.labels)
            batch_metrics.append(
                self.trainer.evaluate(self._laid_out(batch.images), (noise, *condition), condition)
            )
        return {
            f"held_out_{name}": float(
                self.world.mean(torch.stack([metrics[name] for metrics in batch_metrics]).mean())
            )
            for name in (batch_metrics[0] if batch_metrics else ())
        }

    def _rows(self, world: World, rows: int) -> Iterator[RankBatch]:
        """Yield unaugmented batches of held-out rows, or of training rows if none are held out."""
        loader = self._data.held_out or self._data.train
        batches = Batches(loader, self._plain, world, ranks_on_host=self._data.ranks_on_host)
        count = min(max(1, rows // loader.batch_size), len(batches.loader))
        try:
            yield from islice(iter(batches.take, None), count)
        finally:
            batches.close()

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on.

        Returns:
            `game`, the state of both networks and optimisers; `average`, that of the averaged
            generator; `batches`, that of the loader; `step` and `critic_updates`, the numbers of
            complete steps and of critic updates since; and `told`, the metrics of the step's last
            critic update.
        """
        return {
            "game": self.trainer.state_dict(),
            "average": self.average.state_dict(),
            "batches": self.batches.state_dict(),
            "step": self.step,
            "critic_updates": self._critic_updates,
            "told": dict(self._critic_metrics),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned, and keep the current learning rates.

        It changes the networks, the averaged generator, the optimisers, the position of the batches
        and `step` in place.

        Args:
            state: The state of a stage with the same networks and data, with tensors on any device.
                Those of the optimisers are not copied on the same device: later updates change
                them.

        Raises:
            RuntimeError: The networks have other layers.
            StoreMismatchError: The state is of other data, or of batches of another size.
        """
        self.trainer.load_state_dict(state["game"])
        self.average.load_state_dict(state["average"])
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]
        self._critic_updates = state["critic_updates"]
        self._critic_metrics = {
            name: value.to(self.world.device) for name, value in state["told"].items()
        }


def gan_evaluation_augmentation(options: WganOptions, stored: int) -> Augment:
    """Return the augmentation of an evaluation: that of training without random choices.

    Args:
        options: The options of the stage, of which `image_size` and `resize` count.
        stored: Side of the stored images, in pixels, at least the image size.

    Returns:
        A function from uint8 images, (n, 3, stored, stored), and two arguments without an effect,
        their row numbers, (n,) int64, and the epoch, at least 0, to float32 images, (n, 3,
        image_size, image_size) in [-1, 1]: the centre crop, of resized images if the options say
        `resize` and *stored* is at least 1.25 times the image size.
    """
    size = options.image_size
    resize = resized_side(stored, size, crop="none") if options.resize else None
    return Augment(size=size, crop="none", flip=False, mean=RGB, std=RGB, resize=resize)


def make_generator(options: WganOptions, classes: int) -> nn.Module:
    """Return the generator that *options* select, with random weights, on the CPU.

    Torch's global generator draws the weights.

    Args:
        options: The options, as `resolved` returns them: their widths are not None.
        classes: Number of classes to condition on; 0 = none.

    Returns:
        A network from noise, (n, latent_dim) float32, and with classes labels, (n,) int64 from 0 to
        classes - 1, to images, (n, 3, size, size) float32 in [-1, 1], where size is the option
        `image_size`.

    Raises:
        AssertionError: The width is None.
    """
    width = options.generator_width
    assert width is not None
    size, noise = options.image_size, options.latent_dim
    if options.generator == "conv":
        return ConvGenerator(
            size, noise, width=width, extra=options.extra_layers, norm=options.generator_norm,
            classes=classes,
        )  # fmt: skip
    if options.generator == "residual":
        return ResidualGenerator(
            size, noise, width=width, norm=options.generator_norm, classes=classes
        )
    return VectorGenerator((3, size, size), noise, width=width, classes=classes)


def make_critic(options: WganOptions, classes: int) -> nn.Module:
    """Return the critic that *options* select, with random weights, on the CPU.

    Torch's global generator draws the weights.

    Args:
        options: The options, as `resolved` returns them: width and norm are not None.
        classes: Number of classes to condition on; 0 = none.

    Returns:
        A network from images, (n, 3, size, size) float32 in [-1, 1], and with classes labels, (n,)
        int64 from 0 to classes - 1, to scores, (n,) float32, where size is the option `image_size`.

    Raises:
        AssertionError: The width or the norm is None.
    """
    width, norm = options.critic_width, options.critic_norm
    assert width is not None
    assert norm is not None
    condition = "projection" if options.condition == "none" else options.condition
    size = options.image_size
    if options.critic == "conv":
        return ConvCritic(
            size, width=width, extra=options.extra_layers, norm=norm, classes=classes,
            condition=condition,
        )  # fmt: skip
    if options.critic == "residual":
        return ResidualCritic(size, width=width, norm=norm, classes=classes, condition=condition)
    return VectorCritic(
        3 * size * size, width=width, norm=norm, classes=classes, condition=condition
    )


def _optimiser(options: WganOptions, network: nn.Module) -> torch.optim.Optimizer:
    rate, beta1, beta2 = options.learning_rate, options.beta1, options.beta2
    assert rate is not None
    rmsprop = options.optimiser == "rmsprop"
    loop = options.optimiser_loop
    if loop == "auto":
        loop = "foreach" if rmsprop else "fused"
    if rmsprop:
        return torch.optim.RMSprop(network.parameters(), rate, foreach=loop == "foreach")
    assert beta1 is not None
    assert beta2 is not None
    implementation = {"fused": loop == "fused", "foreach": loop == "foreach"}
    return torch.optim.Adam(network.parameters(), rate, (beta1, beta2), **implementation)
