"""The sliced Wasserstein distance: between two sets of vectors, without any network."""

from __future__ import annotations

import torch
from torch import Tensor

from workflows.training.finite import refuse_not_finite

DIRECTIONS = 512
AT_ONCE = 8192
"""Rows that are taken to a device at once."""


def sliced_wasserstein(
    one: Tensor,
    other: Tensor,
    *,
    directions: int = DIRECTIONS,
    seed: int = 0,
    device: torch.device | None = None,
) -> float:
    """How far apart two sets are, seen from many directions (Rabin et al. 2011).

    Along each direction, the distance of the sorted projections: the Wasserstein distance of order
    2 in one dimension. The directions are the same for the same seed, so that two figures can be
    compared.

    Args:
        one: (n, ...) float.
        other: (m, ...) float, of rows as long.
        directions: How many.
        seed: Of the directions.
        device: Where it is computed, a block of rows at a time (where the rows are).

    Returns:
        The root of the mean over directions of its square, in units of the rows.

    Raises:
        ValueError: A set is empty, rows are not as long, or a value is not finite.
    """
    refuse_not_finite(one, other)
    one, other = one.flatten(1), other.flatten(1)
    if not len(one) or not len(other) or one.shape[1] != other.shape[1]:
        raise ValueError(
            f"sets of shapes {tuple(one.shape)} and {tuple(other.shape)}: expected rows, as long"
            " in both."
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(one.shape[1], directions, generator=generator)
    ways = (drawn / drawn.norm(dim=0)).to(device or one.device)
    first, second = (
        _sorted(_projected(rows, ways), max(len(one), len(other))) for rows in (one, other)
    )
    return float((first - second).square().mean().sqrt())


def _projected(rows: Tensor, ways: Tensor) -> Tensor:
    parts = torch.split(rows, AT_ONCE)
    return torch.cat([part.to(ways.device).float() @ ways for part in parts])


def _sorted(values: Tensor, count: int) -> Tensor:
    """(n, k) values, sorted along n, as *count* quantiles in the middle of as many equal parts."""
    ordered = values.sort(dim=0).values
    if len(ordered) == count:
        return ordered
    at = (torch.arange(count, device=values.device) + 0.5) / count * len(ordered)
    return ordered[at.long().clamp_max(len(ordered) - 1)]
