"""Losses of enlarged images in the features of a pretrained network: perceptual and style.

The network is any vision model of `transformers`. Images keep their size, so that one of 192 px is
seen in its own detail, and are normalised as the network expects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.backbone.network import Backbone
from pipeline.backbone.truncate import block_outputs, check_block
from pipeline.errors import TesseraeError


def squared_error(features: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared difference of features, a 0-d tensor with gradients.

    It is the feature reconstruction loss of Johnson et al.: Perceptual Losses for Real-Time Style
    Transfer and Super-Resolution, ECCV 2016.

    Args:
        features: (n, d, h, w).
        targets: Those of the true images, of the same shape.
    """
    return (features - targets).square().mean()


def absolute_error(features: Tensor, targets: Tensor) -> Tensor:
    """Return the mean absolute difference of features, a 0-d tensor with gradients.

    Args:
        features: (n, d, h, w).
        targets: Those of the true images, of the same shape.
    """
    return (features - targets).abs().mean()


def root_mean_square(features: Tensor, targets: Tensor) -> Tensor:
    """Return the root of the mean squared difference of each image, averaged over images.

    It is the loss of the lesson's notebook. Its gradient at equal features is 0.

    Args:
        features: (n, d, h, w).
        targets: Those of the true images, of the same shape.
    """
    squares = (features - targets).square().flatten(1).mean(1)
    is_equal = squares == 0  # the root has no finite gradient there
    return torch.where(is_equal, 0.0, squares.masked_fill(is_equal, 1.0).sqrt()).mean()


def gram_error(features: Tensor, targets: Tensor) -> Tensor:
    """Return the squared Frobenius norm of the difference of Gram matrices, averaged over images.

    The matrix of an image has the products of all pairs of channels, summed over positions and
    divided by the number of values, as in Johnson et al. 2016.

    Args:
        features: (n, d, h, w).
        targets: Those of the true images, of the same shape.
    """
    difference = _gram(features) - _gram(targets)
    return difference.square().sum((1, 2)).mean()


def _gram(features: Tensor) -> Tensor:
    maps = features.flatten(2)
    return maps @ maps.transpose(1, 2) / (maps.shape[1] * maps.shape[2])


FEATURE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": squared_error,
    "absolute": absolute_error,
    "rms": root_mean_square,
}
"""The differences of features by name."""


class FeatureExtractor:
    """The features of images at named blocks of a network."""

    def __init__(self, backbone: Backbone, blocks: Sequence[str]) -> None:
        """Prepare a network, which is not changed.

        Args:
            backbone: The network, on the device of the images.
            blocks: The names of the blocks.

        Raises:
            TesseraeError: There is no such block, or its output is not a map of features.
        """
        for name in blocks:
            check_block(backbone.model, backbone.name, name)
        self._backbone = backbone
        self._blocks = tuple(blocks)
        device = backbone.device
        self._mean = torch.tensor(backbone.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(backbone.std, device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the features of images at each block, with gradients if the images have them.

        Args:
            images: (n, 3, h, w) float32 RGB in levels, on the device of the network, of a size that
                the network takes.

        Returns:
            For each block (n, d, h', w').

        Raises:
            TesseraeError: A block is not used, or its output is not a map of features.
        """
        pixels = (images / 255 - self._mean) / self._std
        if self._backbone.transform.channels == "BGR":
            pixels = pixels.flip(1)
        maps = block_outputs(self._backbone.model, self._blocks, pixels)
        for name, features in zip(self._blocks, maps, strict=True):
            if features.dim() != 4:
                raise TesseraeError(
                    f"the output of block {name!r} of {self._backbone.name} has the shape"
                    f" {tuple(features.shape)}: expected a map of features, (n, d, h, w). Choose"
                    " another block."
                )
        return maps
