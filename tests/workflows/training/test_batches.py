"""Tests of the endless stream of batches and of micro-batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError, StoreMismatchError
from pipeline.loader import Loader
from tests.workflows.training.small import ENCODED, small_store
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


@pytest.mark.parametrize("encoded", [None, ENCODED])
def test_two_ranks_see_the_sequence_that_one_sees(tmp_path: Path, encoded: str | None) -> None:
    """The parts of two ranks are the batches of one, also after a stop in the second epoch."""
    store = small_store(tmp_path, encoded=() if encoded is None else (encoded,))
    loader = Loader(store, size=16, encoded=encoded, batch_size=8, seed=3)
    one = Batches(loader, no_augmentation, World())
    expected = [one.take() for _ in range(11)]
    one.close()
    parts = []
    for rank in range(2):
        world = World(rank=rank, size=2)
        stopped = Batches(loader, no_augmentation, world, ranks_on_host=2)
        before = [stopped.take() for _ in range(6)]
        resumed = Batches(loader, no_augmentation, world, ranks_on_host=2)
        resumed.load_state_dict(stopped.state_dict())
        stopped.close()
        parts.append([*before, *(resumed.take() for _ in range(5))])
        resumed.close()
    for whole, first, second in zip(expected, *parts, strict=True):
        for tensor, *halves in zip(whole, first, second, strict=True):
            assert torch.equal(tensor, torch.cat(halves))


@pytest.mark.parametrize("order", ["random", "windowed"])
@pytest.mark.parametrize("encoded", [None, ENCODED])
def test_a_stream_goes_on_with_images_of_another_side(
    tmp_path: Path, encoded: str | None, order: str
) -> None:
    """The rows are those of an unchanged stream, in every rank, and the wait is summed up."""
    more = {"sizes": (8, 16)} if encoded is None else {"encoded": (encoded,)}
    store = small_store(tmp_path, **more)  # type: ignore[arg-type]
    loader = Loader(store, size=16, encoded=encoded, batch_size=8, seed=3, order=order)
    for rank in range(2):
        world = World(rank=rank, size=2)
        unchanged, changed = (Batches(loader, no_augmentation, world) for _ in range(2))
        for step in range(11):  # an epoch has four batches
            if step in (2, 4, 8):
                before = changed.state_dict(), changed.wait_seconds, changed.rows_taken
                side = 8 if changed.loader.sizes == (16,) else 16  # type: ignore[union-attr]
                changed.read_from(loader.with_size(side).for_rank(rank, 2), no_augmentation)
                after = changed.state_dict(), changed.wait_seconds, changed.rows_taken
                assert after == before
            batch, expected = changed.take(), unchanged.take()
            assert torch.equal(batch.rows, expected.rows)
            assert torch.equal(batch.labels, expected.labels)
            assert batch.images.shape[2] == (8 if step in (2, 3) or step >= 8 else 16)
            assert changed.state_dict() == unchanged.state_dict()
        changed.close()
        unchanged.close()


def test_a_stream_of_other_rows_is_refused(tmp_path: Path) -> None:
    """The stream is unchanged then."""
    store = small_store(tmp_path)
    loader = Loader(store, size=16, batch_size=8, rank=0, world=1)
    batches = Batches(loader, no_augmentation, World())
    batches.take()
    before = batches.state_dict()
    with pytest.raises(StoreMismatchError, match="seed is 0 in the state, 1 here"):
        batches.read_from(Loader(store, size=16, batch_size=8, seed=1), no_augmentation)
    assert batches.state_dict() == before
    batches.take()
    assert batches.state_dict()["batch"] == 2
    batches.close()


def test_a_rank_decodes_on_the_cores_of_its_own_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be more than those of the machine of the command; copies need few threads."""
    loaders = [Loader(tmp_path, size=16, encoded=encoded) for encoded in (ENCODED, None)]
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(24)))
    assert [loader.for_rank(0, 64).threads for loader in loaders] == [24, 4]


def test_a_stage_may_take_all_sizes(tmp_path: Path) -> None:
    """They show the same rows, in the order of the loader's sizes, and `take` takes the first."""
    store = small_store(tmp_path, sizes=(8, 16))
    loader = Loader(store, sizes=(8, 16), batch_size=8, seed=3)
    both, first, alone = (
        Batches(loader),
        Batches(loader),
        Batches(Loader(store, size=16, batch_size=8, seed=3)),
    )
    for step in range(6):  # an epoch has four batches
        batch, expected, of_first = both.take_sizes(), alone.take_sizes(), first.take()
        assert [tuple(images.shape) for images in batch.images] == [(8, 3, 8, 8), (8, 3, 16, 16)]
        assert torch.equal(batch.images[1], expected.images[0])
        assert torch.equal(batch.rows, expected.rows)
        assert torch.equal(batch.labels, expected.labels)
        assert batch.epoch == expected.epoch == step // 4
        assert torch.equal(of_first.images, batch.images[0])
    assert both.state_dict() == first.state_dict()
    for batches in (both, first, alone):
        batches.close()
