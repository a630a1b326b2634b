"""Networks that make pictures of noise."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workflows.adversarial.layers import Residual, initialise, levels
from workflows.training.world import BatchNorm


def _with_labels(noise: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """(n, k) noise, with a number more for each class: 1 for that of the label."""
    if not classes:
        return noise
    assert labels is not None
    return torch.cat([noise, functional.one_hot(labels, classes).to(noise.dtype)], 1)


class ConvGenerator(nn.Module):
    """The generator of DCGAN (Radford et al. 2016) as the paper's code of WGAN has it.

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
        """Make it.

        Args:
            size: Of the pictures, in pixels: 4 times a power of 2.
            noise: Numbers that a picture is made of.
            channels: Of the pictures.
            width: Channels before the last layer.
            extra: Layers of 3 x 3 before the last.
            norm: Whether there is batch norm.
            classes: 0 = labels are not looked at.
        """
        super().__init__()
        self._classes = classes

        def after(count: int) -> list[nn.Module]:
            return [*([BatchNorm(count)] if norm else []), nn.ReLU(inplace=True)]

        count = levels(size)
        now = width * 2 ** (count - 1)
        layers = [nn.ConvTranspose2d(noise + classes, now, 4, 1, 0, bias=False), *after(now)]
        for _ in range(count - 1):
            layers += [nn.ConvTranspose2d(now, now // 2, 4, 2, 1, bias=False), *after(now // 2)]
            now //= 2
        for _ in range(extra):
            layers += [nn.Conv2d(now, now, 3, 1, 1, bias=False), *after(now)]
        layers += [nn.ConvTranspose2d(now, channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.body = nn.Sequential(*layers)
        initialise(self)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Make pictures."""
        made: Tensor = self.body(_with_labels(noise, labels, self._classes)[:, :, None, None])
        return made


class ResidualGenerator(nn.Module):
    """The generator for 32 px of Gulrajani et al. 2017, appendix F; other sizes by more blocks.

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
        """Make it; arguments as of `ConvGenerator`."""
        super().__init__()
        self._classes = classes
        self._width = width
        self.first = nn.Linear(noise + classes, 4 * 4 * width)
        nn.init.xavier_uniform_(self.first.weight)
        nn.init.zeros_(self.first.bias)
        kind = "batch" if norm else "none"
        blocks = [Residual(width, width, change="up", norm=kind) for _ in range(levels(size))]
        self.body = nn.Sequential(*blocks)
        self.norm = BatchNorm(width) if norm else nn.Identity()
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.xavier_uniform_(self.last.weight)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Make pictures."""
        rows = self.first(_with_labels(noise, labels, self._classes))
        made = self.body(rows.view(-1, self._width, 4, 4))
        return torch.tanh(self.last(functional.relu(self.norm(made))))


class VectorGenerator(nn.Module):
    """A perceptron of four layers, without any norm, as Arjovsky et al. 2017 tried it.

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
        """Make it.

        Args:
            shape: Of a row that is made.
            noise: Numbers that it is made of.
            width: Of hidden layers.
            layers: How many of them.
            classes: 0 = labels are not looked at.
            bounded: Whether what is made is within [-1, 1], by a tanh.
        """
        super().__init__()
        self._classes = classes
        self._shape = shape
        widths = [noise + classes, *[width] * layers]
        body: list[nn.Module] = []
        for before, after in pairwise(widths):
            body += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        last: list[Any] = [nn.Linear(width, int(torch.Size(shape).numel()))]
        self.body = nn.Sequential(*body, *last, *([nn.Tanh()] if bounded else []))

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Make rows."""
        made: Tensor = self.body(_with_labels(noise, labels, self._classes))
        return made.view(-1, *self._shape)
