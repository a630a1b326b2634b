"""The similarity of images to their originals: PSNR and SSIM, as super-resolution reports them.

Both take levels from 0 to 255. By the custom of the field they are computed on the luma of the
images, after as many pixels as the factor of the enlargement were cut off each edge.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WINDOW = 11
"""The side of SSIM's window, in pixels."""
SIGMA = 1.5
"""The standard deviation of SSIM's window, in pixels."""
_K1, _K2 = 0.01, 0.03
_RANGE = 255.0


def luma(images: Tensor) -> Tensor:
    """Return the luma of ITU-R BT.601 in whole levels, as MATLAB's `rgb2ycbcr` of 8-bit images.

    Args:
        images: (n, 3, h, w) RGB, 0 to 255, of any dtype.

    Returns:
        (n, 1, h, w) float64 on the same device, 16 for black to 235 for white.
    """
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=images.device)
    weighted = torch.einsum("nchw,c->nhw", images.double(), weights / _RANGE)
    return (16.5 + weighted).floor()[:, None]


def without_border(images: Tensor, pixels: int) -> Tensor:
    """Return a view of images without *pixels* pixels at each edge.

    Args:
        images: (n, c, h, w).
        pixels: Number of pixels, at least 0.

    Raises:
        ValueError: Nothing would be left.
    """
    height, width = images.shape[2:]
    if min(height, width) <= 2 * pixels:
        raise ValueError(
            f"images are {width}x{height} pixels: expected more than {2 * pixels} on each side, as"
            f" {pixels} are cut off each edge."
        )
    return images[:, :, pixels : height - pixels, pixels : width - pixels]


def psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image, in decibels, for a peak of 255.

    Args:
        images: (n, c, h, w), 0 to 255, of any dtype; nothing is rounded.
        originals: The true images, of the same shape.

    Returns:
        (n,) float64; infinite for an image that equals its original.
    """
    errors = (images.double() - originals.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(_RANGE**2 / errors)


def ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Return the structural similarity of each image, at most 1.

    It is the mean over all windows of 11 x 11 pixels inside of the image, weighted by a Gaussian of
    1.5 pixels, and over the channels (Wang et al.: Image quality assessment: from error visibility
    to structural similarity, IEEE Trans. Image Processing 13, 2004).

    Args:
        images: (n, c, h, w), 0 to 255, of any dtype, with sides of at least 11.
        originals: The true images, of the same shape.

    Returns:
        (n,) float64.

    Raises:
        ValueError: The images are smaller than a window.
    """
    height, width = images.shape[2:]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"images are {width}x{height} pixels: expected at least {WINDOW} on each side."
        )
    x, y = images.double(), originals.double()
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x = _windowed(x * x) - mean_x * mean_x
    variance_y = _windowed(y * y) - mean_y * mean_y
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * _RANGE) ** 2, (_K2 * _RANGE) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return similarity.flatten(1).mean(1)


def _windowed(images: Tensor) -> Tensor:
    """Return the Gaussian mean of each window, (n, c, h - 10, w - 10)."""
    # Sums of shifted images take a fifth of the time of torch's convolution of float64 on a CPU.
    weights = [math.exp(-0.5 * ((k - WINDOW // 2) / SIGMA) ** 2) for k in range(WINDOW)]
    for dim in (2, 3):
        size = images.shape[dim] - WINDOW + 1
        means = torch.zeros_like(images.narrow(dim, 0, size))
        for k, weight in enumerate(weights):
            means.add_(images.narrow(dim, k, size), alpha=weight / sum(weights))
        images = means
    return images
