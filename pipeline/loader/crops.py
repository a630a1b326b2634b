"""The parts of pictures that a loader of encoded rows cuts out.

A random draw for an image is a hash of (seed, epoch, row, purpose), so it does not depend on the
rank, batch or thread. Only exactly rounded operations follow on it, and no library's logarithm or
exponential, so that every machine cuts the same boxes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Context, Decimal
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.loader.arguments import positive_number
from pipeline.order import keys

CROPS = ("resized", "random", "centre", "whole")
CROP_VERSION = 1
"""The version of the rules by which a crop, a seed, an epoch and a row give a box."""

_TRIES = 10
_FIRST_PURPOSE = 0x43524F50
"""The purpose of the first draw, the letters CROP; an augmentation has small numbers."""
_DRAWS_OF_TRY = 4
_AREA, _RATIO, _LEFT, _TOP = range(_DRAWS_OF_TRY)

_FIELDS_OF_KIND = {
    "resized": ("area", "ratio"), "random": ("share", "pixels"), "centre": ("share", "pixels"),
    "whole": (),
}  # fmt: skip

Sides = NDArray[np.int64]
"""Lengths or positions in pixels, (n,) int64, one for each row."""


@dataclass(frozen=True)
class Crop:
    """The part of each picture that a loader of encoded rows cuts out and resizes to a square.

    Attributes:
        kind: `resized` is a box of random area, aspect ratio and position, as torchvision's
            RandomResizedCrop draws it (Szegedy et al.: Going deeper with convolutions, CVPR 2015).
            `random` is a square at a random position, `centre` the square in the centre, and
            `whole` the whole picture, whose aspect ratio is lost. The default is `centre`.
        area: The smallest and largest fraction of the picture that `resized` keeps (default: 0.08
            to 1).
        ratio: The smallest and largest ratio of width to height of `resized` (default: 3/4 to 4/3).
        share: The side of the square of `random` and `centre` as a fraction of the short side
            (default: 1).
        pixels: The side of the square of `random` and `centre` in pixels, in place of a share. If
            the images of the loader have this side, nothing is resized. A loader leaves out
            pictures whose short side is smaller (default: None, the share counts).

    Examples:
        >>> crop = tesserae.Crop("resized", area=(0.25, 1.0))
        >>> crop.kind, crop.area, crop.pixels
        ('resized', (0.25, 1.0), None)
    """

    kind: str = "centre"
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    share: float = 1.0
    pixels: int | None = None

    def __post_init__(self) -> None:
        """Refuse invalid values, and fields that the kind does not use."""
        if self.kind not in CROPS:
            raise ValueError(f"crop is {self.kind!r}: expected one of {', '.join(CROPS)}.")
        for name, highest in (("area", 1.0), ("ratio", 1000.0)):
            object.__setattr__(self, name, _interval(name, getattr(self, name), highest))
        object.__setattr__(self, "share", _interval("share", (self.share, 1.0), 1.0)[0])
        if self.pixels is not None:
            self._check_pixels()
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default and field.name not in _FIELDS_OF_KIND[self.kind]:
                raise ValueError(
                    f"{field.name} is {value}, and the crop is {self.kind!r}, which has no"
                    f" {field.name}. Leave it out, or choose another kind."
                )

    def _check_pixels(self) -> None:
        object.__setattr__(self, "pixels", positive_number("pixels", self.pixels))
        if self.share != 1:
            raise ValueError(
                f"share is {self.share:g} and pixels is {self.pixels}: both are the side of the"
                " square. Pass only one of them."
            )

    @property
    def text(self) -> str:
        """Everything that decides the boxes but seed, epoch and rows, in one line."""
        values = [getattr(self, name) for name in _FIELDS_OF_KIND[self.kind]]
        if self.pixels is None and "pixels" in _FIELDS_OF_KIND[self.kind]:
            values.pop()  # earlier versions did not have it, and their states are restored
        return " ".join([self.kind, *map(str, values), str(CROP_VERSION)])

    def boxes(
        self, shapes: NDArray[np.int32], rows: NDArray[np.int64], *, seed: int, epoch: int
    ) -> NDArray[np.int32]:
        """Return the box that is cut out of each picture.

        Args:
            shapes: The height and width of each picture in pixels, (n, 2) int32, at least 1.
            rows: The row of each picture in the split, (n,) int64; a row gets the same box in any
                batch.
            seed: The seed of the draws, 0 to 2^64 - 1; `centre` and `whole` do not use it.
            epoch: The epoch, 0 to 2^64 - 1; `centre` and `whole` do not use it.

        Returns:
            The left, top, right and bottom edge of each box in pixels, (n, 4) int32: at least one
            pixel wide and high, inside of its picture.
        """
        height, width = shapes.astype(np.int64).T
        draws = _Draws(seed, epoch, rows)
        if self.kind == "resized":
            box = _resized_boxes(width, height, self, draws)
        elif self.kind == "whole":
            box = (np.zeros_like(width), np.zeros_like(height), width, height)
        else:
            short = np.minimum(width, height)
            side = np.maximum(1, np.rint(short * self.share).astype(np.int64))
            if self.pixels is not None:
                side = np.minimum(short, self.pixels)
            left, top = (width - side) // 2, (height - side) // 2
            if self.kind == "random":
                left = draws.below(width - side + 1, np.array(_LEFT))
                top = draws.below(height - side + 1, np.array(_TOP))
            box = (left, top, side, side)
        left, top, box_width, box_height = box
        return np.stack([left, top, left + box_width, top + box_height], 1).astype(np.int32)


def as_crop(value: Crop | str | None) -> Crop:
    """Return the crop that the argument *crop* of a loader selects.

    Args:
        value: A crop, or the name of its kind; None for `centre`.

    Raises:
        ValueError: It is neither, or there is no kind of that name.
    """
    if value is None:
        return Crop()
    if isinstance(value, str):
        return Crop(value)
    if not isinstance(value, Crop):
        raise ValueError(  # noqa: TRY004 - as for other arguments
            f"crop is {value!r}: expected one of {', '.join(CROPS)}, or a tesserae.Crop."
        )
    return value


def _interval(name: str, value: Any, highest: float) -> tuple[float, float]:
    try:
        low, high = (float(edge) for edge in value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}: expected two numbers.") from None
    if not 0 < low <= high <= highest:
        raise ValueError(
            f"{name} is {low:g}{'' if name == 'share' else f' to {high:g}'}: expected more than 0,"
            f" and at most {highest:g}."
        )
    return low, high


class _Draws:
    """Independent uniform random numbers for each row, which depend on the arguments alone."""

    def __init__(self, seed: int, epoch: int, rows: NDArray[np.int64]) -> None:
        self._numbers = (seed, epoch)
        self._rows = rows

    def _hashes(self, purposes: NDArray[np.int64]) -> NDArray[np.uint64]:
        return keys(self._numbers, _FIRST_PURPOSE + purposes, self._rows)

    def uniform(self, purposes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return numbers in [0, 1), multiples of 2^-53.

        Args:
            purposes: The purposes, of a shape that broadcasts with (n,).
        """
        return (self._hashes(purposes) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, ends: Sides, purposes: NDArray[np.int64]) -> Sides:
        """Return whole numbers from 0 to *ends* - 1.

        Args:
            ends: (n,) int64, 1 to 2^32.
            purposes: The purposes, of a shape that broadcasts with (n,).
        """
        high = self._hashes(purposes) >> np.uint64(32)
        return (high * ends.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def _resized_boxes(
    width: Sides, height: Sides, crop: Crop, draws: _Draws
) -> tuple[Sides, Sides, Sides, Sides]:
    """Return left, top, width and height of boxes of random area and aspect ratio.

    Of ten boxes that are drawn for each row, the first that fits into the picture is used. If none
    does, the box is the largest in the centre whose ratio is allowed.
    """
    first_purposes = np.arange(_TRIES)[:, None] * _DRAWS_OF_TRY
    low, high = crop.area
    log_low, log_high = (_log(edge) for edge in crop.ratio)
    area = width * height * (low + (high - low) * draws.uniform(first_purposes + _AREA))
    ratio = _exp(log_low + (log_high - log_low) * draws.uniform(first_purposes + _RATIO))
    drawn_width, drawn_height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (drawn_width > 0) & (drawn_width <= width) & (drawn_height > 0)
    fits &= drawn_height <= height
    chosen, columns = fits.argmax(0), np.arange(len(width))
    is_drawn = fits[chosen, columns]
    largest_width, largest_height = _largest_boxes(width, height, crop.ratio)
    box_width = np.where(is_drawn, drawn_width[chosen, columns], largest_width).astype(np.int64)
    box_height = np.where(is_drawn, drawn_height[chosen, columns], largest_height).astype(np.int64)
    room_left, room_top = width - box_width, height - box_height
    purposes = chosen * _DRAWS_OF_TRY
    left = np.where(is_drawn, draws.below(room_left + 1, purposes + _LEFT), room_left // 2)
    top = np.where(is_drawn, draws.below(room_top + 1, purposes + _TOP), room_top // 2)
    return left, top, box_width, box_height


def _largest_boxes(width: Sides, height: Sides, ratio: tuple[float, float]) -> tuple[Sides, Sides]:
    """Return width and height of the largest boxes of allowed aspect ratios."""
    low, high = ratio
    aspect = width / height
    box_width = np.where(aspect > high, np.rint(height * high), width).astype(np.int64)
    box_height = np.where(aspect < low, np.rint(width / low), height).astype(np.int64)
    return np.clip(box_width, 1, width), np.clip(box_height, 1, height)


@cache
def _log(value: float) -> float:
    """Return the natural logarithm, exactly rounded on every machine."""
    return float(Decimal(value).ln(Context(prec=40)))


def _exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return e^x for x of -7 to 7, to ten digits, by products and sums alone.

    A machine's own exponential may differ from another's in the last bit, and a side then be
    rounded to another pixel.
    """
    scaled = values * 2.0**-5
    result = np.ones_like(values)
    for divisor in range(9, 0, -1):  # the Taylor series, from its end
        result = 1.0 + scaled * result / divisor
    for _ in range(5):
        result = result * result
    return result
