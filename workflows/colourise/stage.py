"""The training stage that colourises: mean absolute error to the true colours, adversarial loss."""

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
from workflows.adversarial.objectives import OBJECTIVES
from workflows.adversarial.trainer import AdversarialConfig, AdversarialTrainer
from workflows.colourise.options import ColouriseOptions
from workflows.training.batches import Batches
from workflows.training.image_grid import to_uint8
from workflows.training.stage import Data
from workflows.training.world import BatchNorm, World

HALF = (0.5, 0.5, 0.5)
"""The mean and the standard deviation, as shares of 255, that normalise pixels to [-1, 1]."""


class ColourNetwork(nn.Module):
    """A network that maps grey images (n, 1, h, w) to colour (n, 3, h, w), both in [-1, 1].

    It combines features of each pixel's surroundings with coarse features of a wider area.
    """

    def __init__(self, width: int) -> None:
        """Create a network with random weights.

        Args:
            width: Number of channels of the first layer; inner layers have up to 4 times as many.
        """
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
        """Return images in colour.

        In training mode batch norm normalises by the batch of all ranks, and updates its
        statistics.

        Args:
            grey: (n, 1, h, w) float32 in [-1, 1], on the network's device; h and w are multiples of
                4.

        Returns:
            (n, 3, h, w) RGB in [-1, 1] on that device, float32 unless autocast lowers it.
        """
        local = self.first(grey)
        return torch.tanh(self.last(torch.cat([local, self.up(self.down(local))], 1)))


class PairCritic(ConvCritic):
    """A critic that scores a coloured image together with its grey original.

    It is created with 4 channels, those of both, and without classes.
    """

    def forward(self, colour: Tensor, grey: Tensor | None = None) -> Tensor:
        """Return the scores of coloured images, high for those that are taken for real.

        Args:
            colour: (n, 3, size, size) RGB float32 in [-1, 1], where size is the side that the
                critic was created with, for 4 channels.
            grey: (n, 1, size, size) float32 in [-1, 1], the grey originals; it is required.

        Returns:
            (n,) unbounded scores, float32 unless autocast lowers it. With the norm `batch` in
            training mode a score depends on the batch of all ranks, which must all call it, and the
            running statistics are updated.

        Raises:
            AssertionError: *grey* is None.
        """
        assert grey is not None
        return super().forward(torch.cat([colour, grey], 1))


class Colourise:
    """The stage of `tesserae train colourise`, in which each update is a step."""

    def __init__(self, options: ColouriseOptions, data: Data, world: World) -> None:
        """Create both networks and their optimisers.

        Torch's global generator draws the weights.

        Args:
            options: The options of the stage.
            data: The loaders of training and held-out rows, and the classes.
            world: The rank that the stage runs in, with its device.
        """
        self.options, self.world, self.step = options, world, 0
        objective = OBJECTIVES[options.objective]
        network = ColourNetwork(options.width).to(world.device)
        norm = (
            "layer" if objective.penalty else "batch"
        )  # a penalty of each row rules out batch norm
        critic = PairCritic(options.image_size, 4, width=options.width, norm=norm).to(world.device)
        optimisers = [torch.optim.Adam(n.parameters(), options.learning_rate, (0.5, 0.999))
                      for n in (network, critic)]  # fmt: skip
        config = AdversarialConfig(
            objective, objective.clip, objective.penalty, micro_batch=options.micro_batch_size
        )
        self.trainer = AdversarialTrainer(
            network, critic, optimisers[0], optimisers[1], config, world
        )
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
        """Update the critic, unless the adversarial loss has no weight, and the network.

        Returns:
            0-d float32 tensors over this rank's rows: `critic_loss`, `estimate` (the mean score of
            real rows minus that of coloured ones) and, with a gradient penalty, `penalty`, if the
            critic was updated; `generator_loss`, the adversarial loss times its weight; and
            `other_loss`, the mean absolute error of pixels in [-1, 1].
        """
        real = self.batches.take().images
        grey = to_grey(real)
        metrics: dict[str, Tensor] = {}
        if self.options.adversarial_weight:
            alpha = self.world.uniform(self.options.batch_size, key=(self.options.seed, self.step))
            metrics = self.trainer.critic_update(real, (grey,), (grey,), alpha=alpha)
        metrics |= self.trainer.generator_update(
            (grey,), (grey,), weight=self.options.adversarial_weight,
            extra_loss=lambda coloured, rows: (coloured - real[rows]).abs().mean(),
        )  # fmt: skip
        self.step += 1
        return metrics

    @torch.no_grad()
    def evaluate(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """Evaluate on held-out rows, or on training rows without a held-out split.

        Returns:
            `held_out_error` or `train_error`, the mean absolute error of pixels in [-1, 1];
            `saturation` and `true_saturation`, the mean saturation of coloured and of original
            images; and the grid `grey-coloured-original` of up to 24 examples, which follow each
            other as three images each, (3 times the examples, size, size, 3) uint8.
        """
        batches = Batches(self._evaluated, self._plain, World(device=self.world.device))
        count = min(8, len(batches.loader))
        real = torch.cat([batch.images for batch in islice(iter(batches.take, None), count)])
        batches.close()
        self.trainer.generator.eval()
        coloured = torch.cat(
            [self.trainer.generator(part) for part in torch.split(to_grey(real), 64)]
        )
        self.trainer.generator.train()
        error = (coloured - real).abs().mean()
        metrics = {self._error_name: error, "saturation": saturation(coloured),
                   "true_saturation": saturation(real)}  # fmt: skip
        grey = to_grey(real).expand_as(real)
        examples = torch.stack([grey[:24], coloured[:24], real[:24]], 1).flatten(0, 1)
        return {n: float(v) for n, v in metrics.items()}, {
            "grey-coloured-original": to_uint8(examples)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on.

        Returns:
            `game`, the state of both networks and optimisers; `batches`, that of the loader; and
            `step`, the number of complete steps.
        """
        return {"game": self.trainer.state_dict(), "batches": self.batches.state_dict(),
                "step": self.step}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned, and keep the current learning rate.

        It changes the networks, the optimisers, the position of the batches and `step` in place.

        Args:
            state: The state of a stage with the same networks and data, with tensors on any device.
                Those of the optimisers are not copied on the same device: later updates change
                them.

        Raises:
            RuntimeError: The networks have other layers.
            StoreMismatchError: The state is of other data, or of batches of another size.
        """
        self.trainer.load_state_dict(state["game"])
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]


def to_grey(images: Tensor) -> Tensor:
    """Convert colour images to grey by the luma of Rec. 601.

    Args:
        images: (n, 3, h, w) RGB of a floating-point dtype, in any range, on any device.

    Returns:
        (n, 1, h, w) with the dtype, the range and the device of *images*.
    """
    return (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def saturation(images: Tensor) -> Tensor:
    """Return the mean over all pixels of their largest channel minus their smallest; 0 means grey.

    Args:
        images: (n, 3, h, w) of a floating-point dtype, n > 0.

    Returns:
        A 0-d tensor with the dtype and the device of *images*, 0 to 2 for values in [-1, 1].
    """
    return (images.amax(1) - images.amin(1)).mean()
