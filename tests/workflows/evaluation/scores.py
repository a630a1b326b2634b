"""Random scores and labels for tests of metrics."""

from __future__ import annotations

import numpy as np


def scored(n: int, candidates: int, seed: int, *, levels: int = 0):
    """Return scores and labels; with *levels* the scores are integers and have ties."""
    draw = np.random.default_rng(seed)
    scores = draw.standard_normal((n, candidates)).astype(np.float32)
    if levels:
        scores = draw.integers(0, levels, (n, candidates)).astype(np.float32)
    return scores, draw.integers(0, candidates, n)
