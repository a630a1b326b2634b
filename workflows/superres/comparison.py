"""Crops of enlarged images beside their originals, with maps of their errors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from workflows.evaluation.image_quality import luma
from workflows.training.image_grid import grid_png

CROP_PIXELS = 192
"""The largest side of a crop, in pixels of the original, a multiple of every scale."""
COLUMNS = 3
"""The number of crops in a row of a comparison."""
BRIGHTEST_SHARE = 0.998
"""The share of the errors of both enlargements that are not brighter than white."""
MIN_WHITE_LEVELS = 8
"""The smallest error that is drawn white, in levels, so that rounding errors stay dark."""


class CropComparison(NamedTuple):
    """A grid of crops."""

    png: bytes
    """The PNG file. Above: the bicubic enlargement, that of the network, and the original. Below:
    the errors of the two, and the pixels of the low-resolution image as squares."""
    white: int
    """The absolute error of luma that is drawn white, in levels; larger ones are white, too."""


def compare_crops(
    low: Tensor, interpolated: Tensor, enlarged: Tensor, high: Tensor
) -> CropComparison:
    """Return crops from where the bicubic enlargement and that of the network differ most.

    Args:
        low: The low-resolution image, (1, 3, h, w) in levels, 0 to 255, of any dtype.
        interpolated: Its bicubic enlargement, (1, 3, h * scale, w * scale).
        enlarged: That of the network, of the same shape.
        high: The original, of the same shape.
    """
    scale = high.shape[2] // low.shape[2]
    height, width = (min(CROP_PIXELS // scale, side) for side in low.shape[2:])
    difference = (luma(enlarged) - luma(interpolated)).abs()[0, 0]
    top, left = find_window(difference, scale * height, scale * width, scale)

    def crop(image: Tensor, factor: int) -> Tensor:
        y, x = (start * factor // scale for start in (top, left))
        return image[:, :, y : y + factor * height, x : x + factor * width].float()

    crops = [crop(image, scale) for image in (interpolated, enlarged, high)]
    errors = [(luma(image) - luma(crops[2])).abs() for image in crops[:2]]
    limit = float(torch.quantile(torch.cat(errors).flatten(), BRIGHTEST_SHARE))
    white = max(MIN_WHITE_LEVELS, round(limit))
    maps = [
        (error * (255 / white)).clamp(max=255).round().expand(-1, 3, -1, -1) for error in errors
    ]
    squares = functional.interpolate(crop(low, 1), scale_factor=scale, mode="nearest")
    cells = torch.cat([*crops, *maps, squares]).byte().permute(0, 2, 3, 1)
    return CropComparison(grid_png(cells.cpu().numpy(), columns=COLUMNS), white)


def find_window(values: Tensor, height: int, width: int, step: int) -> tuple[int, int]:
    """Return the upper left corner of the window with the largest sum, the first of equal ones.

    Args:
        values: (h, w) whole numbers of float64, of which sums are exact.
        height: Height of the window, at most h.
        width: Width of the window, at most w.
        step: The corners are multiples of this number of rows and columns.

    Returns:
        The row and the column.
    """
    sums = functional.pad(values.cumsum(0).cumsum(1), (1, 0, 1, 0))
    lower, upper = sums[height:], sums[: len(sums) - height]
    windows = lower[:, width:] - lower[:, :-width] - upper[:, width:] + upper[:, :-width]
    windows = windows[::step, ::step]
    index = int(windows.flatten().argmax())
    row, column = divmod(index, windows.shape[1])
    return step * row, step * column
