"""Crops, flips and normalising, in batch, on whatever device the batch is.

What is drawn for a picture is a hash of (seed, epoch, row, what it is for): the same whatever the
rank, the batch, the thread and the device. No generator takes part, whose stream another device or
version would change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.order import key

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of ImageNet's training images, as fractions of 255."""

MIRROR, _AREA, _RATIO, _LEFT, _TOP = range(5)  # what a draw is for
_STEP = 0x9E3779B97F4A7C15
_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
CROPS = ("none", "random", "resized")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to each batch. A value: two of the same fields do the same.

    Attributes:
        size: Side in pixels of what comes out.
        crop: `none`: the centred square. `random`: a square of that size at a random place.
            `resized`: a random part of random area and proportions, resized (Szegedy et al.: Going
            deeper with convolutions, CVPR 2015).
        shrink: Side to which pictures are resized before they are cut by `none` or `random`,
            bilinearly with antialiasing; None = they are cut as they are.
        flip: Whether half of the pictures are mirrored.
        area: Least and largest share of the picture that `resized` keeps.
        ratio: Least and largest width over height that `resized` keeps.
        mean: Subtracted from each channel, as a fraction of 255.
        std: What each channel is divided by then.
        seed: Of the draws.
    """

    size: int
    crop: str = "resized"
    shrink: int | None = None
    flip: bool = True
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.crop not in CROPS:
            raise ValueError(f"crop is {self.crop!r}: expected one of {', '.join(CROPS)}.")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area is {self.area}: expected 0 < least <= largest <= 1.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is {self.ratio}: expected 0 < least <= largest.")

    def __call__(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Augment a batch.

        Args:
            images: (n, 3, height, width) uint8, on any device.
            rows: (n,) int64, which rows they are.
            epoch: Whose draws.

        Returns:
            (n, 3, size, size) float32 on the device of *images*, channels last in memory.

        Raises:
            ValueError: The pictures are smaller than what is to be cut out of them.
        """
        rows = rows.to(images.device, non_blocking=True)

        def drawn(purpose: int) -> Tensor:
            return draws(self.seed, epoch, rows, purpose)

        if self.crop == "resized":
            made = _resized(
                images.float(), self, drawn(_AREA), drawn(_RATIO), drawn(_LEFT), drawn(_TOP)
            )
        else:
            if self.shrink is not None:
                side = (self.shrink, self.shrink)
                images = functional.interpolate(
                    images.float(), side, mode="bilinear", antialias=True
                )
            made = self._cut(images, drawn(_LEFT), drawn(_TOP)).float()
        if self.flip:
            mirrored = (drawn(MIRROR) < 0.5)[:, None, None, None]
            made = torch.where(mirrored, made.flip(3), made)
        return normalise(made, self.mean, self.std).contiguous(memory_format=torch.channels_last)

    def _cut(self, images: Tensor, left: Tensor, top: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if min(height, width) < self.size:
            raise ValueError(f"pictures of {width}x{height} have no crop of {self.size} in them.")
        if self.crop == "none":
            above, before = (height - self.size) // 2, (width - self.size) // 2
            return images[:, :, above : above + self.size, before : before + self.size]
        side = torch.arange(self.size, device=images.device)
        y = (top * (height - self.size + 1)).long()[:, None] + side
        x = (left * (width - self.size + 1)).long()[:, None] + side
        which = torch.arange(len(images), device=images.device)[:, None, None]
        return images.permute(0, 2, 3, 1)[which, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def draws(seed: int, epoch: int, rows: Tensor, purpose: int) -> Tensor:
    """A number from 0 to 1, without 1, for each row: (n,) float32, of 24 random bits.

    Args:
        seed: 0 to 2^64 - 1.
        epoch: 0 to 2^64 - 1.
        rows: (n,) int64.
        purpose: What for: other numbers for each.
    """
    # `pipeline.order.key(seed, epoch, purpose, row)`, in signed integers that wrap around.
    made = (rows ^ _signed(key(seed, epoch, purpose))) + _signed(_STEP)
    for shift, factor in _FACTORS:
        made = (made ^ _shifted(made, shift)) * _signed(factor)
    made = made ^ _shifted(made, 31)
    return _shifted(made, 40).float() * 2.0**-24


def _shifted(values: Tensor, bits: int) -> Tensor:
    return (values >> bits) & ((1 << (64 - bits)) - 1)  # without the sign


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def normalise(
    images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """(images / 255 - mean) / std by channel; mean = std = 0.5 for all gives -1 to 1.

    Args:
        images: (n, 3, height, width), 0 to 255, any dtype.
        mean: As fractions of 255.
        std: As fractions of 255.

    Returns:
        (n, 3, height, width) float32.
    """
    shape = (1, 3, 1, 1)
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(shape)
    shift = torch.tensor(
        [-m / s for m, s in zip(mean, std, strict=True)], device=images.device
    ).view(shape)
    return images.float() * scale + shift


def _resized(
    images: Tensor, what: Augment, area: Tensor, ratio: Tensor, left: Tensor, top: Tensor
) -> Tensor:
    height, width = images.shape[2:]
    low, high = what.area
    share = low + (high - low) * area
    low, high = (math.log(edge) for edge in what.ratio)
    shape = torch.exp(low + (high - low) * ratio)
    w = (share * width * height * shape).sqrt().clamp(max=width)
    h = (share * width * height / shape).sqrt().clamp(max=height)
    x, y = left * (width - w), top * (height - h)
    # Pixel centres of the output, in pixels of the input, then in grid_sample's -1 to 1.
    side = (torch.arange(what.size, device=images.device) + 0.5) / what.size
    across = (x[:, None] + w[:, None] * side) * (2 / width) - 1
    down = (y[:, None] + h[:, None] * side) * (2 / height) - 1
    grid = torch.stack(
        [
            across[:, None, :].expand(-1, what.size, -1),
            down[:, :, None].expand(-1, -1, what.size),
        ],
        dim=-1,
    )
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
