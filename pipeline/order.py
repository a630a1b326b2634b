"""The assignment of samples to rows, and the order of rows in an epoch. No files, no torch.

**Rows of a split** (`row_order`). Order version 1 gives the sample at position i of the sorted keys
the 64-bit number

    mix(mix(seed) + i * 0x9E3779B97F4A7C15)        all modulo 2^64

where `mix` is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
generators, OOPSLA 2014), and sorts samples by it. `mix` is a bijection and the step is odd, so
all numbers differ, there are no ties to break, and any language with 64-bit integers computes the
same rows. No library's generator is used, because none promises the same stream in its next
version.

**Rows of an epoch** (`epoch_order`). Any part of an epoch is computed from its position alone, so a
loader can begin anywhere and ranks need no communication. Epoch order version 1 consists of
`Permutation`, with keys that are hashes of purpose, seed and epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ROW_ORDER_VERSION = 1
EPOCH_ORDER_VERSION = 1
ORDERS = ("random", "windowed", "sequential")

ROUNDS = 8
"""The rounds of a permutation. Four suffice for large sizes; small ones need more to be uniform."""

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def row_order(num_rows: int, seed: int) -> NDArray[np.int64]:
    """Return the order of a split's rows: a permutation that depends on the arguments alone.

    Args:
        num_rows: The number of samples in the split, 0 or more.
        seed: The seed, 0 to 2^64 - 1.

    Returns:
        (num_rows,) int64: the index in the sorted listing of the sample at row 0, 1, ...

    Raises:
        ValueError: The seed does not fit into 64 bits.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}: expected 0 to 2^64 - 1.")
    numbers = np.arange(num_rows, dtype=np.uint64)
    numbers *= _STEP
    numbers += _mix_splitmix64(np.array([seed], np.uint64))
    return np.argsort(_mix_splitmix64(numbers), kind="stable")


def _mix_splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The array is changed in place, because each temporary has 113 MB at 14 million rows.
    for shift, factor in _MIX_FACTORS:
        values ^= values >> np.uint64(shift)
        values *= np.uint64(factor)
    values ^= values >> np.uint64(31)
    return values


# --- an epoch -------------------------------------------------------------------------------------


class EpochOrder(Protocol):
    """The order of the rows of one epoch."""

    num_rows: int
    """The number of rows in the epoch."""

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the rows at positions *start* to *stop* - 1 of the epoch.

        Args:
            start: The first position, 0 to `num_rows`.
            stop: The position after the last one, *start* to `num_rows`.

        Returns:
            (stop - start,) int64, rows of the split in the order of the epoch.
        """

    def windows(self, start: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the windows of the epoch, from the one that contains a position on.

        The positions from a window's first up to the next window's first hold rows of this window's
        chunks only. Random order has no windows and yields nothing.

        Args:
            start: A position in the epoch, 0 to `num_rows`; nothing is yielded for `num_rows`.

        Yields:
            The first position of the window, which for the first one may lie before *start*; and
            the numbers of its chunks, (n,) int64, counted from 0 over the whole split.
        """


def epoch_order(
    kind: str,
    *,
    num_rows: int,
    excluded: NDArray[np.int64],
    seed: int,
    epoch: int,
    chunk_rows: int = 1,
    window_chunks: int = 1,
) -> EpochOrder:
    """Return the order of one epoch of a split, which depends on the arguments alone.

    Args:
        kind: `random` shuffles all rows. `windowed` shuffles the chunks, and then the rows within
            each window of *window_chunks* chunks. `sequential` is the order of the store.
        num_rows: The number of rows in the split.
        excluded: The rows that are never returned, (n,) int64, ascending, without duplicates. The
            array is kept and must not be changed.
        seed: The seed, 0 to 2^64 - 1; sequential order does not use it.
        epoch: The number of the epoch, 0 to 2^64 - 1; sequential order does not use it.
        chunk_rows: The number of rows in a chunk, at least 1 (default: 1); unused by `random`.
        window_chunks: The number of chunks in a window, at least 1 (default: 1). In windowed order
            it decides the order; in sequential order only what `windows` yields; unused by
            `random`.

    Returns:
        The order of the other rows, each of which it contains once. Its `num_rows` is their number,
        `rows(start, stop)` returns those at positions *start* to *stop* - 1, and `windows(start)`
        yields the windows from the one that contains position *start* on.

    Raises:
        ValueError: *seed* or *epoch* is out of its range, also where it is not used, or *kind* is
            none of the three.
    """
    for name, value in (("seed", seed), ("epoch", epoch)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} is {value}: expected 0 to 2^64 - 1.")
    present = _PresentRows(num_rows, excluded)
    if kind == "sequential":
        return _SequentialOrder(present, chunk_rows, window_chunks)
    if kind == "random":
        return _RandomOrder(present, key(_RANDOM, seed, epoch))
    if kind == "windowed":
        return _WindowedOrder(present, (seed, epoch), chunk_rows, window_chunks)
    raise ValueError(f"order is {kind!r}: expected one of {', '.join(ORDERS)}.")


_RANDOM, _CHUNKS, _WINDOW = 1, 2, 3  # the purposes of keys


def key(*numbers: int) -> int:
    """Return a 64-bit hash of a sequence of numbers, the same on every machine.

    From h = 0, each number makes h = mix((h ^ number) + 0x9E3779B97F4A7C15) modulo 2^64, where mix
    is the mixing function of SplitMix64.

    Args:
        numbers: The numbers, each 0 to 2^64 - 1. Their order matters.

    Returns:
        An integer from 0 to 2^64 - 1; 0 without numbers.
    """
    hashed = 0
    for number in numbers:  # in Python's integers, a tenth of the time of an array of one number
        hashed = ((hashed ^ number) + int(_STEP)) % 2**64
        for shift, factor in _MIX_FACTORS:
            hashed = (hashed ^ hashed >> shift) * factor % 2**64
        hashed ^= hashed >> 31
    return hashed


def keys(numbers: tuple[int, ...], *last: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return `key(*numbers, a, b, ...)` for each element a, b, ... of arrays.

    Args:
        numbers: The first numbers, each 0 to 2^64 - 1.
        last: The last numbers of each key, int64, at least 0, of shapes that broadcast.

    Returns:
        A uint64 array of the common shape, of at least one dimension.
    """
    # An array, not a number, of which numpy would report that it overflows.
    hashed = np.array([key(*numbers)], np.uint64)
    for array in last:
        hashed = _mix_splitmix64((hashed ^ array.astype(np.uint64)) + _STEP)
    return hashed


class Permutation:
    """A bijection of 0 to size - 1 for each key, in constant memory.

    A Feistel network over a grid (Black and Rogaway: Ciphers with arbitrary finite domains, CT-RSA
    2002). Number p is the cell (p // b, p % b) of a grid of a x b cells, a = ceil(sqrt(size)) and
    b = ceil(size / a). Round i adds to the row, if i is even, or else to the column, a hash of the
    other, modulo a or b:

        hash(x) = (mix(x * STEP + key_i) >> 32) * a >> 32        key_i = key(key, i)

    A cell beyond the end passes through all rounds again until it lies inside.
    """

    def __init__(self, size: int, hash_key: int) -> None:
        self.size = size
        self._rows = max(1, math.isqrt(max(0, size - 1)) + 1)
        self._columns = max(1, -(-size // self._rows))
        self._keys = [np.uint64(key(hash_key, i)) for i in range(ROUNDS)]

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers to which positions are mapped.

        Args:
            positions: (n,) int64, each 0 to size - 1, in any order; they are not changed.

        Returns:
            (n,) int64, each 0 to size - 1, different for different positions.
        """
        permuted = self._once(positions.astype(np.uint64))
        while (beyond := permuted >= np.uint64(self.size)).any():
            permuted[beyond] = self._once(permuted[beyond])
        return permuted.astype(np.int64)

    def _once(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        row = numbers // np.uint64(self._columns)
        column = numbers - row * np.uint64(self._columns)
        for i, key_ in enumerate(self._keys):
            if i % 2 == 0:
                row = _add_hash_modulo(row, column, key_, self._rows)
            else:
                column = _add_hash_modulo(column, row, key_, self._columns)
        return row * np.uint64(self._columns) + column


def _add_hash_modulo(
    to: NDArray[np.uint64], operand: NDArray[np.uint64], key_: np.uint64, modulus: int
) -> NDArray[np.uint64]:
    hashed = _mix_splitmix64(operand * _STEP + key_) >> np.uint64(32)
    total = to + (hashed * np.uint64(modulus) >> np.uint64(32))
    total[total >= np.uint64(modulus)] -= np.uint64(modulus)
    return total


class _PresentRows:
    """The rows that are not absent, ascending."""

    def __init__(self, num_rows: int, absent: NDArray[np.int64]) -> None:
        self.all_rows = num_rows
        self.absent = absent
        self.num_rows = num_rows - len(absent)
        self._before = absent - np.arange(len(absent))

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows at *positions* among the present rows, (n,) int64."""
        return positions + np.searchsorted(self._before, positions, side="right")


class _SequentialOrder:
    def __init__(self, present: _PresentRows, chunk_rows: int, window_chunks: int) -> None:
        self.num_rows = present.num_rows
        self._present = present
        self._chunk_rows = chunk_rows
        self._window_chunks = window_chunks

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the present rows *start* to *stop* in the order of the store."""
        return self._present.at(np.arange(start, stop))

    def windows(self, start: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the windows of consecutive chunks, as `EpochOrder.windows` describes."""
        if start >= self.num_rows:
            return
        num_chunks = -(-self._present.all_rows // self._chunk_rows)
        window = int(self.rows(start, start + 1)[0]) // (self._window_chunks * self._chunk_rows)
        for chunk in range(window * self._window_chunks, num_chunks, self._window_chunks):
            row = chunk * self._chunk_rows
            position = row - int(np.searchsorted(self._present.absent, row))
            yield position, np.arange(chunk, min(chunk + self._window_chunks, num_chunks))


class _RandomOrder:
    def __init__(self, present: _PresentRows, key_: int) -> None:
        self.num_rows = present.num_rows
        self._present = present
        self._permutation = Permutation(present.num_rows, key_)

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        return self._present.at(self._permutation(np.arange(start, stop)))

    def windows(self, start: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Return an empty iterator: random order has no windows."""
        return iter(())


class _WindowedOrder:
    def __init__(
        self, present: _PresentRows, numbers: tuple[int, int], chunk_rows: int, window_chunks: int
    ) -> None:
        self.num_rows = present.num_rows
        self._present = present
        self._key_numbers = numbers
        self._chunk_rows = chunk_rows
        self._window_chunks = window_chunks
        self._num_chunks = -(-present.all_rows // chunk_rows)
        self._chunks = Permutation(self._num_chunks, key(_CHUNKS, *numbers))
        self._ends = np.cumsum(list(self._counts()), dtype=np.int64)
        self._cached_window: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the rows of the windows between *start* and *stop*."""
        pieces = [np.empty(0, np.int64)]
        while start < stop:
            window = int(np.searchsorted(self._ends, start, side="right"))
            end = int(self._ends[window])
            rows = self._window(window)
            first = start - (end - len(rows))
            pieces.append(rows[first : first + stop - start])
            start = end
        return np.concatenate(pieces)

    def windows(self, start: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the windows of shuffled chunks, as `EpochOrder.windows` describes."""
        for window in range(int(np.searchsorted(self._ends, start, side="right")), len(self._ends)):
            yield int(self._ends[window - 1]) if window else 0, self._chunks_of(window)

    def _counts(self) -> Iterator[int]:
        absent = self._present.absent // self._chunk_rows
        for start in range(0, self._num_chunks, self._window_chunks):
            chunks = self._chunks_of(start // self._window_chunks)
            rows = np.minimum(
                self._chunk_rows, self._present.all_rows - chunks * self._chunk_rows
            ).sum()
            low, high = (np.searchsorted(absent, chunks, side=side) for side in ("left", "right"))
            yield int(rows - (high - low).sum())

    def _chunks_of(self, window: int) -> NDArray[np.int64]:
        start = window * self._window_chunks
        return self._chunks(np.arange(start, min(start + self._window_chunks, self._num_chunks)))

    def _window(self, window: int) -> NDArray[np.int64]:
        if self._cached_window[0] != window:
            starts = self._chunks_of(window) * self._chunk_rows
            rows = (starts[:, None] + np.arange(self._chunk_rows)).reshape(-1)
            rows = rows[rows < self._present.all_rows]
            rows = rows[~np.isin(rows, self._present.absent)]
            order = Permutation(len(rows), key(_WINDOW, *self._key_numbers, window))
            self._cached_window = (window, rows[order(np.arange(len(rows)))])
        return self._cached_window[1]
