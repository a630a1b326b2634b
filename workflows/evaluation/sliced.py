"""The sliced Wasserstein distance between two sets of vectors, which needs no network."""

from __future__ import annotations

import torch
from torch import Tensor

from workflows.training.finite import check_finite

DIRECTIONS = 512
"""The default number of random directions."""
BLOCK_ROWS = 8192
"""The number of rows moved to a device at once."""


def sliced_wasserstein(
    first: Tensor,
    second: Tensor,
    *,
    directions: int = DIRECTIONS,
    seed: int = 0,
    device: torch.device | None = None,
) -> float:
    """Return the sliced Wasserstein distance of two sets of rows.

    Rabin et al.: Wasserstein Barycenter and its Application to Texture Mixing, SSVM 2011. Along
    each direction it is the Wasserstein distance of order 2 in one dimension, the distance of the
    sorted projections. Equal seeds give equal directions, so that two distances are comparable.
    Torch's global generator is not used.

    Args:
        first: (n, ...) of any floating-point dtype, on any device; n > 0.
        second: (m, ...) likewise, m > 0, with rows of the same length. n and m may differ.
        directions: Number of random directions, at least 1 (default 512).
        seed: Seed of the directions (default 0).
        device: The device of the projections, to which a block of rows is moved at a time (default:
            the device of *first*).

    Returns:
        The root of the mean squared distance over directions, in units of the rows.

    Raises:
        ValueError: A set is empty, or the rows have different lengths.
        NonFiniteError: A value is NaN or infinite.
    """
    check_finite(first, second)
    first, second = first.flatten(1), second.flatten(1)
    if not len(first) or not len(second) or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"sets of shapes {tuple(first.shape)} and {tuple(second.shape)}: expected rows, as long"
            " in both."
        )
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(first.shape[1], directions, generator=generator)
    unit_directions = (gaussian / gaussian.norm(dim=0)).to(device or first.device)
    sorted_first, sorted_second = (
        _sorted(_projected(rows, unit_directions), max(len(first), len(second)))
        for rows in (first, second)
    )
    return float((sorted_first - sorted_second).square().mean().sqrt())


def _projected(rows: Tensor, unit_directions: Tensor) -> Tensor:
    parts = torch.split(rows, BLOCK_ROWS)
    return torch.cat([part.to(unit_directions.device).float() @ unit_directions for part in parts])


def _sorted(values: Tensor, count: int) -> Tensor:
    """Sort (n, k) values along n and return *count* mid-point quantiles, (count, k)."""
    ascending = values.sort(dim=0).values
    if len(ascending) == count:
        return ascending
    positions = (torch.arange(count, device=values.device) + 0.5) / count * len(ascending)
    return ascending[positions.long().clamp_max(len(ascending) - 1)]
