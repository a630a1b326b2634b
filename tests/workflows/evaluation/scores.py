"""Scores to be judged."""

from __future__ import annotations

import numpy as np


def scored(n: int, candidates: int, seed: int, *, levels: int = 0):
    """Scores, of so many levels if there are to be ties, and labels."""
    draw = np.random.default_rng(seed)
    scores = draw.standard_normal((n, candidates)).astype(np.float32)
    if levels:
        scores = draw.integers(0, levels, (n, candidates)).astype(np.float32)
    return scores, draw.integers(0, candidates, n)
