"""Crops, flips and normalisation of whole batches, on the device of the batch.

A random draw for an image is a hash of (seed, epoch, row, purpose), so it does not depend on the
rank, batch, thread or device. No library's generator is used, because its stream could change with
the device or version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.order import key

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""The mean of each channel over ImageNet's training images, as a fraction of 255."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""The standard deviation of each channel over ImageNet's training images, as a fraction of 255."""

MIRROR, _AREA, _RATIO, _LEFT, _TOP, _CUT_LEFT, _CUT_TOP = range(7)  # the purposes of draws
_STEP = 0x9E3779B97F4A7C15
_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
CROPS = ("none", "random", "resized")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """An augmentation of batches; two instances with equal fields give equal results.

    Attributes:
        size: The side of the output in pixels.
        crop: `none` cuts the centred square, `random` a square at a random position, and `resized`
            a region of random area and aspect ratio, which it resizes (Szegedy et al.: Going
            deeper with convolutions, CVPR 2015). The default is `resized`.
        resize: The side in pixels to which images are resized, bilinearly with antialiasing, before
            `none` or `random` cuts them (default: None, not resized).
        padding: The width in pixels of the reflected border that images get on each side before
            `random` cuts them (default: 0).
        flip: True to mirror half of the images (default).
        cutout: The side in pixels of a square at a random position that is set to the mean colour
            in each image; parts of it may lie outside (DeVries and Taylor: Improved Regularization
            of Convolutional Neural Networks with Cutout, 2017). The default is 0, none.
        area: The smallest and largest fraction of the image that `resized` keeps.
        ratio: The smallest and largest ratio of width to height that `resized` keeps.
        mean: The value subtracted from each channel, as a fraction of 255.
        std: The value that each channel is then divided by, as a fraction of 255.
        seed: The seed of the draws, 0 to 2^64 - 1.

    Examples:
        >>> augment = tesserae.Augment(size=64, crop="random", mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> images, rows = torch.zeros(2, 3, 72, 72, dtype=torch.uint8), torch.arange(2)
        >>> augment(images, rows, epoch=0).shape
        torch.Size([2, 3, 64, 64])
    """

    size: int
    crop: str = "resized"
    resize: int | None = None
    padding: int = 0
    flip: bool = True
    cutout: int = 0
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        if self.crop not in CROPS:
            raise ValueError(f"crop is {self.crop!r}: expected one of {', '.join(CROPS)}.")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area is {self.area}: expected 0 < smallest <= largest <= 1.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is {self.ratio}: expected 0 < smallest <= largest.")
        for name in ("padding", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 0 pixels.")
        if self.padding and self.crop != "random":
            raise ValueError(
                f"padding is {self.padding} with crop {self.crop!r}: only 'random' has a border."
            )

    def __call__(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Crop, mirror and normalise a batch as the fields of this object say.

        Args:
            images: The images, (n, 3, height, width) uint8, on any device.
            rows: The rows of the images, (n,) int64.
            epoch: The epoch whose draws are used, 0 to 2^64 - 1.

        Returns:
            (n, 3, size, size) float32 on the device of *images*, channels last in memory.

        Raises:
            ValueError: The images are smaller than `size`, and `crop` is `none` or `random`; or
                they are not larger than the border.
        """
        rows = rows.to(images.device, non_blocking=True)

        def draw(purpose: int) -> Tensor:
            return draws(self.seed, epoch, rows, purpose)

        if self.crop == "resized":
            augmented = _crop_and_resize(
                images.float(), self, draw(_AREA), draw(_RATIO), draw(_LEFT), draw(_TOP)
            )
        else:
            if self.resize is not None:
                side = (self.resize, self.resize)
                images = functional.interpolate(
                    images.float(), side, mode="bilinear", antialias=True
                )
            augmented = self._cut(self._padded(images), draw(_LEFT), draw(_TOP)).float()
        if self.flip:
            mirrored = (draw(MIRROR) < 0.5)[:, None, None, None]
            augmented = torch.where(mirrored, augmented.flip(3), augmented)
        augmented = normalise(augmented, self.mean, self.std)
        if self.cutout:
            square = self._square(draw(_CUT_LEFT), draw(_CUT_TOP))
            augmented = augmented.masked_fill(square, 0.0)
        return augmented.contiguous(memory_format=torch.channels_last)

    def _padded(self, images: Tensor) -> Tensor:
        if not self.padding:
            return images
        if min(images.shape[2:]) <= self.padding:
            raise ValueError(
                f"images are {images.shape[3]}x{images.shape[2]} pixels: expected more than the"
                f" border of {self.padding}."
            )
        return functional.pad(images.float(), (self.padding,) * 4, mode="reflect")

    def _square(self, left: Tensor, top: Tensor) -> Tensor:
        """Return which pixels are cut out, (n, 1, size, size) bool; the centre is in the image."""
        position = torch.arange(self.size, device=left.device)
        spans = []
        for draw in (top, left):
            first = ((draw * self.size).long() - self.cutout // 2)[:, None]
            spans.append((position >= first) & (position < first + self.cutout))
        return (spans[0][:, :, None] & spans[1][:, None, :])[:, None]

    def _cut(self, images: Tensor, left: Tensor, top: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if min(height, width) < self.size:
            raise ValueError(
                f"images are {width}x{height} pixels: expected at least {self.size} on each side."
            )
        if self.crop == "none":
            above, before = (height - self.size) // 2, (width - self.size) // 2
            return images[:, :, above : above + self.size, before : before + self.size]
        side = torch.arange(self.size, device=images.device)
        y = (top * (height - self.size + 1)).long()[:, None] + side
        x = (left * (width - self.size + 1)).long()[:, None] + side
        index = torch.arange(len(images), device=images.device)[:, None, None]
        return images.permute(0, 2, 3, 1)[index, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def draws(seed: int, epoch: int, rows: Tensor, purpose: int) -> Tensor:
    """Return one uniform random number for each row, which depends on the arguments alone.

    Args:
        seed: The seed, 0 to 2^64 - 1.
        epoch: The epoch, 0 to 2^64 - 1.
        rows: The rows of the split, (n,) int64, on any device; they are only read. A row gets the
            same number in any batch.
        purpose: The number of the purpose, 0 to 2^64 - 1; each gives independent numbers. `Augment`
            uses 0 (`MIRROR`) to 6, so others should use larger ones.

    Returns:
        (n,) float32 in [0, 1), multiples of 2^-24, on the device of *rows*.
    """
    # This is `pipeline.order.key(seed, epoch, purpose, row)` in signed integers that wrap around,
    # because torch has no arithmetic on unsigned 64-bit integers.
    values = (rows ^ _as_signed_64_bit(key(seed, epoch, purpose))) + _as_signed_64_bit(_STEP)
    for shift, factor in _FACTORS:
        values = (values ^ _shift_right_unsigned(values, shift)) * _as_signed_64_bit(factor)
    values = values ^ _shift_right_unsigned(values, 31)
    return _shift_right_unsigned(values, 40).float() * 2.0**-24


def _shift_right_unsigned(values: Tensor, bits: int) -> Tensor:
    return (values >> bits) & ((1 << (64 - bits)) - 1)  # without the sign's extension


def _as_signed_64_bit(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def normalise(
    images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """Return (images / 255 - mean) / std by channel; mean = std = 0.5 gives -1 to 1.

    Args:
        images: The images, (n, 3, height, width), 0 to 255, of any dtype, on any device; they are
            not changed.
        mean: The mean of each of the three channels, as a fraction of 255, so 0 to 1.
        std: The standard deviation of each channel, as a fraction of 255; not 0.

    Returns:
        (n, 3, height, width) float32, a new tensor on the device of *images*.
    """
    shape = (1, 3, 1, 1)
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(shape)
    shift = torch.tensor(
        [-m / s for m, s in zip(mean, std, strict=True)], device=images.device
    ).view(shape)
    return images.float() * scale + shift


def _crop_and_resize(
    images: Tensor, augment: Augment, area: Tensor, ratio: Tensor, left: Tensor, top: Tensor
) -> Tensor:
    height, width = images.shape[2:]
    low, high = augment.area
    share = low + (high - low) * area
    low, high = (math.log(edge) for edge in augment.ratio)
    shape = torch.exp(low + (high - low) * ratio)
    w = (share * width * height * shape).sqrt().clamp(max=width)
    h = (share * width * height / shape).sqrt().clamp(max=height)
    x, y = left * (width - w), top * (height - h)
    # The pixel centres of the output, in pixels of the input, then in grid_sample's -1 to 1.
    side = (torch.arange(augment.size, device=images.device) + 0.5) / augment.size
    across = (x[:, None] + w[:, None] * side) * (2 / width) - 1
    down = (y[:, None] + h[:, None] * side) * (2 / height) - 1
    grid = torch.stack(
        [
            across[:, None, :].expand(-1, augment.size, -1),
            down[:, :, None].expand(-1, -1, augment.size),
        ],
        dim=-1,
    )
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
