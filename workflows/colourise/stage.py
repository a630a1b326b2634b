"""The training of a network that colours: near the true colours, and likely to a critic."""

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
from workflows.colourise.options import Options
from workflows.training.batches import Batches
from workflows.training.image_grid import to_uint8
from workflows.training.loop import Data
from workflows.training.world import BatchNorm, World

HALF = (0.5, 0.5, 0.5)


class Painter(nn.Module):
    """Grey (n, 1, h, w) to colour (n, 3, h, w), in [-1, 1]: near each pixel, and from afar."""

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
        """Colour."""
        near = self.first(grey)
        return torch.tanh(self.last(torch.cat([near, self.up(self.down(near))], 1)))


class PairCritic(ConvCritic):
    """Scores a coloured picture beside the grey one that it was made of."""

    def forward(self, colour: Tensor, grey: Tensor | None = None) -> Tensor:
        """Score."""
        assert grey is not None
        return super().forward(torch.cat([colour, grey], 1))


class Colourise:
    """See `workflows.training.loop.Stage`: an update is a step."""

    def __init__(self, options: Options, data: Data, world: World) -> None:
        """Make both networks."""
        self.options, self.world, self.step = options, world, 0
        chosen = OBJECTIVES[options.objective]
        painter = Painter(options.width).to(world.device)
        norm = "layer" if chosen.penalty else "batch"
        critic = PairCritic(options.image_size, 4, width=options.width, norm=norm).to(world.device)
        optimisers = [torch.optim.Adam(n.parameters(), options.rate, (0.5, 0.999))
                      for n in (painter, critic)]  # fmt: skip
        rules = Rules(chosen, chosen.clip, chosen.penalty, micro_batch=options.micro_batch)
        self.game = Game(painter, critic, optimisers[0], optimisers[1], rules, world)
        augment = Augment(size=options.image_size, crop="random", mean=HALF, std=HALF,
                          seed=options.seed,
                          shrink=options.shrunk_side(data.train.sizes[0]))  # fmt: skip
        self.batches = Batches(data.train, augment, world, here=data.beside)
        self._plain = replace(
            augment,
            crop="none",
            flip=False,
            shrink=options.image_size if augment.shrink is not None else None,
        )
        self._judged = data.held_out or data.train
        self._named = "held_out_error" if data.held_out else "train_error"

    def advance(self) -> dict[str, Tensor]:
        """An update of the critic, if there is one, and one of the painter."""
        real = self.batches.take().images
        grey = to_grey(real)
        told: dict[str, Tensor] = {}
        if self.options.adversarial:
            share = self.world.uniform(self.options.batch_size, key=(self.options.seed, self.step))
            told = self.game.critic_update(real, (grey,), (grey,), share=share)
        told |= self.game.generator_update(
            (grey,), (grey,), weight=self.options.adversarial,
            other=lambda made, rows: (made - real[rows]).abs().mean(),
        )  # fmt: skip
        self.step += 1
        return told

    @torch.no_grad()
    def look(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """How far colours of rows that it has not learned from are, and how strong they are."""
        batches = Batches(self._judged, self._plain, World(device=self.world.device))
        count = min(8, len(batches.loader))
        real = torch.cat([taken.images for taken in islice(iter(batches.take, None), count)])
        batches.close()
        self.game.generator.eval()
        made = torch.cat([self.game.generator(part) for part in torch.split(to_grey(real), 64)])
        self.game.generator.train()
        figures = {self._named: (made - real).abs().mean(), "saturation": saturation(made),
                   "true_saturation": saturation(real)}  # fmt: skip
        grey = to_grey(real).expand_as(real)
        shown = torch.stack([grey[:24], made[:24], real[:24]], 1).flatten(0, 1)
        return {n: float(v) for n, v in figures.items()}, {"grey-made-true": to_uint8(shown)}

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on."""
        return {"game": self.game.state_dict(), "batches": self.batches.state_dict(),
                "step": self.step}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.game.load_state_dict(state["game"])
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]


def to_grey(images: Tensor) -> Tensor:
    """(n, 3, h, w) -> (n, 1, h, w): what a grey photograph would show (Rec. 601)."""
    return (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def saturation(images: Tensor) -> Tensor:
    """How far apart the channels of a pixel are, on the average: 0 = grey. 0-d."""
    return (images.amax(1) - images.amin(1)).mean()
