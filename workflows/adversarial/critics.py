"""Networks that give pictures or vectors a score."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from workflows.adversarial.layers import Residual, initialise, levels, normed

CONDITIONS = ("projection", "concatenation")


class _Labelled(nn.Module):
    """How a critic looks at labels.

    `projection`: the features of a row times a vector of its label are added to the score (Miyato
    and Koyama: cGANs with Projection Discriminator, ICLR 2018, arXiv 1802.05637). `concatenation`:
    a picture has a channel more for each class, all ones in that of its label (Mirza and Osindero:
    Conditional GANs, arXiv 1411.1784, as DCGANs have it).
    """

    def __init__(self, classes: int, condition: str, features: int) -> None:
        super().__init__()
        if condition not in CONDITIONS:
            raise ValueError(f"condition is {condition!r}: expected {' or '.join(CONDITIONS)}.")
        self._classes = classes
        self.more = classes if condition == "concatenation" else 0
        """Channels that are added to pictures."""
        project = classes and condition == "projection"
        self.vectors = nn.Embedding(classes, features) if project else None

    def join(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The pictures, with channels for their labels."""
        if not self.more:
            return images
        assert labels is not None
        return join_labels(images, labels, self._classes)

    def add(self, scores: Tensor, features: Tensor, labels: Tensor | None) -> Tensor:
        """The scores, given the features (n, ...) and labels."""
        if self.vectors is None:
            return scores
        assert labels is not None
        added: Tensor = (self.vectors(labels) * features.flatten(1)).sum(1)
        return scores + added


def join_labels(images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(n, c, h, w) pictures with *classes* channels more: ones in that of the label (n,)."""
    one_hot = functional.one_hot(labels, classes).to(images.dtype)[:, :, None, None]
    return torch.cat([images, one_hot.expand(-1, -1, *images.shape[2:])], 1)


class ConvCritic(nn.Module):
    """The critic of DCGAN (Radford et al. 2016) as the paper's code of WGAN has it.

    (n, channels, size, size) in [-1, 1] and, with classes, (n,) labels -> (n,) scores.
    """

    def __init__(
        self,
        size: int,
        channels: int = 3,
        *,
        width: int = 64,
        extra: int = 0,
        norm: str = "batch",
        classes: int = 0,
        condition: str = "projection",
    ) -> None:
        """Make it.

        Args:
            size: Of the pictures, in pixels: 4 times a power of 2.
            channels: Of the pictures; for pictures given a picture, those of both.
            width: Channels after the first layer.
            extra: Layers of 3 x 3 after the first.
            norm: Of all layers but the first. Where it has no shift (spectral, none) layers have a
                bias: a score that is proportional to the picture cannot tell grey from anything.
            classes: 0 = labels are not looked at.
            condition: How they are looked at.
        """
        super().__init__()
        count = levels(size)
        self.labelled = _Labelled(classes, condition, width * 2 ** (count - 1) * 16)
        bias = norm in ("spectral", "none")
        first = nn.Conv2d(channels + self.labelled.more, width, 4, 2, 1, bias=bias)
        layers = [*normed(first, "spectral" if norm == "spectral" else "none", width), _leaky()]
        for _ in range(extra):
            conv = nn.Conv2d(width, width, 3, 1, 1, bias=bias)
            layers += [*normed(conv, norm, width), _leaky()]
        for _ in range(count - 1):
            conv = nn.Conv2d(width, 2 * width, 4, 2, 1, bias=bias)
            layers += [*normed(conv, norm, 2 * width), _leaky()]
            width *= 2
        self.body = nn.Sequential(*layers)
        last = nn.Conv2d(width, 1, 4, 1, 0, bias=bias)
        initialise(self)
        initialise(last)
        self.last = spectral_norm(last) if norm == "spectral" else last

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Score."""
        features = self.body(self.labelled.join(images, labels))
        return self.labelled.add(self.last(features).flatten(), features, labels)


class ResidualCritic(nn.Module):
    """The critic for 32 px of Gulrajani et al. 2017, appendix F; other sizes by more blocks.

    (n, channels, size, size) in [-1, 1] and, with classes, (n,) labels -> (n,) scores.
    """

    def __init__(
        self,
        size: int = 32,
        channels: int = 3,
        *,
        width: int = 128,
        norm: str = "none",
        classes: int = 0,
        condition: str = "projection",
    ) -> None:
        """Make it; arguments as of `ConvCritic`."""
        super().__init__()
        self.labelled = _Labelled(classes, condition, width)
        count = max(1, levels(size) - 1)
        inputs = channels + self.labelled.more
        blocks: list[nn.Module] = [
            Residual(inputs, width, change="down", norm=norm, first=True),
            *(Residual(width, width, change="down", norm=norm) for _ in range(count - 1)),
            *(Residual(width, width, norm=norm) for _ in range(2)),
        ]
        self.body = nn.Sequential(*blocks)
        last = nn.Linear(width, 1)
        self.last = spectral_norm(last) if norm == "spectral" else last

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Score."""
        made = self.body(self.labelled.join(images, labels))
        features = functional.relu(made).mean((2, 3))
        return self.labelled.add(self.last(features).flatten(), features, labels)


class VectorCritic(nn.Module):
    """A perceptron: rows of any shape, flattened, and, with classes, (n,) labels -> (n,) scores."""

    def __init__(
        self,
        inputs: int,
        *,
        width: int = 512,
        layers: int = 3,
        norm: str = "none",
        classes: int = 0,
        condition: str = "projection",
    ) -> None:
        """Make it.

        Args:
            inputs: Numbers in a row.
            width: Of hidden layers.
            layers: How many of them.
            norm: `none` or `spectral`.
            classes: 0 = labels are not looked at.
            condition: How they are looked at.
        """
        super().__init__()
        if norm not in ("none", "spectral"):
            raise ValueError(f"norm is {norm!r} of a perceptron: expected none or spectral.")
        self.labelled = _Labelled(classes, condition, width)
        widths = [inputs + self.labelled.more, *[width] * layers]
        body: list[nn.Module] = []
        for before, after in pairwise(widths):
            body += [*normed(nn.Linear(before, after), norm, after), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*body)
        self.last = normed(nn.Linear(width, 1), norm, 1)[0]

    def forward(self, rows: Tensor, labels: Tensor | None = None) -> Tensor:
        """Score."""
        rows = rows.flatten(1)
        if self.labelled.more:
            rows = self.labelled.join(rows[:, :, None, None], labels).flatten(1)
        features = self.body(rows)
        return self.labelled.add(self.last(features).flatten(), features, labels)


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.2, inplace=True)
