"""Generators: networks that map noise to images or vectors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workflows.adversarial.layers import Residual, initialise, num_doublings
from workflows.training.world import BatchNorm


def _with_labels(noise: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """Append the one-hot labels to (n, k) noise; without classes return the noise itself."""
    if not classes:
        return noise
    assert labels is not None
    return torch.cat([noise, functional.one_hot(labels, classes).to(noise.dtype)], 1)


class ConvGenerator(nn.Module):
    """The generator of DCGAN (Radford et al. 2016), as in the code published with WGAN.

    (n, noise) and, with classes, (n,) labels -> (n, channels, size, size) in [-1, 1].
    """

    def __init__(
        self,
        size: int,
        noise: int = 100,
        channels: int = 3,
        *,
        width: int = 64,
        extra: int = 0,
        norm: bool = True,
        classes: int = 0,
    ) -> None:
        """Create a generator with random weights.

        Args:
            size: Side of the images, in pixels: 4 times a power of 2.
            noise: Number of random values from which an image is generated.
            channels: Channels of the images.
            width: Channels before the last layer.
            extra: Number of additional 3 x 3 layers before the last.
            norm: True for batch norm.
            classes: Number of classes; 0 = ignore labels.
        """
        super().__init__()
        self._classes = classes

        def activation(maps: int) -> list[nn.Module]:
            return [*([BatchNorm(maps)] if norm else []), nn.ReLU(inplace=True)]

        count = num_doublings(size)
        maps = width * 2 ** (count - 1)
        layers = [nn.ConvTranspose2d(noise + classes, maps, 4, 1, 0, bias=False), *activation(maps)]
        for _ in range(count - 1):
            halved = maps // 2
            layers += [nn.ConvTranspose2d(maps, halved, 4, 2, 1, bias=False), *activation(halved)]
            maps = halved
        for _ in range(extra):
            layers += [nn.Conv2d(maps, maps, 3, 1, 1, bias=False), *activation(maps)]
        layers += [nn.ConvTranspose2d(maps, channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.body = nn.Sequential(*layers)
        initialise(self)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images from noise.

        In training mode batch norm normalises by the batch of all ranks, and updates its
        statistics.

        Args:
            noise: Standard normal numbers, (n, noise) float32, on the network's device; `noise` is
                the number that the generator was created with.
            labels: (n,) int64 from 0 to classes - 1, on the same device, required if the generator
                was created with classes; otherwise ignored (default None).

        Returns:
            (n, channels, size, size) in [-1, 1] on that device, float32 unless autocast lowers it.

        Raises:
            AssertionError: The generator has classes, and *labels* is None.
        """
        images: Tensor = self.body(_with_labels(noise, labels, self._classes)[:, :, None, None])
        return images


class ResidualGenerator(nn.Module):
    """The generator for 32 px of Gulrajani et al. 2017, appendix F; other sizes use more blocks.

    (n, noise) and, with classes, (n,) labels -> (n, channels, size, size) in [-1, 1].
    """

    def __init__(
        self,
        size: int = 32,
        noise: int = 128,
        channels: int = 3,
        *,
        width: int = 128,
        norm: bool = True,
        classes: int = 0,
    ) -> None:
        """Create a generator with random weights.

        Args:
            size: Side of the images, in pixels: 4 times a power of 2, at least 8.
            noise: Number of random values from which an image is generated.
            channels: Channels of the images.
            width: Channels of all blocks.
            norm: True for batch norm.
            classes: Number of classes; 0 = ignore labels.
        """
        super().__init__()
        self._classes = classes
        self._width = width
        self.first = nn.Linear(noise + classes, 4 * 4 * width)
        nn.init.xavier_uniform_(self.first.weight)
        nn.init.zeros_(self.first.bias)
        kind = "batch" if norm else "none"
        blocks = [
            Residual(width, width, change="up", norm=kind) for _ in range(num_doublings(size))
        ]
        self.body = nn.Sequential(*blocks)
        self.norm = BatchNorm(width) if norm else nn.Identity()
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.xavier_uniform_(self.last.weight)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images from noise.

        In training mode batch norm normalises by the batch of all ranks, and updates its
        statistics.

        Args:
            noise: Standard normal numbers, (n, noise) float32, on the network's device; `noise` is
                the number that the generator was created with.
            labels: (n,) int64 from 0 to classes - 1, on the same device, required if the generator
                was created with classes; otherwise ignored (default None).

        Returns:
            (n, channels, size, size) in [-1, 1] on that device, float32 unless autocast lowers it.

        Raises:
            AssertionError: The generator has classes, and *labels* is None.
        """
        rows = self.first(_with_labels(noise, labels, self._classes))
        maps = self.body(rows.view(-1, self._width, 4, 4))
        return torch.tanh(self.last(functional.relu(self.norm(maps))))


class VectorGenerator(nn.Module):
    """A perceptron of four layers without normalisation, as tested by Arjovsky et al. 2017.

    (n, noise) and, with classes, (n,) labels -> (n, *shape).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        noise: int = 100,
        *,
        width: int = 512,
        layers: int = 3,
        classes: int = 0,
        bounded: bool = True,
    ) -> None:
        """Create a generator with random weights.

        Args:
            shape: Shape of a generated row.
            noise: Number of random values from which a row is generated.
            width: Units of each hidden layer.
            layers: Number of hidden layers.
            classes: Number of classes; 0 = ignore labels.
            bounded: True to limit the output to [-1, 1] by a tanh.
        """
        super().__init__()
        self._classes = classes
        self._shape = shape
        widths = [noise + classes, *[width] * layers]
        body: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            body += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
        last: list[Any] = [nn.Linear(width, int(torch.Size(shape).numel()))]
        self.body = nn.Sequential(*body, *last, *([nn.Tanh()] if bounded else []))

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate rows from noise.

        Args:
            noise: Standard normal numbers, (n, noise) float32, on the network's device; `noise` is
                the number that the generator was created with.
            labels: (n,) int64 from 0 to classes - 1, on the same device, required if the generator
                was created with classes; otherwise ignored (default None).

        Returns:
            (n, *shape) on that device, with the shape that the generator was created with; float32
            unless autocast lowers it. Values are in [-1, 1] if the output is bounded.

        Raises:
            AssertionError: The generator has classes, and *labels* is None.
        """
        rows: Tensor = self.body(_with_labels(noise, labels, self._classes))
        return rows.view(-1, *self._shape)
