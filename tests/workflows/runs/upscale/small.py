"""Helpers for tests: images of noise, and a profile of colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PROFILE = bytes(16) + b"RGB XYZ " + bytes(120)
"""The bytes of a profile as far as they matter here: its header names colours of RGB."""
GREY_PROFILE = bytes(16) + b"GRAYXYZ " + bytes(120)


def noise(height: int, width: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return an image of noise, (height, width, channels).

    Args:
        height: In pixels.
        width: In pixels.
        channels: Number of channels.
        seed: Of the noise (default 0).
    """
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, channels), np.uint8)
