"""Answers: how many of them are right, and each picture once though it is there twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.vectors import Doubles, Floats, Mask, Rows


@dataclass(frozen=True)
class Found:
    """The nearest of each query, the nearest first; of equal scores the lower row."""

    scores: Floats
    """(q, k) float32: cosines, -inf where there are no more."""
    rows: Rows
    """(q, k) int64, -1 where there are no more."""

    def __len__(self) -> int:
        return len(self.rows)


def mean_similarity(scores: Floats) -> Doubles:
    """(q,) float64: the mean of the scores of each query that there are; 0 of none."""
    there = np.isfinite(scores)
    sums = np.where(there, scores, 0).sum(1, dtype=np.float64)
    return np.asarray(sums / np.maximum(there.sum(1), 1), np.float64)


def nothing(queries: int, k: int) -> Found:
    """No answer for any query."""
    return Found(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64))


def recall(found: Found, exact: Found) -> float:
    """Share of the exact answers that were found, the mean of the queries that have any.

    An answer that scores as high as the last exact one counts as one: which of equal ones is found
    says nothing.

    Args:
        found: Of a search that may miss some.
        exact: Of the same queries in an exact one; no more answers than it has are looked at.

    Returns:
        0 to 1; NaN where no query has an answer.

    Raises:
        ValueError: They are of other queries.
    """
    if len(found) != len(exact):
        raise ValueError(f"{len(found)} queries were searched, and {len(exact)} exactly.")
    k = exact.rows.shape[1]
    scores, rows = found.scores[:, :k], found.rows[:, :k]
    there = exact.rows >= 0  # (q, k)
    wanted = there.sum(1)
    if not wanted.any():
        return float("nan")
    last = np.where(there, exact.scores, np.inf).min(1, initial=np.inf)
    right = (scores >= last[:, None]) | _among(rows, exact.rows)
    hits = np.minimum((right & (rows >= 0)).sum(1), wanted)
    asked = wanted > 0
    return float(np.mean(hits[asked] / wanted[asked]))


def _among(rows: Rows, others: Rows) -> Mask:
    """(q, k) bool: whether a row is one of the others, query by query."""
    return np.asarray([np.isin(mine, theirs) for mine, theirs in zip(rows, others, strict=True)])


def deduplicate(found: Found, ids: int | NDArray[Any]) -> Found:
    """Keep the first answer of each id: a picture and its mirrored copy count once.

    Args:
        found: Answers; it takes more than k of them for k to be left (`Index.search` sees to it).
        ids: (n,) integers, the id of each row; or n, where row r and row n + r are one picture.

    Returns:
        As wide as *found*: -1 where there are no more.
    """
    again = repeated(found.rows, ids)
    rows = np.where(again, -1, found.rows)
    scores = np.where(again, np.float32(-np.inf), found.scores)
    order = np.argsort(again, 1, kind="stable")
    return Found(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1))


def repeated(rows: Rows, ids: int | NDArray[Any]) -> Mask:
    """(q, k) bool: whether an answer has the id of one before it; so does a -1 after another."""
    named = identify(rows, ids)
    order = np.argsort(named, 1, kind="stable")  # of equal ids the first answer comes first
    sorted_ids = np.take_along_axis(named, order, 1)
    same = np.zeros(rows.shape, np.bool_)
    same[:, 1:] = sorted_ids[:, 1:] == sorted_ids[:, :-1]
    found = np.empty(rows.shape, np.bool_)
    np.put_along_axis(found, order, same, 1)
    return found


def identify(rows: Rows, ids: int | NDArray[Any]) -> Rows:
    """The id of each row; -1 of none."""
    named = ids[np.maximum(rows, 0)] if isinstance(ids, np.ndarray) else rows % ids
    return np.where(rows < 0, -1, named)
