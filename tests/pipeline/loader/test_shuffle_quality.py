"""The measures of shuffle quality, for perfect shuffles and for others."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.loader.shuffle_quality import recurring_pair_ratio, same_class_ratio
from pipeline.order import EpochOrder, epoch_order


def order(kind: str, num_rows: int, **words: Any) -> EpochOrder:
    arguments = {"seed": 0, "epoch": 0, "excluded": np.empty(0, np.int64), **words}
    return epoch_order(kind, num_rows=num_rows, **arguments)


@pytest.mark.parametrize("kind", ["random", "windowed"])
def test_random_and_windowed_orders_mix_a_shuffled_store(kind: str) -> None:
    """The factor is 1.00 +- 0.01 for 200 classes in random store order."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(200), 1_000)).astype(np.int32)
    epoch = order(kind, len(labels), chunk_rows=16, window_chunks=400)
    assert same_class_ratio(epoch, labels, 256) == pytest.approx(1, abs=0.01)


def test_sorted_rows_in_sequential_order_are_not_mixed() -> None:
    """Each batch has one class, so the factor is 1 over the share of a class."""
    labels = np.repeat(np.arange(10), 100).astype(np.int32)
    factor = same_class_ratio(order("sequential", 1000), labels, 50)
    assert factor == pytest.approx(999 / 99)


def test_the_same_order_has_the_maximum_recurrence() -> None:
    """The recurrence of different orders is that of chance."""
    same = recurring_pair_ratio(order("random", 1000), order("random", 1000), 50)
    assert same == pytest.approx(999 / 49)
    different = recurring_pair_ratio(order("random", 50_000), order("random", 50_000, epoch=1), 250)
    assert different == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("batch", [1, 0, -1])
def test_rows_without_company_have_no_recurrence(batch: int) -> None:
    """A batch of one row has no pairs."""
    with pytest.raises(ValueError, match=f"batch_size is {batch}: expected at least 2"):
        recurring_pair_ratio(order("random", 10), order("random", 10), batch)


@given(num_rows=st.integers(4, 60), batch=st.integers(2, 10), classes=st.integers(1, 5))
def test_the_measures_are_counts_of_pairs(num_rows: int, batch: int, classes: int) -> None:
    """Each measure equals a count over all single pairs."""
    absent = np.array([1, 3])
    first = order("random", num_rows, excluded=absent)
    second = order("random", num_rows, excluded=absent, epoch=1)
    labels = (np.arange(num_rows) % classes).astype(np.int32)

    def batches(epoch: EpochOrder) -> list[list[int]]:
        rows = epoch.rows(0, epoch.num_rows).tolist()
        return [rows[i : i + batch] for i in range(0, len(rows) - batch + 1, batch)]

    def pairs(epoch: EpochOrder) -> set[frozenset[int]]:
        return {frozenset(pair) for rows in batches(epoch) for pair in combinations(rows, 2)}

    everyone = [frozenset(p) for p in combinations(first.rows(0, first.num_rows).tolist(), 2)]

    def same(candidates: Any) -> int:
        return sum(len({int(labels[row]) for row in pair}) == 1 for pair in candidates)

    if not pairs(first):
        assert np.isnan(same_class_ratio(first, labels, batch))
        return
    both = len(pairs(first) & pairs(second))
    chance = len(pairs(first)) * len(pairs(second)) / len(everyone)
    assert recurring_pair_ratio(first, second, batch) == pytest.approx(both / chance)
    expected = len(pairs(first)) * same(everyone) / len(everyone)
    factor = same_class_ratio(first, labels, batch)
    assert (
        np.isnan(factor) if not expected else factor == pytest.approx(same(pairs(first)) / expected)
    )
