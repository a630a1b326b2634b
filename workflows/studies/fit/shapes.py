"""The aspect ratios of images, and what each fit loses, leaves empty or distorts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workflows.studies.fit import CROP, FITS, PAD, SQUISH

SHAPES = ("up to 1.25:1", "1.25:1 to 1.6:1", "over 1.6:1")
"""The names of groups of images by the ratio of their longer side to their shorter one."""
SHAPE_BOUNDS = (1.25, 1.6)
"""The ratios between the groups: cut rectangles fall into thirds, and photographs of 4:3 and 3:2
into the middle one."""


@dataclass(frozen=True)
class FitCost:
    """The costs of a fit, as means over images."""

    lost: float
    """The share of an image's pixels that lies outside of the square, 0 to 1."""
    empty: float
    """The share of the square that holds no image, 0 to 1."""
    stretch: float
    """The factor by which one direction is enlarged more than the other, a geometric mean, at
    least 1."""
    scale: float
    """The size of a short side in the square, as a share of the square's side, 0 to 1."""


def elongation(widths: NDArray[np.int64], heights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the ratio of the longer side of each image to its shorter one, (n,) at least 1.

    Args:
        widths: The widths in pixels, (n,), at least 1.
        heights: The heights in pixels, (n,), at least 1.
    """
    return np.maximum(widths, heights) / np.minimum(widths, heights)


def shape_of(elongations: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the group of each image, (n,) int64, as an index of `SHAPES`.

    Args:
        elongations: The ratio of the longer to the shorter side of each image, (n,).
    """
    return np.digitize(elongations, SHAPE_BOUNDS, right=True)


def fit_costs(elongations: NDArray[np.float64]) -> Mapping[str, FitCost]:
    """Return what each fit does to images.

    Args:
        elongations: The ratio of the longer to the shorter side of each image, (n,), n > 0.

    Returns:
        The costs by fit. What crop loses of an image is what pad leaves empty of the square.
    """
    outside = float(np.mean(1 - 1 / elongations))
    stretch = float(np.exp(np.mean(np.log(elongations))))
    costs = {
        CROP: FitCost(outside, 0.0, 1.0, 1.0),
        PAD: FitCost(0.0, outside, 1.0, 1 - outside),
        SQUISH: FitCost(0.0, 0.0, stretch, 1.0),
    }
    return {fit: costs[fit] for fit in FITS}
