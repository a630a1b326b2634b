"""Grids of images, encoded as PNG or JPEG."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

GAP_PIXELS = 2
"""The gap between two images, in pixels."""


def grid_png(images: NDArray[np.uint8], *, columns: int | None = None) -> bytes:
    """Return a grid of images as the content of a PNG file, in reading order, on white.

    Images are 2 px apart, without a margin around the grid; cells of the last row without an image
    are white.

    Args:
        images: (n, height, width, 3) uint8 RGB, n > 0; or (rows, columns, height, width, 3), with
            the rows and columns of the grid.
        columns: Number of images in a row of the grid, at least 1 (default None: those of *images*,
            or else the root of n, rounded up). The grid is as wide even if there are fewer images.
    """
    if images.ndim == 5:
        columns = columns or images.shape[1]
        images = images.reshape(-1, *images.shape[2:])
    count, height, width = images.shape[:3]
    columns = columns or max(1, math.ceil(math.sqrt(count)))
    grid_rows = -(-count // columns)
    grid = np.full(
        (
            grid_rows * (height + GAP_PIXELS) - GAP_PIXELS,
            columns * (width + GAP_PIXELS) - GAP_PIXELS,
            3,
        ),
        255,
        np.uint8,
    )
    for index, image in enumerate(images):
        grid_row, column = divmod(index, columns)
        top, left = grid_row * (height + GAP_PIXELS), column * (width + GAP_PIXELS)
        grid[top : top + height, left : left + width] = image
    file = io.BytesIO()
    Image.fromarray(grid).save(file, "PNG")
    return file.getvalue()


def jpeg_preview(png: bytes, limit: int = 300 * 2**10) -> bytes:
    """Return a preview of a PNG file as the content of an RGB JPEG file.

    Both sides are halved until the JPEG file is short enough or has one pixel.

    Args:
        png: The content of the PNG file.
        limit: Maximum length of the JPEG file, in bytes (default 300 KiB). A JPEG file of one pixel
            has several hundred bytes, and is returned even if that is more.

    Raises:
        PIL.UnidentifiedImageError: *png* is not the content of an image file.
    """
    image = Image.open(io.BytesIO(png)).convert("RGB")
    while True:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85)
        if file.tell() <= limit or image.size == (1, 1):
            return file.getvalue()
        image = image.reduce(2)


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Convert images in [-1, 1] to 8-bit RGB; values outside are clamped.

    Args:
        images: (n, c, h, w) of any floating-point dtype and on any device, without gradients; c is
            3, or 1 for grey.

    Returns:
        A new array, (n, h, w, 3) uint8, 0 for -1 and 255 for 1, rounded to the nearest level. The
        channel of grey images is repeated.
    """
    levels = (images.float().clamp(-1, 1) * 127.5 + 127.5).round().byte().cpu()
    pixels: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).numpy()
    return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else np.ascontiguousarray(pixels)
