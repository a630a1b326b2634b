"""The training of a GAN: some updates of the critic, then one of the generator, is a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline.augment import Augment
from workflows.adversarial.critics import ConvCritic, ResidualCritic, VectorCritic
from workflows.adversarial.game import Game, Rules
from workflows.adversarial.objectives import OBJECTIVES
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.training.batches import Batches, Taken
from workflows.training.image_grid import to_uint8
from workflows.training.loop import Data
from workflows.training.options import shrunk_side
from workflows.training.world import World
from workflows.wgan.generators import ConvGenerator, ResidualGenerator, VectorGenerator
from workflows.wgan.options import WARM_EVERY, WARM_STEPS, Options

SAMPLES = 64
"""Pictures of a grid."""
JUDGED = 512
"""Rows, of each kind, that a look compares."""
RGB = (0.5, 0.5, 0.5)
"""Mean and spread that bring 0..255 to -1..1."""


class Wgan:
    """A generator and a critic, from a store."""

    def __init__(self, options: Options, data: Data, world: World) -> None:
        """Make both networks; see `workflows.training.loop.Stage`."""
        self.options = options = options.filled()
        self.world = world
        self.step = 0
        self._critic_updates = 0
        self._told: dict[str, Tensor] = {}
        self.classes = len(data.classes) if options.condition != "none" else 0
        generator, critic = (
            make_generator(options, self.classes),
            make_critic(options, self.classes),
        )
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        for network in (generator, critic):
            network.to(world.device, memory_format=layout)  # type: ignore[call-overload]
        rules = Rules(
            OBJECTIVES[options.objective],
            clip=options.clip_limit,
            penalty=options.penalty_weight,
            precision=_precision(options.precision, world.device),
            micro_batch=options.micro_batch,
        )
        self.game = Game(
            generator, critic, _optimiser(options, generator), _optimiser(options, critic),
            rules, world,
        )  # fmt: skip
        self.average = AveragedModel(
            generator, multi_avg_fn=partial(_blend, options.ema), use_buffers=True
        )
        if options.compile:
            generator.compile()
            critic.compile()
        augment = Augment(
            size=options.image_size, crop=options.crop, flip=options.flip, mean=RGB, std=RGB,
            seed=options.seed, shrink=options.shrunk_side(data.train.sizes[0]),
        )  # fmt: skip
        self.batches = Batches(data.train, augment, world, here=data.beside)
        self._data = data
        self._plain = plain(options, data.train.sizes[0])

    # --- updates --------------------------------------------------------------------------------

    def advance(self) -> dict[str, Tensor]:
        """An update of the critic, or that of the generator which completes the step."""
        wanted = self._critic_steps()
        if self._critic_updates < wanted:
            told = self._update_critic()
            self._critic_updates += 1
            if self._critic_updates == wanted:  # what is told of a step is of its last
                self._told = {name: self.world.mean(value) for name, value in told.items()}
            return told
        told = self._told | self._update_generator()
        self.average.update_parameters(self.game.generator)
        self.step += 1
        self._critic_updates = 0
        return told

    def _critic_steps(self) -> int:
        options = self.options
        warm = self.step < WARM_STEPS or self.step % WARM_EVERY == 0
        return (warm and options.warm_critic_steps) or options.critic_steps or 1

    def _update_critic(self) -> dict[str, Tensor]:
        options, rows = self.options, self.options.batch_size
        self._set_rate(self.game.critic_optimiser)
        taken = self.batches.take()
        key = (options.seed, self.step, self._critic_updates)
        share = None
        if options.penalty_weight:
            share = self.world.uniform(rows, key=(*key, "share"))
        condition = self._condition(taken.labels)
        noise = self.world.normal(rows, options.noise, key=(*key, "noise"))
        images = self._laid_out(taken.images)
        return self.game.critic_update(images, (noise, *condition), condition, share=share)

    def _update_generator(self) -> dict[str, Tensor]:
        options = self.options
        rows = options.batch_size * options.generator_batches
        self._set_rate(self.game.generator_optimiser)
        key = (options.seed, self.step, "generator")
        noise = self.world.normal(rows, options.noise, key=(*key, "noise"))
        condition: tuple[Tensor, ...] = ()
        if self.classes:
            condition = (self.world.integers(rows, self.classes, key=(*key, "labels")),)
        return self.game.generator_update((noise, *condition), condition)

    def _condition(self, labels: Tensor) -> tuple[Tensor, ...]:
        return (labels,) if self.classes else ()

    def _set_rate(self, optimiser: torch.optim.Optimizer) -> None:
        if self.options.decay:
            left = max(0.0, 1 - self.step / self.options.steps)
            for group in optimiser.param_groups:
                group["lr"] = self.options.rate * left  # type: ignore[operator]  # it is filled

    def _laid_out(self, images: Tensor) -> Tensor:
        return images if self.options.channels_last else images.contiguous()

    # --- looking --------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the averaged generator makes: (n, 3, size, size) float32 in [-1, 1]."""
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

    def look(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """The critic's figures on rows that it has not learned from, and how far samples are."""
        alone = World(device=self.world.device)
        noise = alone.normal(JUDGED, self.options.noise, key=(self.options.seed, "look"))
        labels = torch.arange(JUDGED, device=alone.device) % self.classes if self.classes else None
        made = self.sample(noise, labels)
        figures = self._judge()
        name = "train" if self._data.held_out is None else "held_out"
        real = torch.cat([taken.images for taken in self._rows(alone, JUDGED)])
        figures[f"{name}_distance"] = sliced_wasserstein(made[: len(real)], real[: len(made)])
        return figures, {"samples": to_uint8(made[:SAMPLES])}

    def _judge(self) -> dict[str, float]:
        if self._data.held_out is None:
            return {}
        found: list[dict[str, Tensor]] = []
        for place, taken in enumerate(self._rows(self.world, JUDGED)):
            key = (self.options.seed, "judge", place)
            noise = self.world.normal(self._batch_rows(), self.options.noise, key=key)
            condition = self._condition(taken.labels)
            found.append(
                self.game.judge(self._laid_out(taken.images), (noise, *condition), condition)
            )
        return {
            f"held_out_{name}": float(
                self.world.mean(torch.stack([one[name] for one in found]).mean())
            )
            for name in (found[0] if found else ())
        }

    def _batch_rows(self) -> int:
        return self.options.batch_size

    def _rows(self, world: World, rows: int) -> Iterator[Taken]:
        """Batches of rows that nothing is learned from; of the training rows if there are none."""
        loader = self._data.held_out or self._data.train
        batches = Batches(loader, self._plain, world, here=self._data.beside)
        count = min(max(1, rows // loader.batch_size), len(batches.loader))
        try:
            yield from islice(iter(batches.take, None), count)
        finally:
            batches.close()

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See `workflows.training.loop.Stage`."""
        return {
            "game": self.game.state_dict(),
            "average": self.average.state_dict(),
            "batches": self.batches.state_dict(),
            "step": self.step,
            "critic_updates": self._critic_updates,
            "told": dict(self._told),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `workflows.training.loop.Stage`."""
        self.game.load_state_dict(state["game"])
        self.average.load_state_dict(state["average"])
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]
        self._critic_updates = state["critic_updates"]
        self._told = {name: value.to(self.world.device) for name, value in state["told"].items()}


def plain(options: Options, stored: int) -> Augment:
    """How pictures are judged: as they are learned from, but nothing drawn.

    Args:
        options: Of the stage.
        stored: Side of the stored pictures, in pixels.
    """
    size = options.image_size
    shrink = shrunk_side(stored, size, crop="none") if options.shrink else None
    return Augment(size=size, crop="none", flip=False, mean=RGB, std=RGB, shrink=shrink)


def _blend(share_of_old: float, averaged: Any, now: Any, updates: Tensor | int) -> None:
    # Less of what it was at first: an average of few is not to be of its beginning.
    steps = int(updates)
    share = min(share_of_old, (1 + steps) / (10 + steps)) if share_of_old else 0.0
    if torch.is_floating_point(averaged[0]):
        torch._foreach_lerp_(averaged, now, 1 - share)
    else:
        for one, other in zip(averaged, now, strict=True):
            one.copy_(other)


def make_generator(options: Options, classes: int) -> nn.Module:
    """The generator that *options*, filled, ask for: (n, noise)[, labels] -> pictures."""
    width = options.generator_width
    assert width is not None
    size, noise = options.image_size, options.noise
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


def make_critic(options: Options, classes: int) -> nn.Module:
    """The critic that *options*, filled, ask for: pictures[, labels] -> scores."""
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


def _optimiser(options: Options, network: nn.Module) -> torch.optim.Optimizer:
    rate, beta1, beta2 = options.rate, options.beta1, options.beta2
    assert rate is not None
    rmsprop = options.optimiser == "rmsprop"
    loop = options.optimiser_loop
    if loop == "auto":
        loop = "foreach" if rmsprop else "fused"
    if rmsprop:
        return torch.optim.RMSprop(network.parameters(), rate, foreach=loop == "foreach")
    assert beta1 is not None
    assert beta2 is not None
    how = {"fused": loop == "fused", "foreach": loop == "foreach"}
    return torch.optim.Adam(network.parameters(), rate, (beta1, beta2), **how)


def _precision(wanted: str, device: torch.device) -> torch.dtype:
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if able else torch.float32
