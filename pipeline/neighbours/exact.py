"""Which vectors may be the nearest: by products with all of them, block by block.

Products of float32 are a little off, and in a block of another size by another little. So what is
named here are candidates, more than are asked for, and a bound on all others: `index` computes the
candidates again and asks for more of them where the bound does not settle it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import TesseraeError
from pipeline.neighbours.vectors import Doubles, Floats, Mask, Rows, Vectors, blocks

QUERIES = 256
"""Whose products are computed at once."""
PRODUCTS = 2**20
"""That are computed at once, in blocks of so many rows:"""
LEAST_ROWS, MOST_ROWS = 4096, 65536
DOTS = 2
"""Queries that are multiplied one by one: BLAS takes 2.5 times as long for a single one."""
FEW = 4
"""One part in so many, or less, is gathered before it is multiplied."""


@dataclass(frozen=True)
class Candidates:
    """Which vectors may be the nearest of each query."""

    rows: Rows
    """(q, c) int64, in any order; -1 where there are no more."""
    bound: Doubles
    """(q,) float64: no other vector scores higher, as products in float32 go."""


class Scan:
    """Looks at every vector, on the processor."""

    num_bytes = 0

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def state(self) -> dict[str, Any]:
        """Nothing: see `Nominator`."""
        return {}

    @property
    def slack(self) -> float | None:
        """By how much a product of units, plus what is added to it, may be off."""
        # Higham, "Accuracy and stability of numerical algorithms", 3.1: d roundings in any order;
        # some more for those of the query, of the scale and of what is added.
        return (self._vectors.dim + 32) * 2.0**-24

    def nominate(self, queries: Doubles, count: int, allowed: Mask, extra: Doubles) -> Candidates:
        """The vectors whose cosine plus *extra* is highest.

        Args:
            queries: (q, d) float64 of length 1, q > 0.
            count: How many are wanted of each query, > 0.
            allowed: (n,) bool, which may be answered: usable ones.
            extra: (n,) float64, or (0,) for nothing.
        """
        rows, added = np.flatnonzero(allowed), extra.astype(np.float32)
        scan = self._gathered if len(rows) * FEW <= len(allowed) else self._straight
        parts = []
        for start in range(0, len(queries), QUERIES):
            some = np.asarray(queries[start : start + QUERIES], np.float32)
            best = _Best(len(some), count)
            step = min(max(LEAST_ROWS, PRODUCTS // len(some)), MOST_ROWS)
            scan(some, step, best, rows, allowed, added)
            parts.append(best.candidates())
        return Candidates(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.bound for part in parts]),
        )

    def _straight(
        self, queries: Floats, step: int, best: _Best, rows: Rows, allowed: Mask, extra: Floats
    ) -> None:
        every = len(rows) == len(allowed)
        for start in range(0, len(allowed), step):
            part = slice(start, min(start + step, len(allowed)))
            scores = self._scores(queries, part, extra)
            if not every:
                scores[~allowed[part]] = -np.inf
            best.add(scores, np.arange(part.start, part.stop))

    def _gathered(
        self, queries: Floats, step: int, best: _Best, rows: Rows, allowed: Mask, extra: Floats
    ) -> None:
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            best.add(self._scores(queries, part, extra), part)

    def _scores(self, queries: Floats, which: slice | Rows, extra: Floats) -> Floats:
        # (b, q): BLAS is faster this way round where there are few queries.
        vectors = self._vectors.floats(which)
        if len(queries) <= DOTS:
            scores = np.stack([np.vecdot(vectors, query) for query in queries], 1)
        else:
            scores = vectors @ queries.T
        scores *= self._vectors.scale[which, None]
        if len(extra):
            scores += extra[which, None]
        return np.asarray(scores, np.float32)


class _Best:
    """The best so far of each query."""

    def __init__(self, queries: int, count: int) -> None:
        self._count = count
        self._scores: Floats = np.empty((queries, 0), np.float32)
        self._rows: Rows = np.empty((queries, 0), np.int64)
        self._floor: Floats = np.full(queries, -np.inf, np.float32)
        """(q,): what a score must be above to count."""
        self._waiting: list[tuple[Rows, Floats, Rows]] = []
        """Query, score and row of what is above it, and was not compared with each other."""
        self._seen = 0

    def add(self, scores: Floats, rows: Rows) -> None:
        """A block: (b, q) float32 of (b,) int64 rows."""
        self._seen += len(rows)
        if self._scores.shape[1] < self._count:
            beside = np.broadcast_to(rows, (scores.shape[1], len(rows)))
            self._scores = np.concatenate([self._scores, scores.T], 1)
            self._rows = np.concatenate([self._rows, beside], 1)
            self._cut()
            return
        places = np.flatnonzero(scores > self._floor)  # a tenth of the time of 2-d nonzero
        place, query = np.divmod(places, scores.shape[1])
        self._waiting.append((query, scores.ravel()[places], rows[place]))
        if sum(len(query) for query, _, _ in self._waiting) > self._scores.size:
            self._merge()

    def candidates(self) -> Candidates:
        """Of all blocks."""
        if self._waiting:
            self._merge()
        rows = np.where(np.isneginf(self._scores), -1, self._rows)
        others = self._seen > self._count
        return Candidates(rows, np.where(others, self._floor, -np.inf).astype(np.float64))

    def _cut(self) -> None:
        if self._scores.shape[1] > self._count:
            kept = np.argpartition(self._scores, -self._count, 1)[:, -self._count :]
            self._scores = np.take_along_axis(self._scores, kept, 1)
            self._rows = np.take_along_axis(self._rows, kept, 1)
        if self._scores.shape[1] == self._count:
            self._floor = self._scores.min(1)

    def _merge(self) -> None:
        queries, count = self._scores.shape
        every = np.repeat(np.arange(queries), count)
        query = np.concatenate([every, *(waiting[0] for waiting in self._waiting)])
        score = np.concatenate([self._scores.ravel(), *(waiting[1] for waiting in self._waiting)])
        row = np.concatenate([self._rows.ravel(), *(waiting[2] for waiting in self._waiting)])
        order = np.lexsort((-score, query))
        first = np.searchsorted(query[order], np.arange(queries))
        kept = order[first[:, None] + np.arange(count)]
        self._scores, self._rows = score[kept], row[kept]
        self._floor = self._scores[:, -1]
        self._waiting = []


class DeviceScan:
    """Looks at every vector, on a device of torch that holds them."""

    def __init__(self, vectors: Vectors, device: str) -> None:
        """Copy the units there: 4 bytes a number.

        Raises:
            TesseraeError: The device is not there, or has not that much memory.
        """
        import torch

        self._torch: Any = torch
        self._device = device
        try:
            self._units = torch.empty(vectors.array.shape, device=device)
            for part in blocks(len(vectors), vectors.dim):
                self._units[part] = torch.from_numpy(vectors.units(part)).to(device)
        except (RuntimeError, AssertionError) as e:  # torch says it with either
            first = str(e).splitlines()[0]
            raise TesseraeError(
                f"{len(vectors):,} vectors of {vectors.dim} cannot be held on {device} ({first}):"
                " search on the processor, or free that device."
            ) from e

    def state(self) -> dict[str, Any]:
        """Nothing: see `Nominator`."""
        return {}

    @property
    def num_bytes(self) -> int:
        """On the device."""
        return int(self._units.nbytes)

    @property
    def slack(self) -> float | None:
        """By how much a product of units, plus what is added to it, may be off."""
        if self._torch.get_float32_matmul_precision() != "highest":
            return 2.0**-6  # bfloat16 has 8 bits: two roundings of 2 ** -9 each, and some
        return (self._units.shape[1] + 32) * 2.0**-24

    def nominate(self, queries: Doubles, count: int, allowed: Mask, extra: Doubles) -> Candidates:
        """As of `Scan`."""
        torch = self._torch
        added = torch.zeros(len(allowed))
        if len(extra):
            added += torch.from_numpy(extra.astype(np.float32))
        added[torch.from_numpy(~allowed)] = -torch.inf
        added = added.to(self._device)
        rows = np.empty((len(queries), min(count, len(allowed))), np.int64)
        bound = np.full(len(queries), -np.inf)
        for start in range(0, len(queries), QUERIES):
            part = slice(start, start + QUERIES)
            some = torch.from_numpy(np.asarray(queries[part], np.float32)).to(self._device)
            scores, found = self._best(some, rows.shape[1], added)
            rows[part] = torch.where(scores == -torch.inf, -1, found).cpu().numpy()
            if rows.shape[1] < len(allowed):
                bound[part] = scores.amin(1).cpu().numpy()
        return Candidates(rows, bound)

    def _best(self, queries: Any, count: int, added: Any) -> tuple[Any, Any]:
        torch = self._torch
        scores = torch.empty(len(queries), 0, device=self._device)
        rows = torch.empty(len(queries), 0, dtype=torch.int64, device=self._device)
        for start in range(0, len(added), MOST_ROWS):
            part = slice(start, start + MOST_ROWS)
            products = torch.addmm(added[part], queries, self._units[part].T)
            best, places = products.topk(min(count, products.shape[1]), 1)
            scores, rows = torch.cat([scores, best], 1), torch.cat([rows, places + start], 1)
            if scores.shape[1] > count:
                scores, places = scores.topk(count, 1)
                rows = rows.gather(1, places)
        return scores, rows
