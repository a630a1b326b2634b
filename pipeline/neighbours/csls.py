"""Hubs, vectors that are among the nearest of very many queries, and their correction by CSLS.

In many dimensions some vectors are near to everything (Radovanovic et al., "Hubs in space", 2010).
CSLS (Conneau et al., "Word translation without parallel data", 2018, eq. 3) corrects for it: it
subtracts a vector's mean similarity to typical queries from its similarity to the present query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.exact import ExactScan
from pipeline.neighbours.index import Index
from pipeline.neighbours.results import mean_similarity
from pipeline.neighbours.vectors import Doubles, Rows, blocks, measure_lengths

NEAREST = 10
"""The number of neighbours that Conneau et al. take the mean of."""


@dataclass(frozen=True)
class Hubs:
    """The mean similarity of each vector of an index to typical queries."""

    means: Doubles
    """(n,) float64: the mean cosine with the nearest references; 0 for unusable vectors."""
    nearest: int
    """The number of nearest references; r(query) is the mean over as many vectors."""


def measure_hubs(index: Index, references: NDArray[Any], nearest: int = NEAREST) -> Hubs:
    """Measure r(vector) of every vector of an index, exactly for every kind of index.

    It is the mean cosine of the vector with the references that are nearest to it, by which CSLS
    (Conneau et al. 2018) corrects scores.

    Args:
        index: The index whose vectors are measured.
        references: (m, d) float32 or float16 of any length, queries like those to be searched for,
            but others. Those that are zero or not finite are left out.
        nearest: The number of nearest references of which the mean is taken (default: 10); all of
            them if there are fewer.

    Returns:
        The value for `hubs` of `Index.search`: its `means` are the r(vector), (n,) float64, 0 for
        vectors that are zero or not finite; its `nearest` is *nearest*.

    Raises:
        ValueError: No reference is finite and not zero, *references* has another shape or dtype, or
            *nearest* is less than 1.
    """
    usable_references = measure_lengths(references)
    if not usable_references.usable.any():
        raise ValueError(
            f"all {len(usable_references)} references are zero or not finite: expected query"
            " vectors."
        )
    reference_index = Index("exact", usable_references, ExactScan(usable_references))
    means = np.zeros(len(index), np.float64)
    rows = np.flatnonzero(index.vectors.usable)
    for part in blocks(len(rows), index.dim):
        results = reference_index.search(index.vectors.units(rows[part]), nearest)
        means[rows[part]] = mean_similarity(results.scores)
    return Hubs(means, nearest)


def hubness(rows: Rows, count: int) -> float:
    """Return the skewness of how often each vector is an answer.

    This is S of N_k in Radovanovic et al. 2010. It is near 0 where counts lie evenly on both sides
    of their mean, and some tens where a few vectors are the answer to everything.

    Args:
        rows: int64 of any shape, the answers of many queries, as row numbers below *count*; -1
            is ignored.
        count: The number of vectors in the index, at least 1.

    Returns:
        The skewness; 0 where every vector is an answer equally often.
    """
    counts = np.bincount(rows[rows >= 0], minlength=count).astype(np.float64)
    deviations = counts - counts.mean()
    spread = np.sqrt(np.mean(deviations**2))
    return float(np.mean(deviations**3) / spread**3) if spread else 0.0
