"""Hubs: vectors that are among the nearest of very many queries, and what helps against them.

In many dimensions some vectors are near to everything (Radovanovic et al., "Hubs in space", 2010).
CSLS (Conneau et al., "Word translation without parallel data", 2018, eq. 3) makes up for it: how
near a vector is to what is searched for in general is subtracted from how near it is to this query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.exact import Scan
from pipeline.neighbours.index import Index
from pipeline.neighbours.results import mean_similarity
from pipeline.neighbours.vectors import Doubles, Rows, blocks, measured

NEAREST = 10
"""Of Conneau et al."""


@dataclass(frozen=True)
class Hubs:
    """How near each vector of an index is to what is searched for."""

    means: Doubles
    """(n,): the mean of its cosines with the nearest references; 0 of what is never answered."""
    nearest: int
    """How many of them; as many count for r(query)."""


def measure(index: Index, references: NDArray[Any], nearest: int = NEAREST) -> Hubs:
    """Measure r(vector) of every vector of an index, exactly, whatever kind it is.

    Args:
        index: Whose vectors.
        references: (m, d) float32 or float16, queries as those that will be asked, but others.
        nearest: How many references count for a vector.

    Raises:
        ValueError: There is no reference that is finite and not zero.
    """
    asked = measured(references)
    if not asked.usable.any():
        raise ValueError(f"none of {len(asked)} references has a direction: expected queries.")
    among = Index("exact", asked, Scan(asked))
    means = np.zeros(len(index), np.float64)
    rows = np.flatnonzero(index.vectors.usable)
    for part in blocks(len(rows), index.dim):
        found = among.search(index.vectors.units(rows[part]), nearest)
        means[rows[part]] = mean_similarity(found.scores)
    return Hubs(means, nearest)


def hubness(rows: Rows, count: int) -> float:
    """How uneven answers are spread: the skewness of how often each vector is one.

    Radovanovic et al. 2010, S of N_k. 0: evenly on both sides of the mean; some tens: a few vectors
    are the answer to everything.

    Args:
        rows: (q, k) int64, the answers of many queries; -1 counts for nothing.
        count: Vectors that there are.

    Returns:
        0 where each is answered equally often.
    """
    times = np.bincount(rows[rows >= 0], minlength=count).astype(np.float64)
    off = times - times.mean()
    spread = np.sqrt(np.mean(off**2))
    return float(np.mean(off**3) / spread**3) if spread else 0.0
