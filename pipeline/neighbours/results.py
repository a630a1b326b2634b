"""Search results, their recall, and the removal of duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.vectors import Doubles, Floats, Mask, Rows


@dataclass(frozen=True)
class SearchResults:
    """The nearest vectors of each query, nearest first; of equal scores the lower row first."""

    scores: Floats
    """(q, k) float32: cosines; -inf fills up missing ones."""
    rows: Rows
    """(q, k) int64; -1 fills up missing ones."""

    def __len__(self) -> int:
        return len(self.rows)


def mean_similarity(scores: Floats) -> Doubles:
    """Return the mean of the finite scores of each query; 0 if it has none.

    Args:
        scores: (q, k) float32; -inf stands for a missing result, which does not count.

    Returns:
        (q,) float64.
    """
    finite = np.isfinite(scores)
    sums = np.where(finite, scores, 0).sum(1, dtype=np.float64)
    return np.asarray(sums / np.maximum(finite.sum(1), 1), np.float64)


def empty_results(queries: int, k: int) -> SearchResults:
    """Return results without any answer: scores of -inf, float32, and rows of -1, int64.

    Args:
        queries: The number of queries.
        k: The number of results for each query.

    Returns:
        The results, whose two arrays are (queries, k) and may be filled in.
    """
    return SearchResults(
        np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64)
    )


def recall(results: SearchResults, exact: SearchResults) -> float:
    """Return the share of the exact answers that are among *results*, as the mean over queries.

    An answer that scores as high as the last exact one counts as exact: a choice among equal scores
    is arbitrary. Queries without an exact answer are left out.

    Args:
        results: The results of an approximate search; of more than k answers only the first k
            count, and of fewer the others are missed.
        exact: The results of an exact search for the same queries, in the same order; its k is the
            number of answers that are compared.

    Returns:
        0 to 1; NaN if no query has an exact answer.

    Raises:
        ValueError: The numbers of queries differ.
    """
    if len(results) != len(exact):
        raise ValueError(f"{len(results)} queries were searched, and {len(exact)} exactly.")
    k = exact.rows.shape[1]
    scores, rows = results.scores[:, :k], results.rows[:, :k]
    present = exact.rows >= 0  # (q, k)
    num_exact = present.sum(1)
    if not num_exact.any():
        return float("nan")
    last = np.where(present, exact.scores, np.inf).min(1, initial=np.inf)
    right = (scores >= last[:, None]) | _is_among(rows, exact.rows)
    hits = np.minimum((right & (rows >= 0)).sum(1), num_exact)
    answered = num_exact > 0
    return float(np.mean(hits[answered] / num_exact[answered]))


def _is_among(rows: Rows, candidates: Rows) -> Mask:
    """Return (q, k) bool: True if a row is among the candidates of its query."""
    return np.asarray(
        [np.isin(row, candidate_row) for row, candidate_row in zip(rows, candidates, strict=True)]
    )


def deduplicate(results: SearchResults, ids: int | NDArray[Any]) -> SearchResults:
    """Keep the first answer of each id, so that an image and its mirrored copy count once.

    Args:
        results: (q, w) results, which are not changed. Each repeated id leaves one answer fewer.
        ids: An array of integers from 0, the id of each row of the index; or a whole number m,
            where rows r and m + r are one image.

    Returns:
        New (q, w) results: the answers left, in their order, then scores of -inf and rows of -1.
    """
    duplicate = duplicate_mask(results.rows, ids)
    rows = np.where(duplicate, -1, results.rows)
    scores = np.where(duplicate, np.float32(-np.inf), results.scores)
    order = np.argsort(duplicate, 1, kind="stable")
    return SearchResults(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1))


def duplicate_mask(rows: Rows, ids: int | NDArray[Any]) -> Mask:
    """Return which results repeat the id of an earlier result of the same query.

    Args:
        rows: (q, k) int64 rows in the order of results; those of -1 share an id of their own.
        ids: An array of integers from 0, the id of each row of the index; or a whole number m,
            where rows r and m + r have the id r.

    Returns:
        (q, k) bool: True for repeated ids, so also for every -1 but the first of its query.
    """
    row_ids = ids_of_rows(rows, ids)
    order = np.argsort(row_ids, 1, kind="stable")  # of equal ids the first answer comes first
    sorted_ids = np.take_along_axis(row_ids, order, 1)
    same = np.zeros(rows.shape, np.bool_)
    same[:, 1:] = sorted_ids[:, 1:] == sorted_ids[:, :-1]
    duplicate = np.empty(rows.shape, np.bool_)
    np.put_along_axis(duplicate, order, same, 1)
    return duplicate


def ids_of_rows(rows: Rows, ids: int | NDArray[Any]) -> Rows:
    """Return the id of each row; -1 for row -1.

    Args:
        rows: int64 rows of any shape; -1 stands for a missing one.
        ids: An array of integers from 0, the id of each row of the index; or a whole number m,
            where rows r and m + r have the id r.

    Returns:
        int64 of the shape of *rows*.
    """
    row_ids = ids[np.maximum(rows, 0)] if isinstance(ids, np.ndarray) else rows % ids
    return np.where(rows < 0, -1, row_ids.astype(np.int64))
