"""The common interface of all kinds of index: search for the k nearest vectors."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.exact import Candidates, ExactScan
from pipeline.neighbours.rerank import SearchRequest, rank
from pipeline.neighbours.results import SearchResults, empty_results, ids_of_rows, mean_similarity
from pipeline.neighbours.vectors import (
    MAX_BLOCK_ELEMENTS,
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
"""The number of candidates beyond the k requested ones that are computed exactly."""
CANDIDATE_GROWTH = 4
"""The factor by which the number of candidates grows where they did not suffice."""
ROUNDING = 2.0**-22
"""The largest rounding error of a score that is stored as float32."""


class CandidateGenerator(Protocol):
    """A source of candidates for the nearest vectors."""

    @property
    def error_bound(self) -> float | None:
        """The largest error of the bound on all other vectors; None: there is no such bound."""

    @property
    def num_bytes(self) -> int:
        """The size in memory, in bytes, without the vectors."""

    def generate(self, queries: Doubles, count: int, allowed: Mask, extra: Doubles) -> Candidates:
        """Return rows that may be the nearest of each query.

        Args:
            queries: (q, d) float64 of length 1, q > 0.
            count: The number of candidates for each query, > 0.
            allowed: (n,) bool for the n vectors of the index, True for those that may be
                candidates: only usable ones, which are finite and of length 1e-30 to 1e30.
            extra: (n,) float64, added to the cosines, or (0,) to add nothing; a generator without
                an `error_bound` may ignore it.

        Returns:
            The candidates: `rows`, (q, c) int64, c at most *count*, in any order, -1 for missing
            ones; and `bound`, (q,) float64, a bound on the scores of all other rows, infinite if
            there is none.
        """

    def state(self) -> dict[str, Any]:
        """Return the arrays and faiss indexes to save beside the vectors, by name."""


class Index:
    """Vectors that can be searched. An index is immutable: any number of threads may search it."""

    def __init__(
        self,
        kind: str,
        vectors: Vectors,
        generator: CandidateGenerator,
        *,
        candidates: int = 0,
        options: dict[str, Any] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        """Wrap the parts that `build` made or `load` read.

        Args:
            kind: The kind of index: exact, lsh or hnsw.
            vectors: The vectors that are searched.
            generator: The source of candidates.
            candidates: Minimum number of candidates for each query.
            options: The options with which it was built.
            facts: The measurements of its build.
        """
        self.kind = kind
        self.vectors = vectors
        self.generator = generator
        self.candidates = candidates
        self.options = options or {}
        self.facts = facts or {}
        """Measurements of the build: `seconds` it took, `bytes` in memory beside the vectors, the
        number of `usable` vectors and, unless it is exact, the `recall` of the `recall_at` nearest
        over `probes` queries."""
        self._scan = ExactScan(vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    def __str__(self) -> str:
        description = f"{self.kind}, {len(self):,} vectors of {self.dim}"
        measured = {"recall", "recall_at", "probes"} <= self.facts.keys()
        if measured and self.kind != "exact":
            at, probes = self.facts["recall_at"], self.facts["probes"]
            description += f", recall@{at} {self.facts['recall']:.3f} of {probes} queries"
        return description

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self.vectors.dim

    def search(
        self,
        queries: NDArray[Any],
        k: int,
        *,
        keep: NDArray[Any] | None = None,
        exclude: NDArray[Any] | None = None,
        ids: int | NDArray[Any] | None = None,
        hubs: Hubs | None = None,
        candidates: int | None = None,
    ) -> SearchResults:
        """Return the k nearest vectors of each query, those with the largest cosines.

        An index of kind `exact` finds all of them; `lsh` and `hnsw` may return others in place of
        some. Vectors that are zero or not finite are never returned.

        Args:
            queries: (q, d) of a floating-point dtype, of any length but zero; q may be 0.
            k: The number of results for each query, at least 1.
            keep: The rows that may be results of any query: (n,) bool, one for each row of the
                index, or row numbers as integers (default: all).
            exclude: (q,) integers: one row for each query that may not be its result, such as the
                query itself; -1 excludes none. With *ids*, all rows of the same id are excluded.
            ids: An array of integers from 0, the id of each row of the index: only the best row of
                an id is a result. Or an `int` m, the number of images, where rows r and m + r are
                an image and its mirrored copy, which have the id r. Default: each row has its own.
            hubs: The result of `pipeline.neighbours.csls.measure_hubs` for this index: scores
                become CSLS, 2 cos - r(query) - r(vector), and order the results. r(vector) is in
                its `means`; r(query) is the mean cosine of the query with as many of its nearest
                vectors as its `nearest` says.
            candidates: The number of candidates of an approximate index that are compared exactly,
                in place of the number it was built with: more raise recall and take longer. It
                is never less than k + 16.

        Returns:
            The results: `scores`, (q, k) float32, cosines from -1 to 1 (with *hubs*, CSLS), highest
            first; and `rows`, (q, k) int64, row numbers in the index, of equal scores the lower
            first. If fewer than k vectors may be results, scores of -inf and rows of -1 fill up the
            end.

        Raises:
            ValueError: A query is zero or not finite, or an argument has another shape or dtype or
                is out of its range.
        """
        request = self._request(queries, k, keep, exclude, ids, hubs)
        return self._answer(request, max(k + MARGIN, candidates or self.candidates))

    def save(self, folder: str | os.PathLike[str], identity: dict[str, Any]) -> None:
        """Write the index durably to a folder, replacing any index in it.

        Args:
            folder: The target folder; created if it is missing. Other files in it stay.
            identity: JSON values that identify the vectors, such as the model that made them and
                the store; `pipeline.neighbours.storage.load` must be given equal ones.

        Raises:
            TesseraeError: The index cannot be written.
            TypeError, ValueError: *identity* is no JSON; nothing is written.
        """
        from pipeline.neighbours import storage  # not at the top: storage imports this module

        storage.save(self, folder, identity)

    def _answer(self, request: SearchRequest, count: int) -> SearchResults:
        results = empty_results(len(request.queries), request.k)
        num_allowed = self._count_allowed(request.allowed)
        unanswered = np.arange(len(request.queries) if num_allowed else 0)
        generator = self.generator
        while len(unanswered):
            # Candidates would be all rows: a scan is as fast, and exact.
            if count >= num_allowed and generator.error_bound is None:
                generator, count = self._scan, request.k + MARGIN
            step = max(1, MAX_BLOCK_ELEMENTS // min(count, num_allowed))
            unsettled = []
            for start in range(0, len(unanswered), step):
                part = unanswered[start : start + step]
                scores, rows, settled = self._attempt(
                    generator, request.of(part), count, num_allowed
                )
                results.scores[part], results.rows[part] = scores, rows
                unsettled.append(part[~settled])
            unanswered = np.concatenate(unsettled)
            count *= CANDIDATE_GROWTH
        return results

    def _count_allowed(self, allowed: Mask) -> int:
        if allowed is self.vectors.usable:  # counting a million takes a tenth of a search
            return self.vectors.num_usable
        return int(np.count_nonzero(allowed))

    def _attempt(
        self, generator: CandidateGenerator, request: SearchRequest, count: int, num_allowed: int
    ) -> tuple[Floats, Rows, Mask]:
        """Return scores and rows from *count* candidates, and for which queries they are final."""
        if count >= num_allowed:
            every = np.broadcast_to(
                np.flatnonzero(request.allowed), (len(request.queries), num_allowed)
            )
            scores, rows, _ = rank(self.vectors, request, every)
            return scores, rows, np.ones(len(rows), np.bool_)
        candidates = generator.generate(request.queries, count, request.allowed, request.extra)
        scores, rows, last = rank(self.vectors, request, candidates.rows)
        if generator.error_bound is None:
            return scores, rows, rows[:, -1] >= 0
        return scores, rows, candidates.bound + generator.error_bound + ROUNDING < last

    def _request(
        self,
        queries: NDArray[Any],
        k: int,
        keep: NDArray[Any] | None,
        exclude: NDArray[Any] | None,
        ids: int | NDArray[Any] | None,
        hubs: Hubs | None,
    ) -> SearchRequest:
        units = directions(np.asarray(queries), self.dim)
        if k < 1:
            raise ValueError(f"k is {k}: expected 1 or more.")
        if isinstance(ids, np.ndarray) and ids.shape != (len(self),):
            raise ValueError(f"ids are of shape {ids.shape}: expected ({len(self)},).")
        if isinstance(ids, np.ndarray) and ids.dtype.kind not in "iu":
            raise ValueError(f"ids are of {ids.dtype}: expected integers.")
        if ids is not None and not isinstance(ids, np.ndarray) and ids < 1:
            raise ValueError(f"ids are {ids}: expected the number of images.")
        request = SearchRequest(
            units, k, self._allowed(keep), self._excluded_ids(exclude, ids, len(units)), ids
        )
        if hubs is None:
            return request
        if len(hubs.means) != len(self):
            raise ValueError(
                f"CSLS statistics of {len(hubs.means)} vectors: expected those of {len(self)}."
            )
        nearest_scores = self.search(queries, hubs.nearest, exclude=exclude).scores
        return replace(
            request, extra=-hubs.means / 2, factor=2, shift=mean_similarity(nearest_scores)
        )

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

    def _excluded_ids(
        self, exclude: NDArray[Any] | None, ids: int | NDArray[Any] | None, queries: int
    ) -> Rows:
        if exclude is None:
            return np.empty((queries, 0), np.int64)
        exclude = self._rows("exclude", np.asarray(exclude), -1)
        if exclude.shape != (queries,):
            raise ValueError(f"exclude is of shape {exclude.shape}: expected ({queries},).")
        return (exclude if ids is None else ids_of_rows(exclude, ids))[:, None]

    def _rows(self, name: str, rows: NDArray[Any], lowest: int) -> Rows:
        if rows.dtype.kind not in "iu":
            raise ValueError(f"{name} is of {rows.dtype}: expected rows, which are integers.")
        for wrong in rows[(rows < lowest) | (rows >= len(self))]:
            raise ValueError(f"{name} has row {wrong}: expected {lowest} to {len(self) - 1}.")
        return rows.astype(np.int64)
