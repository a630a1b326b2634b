"""Candidates for the nearest vectors from inner products with all of them, block by block.

Inner products in float32 have rounding errors that depend on the size of the block. So a scan
returns more candidates than neighbours are requested, and an upper bound on the scores of all
other vectors: `index` computes the candidates again in float64, and requests more of them where
the bound does not prove that the nearest are among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import TesseraeError
from pipeline.neighbours.vectors import Doubles, Floats, Mask, Rows, Vectors, blocks

QUERY_BLOCK = 256
"""The number of queries that are multiplied at once."""
MAX_PRODUCTS = 2**20
"""The target number of products computed at once; it sets the number of rows of a block."""
MIN_ROWS, MAX_ROWS = 4096, 65536
"""The least and the largest number of rows of a block."""
MAX_SINGLE_QUERIES = 2
"""Up to this many queries are multiplied one by one: BLAS is 2.5 times slower for a single one."""
GATHER_RATIO = 4
"""Rows are gathered before they are multiplied if at most one in this many is allowed."""


@dataclass(frozen=True)
class Candidates:
    """The vectors that may be the nearest of each query."""

    rows: Rows
    """(q, c) int64 in any order; -1 fills up missing ones."""
    bound: Doubles
    """(q,) float64: no other vector scores higher, up to the rounding of float32."""


class ExactScan:
    """A candidate generator that scans every vector on the processor."""

    num_bytes = 0

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def state(self) -> dict[str, Any]:
        """Return an empty dict: a scan has no state beside the vectors."""
        return {}

    @property
    def error_bound(self) -> float | None:
        """The largest rounding error of a cosine plus the `extra` term of `generate`."""
        # Higham, "Accuracy and stability of numerical algorithms", 3.1: d roundings in any order;
        # 32 more cover those of the query, of the scale and of `extra`.
        return (self._vectors.dim + 32) * 2.0**-24

    def generate(self, queries: Doubles, count: int, allowed: Mask, extra: Doubles) -> Candidates:
        """Return the vectors whose cosine plus *extra* is highest.

        Args:
            queries: (q, d) float64 of length 1, q > 0.
            count: The number of candidates for each query, > 0.
            allowed: (n,) bool for the n vectors of the index, True for those that may be
                candidates: only usable ones, which are finite and of length 1e-30 to 1e30.
            extra: (n,) float64, added to the cosines, or (0,) to add nothing.

        Returns:
            The candidates: `rows`, (q, c) int64, c at most *count*, in any order, -1 for missing
            ones; and `bound`, (q,) float64: no other vector scores higher, up to rounding
            (`error_bound`); -inf if there are no others.
        """
        rows, added = np.flatnonzero(allowed), extra.astype(np.float32)
        scan = self._gathered if len(rows) * GATHER_RATIO <= len(allowed) else self._straight
        parts = []
        for start in range(0, len(queries), QUERY_BLOCK):
            block = np.asarray(queries[start : start + QUERY_BLOCK], np.float32)
            best = _BestCandidates(len(block), count)
            step = min(max(MIN_ROWS, MAX_PRODUCTS // len(block)), MAX_ROWS)
            scan(block, step, best, rows, allowed, added)
            parts.append(best.candidates())
        return Candidates(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.bound for part in parts]),
        )

    def _straight(
        self,
        queries: Floats,
        step: int,
        best: _BestCandidates,
        rows: Rows,
        allowed: Mask,
        extra: Floats,
    ) -> None:
        every = len(rows) == len(allowed)
        for start in range(0, len(allowed), step):
            part = slice(start, min(start + step, len(allowed)))
            scores = self._scores(queries, part, extra)
            if not every:
                scores[~allowed[part]] = -np.inf
            best.add(scores, np.arange(part.start, part.stop))

    def _gathered(
        self,
        queries: Floats,
        step: int,
        best: _BestCandidates,
        rows: Rows,
        allowed: Mask,
        extra: Floats,
    ) -> None:
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            best.add(self._scores(queries, part, extra), part)

    def _scores(self, queries: Floats, selection: slice | Rows, extra: Floats) -> Floats:
        # Shape (b, q): BLAS is faster in this order where there are few queries.
        vectors = self._vectors.floats(selection)
        if len(queries) <= MAX_SINGLE_QUERIES:
            scores = np.stack([np.vecdot(vectors, query) for query in queries], 1)
        else:
            scores = vectors @ queries.T
        scores *= self._vectors.scale[selection, None]
        if len(extra):
            scores += extra[selection, None]
        return np.asarray(scores, np.float32)


class _BestCandidates:
    """The best candidates of each query among the blocks that were added."""

    def __init__(self, queries: int, count: int) -> None:
        self._count = count
        self._scores: Floats = np.empty((queries, 0), np.float32)
        self._rows: Rows = np.empty((queries, 0), np.int64)
        self._floor: Floats = np.full(queries, -np.inf, np.float32)
        """(q,) float32: a score must exceed it to be among the best."""
        self._pending: list[tuple[Rows, Floats, Rows]] = []
        """(query, score, row) arrays of scores above the floor, which are not merged yet."""
        self._seen = 0

    def add(self, scores: Floats, rows: Rows) -> None:
        """Add a block of (b, q) float32 scores of (b,) int64 rows."""
        self._seen += len(rows)
        if self._scores.shape[1] < self._count:
            beside = np.broadcast_to(rows, (scores.shape[1], len(rows)))
            self._scores = np.concatenate([self._scores, scores.T], 1)
            self._rows = np.concatenate([self._rows, beside], 1)
            self._cut()
            return
        positions = np.flatnonzero(scores > self._floor)  # a tenth of the time of 2-d nonzero
        block_row, query = np.divmod(positions, scores.shape[1])
        self._pending.append((query, scores.ravel()[positions], rows[block_row]))
        if sum(len(query) for query, _, _ in self._pending) > self._scores.size:
            self._merge()

    def candidates(self) -> Candidates:
        """Return the candidates among all blocks."""
        if self._pending:
            self._merge()
        rows = np.where(np.isneginf(self._scores), -1, self._rows)
        has_others = self._seen > self._count
        return Candidates(rows, np.where(has_others, self._floor, -np.inf).astype(np.float64))

    def _cut(self) -> None:
        if self._scores.shape[1] > self._count:
            best = np.argpartition(self._scores, -self._count, 1)[:, -self._count :]
            self._scores = np.take_along_axis(self._scores, best, 1)
            self._rows = np.take_along_axis(self._rows, best, 1)
        if self._scores.shape[1] == self._count:
            self._floor = self._scores.min(1)

    def _merge(self) -> None:
        queries, count = self._scores.shape
        every = np.repeat(np.arange(queries), count)
        query = np.concatenate([every, *(entry[0] for entry in self._pending)])
        score = np.concatenate([self._scores.ravel(), *(entry[1] for entry in self._pending)])
        row = np.concatenate([self._rows.ravel(), *(entry[2] for entry in self._pending)])
        order = np.lexsort((-score, query))
        first = np.searchsorted(query[order], np.arange(queries))
        best = order[first[:, None] + np.arange(count)]
        self._scores, self._rows = score[best], row[best]
        self._floor = self._scores[:, -1]
        self._pending = []


class ExactDeviceScan:
    """A candidate generator that scans every vector on a torch device, which holds a copy."""

    def __init__(self, vectors: Vectors, device: str) -> None:
        """Copy the vectors, scaled to length 1, to the device: 4 bytes for each number.

        Raises:
            TesseraeError: The device does not exist or has too little memory.
        """
        import torch

        self._torch: Any = torch
        self._device = device
        try:
            self._units = torch.empty(vectors.array.shape, device=device)
            for part in blocks(len(vectors), vectors.dim):
                self._units[part] = torch.from_numpy(vectors.units(part)).to(device)
        except (RuntimeError, AssertionError) as e:  # torch raises either
            first = str(e).splitlines()[0]
            raise TesseraeError(
                f"{len(vectors):,} vectors of {vectors.dim} dimensions do not fit on {device}"
                f" ({first}): search on the CPU, or free memory of that device."
            ) from e

    def state(self) -> dict[str, Any]:
        """Return an empty dict: a scan has no state beside the vectors."""
        return {}

    @property
    def num_bytes(self) -> int:
        """The size on the device, in bytes."""
        return int(self._units.nbytes)

    @property
    def error_bound(self) -> float | None:
        """The largest rounding error of a cosine plus the `extra` term of `generate`."""
        if self._torch.get_float32_matmul_precision() != "highest":
            return 2.0**-6  # bfloat16 has 8 bits: two roundings of 2 ** -9 each, and a margin
        return (self._units.shape[1] + 32) * 2.0**-24

    def generate(self, queries: Doubles, count: int, allowed: Mask, extra: Doubles) -> Candidates:
        """Return the vectors whose cosine plus *extra* is highest, computed on the device.

        Args:
            queries: (q, d) float64 of length 1, q > 0, in the memory of the processor.
            count: The number of candidates for each query, > 0.
            allowed: (n,) bool for the n vectors of the index, True for those that may be
                candidates: only usable ones, which are finite and of length 1e-30 to 1e30.
            extra: (n,) float64, added to the cosines, or (0,) to add nothing.

        Returns:
            The candidates, in the memory of the processor: `rows`, (q, min(count, n)) int64 in any
            order, -1 for missing ones; and `bound`, (q,) float64: no other vector scores higher, up
            to rounding (`error_bound`); -inf if there are no others.
        """
        torch = self._torch
        added = torch.zeros(len(allowed))
        if len(extra):
            added += torch.from_numpy(extra.astype(np.float32))
        added[torch.from_numpy(~allowed)] = -torch.inf
        added = added.to(self._device)
        rows = np.empty((len(queries), min(count, len(allowed))), np.int64)
        bound = np.full(len(queries), -np.inf)
        for start in range(0, len(queries), QUERY_BLOCK):
            part = slice(start, start + QUERY_BLOCK)
            block = torch.from_numpy(np.asarray(queries[part], np.float32)).to(self._device)
            scores, columns = self._best(block, rows.shape[1], added)
            rows[part] = torch.where(scores == -torch.inf, -1, columns).cpu().numpy()
            if rows.shape[1] < len(allowed):
                bound[part] = scores.amin(1).cpu().numpy()
        return Candidates(rows, bound)

    def _best(self, queries: Any, count: int, added: Any) -> tuple[Any, Any]:
        torch = self._torch
        scores = torch.empty(len(queries), 0, device=self._device)
        rows = torch.empty(len(queries), 0, dtype=torch.int64, device=self._device)
        for start in range(0, len(added), MAX_ROWS):
            part = slice(start, start + MAX_ROWS)
            products = torch.addmm(added[part], queries, self._units[part].T)
            best, positions = products.topk(min(count, products.shape[1]), 1)
            scores, rows = torch.cat([scores, best], 1), torch.cat([rows, positions + start], 1)
            if scores.shape[1] > count:
                scores, positions = scores.topk(count, 1)
                rows = rows.gather(1, positions)
        return scores, rows
