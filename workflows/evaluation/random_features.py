"""Distance of two sets of images by the features of a random convolutional network.

A sliced Wasserstein distance of pixels sees little more than means and covariances: a random
direction sums over all pixels, and such sums of natural images are nearly normal. A Gaussian fitted
to the images is then as near to them as they are to each other. Rectified responses of filters
depend on local structure too, even with random weights, and need neither training nor a download
(Ustyuzhaninov et al.: What does it take to generate natural textures?, ICLR 2017; Naeem et al.:
Reliable Fidelity and Diversity Metrics for Generative Models, ICML 2020, which embeds images by a
random network where a trained one does not suit them).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from workflows.evaluation.sliced import sliced_wasserstein
from workflows.training.finite import check_finite

WIDTH = 32
"""The number of filters of the first layer; each further layer has twice as many."""
MAX_LAYERS = 3
"""The maximum number of layers."""
MIN_SIDE = 4
"""The smallest side of the maps of a layer, in pixels."""
DIRECTIONS = 256
"""The number of random directions of features."""


def random_features(images: Tensor, *, seed: int = 0) -> list[Tensor]:
    """Return statistics of the maps of a random convolutional network, layer by layer.

    A layer has 3 x 3 filters with normal weights (He et al. 2015) and rectified outputs, which are
    halved by averaging for the next layer. Filters of the first layer sum to 0, so that they
    respond to edges and not to brightness.

    Args:
        images: (n, c, h, w) of any floating-point dtype, on any device; h and w at least 4.
        seed: Seed of the weights (default 0). Torch's global generator is not used.

    Returns:
        For each layer (n, 2 * maps) float32 on that device: the mean of each map over its pixels,
        and its standard deviation. There are three layers from 16 px on.
    """
    generator = torch.Generator().manual_seed(seed)
    maps, features = images.float(), []
    for layer in range(MAX_LAYERS):
        inputs, outputs = maps.shape[1], WIDTH * 2**layer
        weights = (
            torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
        )
        if layer == 0:
            weights = weights - weights.mean((2, 3), keepdim=True)
        maps = functional.conv2d(maps, weights.to(maps.device), padding=1).relu()
        deviation, mean = torch.std_mean(maps.flatten(2), 2)
        features.append(torch.cat([mean, deviation], 1))
        if min(maps.shape[2:]) < 2 * MIN_SIDE:
            break
        maps = functional.avg_pool2d(maps, 2)
    return features


@dataclass(frozen=True)
class FeatureReference:
    """The features of real images, which those of samples are compared with."""

    features: list[Tensor]
    """The features of each layer, (m, d) float32."""
    scales: list[Tensor]
    """The standard deviation of each feature, (d,)."""
    seed: int
    """The seed of the network."""

    @classmethod
    def of(cls, images: Tensor, *, seed: int = 0) -> FeatureReference:
        """Compute the features of real images.

        Args:
            images: (m, c, h, w) of any floating-point dtype, on any device; m > 1.
            seed: Seed of the network (default 0).

        Raises:
            NonFiniteError: A value is NaN or infinite.
        """
        check_finite(images)
        features = random_features(images, seed=seed)
        # A filter without a response would divide by 0.
        return cls(features, [rows.std(0).clamp_min(1e-6) for rows in features], seed)

    def distance(self, images: Tensor) -> float:
        """Return the sliced Wasserstein distance of features, the mean over layers.

        Args:
            images: (n, c, h, w) of any floating-point dtype, on the device and of the size of the
                real ones; n > 0.

        Returns:
            The distance, in standard deviations of a feature of the real images.

        Raises:
            NonFiniteError: A value is NaN or infinite.
        """
        check_finite(images)
        distances = [
            sliced_wasserstein(rows / scale, real / scale, directions=DIRECTIONS)
            for rows, real, scale in zip(
                random_features(images, seed=self.seed), self.features, self.scales, strict=True
            )
        ]
        return sum(distances) / len(distances)
