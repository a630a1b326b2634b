"""The training stage of colouring: a loss to the true colours, and an adversarial loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.augment import Augment
from workflows.adversarial.critics import ConvCritic
from workflows.adversarial.game import Game, Rules
from workflows.adversarial.objectives import OBJECTIVES
from workflows.colourise.options import ColouriseOptions
from workflows.training.batches import Batches
from workflows.training.image_grid import to_uint8
from workflows.training.loop import Data
from workflows.training.world import BatchNorm, World

HALF = (0.5, 0.5, 0.5)
"""The mean and the standard deviation that normalise pixels 0..255 to -1..1."""


class ColourNetwork(nn.Module):
    """A network that maps grey pictures (n, 1, h, w) to colour (n, 3, h, w), both in [-1, 1].

    It combines features of each pixel's surroundings with coarse features of a wider area.
    """

    def __init__(self, width: int) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            return nn.Sequential(conv, BatchNorm(outputs), nn.ReLU(inplace=True))

        self.first = block(1, width)
        self.down = nn.Sequential(block(width, 2 * width, 2), block(2 * width, 4 * width, 2))
        self.up = nn.Sequential(
            block(4 * width, 4 * width), nn.Upsample(scale_factor=4), block(4 * width, width)
        )
        self.last = nn.Conv2d(2 * width, 3, 3, 1, 1)

    def forward(self, grey: Tensor) -> Tensor:
        """Return the pictures in colour, (n, 3, h, w)."""
        near = self.first(grey)
        return torch.tanh(self.last(torch.cat([near, self.up(self.down(near))], 1)))


class PairCritic(ConvCritic):
    """A critic that scores a coloured picture together with its grey original."""

    def forward(self, colour: Tensor, grey: Tensor | None = None) -> Tensor:
        """Return the scores (n,) of *colour* (n, 3, h, w), given *grey* (n, 1, h, w)."""
        assert grey is not None
        return super().forward(torch.cat([colour, grey], 1))


class Colourise:
    """The stage of `tesserae train colourise`, in which each update is a step."""

    def __init__(self, options: ColouriseOptions, data: Data, world: World) -> None:
        """Create both networks, as `workflows.training.loop.Stage` defines."""
        self.options, self.world, self.step = options, world, 0
        chosen = OBJECTIVES[options.objective]
        network = ColourNetwork(options.width).to(world.device)
        norm = "layer" if chosen.penalty else "batch"
        critic = PairCritic(options.image_size, 4, width=options.width, norm=norm).to(world.device)
        optimisers = [torch.optim.Adam(n.parameters(), options.learning_rate, (0.5, 0.999))
                      for n in (network, critic)]  # fmt: skip
        rules = Rules(chosen, chosen.clip, chosen.penalty, micro_batch=options.micro_batch_size)
        self.game = Game(network, critic, optimisers[0], optimisers[1], rules, world)
        augment = Augment(size=options.image_size, crop="random", mean=HALF, std=HALF,
                          seed=options.seed,
                          resize=options.resized_side(data.train.sizes[0]))  # fmt: skip
        self.batches = Batches(data.train, augment, world, ranks_on_host=data.ranks_on_host)
        self._plain = replace(
            augment,
            crop="none",
            flip=False,
            resize=options.image_size if augment.resize is not None else None,
        )
        self._evaluated = data.held_out or data.train
        self._error_name = "held_out_error" if data.held_out else "train_error"

    def advance(self) -> dict[str, Tensor]:
        """Update the critic, if it has a weight, and the network; return the metrics."""
        real = self.batches.take().images
        grey = to_grey(real)
        metrics: dict[str, Tensor] = {}
        if self.options.adversarial_weight:
            share = self.world.uniform(self.options.batch_size, key=(self.options.seed, self.step))
            metrics = self.game.critic_update(real, (grey,), (grey,), share=share)
        metrics |= self.game.generator_update(
            (grey,), (grey,), weight=self.options.adversarial_weight,
            other=lambda coloured, rows: (coloured - real[rows]).abs().mean(),
        )  # fmt: skip
        self.step += 1
        return metrics

    @torch.no_grad()
    def evaluate(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """Return the colour error and the saturation on held-out rows, and example pictures."""
        batches = Batches(self._evaluated, self._plain, World(device=self.world.device))
        count = min(8, len(batches.loader))
        real = torch.cat([batch.images for batch in islice(iter(batches.take, None), count)])
        batches.close()
        self.game.generator.eval()
        coloured = torch.cat([self.game.generator(part) for part in torch.split(to_grey(real), 64)])
        self.game.generator.train()
        error = (coloured - real).abs().mean()
        figures = {self._error_name: error, "saturation": saturation(coloured),
                   "true_saturation": saturation(real)}  # fmt: skip
        grey = to_grey(real).expand_as(real)
        examples = torch.stack([grey[:24], coloured[:24], real[:24]], 1).flatten(0, 1)
        return {n: float(v) for n, v in figures.items()}, {
            "grey-coloured-original": to_uint8(examples)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the networks, the optimisers and the loader."""
        return {"game": self.game.state_dict(), "batches": self.batches.state_dict(),
                "step": self.step}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.game.load_state_dict(state["game"])
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]


def to_grey(images: Tensor) -> Tensor:
    """Convert colour pictures (n, 3, h, w) to grey (n, 1, h, w) by the luma of Rec. 601."""
    return (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def saturation(images: Tensor) -> Tensor:
    """Return the mean range of a pixel's channels as a 0-d tensor; 0 means grey."""
    return (images.amax(1) - images.amin(1)).mean()
