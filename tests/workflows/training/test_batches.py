"""Tests of the endless stream of batches and of micro-batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.loader import Loader
from tests.workflows.training.small import small_store
from workflows.training.batches import Batches, micro_batches, no_augmentation
from workflows.training.world import World


@given(rows=st.integers(1, 100), at_once=st.none() | st.integers(1, 120))
def test_micro_batches_cover_a_batch_and_are_bounded(rows: int, at_once: int | None) -> None:
    """Micro-batches are consecutive and of nearly equal length; their shares sum to one."""
    parts = list(micro_batches(rows, at_once))
    assert [row for part, _ in parts for row in range(part.start, part.stop)] == [*range(rows)]
    sizes = [part.stop - part.start for part, _ in parts]
    assert max(sizes) <= (at_once or rows)
    assert max(sizes) - min(sizes) <= 1
    assert sum(share for _, share in parts) == pytest.approx(1)


def test_a_split_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    """A split without a whole batch is refused, since no batch would ever come."""
    store = small_store(tmp_path)
    loader = Loader(store, size=16, batch_size=64, rank=0, world=1)
    batches = Batches(loader, no_augmentation, World())
    with pytest.raises(StoreError, match="has 36 readable images, fewer than a batch of 64"):
        batches.take()
