"""Losses of enlarged images that need no network: differences of pixels, and total variation.

Images are in levels, 0 to 255; the losses are in units of 255 levels, so that they are of the size
of 1 and the weights of different losses compare. Each is a mean over images, so that the mean over
ranks is that of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CHARBONNIER_EPSILON = 1e-3
"""The size of a difference, in units of 255 levels, below which Charbonnier's loss is smooth."""


def l1(images: Tensor, originals: Tensor) -> Tensor:
    """Return the mean absolute difference, a 0-d tensor with gradients.

    Args:
        images: (n, c, h, w) float32 in levels.
        originals: The true images, of the same shape.
    """
    return (images - originals).abs().mean() / 255


def l2(images: Tensor, originals: Tensor) -> Tensor:
    """Return the mean squared difference, a 0-d tensor with gradients.

    Args:
        images: (n, c, h, w) float32 in levels.
        originals: The true images, of the same shape.
    """
    return ((images - originals) / 255).square().mean()


def charbonnier(images: Tensor, originals: Tensor) -> Tensor:
    """Return the mean of sqrt(d^2 + 0.001^2) over the differences d, a 0-d tensor with gradients.

    It is smooth where the absolute difference has a corner (Charbonnier et al.: Two deterministic
    half-quadratic regularization algorithms for computed imaging, ICIP 1994; with this constant in
    Lai et al.: Deep Laplacian Pyramid Networks, CVPR 2017).

    Args:
        images: (n, c, h, w) float32 in levels.
        originals: The true images, of the same shape.
    """
    return (((images - originals) / 255).square() + CHARBONNIER_EPSILON**2).sqrt().mean()


def total_variation(images: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbours, down and across, a 0-d tensor.

    It is the anisotropic total variation for each value (Rudin et al.: Nonlinear total variation
    based noise removal algorithms, Physica D 60, 1992).

    Args:
        images: (n, c, h, w) float32 in levels, with sides of at least 2.
    """
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    across = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean()
    return (down + across) / 255


PIXEL_LOSSES: MappingProxyType[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"l1": l1, "l2": l2, "charbonnier": charbonnier}
)
"""The losses of pixels by name."""
