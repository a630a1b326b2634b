"""Measures of shuffle quality, computed from row numbers alone; 1 is a perfect shuffle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.order import EpochOrder


def same_class_ratio(
    order: EpochOrder, labels: NDArray[np.int32], batch_size: int, *, max_rows: int = 4 * 2**20
) -> float:
    """Return the number of pairs of one class within batches, relative to a random order.

    Args:
        order: The order of one epoch, as the loader's `epoch_order` returns it, of at least two
            rows.
        labels: The labels of all rows of the split, (rows of the split,) int32; -1 counts as a
            class like any other.
        batch_size: The number of rows of a global batch, at least 1.
        max_rows: The maximum number of rows that are evaluated, from the start of the epoch; only
            full batches count (default: 4 Mi).

    Returns:
        The ratio: 1 is a perfect shuffle, more if a batch contains a class too often; NaN if there
        is no full batch, no class has two rows, or *batch_size* is 1.
    """
    n = order.num_rows
    epoch_rows = order.rows(0, n)
    rows = epoch_rows[: min(n, max_rows) // batch_size * batch_size]
    if not len(rows):
        return float("nan")
    sizes = np.unique(labels[epoch_rows], return_counts=True)[1].astype(np.int64)
    chance = float((sizes * (sizes - 1)).sum()) / (n * (n - 1))
    classes = np.unique(labels[rows], return_inverse=True)[1]
    batches = np.arange(len(rows)) // batch_size
    pairs = _count_pairs(batches * (int(classes.max()) + 1) + classes)
    expected = len(rows) // batch_size * batch_size * (batch_size - 1) / 2 * chance
    return pairs / expected if expected else float("nan")


def recurring_pair_ratio(first: EpochOrder, second: EpochOrder, batch_size: int) -> float:
    """Return the number of pairs of rows that share a batch in both epochs, relative to chance.

    Args:
        first: The order of one epoch, as the loader's `epoch_order` returns it.
        second: The order of another epoch of the same split, with as many rows.
        batch_size: The number of rows of a global batch, at least 2; only full batches count.

    Returns:
        The ratio to the number that two random orders have on average: 1 is a perfect shuffle, more
        if the same rows meet too often; NaN if there is no full batch.

    Raises:
        ValueError: *batch_size* is less than 2.
    """
    if batch_size < 2:
        raise ValueError(f"batch_size is {batch_size}: expected at least 2 rows.")
    n = first.num_rows
    rows, second_rows = (order.rows(0, n // batch_size * batch_size) for order in (first, second))
    if not len(rows):
        return float("nan")
    batch_of_row = np.full(int(max(rows.max(), second_rows.max())) + 1, -1, np.int64)
    batch_of_row[rows] = np.arange(len(rows)) // batch_size
    first_batch, second_batch = batch_of_row[second_rows], np.arange(len(second_rows)) // batch_size
    # Rows of the second epoch may lie in the dropped last batch of the first.
    present = first_batch >= 0
    pairs = _count_pairs(second_batch[present] * (len(rows) // batch_size) + first_batch[present])
    pairs_per_epoch = len(rows) // batch_size * batch_size * (batch_size - 1) / 2
    return pairs / (pairs_per_epoch * pairs_per_epoch / (n * (n - 1) / 2))


def _count_pairs(groups: NDArray[np.int64]) -> int:
    sizes = np.unique(groups, return_counts=True)[1].astype(np.int64)
    return int((sizes * (sizes - 1) // 2).sum())
