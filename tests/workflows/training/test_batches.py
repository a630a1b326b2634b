"""Batches without end, and their parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.loader import Loader
from tests.workflows.training.small import small_store
from workflows.training.batches import Batches, parts, unchanged
from workflows.training.world import World


@given(rows=st.integers(1, 100), at_once=st.none() | st.integers(1, 120))
def test_parts_are_all_of_a_batch_and_bounded(rows: int, at_once: int | None) -> None:
    """One after the other, about as large as each other; their shares are one."""
    found = list(parts(rows, at_once))
    assert [row for part, _ in found for row in range(part.start, part.stop)] == [*range(rows)]
    sizes = [part.stop - part.start for part, _ in found]
    assert max(sizes) <= (at_once or rows)
    assert max(sizes) - min(sizes) <= 1
    assert sum(share for _, share in found) == pytest.approx(1)


def test_a_split_too_small_for_a_batch_is_not_waited_for(tmp_path: Path) -> None:
    """There would never be one."""
    store = small_store(tmp_path)
    loader = Loader(store, size=16, batch_size=64, rank=0, world=1)
    batches = Batches(loader, unchanged, World())
    with pytest.raises(StoreError, match="has 36 pictures to take batches of 64 from"):
        batches.take()
