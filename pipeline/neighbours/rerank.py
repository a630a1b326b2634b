"""Candidates in the order in which they are answered: of exact cosines, computed in float64."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.results import identify, nothing, repeated
from pipeline.neighbours.vectors import Doubles, Floats, Mask, Rows, Vectors


@dataclass(frozen=True)
class Asked:
    """What is asked of an index."""

    queries: Doubles
    """(q, d) of length 1."""
    k: int
    allowed: Mask
    """(n,): which rows may be answered."""
    but: Rows
    """(q, 1): an id that may not, of each query; (q, 0): there is none."""
    ids: int | NDArray[Any] | None
    """Of each row; None: each row has its own."""
    extra: Doubles = field(default_factory=lambda: np.empty(0))
    """(n,) or (0,): added to the cosines."""
    factor: float = 1
    """By which the sum is multiplied then."""
    shift: Doubles | None = None
    """(q,): subtracted at last."""

    def of(self, which: slice | Rows) -> Asked:
        """The same for some of the queries."""
        shift = None if self.shift is None else self.shift[which]
        return replace(self, queries=self.queries[which], but=self.but[which], shift=shift)


def rank(vectors: Vectors, asked: Asked, rows: Rows) -> tuple[Floats, Rows, Doubles]:
    """The best k of candidates: (q, k) scores and rows, and (q,) cosine + extra of the last."""
    named = np.where(rows < 0, np.argmax(asked.allowed), rows)  # one that is allowed stands in
    sums = vectors.cosines(asked.queries, named)
    if len(asked.extra):
        sums += asked.extra[named]
    scores = sums * asked.factor
    if asked.shift is not None:
        scores -= asked.shift[:, None]
    scores = scores.astype(np.float32)
    if asked.but.shape[1]:
        rows = np.where(_excluded(rows, asked), -1, rows)
    order = np.lexsort((named, np.where(rows < 0, np.inf, -scores)))
    rows, scores, sums = (_take(values, order) for values in (rows, scores, sums))
    if asked.ids is not None:
        rows = np.where(repeated(rows, asked.ids), -1, rows)
        order = np.argsort(rows < 0, 1, kind="stable")
        rows, scores, sums = (_take(values, order) for values in (rows, scores, sums))
    rows, scores = rows[:, : asked.k], scores[:, : asked.k]
    found = nothing(len(rows), asked.k)
    found.rows[:, : rows.shape[1]] = rows
    found.scores[:, : rows.shape[1]] = np.where(rows < 0, np.float32(-np.inf), scores)
    whole = found.rows[:, -1] >= 0
    last = np.where(whole, sums[:, min(asked.k, sums.shape[1]) - 1], -np.inf)
    return found.scores, found.rows, last


def _excluded(rows: Rows, asked: Asked) -> Mask:
    mine = rows if asked.ids is None else identify(rows, asked.ids)
    return np.asarray(mine == asked.but, np.bool_)  # no row has -1, which stands for none


def _take(values: NDArray[Any], order: Rows) -> NDArray[Any]:
    return np.take_along_axis(values, order, 1)
