"""The order of rows is a promise to every existing store: golden values and laws."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order import ORDERS, EpochOrder, Permutation, epoch_order, key, row_order

MASK = 2**64 - 1
STEP = 0x9E3779B97F4A7C15

RANDOM_0 = [1, 7, 4, 2, 6, 9, 0, 8, 5, 3]
RANDOM_1 = [2, 3, 5, 1, 4, 6, 7, 0, 9, 8]
RANDOM_SEED_1 = [3, 1, 5, 9, 8, 7, 6, 4, 2, 0]
WINDOWED_0 = [1, 8, 4, 0, 5, 9, 2, 6, 3, 7]
WINDOWED_1 = [4, 5, 8, 3, 2, 1, 6, 7]


def plain_mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def plain_order(num_rows: int, seed: int) -> list[int]:
    def number(index: int) -> int:
        return plain_mix((plain_mix(seed) + index * 0x9E3779B97F4A7C15) & MASK)

    return sorted(range(num_rows), key=number)


def test_the_order_of_ten_rows_never_changes() -> None:
    """Every later version must read a store that is prepared today."""
    assert row_order(10, seed=0).tolist() == [0, 3, 5, 7, 9, 6, 2, 8, 1, 4]
    assert row_order(10, seed=1).tolist() == [8, 5, 9, 2, 3, 7, 0, 6, 1, 4]


@given(num_rows=st.integers(0, 300), seed=st.integers(0, MASK))
def test_the_order_is_the_documented_formula(num_rows: int, seed: int) -> None:
    """Plain Python integers give the same rows as the vectorised numbers."""
    assert row_order(num_rows, seed).tolist() == plain_order(num_rows, seed)


@given(num_rows=st.integers(0, 5000), seed=st.integers(0, MASK))
def test_every_sample_has_one_row(num_rows: int, seed: int) -> None:
    """The order is a permutation."""
    assert np.array_equal(np.sort(row_order(num_rows, seed)), np.arange(num_rows))


def test_sorted_classes_are_spread_evenly() -> None:
    """Each tenth of the rows has a tenth of each class."""
    order = row_order(100_000, seed=7)
    counts = np.histogram2d(order, np.arange(100_000), bins=10)[0]
    assert np.abs(counts - 1000).max() < 6 * np.sqrt(1000)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_beyond_64_bits_is_refused(seed: int) -> None:
    """Such a seed would silently equal another one."""
    with pytest.raises(ValueError, match="expected 0 to"):
        row_order(3, seed)


# --- an epoch -------------------------------------------------------------------------------------


def plain_key(*numbers: int) -> int:
    hashed = 0
    for number in numbers:
        hashed = plain_mix(((hashed ^ number) + STEP) & MASK)
    return hashed


def plain_permutation(size: int, hash_key: int) -> Callable[[int], int]:
    a = math.ceil(math.sqrt(size))
    b = -(-size // a)

    def move(index: int) -> int:
        row, column = divmod(index, b)
        for i in range(8):
            operand, modulus = (column, a) if i % 2 == 0 else (row, b)
            hashed = plain_mix((operand * STEP + plain_key(hash_key, i)) & MASK) >> 32
            if i % 2 == 0:
                row = (row + (hashed * modulus >> 32)) % a
            else:
                column = (column + (hashed * modulus >> 32)) % b
        cell = row * b + column
        return cell if cell < size else move(cell)

    return move


def everything(order: EpochOrder) -> list[int]:
    return [int(row) for row in order.rows(0, order.num_rows)]


def make(kind: str, num_rows: int, absent: set[int] | None = None, **options: int) -> EpochOrder:
    rows = np.array(sorted(absent or ()), np.int64)
    settings = {"seed": 0, "epoch": 0, "chunk_rows": 2, "window_chunks": 3, **options}
    return epoch_order(kind, num_rows=num_rows, excluded=rows, **settings)


def test_the_epochs_of_ten_rows_never_change() -> None:
    """A resumed run continues in the same order."""
    assert everything(make("random", 10)) == RANDOM_0
    assert everything(make("random", 10, epoch=1)) == RANDOM_1
    assert everything(make("random", 10, seed=1)) == RANDOM_SEED_1
    assert everything(make("windowed", 10)) == WINDOWED_0
    assert everything(make("windowed", 10, {0, 9}, epoch=1)) == WINDOWED_1
    assert everything(make("sequential", 6, {2, 3})) == [0, 1, 4, 5]


@given(size=st.integers(1, 3000), hash_key=st.integers(0, MASK), data=st.data())
def test_a_permutation_is_the_documented_formula(
    size: int, hash_key: int, data: st.DataObject
) -> None:
    """Plain Python integers give the same as the vectorised numbers."""
    numbers = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    permuted = Permutation(size, hash_key)(np.array(numbers, np.int64)).tolist()
    assert permuted == list(map(plain_permutation(size, hash_key), numbers))


@given(size=st.integers(0, 5000), hash_key=st.integers(0, MASK))
def test_permutation_is_a_bijection(size: int, hash_key: int) -> None:
    """Every number is mapped, and no two to the same one."""
    permuted = Permutation(size, hash_key)(np.arange(size))
    assert np.array_equal(np.sort(permuted), np.arange(size))


def test_permutation_of_a_large_size_has_no_duplicates() -> None:
    """A part of a hundred million numbers stays in range, without duplicates."""
    size = 100_000_007
    permuted = Permutation(size, 5)(np.arange(77_000_000, 77_200_000))
    assert len(np.unique(permuted)) == 200_000
    assert 0 <= permuted.min() <= permuted.max() < size


def test_all_permutations_of_four_are_equally_likely() -> None:
    """Each of the 24 has its share of 2,400 keys: chi-squared, 23 degrees, p = 1e-6."""
    seen = Counter(tuple(Permutation(4, k)(np.arange(4)).tolist()) for k in range(2_400))
    squares = sum((seen[p] - 100) ** 2 / 100 for p in permutations(range(4)))
    assert squares < 71


@given(
    kind=st.sampled_from(ORDERS),
    num_rows=st.integers(0, 300),
    chunk_rows=st.integers(1, 20),
    window_chunks=st.integers(1, 20),
    seed=st.integers(0, MASK),
    epoch=st.integers(0, MASK),
    data=st.data(),
)
def test_every_present_row_comes_once(
    kind: str,
    num_rows: int,
    chunk_rows: int,
    window_chunks: int,
    seed: int,
    epoch: int,
    data: st.DataObject,
) -> None:
    """Any part of an epoch equals that part of the whole epoch."""
    absent = data.draw(st.sets(st.integers(0, max(0, num_rows - 1)), max_size=num_rows))
    options = {"chunk_rows": chunk_rows, "window_chunks": window_chunks}
    order = make(kind, num_rows, absent, seed=seed, epoch=epoch, **options)
    rows = everything(order)
    assert sorted(rows) == sorted(set(range(num_rows)) - absent)
    assert order.num_rows == len(rows)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(rows))] * 2)))
    again = make(kind, num_rows, absent, seed=seed, epoch=epoch, **options)
    assert again.rows(start, stop).tolist() == rows[start:stop]


@given(
    kind=st.sampled_from(ORDERS),
    num_rows=st.integers(0, 300),
    chunk_rows=st.integers(1, 20),
    window_chunks=st.integers(1, 20),
    data=st.data(),
)
def test_windows_list_the_chunks_of_each_position(
    kind: str, num_rows: int, chunk_rows: int, window_chunks: int, data: st.DataObject
) -> None:
    """From any position on, no row is of another chunk, and no chunk is late or repeated."""
    absent = data.draw(st.sets(st.integers(0, max(0, num_rows - 1)), max_size=num_rows))
    order = make(kind, num_rows, absent, chunk_rows=chunk_rows, window_chunks=window_chunks)
    start = data.draw(st.integers(0, order.num_rows))
    windows = [(position, chunks.tolist()) for position, chunks in order.windows(start)]
    if kind == "random" or start == order.num_rows:
        assert not any(order.num_rows > position for position, _ in windows)
        return
    positions = [position for position, _ in windows]
    assert positions == sorted(positions)
    assert positions[0] <= start
    all_chunks = [chunk for _, chunks in windows for chunk in chunks]
    assert len(all_chunks) == len(set(all_chunks))
    assert all(len(chunks) <= window_chunks for _, chunks in windows)
    for (position, chunks), end in zip(windows, [*positions, order.num_rows][1:], strict=True):
        rows = order.rows(position, end)
        assert set((rows // chunk_rows).tolist()) <= set(chunks)


@given(num_rows=st.integers(1, 120), chunk_rows=st.integers(1, 9), window=st.integers(1, 9))
def test_a_window_consists_of_whole_chunks(num_rows: int, chunk_rows: int, window: int) -> None:
    """A window contains all rows of its chunks and no others."""
    order = make("windowed", num_rows, chunk_rows=chunk_rows, window_chunks=window)
    chunks = [row // chunk_rows for row in everything(order)]
    seen: list[set[int]] = []
    position = 0
    while position < num_rows:
        in_window: set[int] = set()
        while position < num_rows and (len(in_window) < window or chunks[position] in in_window):
            in_window.add(chunks[position])
            position += 1
        seen.append(in_window)
    assert sum(map(len, seen)) == len(set(chunks))


def test_seed_and_epoch_are_not_interchangeable() -> None:
    """Seed 1 in epoch 2 gives another order than seed 2 in epoch 1, for example."""
    orders = {
        tuple(everything(make("random", 50, seed=seed, epoch=epoch)))
        for seed in range(10)
        for epoch in range(10)
    }
    assert len(orders) == 100
    assert key(1, 2) != key(2, 1)


def test_a_random_epoch_is_independent_of_the_row_order() -> None:
    """Each tenth of the epoch has a tenth of each tenth of the rows."""
    rows = make("random", 100_000, epoch=3).rows(0, 100_000)
    counts = np.histogram2d(rows, np.arange(100_000), bins=10)[0]
    assert np.abs(counts - 1000).max() < 6 * np.sqrt(1000)
    ascents = np.mean(rows[1:] > rows[:-1])
    assert abs(ascents - 0.5) < 0.01


def test_consecutive_epochs_share_batches_by_chance_only() -> None:
    """Two rows of one batch share a batch of the next epoch as often as by chance."""
    first, second = (make("random", 20_000, epoch=e).rows(0, 20_000) // 1 for e in (0, 1))
    batch_of = np.empty(20_000, np.int64)
    batch_of[second] = np.arange(20_000) // 100
    again = batch_of[first].reshape(-1, 100)
    pairs = sum(int((np.bincount(batch) * (np.bincount(batch) - 1)).sum()) for batch in again)
    expected = 20_000 * 99 * 99 / 19_999
    assert abs(pairs / expected - 1) < 0.05


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"kind": "shuffled"}, "order is 'shuffled': expected one of random, windowed"),
        ({"kind": "random", "seed": -1}, "seed is -1: expected 0 to"),
        ({"kind": "random", "epoch": 2**64}, "epoch is 18446744073709551616: expected 0 to"),
    ],
)
def test_invalid_arguments_are_refused(words: dict[str, int], message: str) -> None:
    """The error contains the value and the expected values."""
    with pytest.raises(ValueError, match=message):
        make(**{"num_rows": 3, **words})  # type: ignore[arg-type]
