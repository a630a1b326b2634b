"""Vectors as they are given, and the length of each.

They are not copied, so a memory-mapped array stays on its disk: what is divided by their lengths
is the products. One that has no direction (zeros), or is not finite, is never answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

SHORTEST, LONGEST = 1e-30, 1e30
"""Lengths outside of which a vector counts as zeros, or as not finite: float32 ends there."""

BLOCK_NUMBERS = 4 * 2**20
"""Numbers that are looked at, or gathered, at once."""


class Vectors:
    """(n, d) vectors and their lengths."""

    def __init__(self, array: NDArray[Any], lengths: Doubles) -> None:
        """Take them.

        Args:
            array: (n, d) float32 or float16, in memory or mapped. Kept, not copied.
            lengths: (n,) float64, 0 of what is never to be answered.
        """
        self.array = array
        self._rows = array.view(np.ndarray)  # np.memmap's own indexing takes three times as long
        self.lengths = lengths
        self.usable = lengths > 0
        """(n,) bool: which can be answered."""
        self.num_usable = int(np.count_nonzero(self.usable))
        self.scale = np.zeros(len(lengths), np.float32)
        """(n,) float32: by what a product is multiplied."""
        np.divide(1, lengths, out=self.scale, where=self.usable, casting="same_kind")

    def __len__(self) -> int:
        return len(self.array)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.array.shape[1])

    def floats(self, which: slice | Rows) -> Floats:
        """(m, d) float32: some of them as they are; what has no direction as zeros."""
        some = np.asarray(self._rows[which], np.float32)
        bad = ~self.usable[which]
        if bad.any():
            some = np.where(bad[:, None], np.float32(0), some)
        return some

    def units(self, which: slice | Rows) -> Floats:
        """(m, d) float32: some of them, of length 1."""
        return self.floats(which) * self.scale[which, None]

    def cosines(self, queries: Doubles, rows: Rows) -> Doubles:
        """Cosines of queries, each with some of the vectors.

        Args:
            queries: (q, d) float64 of length 1.
            rows: (q, c) int64, of usable vectors.

        Returns:
            (q, c) float64. The same vectors have the same, wherever they lie.
        """
        found = np.empty(rows.shape, np.float64)
        width = min(rows.shape[1], max(1, BLOCK_NUMBERS // self.dim))
        step = max(1, BLOCK_NUMBERS // (self.dim * max(1, width)))
        for first in range(0, rows.shape[1], max(1, width)):
            for start in range(0, len(rows), step):
                part = (slice(start, start + step), slice(first, first + width))
                gathered = np.asarray(self._rows[rows[part]], np.float64)
                np.einsum("qcd,qd->qc", gathered, queries[part[0]], out=found[part])
        return found / self.lengths[rows]


def measured(array: NDArray[Any]) -> Vectors:
    """Vectors with their lengths, for which all of them are read once.

    Raises:
        ValueError: They are no (n, d) float32 or float16.
    """
    if array.ndim != 2 or not array.shape[1] or array.dtype not in (np.float32, np.float16):
        raise ValueError(
            f"vectors are {array.dtype} of shape {array.shape}: expected float32 or float16 of"
            " shape (n, d)."
        )
    lengths = np.zeros(len(array), np.float64)
    for part in blocks(len(array), array.shape[1]):
        some = np.asarray(array[part], np.float64)
        lengths[part] = np.sqrt(np.einsum("nd,nd->n", some, some))
    lengths[~((lengths >= SHORTEST) & (lengths <= LONGEST))] = 0  # NaN is among them
    return Vectors(array, lengths)


def blocks(count: int, dim: int) -> Iterator[slice]:
    """Slices over *count* vectors of *dim* numbers each."""
    step = max(1, BLOCK_NUMBERS // dim)
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))


def directions(queries: NDArray[Any], dim: int) -> Doubles:
    """(q, d) float64 of length 1: queries, checked.

    Raises:
        ValueError: They are not (q, dim), or one of them is zero or not finite.
    """
    if queries.ndim != 2 or queries.shape[1] != dim or queries.dtype.kind != "f":
        raise ValueError(
            f"queries are {queries.dtype} of shape {queries.shape}: expected floats of shape"
            f" (q, {dim})."
        )
    wide = np.asarray(queries, np.float64)
    for query, place in np.argwhere(~np.isfinite(wide)):
        raise ValueError(
            f"query {query} is {wide[query, place]} at place {place}: expected finite numbers."
        )
    lengths = np.sqrt(np.einsum("qd,qd->q", wide, wide))
    for query in np.flatnonzero(~((lengths >= SHORTEST) & (lengths <= LONGEST))):
        raise ValueError(
            f"query {query} has length {lengths[query]}, hence no direction: expected one"
            f" between {SHORTEST} and {LONGEST}."
        )
    return np.asarray(wide / lengths[:, None], np.float64)
