"""Small sets of vectors, and files of word vectors, for the studies of vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.neighbours.vectors import Floats


def clustered_vectors(count: int, dim: int, seed: int = 0) -> Floats:
    """Return vectors around 12 centres, away from the origin, of different lengths."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, dim)) + 0.5
    vectors = centres[rng.integers(12, size=count)] + 0.7 * rng.standard_normal((count, dim))
    return np.asarray(vectors * rng.uniform(0.5, 2, (count, 1)), np.float32)


def write_words(file: Path, count: int = 400, dim: int = 12, seed: int = 0) -> Path:
    """Write a file of word vectors in word2vec's text format; one of them is zero."""
    vectors = clustered_vectors(count, dim, seed)
    vectors[3] = 0
    lines = [f"{count} {dim}"]
    lines += [f"w{i} {' '.join(f'{v:.5f}' for v in vector)}" for i, vector in enumerate(vectors)]
    file.write_text("\n".join(lines) + "\n")
    return file
