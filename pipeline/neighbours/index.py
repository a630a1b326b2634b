"""The one face: an index is asked for the k nearest, whatever kind it is."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.exact import Candidates, Scan
from pipeline.neighbours.rerank import Asked, rank
from pipeline.neighbours.results import Found, identify, mean_similarity, nothing
from pipeline.neighbours.vectors import (
    BLOCK_NUMBERS,
    Doubles,
    Floats,
    Mask,
    Rows,
    Vectors,
    directions,
)

if TYPE_CHECKING:
    from pipeline.neighbours.csls import Hubs

MARGIN = 16
"""Candidates that are computed again beyond the k that are asked for."""
WIDER = 4
"""Times as many candidates, where those did not settle it."""
ROUNDING = 2.0**-22
"""Of a score, as a float32."""


class Nominator(Protocol):
    """What names candidates."""

    @property
    def slack(self) -> float | None:
        """By how much the bound on all others may be off; None where there is no such bound."""

    @property
    def num_bytes(self) -> int:
        """What it holds in memory beside the vectors."""

    def nominate(self, queries: Doubles, count: int, allowed: Mask, extra: Doubles) -> Candidates:
        """The rows that may be the nearest, see `Scan`."""

    def state(self) -> dict[str, Any]:
        """What must be kept of it beside the vectors: arrays, and indexes of faiss, by name."""


class Index:
    """Vectors that can be searched. It never changes: any number of threads may search at once."""

    def __init__(
        self,
        kind: str,
        vectors: Vectors,
        nominator: Nominator,
        *,
        candidates: int = 0,
        options: dict[str, Any] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        """Take what `build` or `load` made.

        Args:
            kind: exact, lsh or hnsw.
            vectors: What can be answered.
            nominator: Names candidates.
            candidates: How many it names at least.
            options: With which it was built.
            facts: What was measured when it was.
        """
        self.kind = kind
        self.vectors = vectors
        self.nominator = nominator
        self.candidates = candidates
        self.options = options or {}
        self.facts = facts or {}
        """`recall` of the exact answers `recall_at` of `probes` queries, `seconds` of building,
        `bytes` in memory beside the vectors, `usable` vectors; more by kind."""
        self._scan = Scan(vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    def __str__(self) -> str:
        said = f"{self.kind}, {len(self):,} vectors of {self.dim}"
        measured = {"recall", "recall_at", "probes"} <= self.facts.keys()
        if measured and self.kind != "exact":
            at, probes = self.facts["recall_at"], self.facts["probes"]
            said += f", recall@{at} {self.facts['recall']:.3f} of {probes} queries"
        return said

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self.vectors.dim

    def search(
        self,
        queries: NDArray[Any],
        k: int,
        *,
        keep: NDArray[Any] | None = None,
        but: NDArray[Any] | None = None,
        ids: int | NDArray[Any] | None = None,
        hubs: Hubs | None = None,
        candidates: int | None = None,
    ) -> Found:
        """The k nearest of each query.

        Vectors that are zero or not finite are never answered.

        Args:
            queries: (q, d) float32 of any length but zero.
            k: How many.
            keep: Which rows may be answered, of all queries: (n,) bool, or integers, the rows.
            but: (q,) integers: a row that may not be answered, of each query, such as its own; -1
                for none. With *ids*, no row that has its id.
            ids: (n,) integers from 0, the id of each row: only the best of an id is answered. Or n,
                where row r and row n + r are one picture and its mirrored copy.
            hubs: Of `hubs.measure`: scores are CSLS, 2 cos - r(query) - r(vector).
            candidates: How many a kind that is not exact names before they are compared exactly,
                in place of what it was built with: more of them miss less and take longer.

        Raises:
            ValueError: A query is zero or not finite, or an argument is not what is said above.
        """
        asked = self._asked(queries, k, keep, but, ids, hubs)
        return self._answer(asked, max(k + MARGIN, candidates or self.candidates))

    def save(self, folder: str | os.PathLike[str], identity: dict[str, Any]) -> None:
        """Write it, see `files.save`."""
        from pipeline.neighbours import storage  # it knows how to make an index

        storage.save(self, folder, identity)

    def _answer(self, asked: Asked, count: int) -> Found:
        found = nothing(len(asked.queries), asked.k)
        possible = self._possible(asked.allowed)
        waiting = np.arange(len(asked.queries) if possible else 0)
        nominator = self.nominator
        while len(waiting):
            if count >= possible and nominator.slack is None:  # no fewer than there are
                nominator, count = self._scan, asked.k + MARGIN
            step = max(1, BLOCK_NUMBERS // min(count, possible))
            unsettled = []
            for start in range(0, len(waiting), step):
                part = waiting[start : start + step]
                scores, rows, settled = self._attempt(nominator, asked.of(part), count, possible)
                found.scores[part], found.rows[part] = scores, rows
                unsettled.append(part[~settled])
            waiting = np.concatenate(unsettled)
            count *= WIDER
        return found

    def _possible(self, allowed: Mask) -> int:
        if allowed is self.vectors.usable:  # to count a million takes a tenth of a search
            return self.vectors.num_usable
        return int(np.count_nonzero(allowed))

    def _attempt(
        self, nominator: Nominator, asked: Asked, count: int, possible: int
    ) -> tuple[Floats, Rows, Mask]:
        """Scores and rows from so many candidates, and of which queries they are the answer."""
        if count >= possible:
            every = np.broadcast_to(np.flatnonzero(asked.allowed), (len(asked.queries), possible))
            scores, rows, _ = rank(self.vectors, asked, every)
            return scores, rows, np.ones(len(rows), np.bool_)
        named = nominator.nominate(asked.queries, count, asked.allowed, asked.extra)
        scores, rows, last = rank(self.vectors, asked, named.rows)
        if nominator.slack is None:
            return scores, rows, rows[:, -1] >= 0
        return scores, rows, named.bound + nominator.slack + ROUNDING < last

    def _asked(
        self,
        queries: NDArray[Any],
        k: int,
        keep: NDArray[Any] | None,
        but: NDArray[Any] | None,
        ids: int | NDArray[Any] | None,
        hubs: Hubs | None,
    ) -> Asked:
        units = directions(np.asarray(queries), self.dim)
        if k < 1:
            raise ValueError(f"k is {k}: expected 1 or more.")
        if isinstance(ids, np.ndarray) and ids.shape != (len(self),):
            raise ValueError(f"ids are of shape {ids.shape}: expected ({len(self)},).")
        if ids is not None and not isinstance(ids, np.ndarray) and ids < 1:
            raise ValueError(f"ids are {ids}: expected the number of pictures.")
        asked = Asked(units, k, self._allowed(keep), self._but(but, ids, len(units)), ids)
        if hubs is None:
            return asked
        if len(hubs.means) != len(self):
            raise ValueError(f"hubs of {len(hubs.means)} vectors: expected those of {len(self)}.")
        mine = self.search(queries, hubs.nearest, but=but).scores
        return replace(asked, extra=-hubs.means / 2, factor=2, shift=mean_similarity(mine))

    def _allowed(self, keep: NDArray[Any] | None) -> Mask:
        usable = self.vectors.usable
        if keep is None:
            return usable
        keep = np.asarray(keep)
        if keep.dtype == np.bool_:
            if keep.shape != usable.shape:
                raise ValueError(f"keep is of shape {keep.shape}: expected {usable.shape}.")
            return np.asarray(usable & keep, np.bool_)
        allowed = np.zeros(len(self), np.bool_)
        allowed[self._rows("keep", keep, 0)] = True
        return np.asarray(usable & allowed, np.bool_)

    def _but(self, but: NDArray[Any] | None, ids: int | NDArray[Any] | None, queries: int) -> Rows:
        if but is None:
            return np.empty((queries, 0), np.int64)
        but = self._rows("but", np.asarray(but), -1)
        if but.shape != (queries,):
            raise ValueError(f"but is of shape {but.shape}: expected ({queries},).")
        return (but if ids is None else identify(but, ids))[:, None]

    def _rows(self, name: str, rows: NDArray[Any], least: int) -> Rows:
        if rows.dtype.kind not in "iu":
            raise ValueError(f"{name} is of {rows.dtype}: expected rows, which are integers.")
        for wrong in rows[(rows < least) | (rows >= len(self))]:
            raise ValueError(f"{name} has row {wrong}: expected {least} to {len(self) - 1}.")
        return rows.astype(np.int64)
