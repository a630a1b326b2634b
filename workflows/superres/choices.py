"""The names that the options of super-resolution choose from, which load no torch."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from types import MappingProxyType

STORED, BICUBIC, BLUR_JPEG = "stored", "bicubic", "blur+jpeg"
DEGRADATIONS = (STORED, BICUBIC, BLUR_JPEG)
"""The origins of low-resolution images: stored beside their originals, or made of them."""
NETWORKS = MappingProxyType(
    {
        "srcnn": "SRCNN, three convolutions of the enlarged image",
        "fsrcnn": "FSRCNN, the fastest",
        "lesson": "the lesson's residual network",
        "successor": "its successor of 2018, with weight norm",
        "edsr": "EDSR's baseline, the largest",
        "span": "SPAN, small and accurate",
    }
)
"""The networks by name, each with a phrase for the help text."""
PIXEL_LOSSES = ("l1", "l2", "charbonnier")
"""The differences of pixels."""
FEATURE_LOSSES = ("squared", "absolute", "rms")
"""The differences of features: squared as in Johnson et al. 2016, absolute as in the lesson's
successor, and the root of the mean square of each image as in the lesson's notebook."""
SCALES = (2, 3, 4)
"""The factors of the enlargement."""
DEFAULT_SCALE = 4
"""The factor that is trained if neither the options nor the store decide."""


def largest_pair(
    sizes: Iterable[int], scale: int | None = None, patch_size: int = 1
) -> tuple[int, int] | None:
    """Return the two sizes that make pairs, of which the originals are the largest.

    Args:
        sizes: Sides of stored squares, in pixels.
        scale: The factor between the two (default None: one of `SCALES`, for equal originals the
            largest).
        patch_size: The smallest side of the low-resolution squares, in pixels (default 1).

    Returns:
        The sides of the low-resolution squares and of their originals; None if no two sizes have
        such a ratio.
    """
    scales = SCALES if scale is None else (scale,)
    pairs = [
        (high, factor, low)
        for high, low, factor in product({*sizes}, {*sizes}, scales)
        if high == factor * low and low >= patch_size
    ]
    if not pairs:
        return None
    high, _, low = max(pairs)
    return low, high
