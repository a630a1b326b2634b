"""Intervals of shares, and of differences of two shares over the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

DRAWS = 10_000
"""The number of bootstrap draws of images."""
SIGNIFICANCE = 0.05
"""The p value below which the exact test sees a difference."""


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two shares of hits over the same images."""

    mean: float
    """The share of the first minus that of the second, -1 to 1."""
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
    def is_seen(self) -> bool:
        """True if a difference was seen: by the interval and by the test.

        The bootstrap alone takes four images on one side and none on the other for a difference,
        which chance has once in eight times: its interval is too narrow for so few.
        """
        return (self.low > 0 or self.high < 0) and self.p_value < SIGNIFICANCE


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
