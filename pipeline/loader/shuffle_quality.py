"""How well an order mixes: figures that are 1 for a perfect shuffle. Of row numbers alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.order import EpochOrder


def same_class_factor(
    order: EpochOrder, labels: NDArray[np.int32], batch_size: int, *, most_rows: int = 4 * 2**20
) -> float:
    """Pairs of one class in a batch, over those that chance would put there.

    Args:
        order: One epoch.
        labels: (num_rows,) of the split.
        batch_size: Of the global batch.
        most_rows: Of the epoch that are looked at, from its start.
    """
    n = order.num_rows
    everything = order.rows(0, n)
    rows = everything[: min(n, most_rows) // batch_size * batch_size]
    if not len(rows):
        return float("nan")
    sizes = np.unique(labels[everything], return_counts=True)[1].astype(np.int64)
    chance = float((sizes * (sizes - 1)).sum()) / (n * (n - 1))
    classes = np.unique(labels[rows], return_inverse=True)[1]
    batches = np.arange(len(rows)) // batch_size
    found = _pairs(batches * (int(classes.max()) + 1) + classes)
    expected = len(rows) // batch_size * batch_size * (batch_size - 1) / 2 * chance
    return found / expected if expected else float("nan")


def recurrence(first: EpochOrder, second: EpochOrder, batch_size: int) -> float:
    """Pairs of rows that share a batch in both epochs, over those that chance would have it."""
    n = first.num_rows
    rows, again = (order.rows(0, n // batch_size * batch_size) for order in (first, second))
    if not len(rows):
        return float("nan")
    place = np.full(int(max(rows.max(), again.max())) + 1, -1, np.int64)
    place[rows] = np.arange(len(rows)) // batch_size
    before, now = place[again], np.arange(len(again)) // batch_size
    kept = before >= 0
    found = _pairs(now[kept] * (len(rows) // batch_size) + before[kept])
    pairs = len(rows) // batch_size * batch_size * (batch_size - 1) / 2
    return found / (pairs * pairs / (n * (n - 1) / 2))


def _pairs(groups: NDArray[np.int64]) -> int:
    sizes = np.unique(groups, return_counts=True)[1].astype(np.int64)
    return int((sizes * (sizes - 1) // 2).sum())
