"""Samples side by side, as a PNG."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

GAP = 2
"""Pixels between two pictures."""


def grid_png(images: NDArray[np.uint8], *, columns: int | None = None) -> bytes:
    """Pictures side by side.

    Args:
        images: (n, height, width, 3) uint8 RGB.
        columns: In a line (about as many as there are lines).
    """
    count, height, width = images.shape[:3]
    columns = columns or max(1, math.ceil(math.sqrt(count)))
    lines = -(-count // columns)
    whole = np.full((lines * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for place, image in enumerate(images):
        line, column = divmod(place, columns)
        top, left = line * (height + GAP), column * (width + GAP)
        whole[top : top + height, left : left + width] = image
    file = io.BytesIO()
    Image.fromarray(whole).save(file, "PNG")
    return file.getvalue()


def smaller(png: bytes, limit: int = 300 * 2**10) -> bytes:
    """A grid as a JPEG of at most *limit* bytes, to be looked at in passing."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    while True:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85)
        if file.tell() <= limit:
            return file.getvalue()
        image = image.reduce(2)


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """(n, c, h, w) in [-1, 1], c 1 or 3, as (n, h, w, 3) uint8 RGB."""
    levels = (images.float().clamp(-1, 1) * 127.5 + 127.5).round().byte().cpu()
    made: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).numpy()
    return np.repeat(made, 3, axis=3) if made.shape[3] == 1 else np.ascontiguousarray(made)
