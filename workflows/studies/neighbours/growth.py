"""More vectors than there are at hand, and how hard vectors are to search.

Vectors drawn from a simple distribution would be easier or harder to search than real ones. So a
further vector is a real one that is displaced along the difference of two others: it differs from
its origin in directions in which real vectors differ, too.
"""

from __future__ import annotations

import numpy as np

from pipeline.neighbours.vectors import Floats

DISPLACEMENT = 0.3
"""The length of a displacement, as a share of the difference of two vectors."""
BLOCK_ROWS = 16_384
"""The rows of one random generator, so that a row does not depend on the number of rows."""
SAMPLE_ROWS = 5_000
"""The number of vectors among which the intrinsic dimension is estimated, which grows with it."""
NUM_PROBES = 500
"""The number of vectors of the sample at which the dimension is estimated."""
NUM_NEIGHBOURS = 100
"""The number of nearest neighbours of a probe that are used."""


def grown(vectors: Floats, count: int) -> Floats:
    """Return as many vectors as requested: real ones, and displaced copies of them if needed.

    Args:
        vectors: (n, d) float32 of length 1, n at least 2, in random order.
        count: The number of vectors, at least 1.

    Returns:
        (count, d) float32 of length 1: the first *count* vectors; or all n, then displaced ones. A
        row is the same for every *count*.
    """
    num_further = count - len(vectors)
    if num_further <= 0:
        return vectors[:count]
    result = np.empty((count, vectors.shape[1]), np.float32)
    result[: len(vectors)] = vectors
    for start in range(0, num_further, BLOCK_ROWS):
        block = _displaced(vectors, start // BLOCK_ROWS)[: num_further - start]
        result[len(vectors) + start :][: len(block)] = block
    return result


def _displaced(vectors: Floats, block: int) -> Floats:
    rng = np.random.default_rng([0, block])
    origins, first = rng.integers(len(vectors), size=(2, BLOCK_ROWS))
    # Two different ones: a vector that is not displaced would be an equal copy.
    second = (first + rng.integers(1, len(vectors), size=BLOCK_ROWS)) % len(vectors)
    moved = vectors[origins] + DISPLACEMENT * (vectors[first] - vectors[second])
    return unit_length(moved)


def unit_length(vectors: Floats) -> Floats:
    """Return vectors scaled to length 1.

    Args:
        vectors: (n, d) float32, none of which is zero.

    Returns:
        (n, d) float32, a copy.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    return np.asarray(vectors / lengths[:, None], np.float32)


def intrinsic_dimension(vectors: Floats) -> float:
    """Return the mean local intrinsic dimension of vectors: the larger, the harder is their search.

    It is estimated by maximum likelihood at 500 of 5,000 vectors (Levina and Bickel, "Maximum
    likelihood estimation of intrinsic dimension", 2004; Amsaleg et al., "Estimating local intrinsic
    dimensionality", 2015): at each, the inverse of minus the mean of log(distance / distance of the
    furthest) over its 100 nearest.

    Args:
        vectors: (n, d) float32 of length 1, n more than 100. Estimates of numbers of vectors below
            5,000 are lower, and cannot be compared with others.
    """
    chosen = np.random.default_rng(0).permutation(len(vectors))[:SAMPLE_ROWS]
    sample = vectors[np.sort(chosen)]
    probes = sample[:: max(1, len(sample) // NUM_PROBES)][:NUM_PROBES]
    squares = np.maximum(2 - 2 * (probes @ sample.T), 0)
    nearest = min(NUM_NEIGHBOURS, len(sample) - 1)
    squares = np.sort(np.partition(squares, nearest, 1)[:, : nearest + 1], 1)[:, 1:]
    logs = 0.5 * np.log(np.maximum(squares, 1e-12))
    return float(np.mean(1 / np.maximum(logs[:, -1] - logs[:, :-1].mean(1), 1e-9)))
