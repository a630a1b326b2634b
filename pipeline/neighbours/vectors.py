"""Vectors of any length, and the length of each.

Vectors are neither copied nor scaled, so a memory-mapped array stays on disk: products are divided
by lengths instead. A vector that has no direction (zeros) or is not finite is never a result.
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

MIN_LENGTH, MAX_LENGTH = 1e-30, 1e30
"""The range of lengths of usable vectors; float32 loses precision or overflows outside it."""

MAX_BLOCK_ELEMENTS = 4 * 2**20
"""The maximum number of numbers that are read or gathered at once."""


class Vectors:
    """An (n, d) array of vectors and their lengths."""

    def __init__(self, array: NDArray[Any], lengths: Doubles) -> None:
        """Wrap an array, which is not copied.

        Args:
            array: (n, d) float32 or float16, in memory or mapped.
            lengths: (n,) float64; 0 for vectors that may never be a result.
        """
        self.array = array
        self._rows = array.view(np.ndarray)  # np.memmap's own indexing takes three times as long
        self.lengths = lengths
        self.usable = lengths > 0
        """(n,) bool: True for vectors that may be a result."""
        self.num_usable = int(np.count_nonzero(self.usable))
        self.scale = np.zeros(len(lengths), np.float32)
        """(n,) float32: 1 / length, by which products are multiplied; 0 for unusable vectors."""
        np.divide(1, lengths, out=self.scale, where=self.usable, casting="same_kind")

    def __len__(self) -> int:
        return len(self.array)

    @property
    def dim(self) -> int:
        """The number of dimensions, d."""
        return int(self.array.shape[1])

    def floats(self, selection: slice | Rows) -> Floats:
        """Return the selected vectors as they are, unscaled.

        Those that can never be a result are returned as zeros: vectors that are not finite, or
        shorter than 1e-30 or longer than 1e30.

        Args:
            selection: A slice of the rows, or their numbers, (m,) int64, in any order.

        Returns:
            (m, d) float32, possibly a view of the array, so it must only be read.
        """
        selected = np.asarray(self._rows[selection], np.float32)
        bad = ~self.usable[selection]
        if bad.any():
            selected = np.where(bad[:, None], np.float32(0), selected)
        return selected

    def units(self, selection: slice | Rows) -> Floats:
        """Return the selected vectors, scaled to length 1.

        Those that can never be a result are returned as zeros: vectors that are zero, not finite,
        shorter than 1e-30 or longer than 1e30.

        Args:
            selection: A slice of the rows, or their numbers, (m,) int64, in any order.

        Returns:
            (m, d) float32, a copy.
        """
        return self.floats(selection) * self.scale[selection, None]

    def cosines(self, queries: Doubles, rows: Rows) -> Doubles:
        """Return the cosines of each query with its candidates.

        Args:
            queries: (q, d) float64 of length 1.
            rows: (q, c) int64, the rows of each query's candidates, from 0, all of vectors that are
                finite and not zero.

        Returns:
            (q, c) float64. Equal pairs of vectors have equal cosines at any position.
        """
        products = np.empty(rows.shape, np.float64)
        width = min(rows.shape[1], max(1, MAX_BLOCK_ELEMENTS // self.dim))
        step = max(1, MAX_BLOCK_ELEMENTS // (self.dim * max(1, width)))
        for first in range(0, rows.shape[1], max(1, width)):
            for start in range(0, len(rows), step):
                part = (slice(start, start + step), slice(first, first + width))
                gathered = np.asarray(self._rows[rows[part]], np.float64)
                np.einsum("qcd,qd->qc", gathered, queries[part[0]], out=products[part])
        return products / self.lengths[rows]


def measure_lengths(array: NDArray[Any]) -> Vectors:
    """Compute the lengths of vectors, for which all of them are read once.

    Args:
        array: (n, d) float32 or float16, d at least 1, in memory or mapped; it is not copied.

    Returns:
        The vectors: *array* with its lengths, (n,) float64. The length is 0, so that the vector is
        never a result, for vectors that are zero, not finite, shorter than 1e-30 or longer than
        1e30.

    Raises:
        ValueError: *array* has another shape or dtype.
    """
    if array.ndim != 2 or not array.shape[1] or array.dtype not in (np.float32, np.float16):
        raise ValueError(
            f"vectors are {array.dtype} of shape {array.shape}: expected float32 or float16 of"
            " shape (n, d)."
        )
    lengths = np.zeros(len(array), np.float64)
    for part in blocks(len(array), array.shape[1]):
        block = np.asarray(array[part], np.float64)
        lengths[part] = np.sqrt(np.einsum("nd,nd->n", block, block))
    lengths[~((lengths >= MIN_LENGTH) & (lengths <= MAX_LENGTH))] = 0  # also true of NaN
    return Vectors(array, lengths)


def blocks(count: int, dim: int) -> Iterator[slice]:
    """Yield slices that divide vectors into blocks, so that each fits into little memory.

    A block has at most 4,194,304 numbers, or one vector if that is longer.

    Args:
        count: The number of vectors; none are yielded for 0.
        dim: The number of dimensions of a vector, at least 1.

    Yields:
        Consecutive slices of the vectors, from 0 to *count*, each of at least one vector.
    """
    step = max(1, MAX_BLOCK_ELEMENTS // dim)
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))


def directions(queries: NDArray[Any], dim: int) -> Doubles:
    """Check queries and return them scaled to length 1.

    Args:
        queries: (q, dim) of a floating-point dtype; q may be 0.
        dim: The number of dimensions that they must have.

    Returns:
        (q, dim) float64, a copy.

    Raises:
        ValueError: *queries* has another shape or dtype, or one of them is not finite, or has a
            length that is 0, less than 1e-30 or more than 1e30.
    """
    if queries.ndim != 2 or queries.shape[1] != dim or queries.dtype.kind != "f":
        raise ValueError(
            f"queries are {queries.dtype} of shape {queries.shape}: expected floats of shape"
            f" (q, {dim})."
        )
    wide = np.asarray(queries, np.float64)
    for query, column in np.argwhere(~np.isfinite(wide)):
        raise ValueError(
            f"query {query} is {wide[query, column]} at position {column}: expected finite numbers."
        )
    lengths = np.sqrt(np.einsum("qd,qd->q", wide, wide))
    for query in np.flatnonzero(~((lengths >= MIN_LENGTH) & (lengths <= MAX_LENGTH))):
        raise ValueError(
            f"query {query} has length {lengths[query]}: expected one between {MIN_LENGTH} and"
            f" {MAX_LENGTH}."
        )
    return np.asarray(wide / lengths[:, None], np.float64)
