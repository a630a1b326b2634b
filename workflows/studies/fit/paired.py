"""Intervals of shares, and of differences of two shares over the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

DRAWS = 10_000
"""The number of bootstrap draws of images."""


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two shares of hits over the same images."""

    mean: float
    """The share of the first less that of the second, -1 to 1."""
    low: float
    """The lower end of the 95 % interval."""
    high: float
    """The upper end."""
    gained: int
    """The number of images that only the first hits."""
    lost: int
    """The number of images that only the second hits."""
    p_value: float
    """The p value of McNemar's exact test, that both are equally often alone."""

    @property
    def excludes_zero(self) -> bool:
        """True if the whole interval is on one side of 0, so that a difference was seen."""
        return self.low > 0 or self.high < 0


def paired_difference(
    hits: NDArray[np.bool_], reference: NDArray[np.bool_], *, draws: int = DRAWS, seed: int = 0
) -> PairedDifference:
    """Compare two methods over the same images.

    The interval is that of the percentile bootstrap over images (Efron 1979): only those that one
    method alone hits count, so their numbers are drawn. The test is McNemar's (1947), in its exact
    form.

    Args:
        hits: (n,) True where the first method hits, n > 0.
        reference: (n,) True where the second one hits.
        draws: The number of bootstrap draws (default `DRAWS`: 10,000).
        seed: The seed of the draws (default 0).
    """
    count = len(hits)
    gained, lost = int((hits & ~reference).sum()), int((~hits & reference).sum())
    shares = np.array([gained, lost, count - gained - lost]) / count
    drawn = np.random.default_rng(seed).multinomial(count, shares, draws)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, [0.025, 0.975])
    alone = gained + lost
    p_value = float(stats.binomtest(gained, alone).pvalue) if alone else 1.0
    return PairedDifference((gained - lost) / count, float(low), float(high), gained, lost, p_value)
