"""Tests of a loader's copy for images of another side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.loader import Batch, Loader, Reading
from tests.encoded import prepare_encoded
from tests.images import make_folder

ROWS = 53
ENCODED = "jpeg:24@90"
ORDERS: dict[str, dict[str, Any]] = {
    "random": {"order": "random"},
    "sequential": {"order": "sequential"},
    # windows of two chunks of 4 rows of 16 px
    "windowed": {"order": "windowed", "window_bytes": 2 * 4 * 3 * 16**2 + 100},
    "encoded": {"order": "random", "encoded": ENCODED, "crop": "resized"},
    "encoded windows": {"order": "windowed", "encoded": ENCODED, "window_bytes": 5_000},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 53 rows with squares of 8 and 16 px, and encoded rows."""
    folder = tmp_path_factory.mktemp("sizes")
    prepare_encoded(make_folder(folder / "source", ROWS), str(folder / "store"), (ENCODED,))
    return folder / "store"


def make_loader(store: Path, kind: str, size: int = 16, **choices: Any) -> Loader:
    """Return a loader of small batches in one of the orders."""
    arguments = {"batch_size": 6, "rank": 0, "world": 1, **ORDERS[kind], **choices}
    return Loader(store, size=size, **arguments)


def take(loader: Loader, batches: int) -> list[Batch]:
    """Return the next batches of a loader, across epochs."""
    batches_read: list[Batch] = []
    while len(batches_read) < batches:
        for batch in loader:
            batches_read.append(batch)
            if len(batches_read) == batches:
                break
    return batches_read


def rows(batches: list[Batch]) -> list[list[int]]:
    """Return the rows of each batch."""
    return [batch.rows.tolist() for batch in batches]


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize(
    "before", [3, 9, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 8, 13))]
)
def test_a_copy_goes_on_with_the_same_rows(store: Path, kind: str, before: int) -> None:
    """A copy goes on at the position of the original, within an epoch or at its end."""
    expected = take(make_loader(store, kind), before + 12)
    original = make_loader(store, kind)
    assert rows(take(original, before)) == rows(expected[:before])
    smaller = original.with_size(8)
    smaller.load_state_dict(original.state_dict())
    assert smaller.state_dict() == original.state_dict()
    continued = take(smaller, 12)
    assert rows(continued) == rows(expected[before:])
    for batch, expected_batch in zip(continued, expected[before:], strict=True):
        assert torch.equal(batch.labels, expected_batch.labels)
        assert batch.images.shape == (6, 3, 8, 8)  # type: ignore[union-attr]
    assert original.sizes == (16,)


@pytest.mark.parametrize("kind", ORDERS)
def test_the_images_are_those_of_a_loader_of_that_side(store: Path, kind: str) -> None:
    """The copy reads the array of its side; encoded rows give the same crops."""
    order = make_loader(store, kind)
    expected = make_loader(store, kind, 8, **(
        {"window_bytes": 2 * 4 * 3 * 8**2} if kind == "windowed" else {}
    ))  # fmt: skip
    for batch, expected_batch in zip(take(order.with_size(8), 10), take(expected, 10), strict=True):
        assert torch.equal(batch.rows, expected_batch.rows)
        assert torch.equal(batch.images, expected_batch.images)  # type: ignore[arg-type]


@given(
    window_bytes=st.integers(1, 40_000),
    sizes=st.lists(st.sampled_from([8, 16]), min_size=1, max_size=5),
)
def test_windows_keep_their_number_of_chunks(
    store: Path, window_bytes: int, sizes: list[int]
) -> None:
    """The order is the same for windows of any bytes, and any succession of sides."""
    loader = make_loader(store, "windowed", window_bytes=window_bytes)
    order = loader.epoch_order(1).rows(0, ROWS).tolist()
    for size in sizes:
        loader = loader.with_size(size)
        assert loader.epoch_order(1).rows(0, ROWS).tolist() == order


def test_a_copy_shares_nothing_that_changes(store: Path) -> None:
    """Position, open files and counts of reads are a copy's own."""
    original = make_loader(store, "random", reading=Reading(threads=1))
    take(original, 2)
    counts = dict(original.readers)
    copy = original.with_size(8)
    assert copy.readers == {}
    take(copy, 4)
    assert original.readers == counts
    assert sum(copy.readers.values()) >= 4
    assert (original.epoch, original.state_dict()["batch"]) == (0, 2)
    pair = Loader(store, sizes=(8, 16), batch_size=6, rank=0, world=1)
    assert isinstance(take(pair.with_size(8), 1)[0].images, torch.Tensor)
    assert isinstance(take(pair, 1)[0].images, tuple)


def test_an_unsuitable_side_is_refused(store: Path) -> None:
    """A side that is none, is not stored or is too large for encoded rows is refused."""
    loader = make_loader(store, "random")
    with pytest.raises(ValueError, match="size"):
        loader.with_size(0)
    with pytest.raises(StoreError, match="12"):
        take(loader.with_size(12), 1)
    with pytest.raises(ValueError, match="sizes are"):
        make_loader(store, "encoded").with_size(5_000)
