"""Critics: networks that compute a score for each image or vector."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from workflows.adversarial.layers import Residual, initialise, num_doublings, with_norm

CONDITIONS = ("projection", "concatenation")
"""The ways in which a critic uses labels: projection adds the product of a row's features and a
vector of its label to the score; concatenation adds a one-hot channel for each class to the
input."""


class _LabelConditioning(nn.Module):
    """The part of a critic that conditions its score on labels.

    `projection` adds the dot product of a row's features and a vector of its label to the score
    (Miyato and Koyama: cGANs with Projection Discriminator, ICLR 2018, arXiv 1802.05637).
    `concatenation` adds a channel for each class to an image, with ones in the channel of its
    label (Mirza and Osindero: Conditional GANs, arXiv 1411.1784, in the form used by DCGANs).
    """

    def __init__(self, classes: int, condition: str, features: int) -> None:
        super().__init__()
        if condition not in CONDITIONS:
            raise ValueError(f"condition is {condition!r}: expected {' or '.join(CONDITIONS)}.")
        self._classes = classes
        self.extra_channels = classes if condition == "concatenation" else 0
        """The number of channels that `append_labels` adds to images."""
        project = classes and condition == "projection"
        self.vectors = nn.Embedding(classes, features) if project else None

    def append_labels(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the images, with channels for their labels where the condition adds any."""
        if not self.extra_channels:
            return images
        assert labels is not None
        return join_labels(images, labels, self._classes)

    def add_projection(self, scores: Tensor, features: Tensor, labels: Tensor | None) -> Tensor:
        """Return the scores (n,), with the projection of features (n, ...) where there is one."""
        if self.vectors is None:
            return scores
        assert labels is not None
        added: Tensor = (self.vectors(labels) * features.flatten(1)).sum(1)
        return scores + added


def join_labels(images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Append the labels to images as one-hot channels.

    Args:
        images: (n, c, h, w) of any floating-point dtype.
        labels: (n,) int64 from 0 to C - 1, on the same device.
        classes: Number of classes, C.

    Returns:
        A new tensor, (n, c + C, h, w) with the dtype of *images*; in channel c + label all values
        are 1, in the others of the C channels 0.
    """
    one_hot = functional.one_hot(labels, classes).to(images.dtype)[:, :, None, None]
    return torch.cat([images, one_hot.expand(-1, -1, *images.shape[2:])], 1)


class ConvCritic(nn.Module):
    """The critic of DCGAN (Radford et al. 2016), as in the code published with WGAN.

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
        """Create a critic with random weights.

        Args:
            size: Side of the images, in pixels: 4 times a power of 2.
            channels: Channels of the images; with a conditioning image, those of both.
            width: Channels after the first layer.
            extra: Number of additional 3 x 3 layers after the first.
            norm: Normalisation of all layers but the first, one of
                `workflows.adversarial.layers.NORMS`. With norms that have no shift (spectral,
                none), layers have a bias: without one the score of a grey image, all zeros, would
                always be 0.
            classes: Number of classes; 0 = ignore labels.
            condition: Use of labels, one of `CONDITIONS`.
        """
        super().__init__()
        count = num_doublings(size)
        # Checkpoints hold its weights under the name of this attribute.
        self.labelled = _LabelConditioning(classes, condition, width * 2 ** (count - 1) * 16)
        bias = norm in ("spectral", "none")
        first = nn.Conv2d(channels + self.labelled.extra_channels, width, 4, 2, 1, bias=bias)
        layers = [*with_norm(first, "spectral" if norm == "spectral" else "none", width), _leaky()]
        for _ in range(extra):
            conv = nn.Conv2d(width, width, 3, 1, 1, bias=bias)
            layers += [*with_norm(conv, norm, width), _leaky()]
        for _ in range(count - 1):
            conv = nn.Conv2d(width, 2 * width, 4, 2, 1, bias=bias)
            layers += [*with_norm(conv, norm, 2 * width), _leaky()]
            width *= 2
        self.body = nn.Sequential(*layers)
        last = nn.Conv2d(width, 1, 4, 1, 0, bias=bias)
        initialise(self)
        initialise(last)
        self.last = spectral_norm(last) if norm == "spectral" else last

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the scores of images, high for those that are taken for real.

        Args:
            images: (n, channels, size, size) float32 in [-1, 1], on the network's device; channels
                and size are those that the critic was created with.
            labels: (n,) int64 from 0 to classes - 1, on the same device, required if the critic was
                created with classes; otherwise ignored (default None).

        Returns:
            (n,) unbounded scores, float32 unless autocast lowers it. With the norm `batch` in
            training mode a score depends on the batch of all ranks, which must all call it, and the
            running statistics are updated.

        Raises:
            AssertionError: The critic has classes, and *labels* is None.
        """
        features = self.body(self.labelled.append_labels(images, labels))
        return self.labelled.add_projection(self.last(features).flatten(), features, labels)


class ResidualCritic(nn.Module):
    """The critic for 32 px of Gulrajani et al. 2017, appendix F; other sizes use more blocks.

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
        """Create a critic with random weights.

        Args:
            size: Side of the images, in pixels: 4 times a power of 2, at least 8.
            channels: Channels of the images; with a conditioning image, those of both.
            width: Channels of all blocks.
            norm: Normalisation in the blocks, one of `workflows.adversarial.layers.NORMS`.
            classes: Number of classes; 0 = ignore labels.
            condition: Use of labels, one of `CONDITIONS`.
        """
        super().__init__()
        self.labelled = _LabelConditioning(classes, condition, width)
        count = max(1, num_doublings(size) - 1)
        inputs = channels + self.labelled.extra_channels
        blocks: list[nn.Module] = [
            Residual(inputs, width, change="down", norm=norm, first=True),
            *(Residual(width, width, change="down", norm=norm) for _ in range(count - 1)),
            *(Residual(width, width, norm=norm) for _ in range(2)),
        ]
        self.body = nn.Sequential(*blocks)
        last = nn.Linear(width, 1)
        self.last = spectral_norm(last) if norm == "spectral" else last

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the scores of images, high for those that are taken for real.

        Args:
            images: (n, channels, size, size) float32 in [-1, 1], on the network's device; channels
                and size are those that the critic was created with.
            labels: (n,) int64 from 0 to classes - 1, on the same device, required if the critic was
                created with classes; otherwise ignored (default None).

        Returns:
            (n,) unbounded scores, float32 unless autocast lowers it. With the norm `batch` in
            training mode a score depends on the batch of all ranks, which must all call it, and the
            running statistics are updated.

        Raises:
            AssertionError: The critic has classes, and *labels* is None.
        """
        maps = self.body(self.labelled.append_labels(images, labels))
        features = functional.relu(maps).mean((2, 3))
        return self.labelled.add_projection(self.last(features).flatten(), features, labels)


class VectorCritic(nn.Module):
    """A perceptron on flattened rows.

    (n, ...) and, with classes, (n,) labels -> (n,) scores.
    """

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
        """Create a critic with random weights.

        Args:
            inputs: Number of values in a row.
            width: Units of each hidden layer.
            layers: Number of hidden layers.
            norm: Normalisation, `none` or `spectral`.
            classes: Number of classes; 0 = ignore labels.
            condition: Use of labels, one of `CONDITIONS`.
        """
        super().__init__()
        if norm not in ("none", "spectral"):
            raise ValueError(f"norm is {norm!r} for a perceptron: expected none or spectral.")
        self.labelled = _LabelConditioning(classes, condition, width)
        widths = [inputs + self.labelled.extra_channels, *[width] * layers]
        body: list[nn.Module] = []
        for previous, current in pairwise(widths):
            body += [*with_norm(nn.Linear(previous, current), norm, current), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*body)
        self.last = with_norm(nn.Linear(width, 1), norm, 1)[0]

    def forward(self, rows: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the scores of rows, high for those that are taken for real.

        Args:
            rows: (n, ...) float32 on the network's device, with as many values in a row as the
                critic has inputs.
            labels: (n,) int64 from 0 to classes - 1, on the same device, required if the critic was
                created with classes; otherwise ignored (default None).

        Returns:
            (n,) unbounded scores, float32 unless autocast lowers it.

        Raises:
            AssertionError: The critic has classes, and *labels* is None.
        """
        rows = rows.flatten(1)
        if self.labelled.extra_channels:
            rows = self.labelled.append_labels(rows[:, :, None, None], labels).flatten(1)
        features = self.body(rows)
        return self.labelled.add_projection(self.last(features).flatten(), features, labels)


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.2, inplace=True)
