"""Reranking of candidates by exact cosines, computed in float64."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.results import duplicate_mask, empty_results, ids_of_rows
from pipeline.neighbours.vectors import Doubles, Floats, Mask, Rows, Vectors


@dataclass(frozen=True)
class SearchRequest:
    """A checked request to an index."""

    queries: Doubles
    """(q, d) float64 of length 1."""
    k: int
    allowed: Mask
    """(n,) bool: True for rows that may be results."""
    exclude: Rows
    """(q, 1) int64: the id that is excluded for each query; (q, 0): none is."""
    ids: int | NDArray[Any] | None
    """The id of each row, as in `Index.search`; None: each row has its own."""
    extra: Doubles = field(default_factory=lambda: np.empty(0))
    """(n,) float64, added to the cosines, or (0,) to add nothing."""
    factor: float = 1
    """The factor by which that sum is multiplied."""
    shift: Doubles | None = None
    """(q,) float64, subtracted from the product; None: nothing is."""

    def of(self, selection: slice | Rows) -> SearchRequest:
        """Return the request for the selected queries alone; this one is not changed.

        Args:
            selection: A slice of the queries, or their numbers, (m,) int64.

        Returns:
            A new request, whose `queries`, `exclude` and `shift` are those selected, with the same
            `k`, `allowed`, `ids`, `extra` and `factor`.
        """
        shift = None if self.shift is None else self.shift[selection]
        return replace(
            self, queries=self.queries[selection], exclude=self.exclude[selection], shift=shift
        )


def rank(vectors: Vectors, request: SearchRequest, rows: Rows) -> tuple[Floats, Rows, Doubles]:
    """Return the best k of the candidates of each query, by exact scores.

    A score is (cosine + `request.extra`) * `request.factor` - `request.shift`, the cosine alone by
    default. Candidates that `request.exclude` names are left out; with `request.ids`, so are those
    of an excluded id, and all but the best of each id.

    Args:
        vectors: The vectors that are searched, as `measure_lengths` returns them.
        request: The request, with q queries and its k.
        rows: (q, c) int64, candidates in any order, c > 0; -1 is ignored, and all others must be
            allowed and occur once in a query.

    Returns:
        Three arrays: the scores, (q, k) float32, highest first, -inf for missing ones; their rows,
        (q, k) int64, of equal scores the lower first, -1 for missing ones; and (q,) float64, the
        sum of cosine and `request.extra` of the last of the k results, -inf if that is missing.
    """
    # -1 cannot be gathered: an allowed row replaces it, and is masked below.
    gathered_rows = np.where(rows < 0, np.argmax(request.allowed), rows)
    sums = vectors.cosines(request.queries, gathered_rows)
    if len(request.extra):
        sums += request.extra[gathered_rows]
    scores = sums * request.factor
    if request.shift is not None:
        scores -= request.shift[:, None]
    scores = scores.astype(np.float32)
    if request.exclude.shape[1]:
        rows = np.where(_excluded_mask(rows, request), -1, rows)
    order = np.lexsort((gathered_rows, np.where(rows < 0, np.inf, -scores)))
    rows, scores, sums = (_reorder(values, order) for values in (rows, scores, sums))
    if request.ids is not None:
        rows = np.where(duplicate_mask(rows, request.ids), -1, rows)
        order = np.argsort(rows < 0, 1, kind="stable")
        rows, scores, sums = (_reorder(values, order) for values in (rows, scores, sums))
    rows, scores = rows[:, : request.k], scores[:, : request.k]
    results = empty_results(len(rows), request.k)
    results.rows[:, : rows.shape[1]] = rows
    results.scores[:, : rows.shape[1]] = np.where(rows < 0, np.float32(-np.inf), scores)
    complete = results.rows[:, -1] >= 0
    last = np.where(complete, sums[:, min(request.k, sums.shape[1]) - 1], -np.inf)
    return results.scores, results.rows, last


def _excluded_mask(rows: Rows, request: SearchRequest) -> Mask:
    row_ids = rows if request.ids is None else ids_of_rows(rows, request.ids)
    # -1, which excludes nothing, is no row's id.
    return np.asarray(row_ids == request.exclude, np.bool_)


def _reorder(values: NDArray[Any], order: Rows) -> NDArray[Any]:
    return np.take_along_axis(values, order, 1)
