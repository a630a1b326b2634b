"""The order of rows is a promise to every store that exists: golden values, and its laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order import row_order

MASK = 2**64 - 1


def plain_mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def plain_order(num_rows: int, seed: int) -> list[int]:
    def number(place: int) -> int:
        return plain_mix((plain_mix(seed) + place * 0x9E3779B97F4A7C15) & MASK)

    return sorted(range(num_rows), key=number)


def test_the_order_of_ten_rows_never_changes() -> None:
    """A store made today must be read by every later version."""
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


def test_neighbours_in_the_listing_become_strangers() -> None:
    """Sorted classes are spread evenly: each tenth of the rows has a tenth of each class."""
    order = row_order(100_000, seed=7)
    counts = np.histogram2d(order, np.arange(100_000), bins=10)[0]
    assert np.abs(counts - 1000).max() < 6 * np.sqrt(1000)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_beyond_64_bits_is_refused(seed: int) -> None:
    """It would silently be another seed."""
    with pytest.raises(ValueError, match="expected 0 to"):
        row_order(3, seed)
