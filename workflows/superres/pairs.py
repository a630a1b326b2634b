"""Pairs of a low-resolution image and its original, made on the device from what a loader yields.

Positions, orientations and the strength of a degradation are drawn by a hash of (seed, epoch, row,
purpose), so they depend on no rank, batch, thread or device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.augment import draws
from workflows.superres import bicubic, jpeg
from workflows.superres.choices import BICUBIC, BLUR_JPEG, STORED
from workflows.superres.orientations import turned

_TOP, _LEFT, _TURN, _SIGMA, _QUALITY = range(16, 21)  # purposes that `Augment` does not use
BLUR_DEVIATIONS = 3.0
"""The radius of the Gaussian's window, in standard deviations."""


class Pair(NamedTuple):
    """Low-resolution images and their originals."""

    low: Tensor
    """(n, 3, h, w) float32 RGB in levels, 0 to 255."""
    high: Tensor
    """(n, 3, h * scale, w * scale) float32 RGB in levels."""


@dataclass(frozen=True, kw_only=True)
class PairMaker:
    """Makes pairs of batches; two instances with equal fields give equal pairs.

    Attributes:
        scale: The factor between the two sizes, at least 2.
        degradation: The origin of the low-resolution images, one of `DEGRADATIONS`.
        patch: The side in pixels of the low-resolution patches that are cut out; None for whole
            images.
        turned: True to turn and mirror each pair to one of its eight orientations, at random.
        cut_by_loader: True if the loader has cut the originals out of larger pictures, with a
            margin of `margin` * `scale` pixels at each edge.
        blur: The smallest and largest standard deviation of the Gaussian blur of `blur+jpeg`, in
            pixels of the original.
        quality: The smallest and largest JPEG quality of `blur+jpeg`.
        seed: The seed of the draws, 0 to 2^64 - 1.
    """

    scale: int
    degradation: str
    patch: int | None = None
    turned: bool = False
    cut_by_loader: bool = False
    blur: tuple[float, float] = (0.2, 1.2)
    quality: tuple[int, int] = (40, 95)
    seed: int = 0

    @property
    def margin(self) -> int:
        """The number of low-resolution pixels around a patch that its own pixels depend on."""
        if self.degradation == STORED:
            return 0
        reach = bicubic.margin(self.scale)
        if self.degradation == BLUR_JPEG:
            reach += self._blur_radius
        return math.ceil(reach / self.scale)

    @property
    def _blur_radius(self) -> int:
        return math.ceil(BLUR_DEVIATIONS * self.blur[1])

    def __call__(self, images: tuple[Tensor, ...], rows: Tensor, epoch: int) -> Pair:
        """Make the pairs of a batch.

        Args:
            images: For `stored` the low-resolution images and their originals, (n, 3, h, w) and
                (n, 3, h * scale, w * scale) uint8; otherwise the originals alone. They are on one
                device.
            rows: The rows of the images, (n,) int64.
            epoch: The epoch whose draws are used.

        Returns:
            float32 images on that device, contiguous. Without a patch, sides of originals are cut
            to multiples of the scale.

        Raises:
            ValueError: The images are smaller than a patch, or not of sides with that ratio.
        """
        rows = rows.to(images[0].device, non_blocking=True)
        if self.degradation == STORED:
            low, high = self._stored(images, rows, epoch)
        else:
            low, high = self._degraded(images[-1], rows, epoch)
        if self.turned:
            turn = (8 * draws(self.seed, epoch, rows, _TURN)).long()
            low, high = turned(low, turn), turned(high, turn)
        return Pair(_as_levels(low), _as_levels(high))

    def _stored(
        self, images: tuple[Tensor, ...], rows: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        low, high = images
        sides = tuple(self.scale * side for side in low.shape[2:])
        if tuple(high.shape[2:]) != sides:
            raise ValueError(
                f"the originals are {high.shape[3]}x{high.shape[2]} pixels: expected"
                f" {sides[1]}x{sides[0]}, {self.scale} times the low-resolution images."
            )
        if self.patch is None:
            return low, high
        top, left = self._position(low.shape[2], low.shape[3], rows, epoch)
        side, scale = self.patch, self.scale
        return (
            cut_squares(low, top, left, side),
            cut_squares(high, scale * top, scale * left, scale * side),
        )

    def _degraded(self, images: Tensor, rows: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        scale, margin = self.scale, self.margin
        height, width = (side // scale for side in images.shape[2:])
        if self.cut_by_loader:
            high = images
        elif self.patch is None:
            margin, high = 0, images[:, :, : scale * height, : scale * width]
        else:
            top, left = (scale * start for start in self._position(height, width, rows, epoch))
            within = (scale * height, scale * width)
            high = cut_squares(
                images, top, left, scale * self.patch, margin=scale * margin, within=within
            )
        low = self._reduced(high.float(), rows, epoch)
        return _without_margin(low, margin), _without_margin(high, scale * margin)

    def _reduced(self, high: Tensor, rows: Tensor, epoch: int) -> Tensor:
        if self.degradation == BICUBIC:
            return bicubic.reduce(high, self.scale)
        first, last = self.blur
        sigma = first + (last - first) * draws(self.seed, epoch, rows, _SIGMA)
        low = bicubic.reduce(gaussian_blur(high, sigma, self._blur_radius), self.scale)
        lowest, highest = self.quality
        drawn = draws(self.seed, epoch, rows, _QUALITY)
        return jpeg.compress(low, lowest + ((highest - lowest + 1) * drawn).long())

    def _position(self, height: int, width: int, rows: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the top and left edge of each patch in low-resolution pixels, (n,) int64 each."""
        assert self.patch is not None
        if min(height, width) < self.patch:
            raise ValueError(
                f"low-resolution images are {width}x{height} pixels: expected at least the side of"
                f" a patch, {self.patch}."
            )
        return tuple(
            (draws(self.seed, epoch, rows, purpose) * (side - self.patch + 1)).long()
            for purpose, side in ((_TOP, height), (_LEFT, width))
        )  # type: ignore[return-value]


def cut_squares(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    side: int,
    *,
    margin: int = 0,
    within: tuple[int, int] | None = None,
) -> Tensor:
    """Return a square of each image, with a margin in which the pixels of an edge are repeated.

    Args:
        images: (n, c, h, w) of any dtype; best channels last in memory.
        top: (n,) int64, the first row of each square without its margin.
        left: (n,) int64, its first column.
        side: Side of the squares without their margins, in pixels.
        margin: Width of the margin on each side, in pixels (default 0).
        within: Height and width of the part of the images, from the upper left, beyond which pixels
            are repeated (default: all).

    Returns:
        (n, c, side + 2 margin, side + 2 margin) with the dtype of *images*, channels last.
    """
    height, width = within or images.shape[2:]
    if margin == 0 and images.device.type == "cpu":  # many times faster than an index there
        starts = zip(images, top.tolist(), left.tolist(), strict=True)
        return torch.stack([image[:, y : y + side, x : x + side] for image, y, x in starts])
    steps = torch.arange(-margin, side + margin, device=images.device)
    y = (top[:, None] + steps).clamp(0, height - 1)
    x = (left[:, None] + steps).clamp(0, width - 1)
    index = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[index, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Return images blurred by a Gaussian of their own; the pixels of an edge are repeated.

    Args:
        images: (n, c, h, w) float32.
        sigma: (n,) the standard deviation of each, in pixels, above 0.
        radius: Radius of the window of all Gaussians, in pixels.

    Returns:
        (n, c, h, w) float32.
    """
    n, c = images.shape[:2]
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(c, 0)
    padded = functional.pad(images, (radius,) * 4, mode="replicate")
    maps = padded.reshape(1, n * c, *padded.shape[2:])  # each channel of each image on its own
    maps = functional.conv2d(maps, weights[:, None, :, None], groups=n * c)
    maps = functional.conv2d(maps, weights[:, None, None, :], groups=n * c)
    return maps.view(images.shape)


def _as_levels(images: Tensor) -> Tensor:
    return images.to(torch.float32, memory_format=torch.contiguous_format)


def _without_margin(images: Tensor, margin: int) -> Tensor:
    return images[:, :, margin:-margin, margin:-margin] if margin else images
