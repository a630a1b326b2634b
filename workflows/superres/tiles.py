"""Parts of images that are enlarged one after another, so that large images need little memory.

An output pixel depends on the input pixels within the network's reach, and the edges of a part are
not those of the image. Parts therefore overlap: each is read with a margin of the reach, whose
result is cut off. At the edges of the image there is no margin, as networks pad there, so that the
parts together equal the result of the whole image but for the rounding of floating-point sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from workflows.superres.networks import (
    Edsr,
    Fsrcnn,
    LessonNetwork,
    Span,
    Srcnn,
    Successor,
    Upscaler,
)

CPU_BUDGET_BYTES = 2**30
"""The memory for the intermediate results of a tile on a CPU."""
GPU_SHARE = 0.5
"""The part of a GPU's free memory for the intermediate results of a tile."""
MIN_SIDE = 16
"""The smallest side of a tile that the budget leads to, in input pixels without its margin."""
MAX_SIDE = 512
"""The largest side of a tile that the budget leads to, in input pixels without its margin: larger
ones are no faster, and a file is written in strips of this height."""
_BYTES_PER_PIXEL: dict[type[Upscaler], tuple[float, float]] = {
    Srcnn: (600, 430),
    Fsrcnn: (600, 100),
    LessonNetwork: (2_600, 400),
    Edsr: (1_500, 550),
    Successor: (2_600, 500),
    Span: (7_000, 0),
}
"""The memory that networks need for each pixel of their input and of their output, in bytes.

They are upper limits of what the process of a CPU grew by for images of 128 to 512 pixels a side,
enlarged by 2 and 4 in float32."""
_BYTES_OF_OTHERS = (7_000, 550)


@dataclass(frozen=True)
class TileSpan:
    """The part of a tile along one axis, in input pixels."""

    start: int
    """The first pixel whose result is kept."""
    stop: int
    """The pixel after the last one whose result is kept."""
    read_start: int
    """The first pixel that is read."""
    read_stop: int
    """The pixel after the last one that is read."""

    def output(self, scale: int) -> slice:
        """Return the pixels of the enlarged image that the result fills.

        Args:
            scale: The factor of the enlargement.
        """
        return slice(self.start * scale, self.stop * scale)

    def kept(self, scale: int) -> slice:
        """Return the pixels of the enlarged tile that are kept, without its margin.

        Args:
            scale: The factor of the enlargement.
        """
        return slice((self.start - self.read_start) * scale, (self.stop - self.read_start) * scale)


@dataclass(frozen=True)
class Tile:
    """A rectangular part of an image that is enlarged at once."""

    rows: TileSpan
    """The part of its height."""
    columns: TileSpan
    """The part of its width."""

    def read(self, images: Tensor) -> Tensor:
        """Return a view of the pixels that the result depends on.

        Args:
            images: (n, c, h, w), the whole images.
        """
        rows, columns = self.rows, self.columns
        return images[
            :, :, rows.read_start : rows.read_stop, columns.read_start : columns.read_stop
        ]

    def without_margin(self, enlarged: Tensor, scale: int) -> Tensor:
        """Return a view of an enlarged tile without its margin.

        Args:
            enlarged: (n, c, h, w), the enlarged pixels that `read` returned.
            scale: The factor of the enlargement.
        """
        return enlarged[:, :, self.rows.kept(scale), self.columns.kept(scale)]


def tiles(height: int, width: int, side: int, margin: int) -> Iterator[Tile]:
    """Yield the tiles of an image in reading order, none of which share a kept pixel.

    Args:
        height: The height of the image in pixels, at least 1.
        width: Its width in pixels, at least 1.
        side: The largest side of a tile without its margin, in pixels, at least 1. A tile at an
            edge of the image may be larger by the margin that it lacks there.
        margin: The width of the margin, in pixels.
    """
    columns = intervals(width, side, margin)
    for rows in intervals(height, side, margin):
        for part in columns:
            yield Tile(rows, part)


def intervals(length: int, side: int, margin: int) -> list[TileSpan]:
    """Return the parts of one axis, of which all but the last read equally many pixels.

    Args:
        length: Number of pixels of the axis, at least 1.
        side: The largest number of pixels of a part without its margin, at least 1.
        margin: Number of pixels before and after a part that are read, too, within the axis.
    """
    inside = length - 2 * margin  # the first and the last part need a margin on one side only
    count = max(1, -(-inside // side))
    step = -(-max(inside, 1) // count)
    bounds = [0, *(min(margin + k * step, length) for k in range(1, count)), length]
    return [
        TileSpan(start, stop, max(start - margin, 0), min(stop + margin, length))
        for start, stop in pairwise(bounds)
        if start < stop
    ]


def tile_side(network: Upscaler, device: torch.device) -> int:
    """Return the side of the tiles for which the memory of a device suffices, without their margin.

    Args:
        network: The network.
        device: The device that computes.
    """
    budget = float(CPU_BUDGET_BYTES)
    if device.type == "cuda":
        budget = GPU_SHARE * torch.cuda.mem_get_info(device)[0]
    of_input, of_output = _BYTES_PER_PIXEL.get(type(network), _BYTES_OF_OTHERS)
    pixels = budget / (of_input + of_output * network.scale**2)
    return min(max(math.isqrt(int(pixels)) - 2 * network.reach, MIN_SIDE), MAX_SIDE)
