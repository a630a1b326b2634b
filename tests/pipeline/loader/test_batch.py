"""A batch keeps its weight and its boxes wherever it is moved, or says that they are lost."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.loader import Batch, Loader
from tests.encoded import prepare_encoded
from tests.images import make_folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a store of 7 images, as squares and as encoded rows."""
    folder = tmp_path_factory.mktemp("batch")
    source = make_folder(folder / "train", 7)
    choices: dict[str, Any] = {"sizes": (8, 16), "shard_rows": 8, "chunk_rows": 4}
    prepare_encoded(source, str(folder / "store"), ["jpeg:24@80"], **choices)
    return folder / "store"


KINDS: dict[str, dict[str, Any]] = {
    "squares": {"size": 8},
    "two sizes": {"sizes": (8, 16)},
    "boxes": {"size": 8, "encoded": "jpeg:24@80", "boxes": True},
}


def last_batch(store: Path, kind: str) -> Batch:
    """Return the part of one of 2 ranks of the last batch, which has 3 rows."""
    loader = Loader(store, batch_size=4, drop_last=False, rank=1, world=2, **KINDS[kind])
    return list(loader)[-1]


def lightning(batch: Batch) -> Any:
    library = pytest.importorskip("lightning_fabric.utilities.apply_func")
    return library.move_data_to_device(batch, torch.device("meta"))


def accelerate(batch: Batch) -> Any:
    library = pytest.importorskip("accelerate.utils")
    return library.send_to_device(batch, torch.device("meta"), non_blocking=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "move", [lambda batch: batch.to("meta"), lightning, accelerate],
    ids=["to", "lightning", "accelerate"],
)  # fmt: skip
def test_a_moved_batch_is_whole(store: Path, kind: str, move: Callable[[Batch], Any]) -> None:
    """By a call of a program, or by the trainers that move whole batches."""
    batch = last_batch(store, kind)

    moved = move(batch)

    assert type(moved) is Batch
    assert moved.row_weight == batch.row_weight == 2 / 3
    pairs = [(batch.labels, moved.labels), (batch.rows, moved.rows), (batch.boxes, moved.boxes)]
    if isinstance(batch.images, tuple):
        assert isinstance(moved.images, tuple)
        pairs += zip(batch.images, moved.images, strict=True)
    else:
        pairs.append((batch.images, moved.images))
    for before, after in pairs:
        assert (before is None) == (after is None)
        if before is not None:
            assert (after.device.type, after.shape) == ("meta", before.shape)
            assert after.dtype == before.dtype


REBUILT: dict[str, Callable[[Batch], Batch]] = {
    "replaced": lambda batch: batch._replace(labels=batch.labels + 1),
    "made": lambda batch: type(batch)(*batch),
}


@pytest.mark.parametrize("rebuild", REBUILT.values(), ids=REBUILT)
@pytest.mark.parametrize("name", ["row_weight", "boxes"])
def test_a_rebuilt_batch_does_not_pretend_to_have_a_weight(
    store: Path, rebuild: Callable[[Batch], Batch], name: str
) -> None:
    """A weight of 1 would make a sum of what is meant to be a mean."""
    with pytest.raises(AttributeError, match=f"has lost its {name}.* method `to`"):
        getattr(rebuild(last_batch(store, "boxes")), name)
    with pytest.raises(AttributeError, match="no attribute 'weight'"):
        last_batch(store, "boxes").weight  # type: ignore[attr-defined]  # noqa: B018


def test_a_pickled_batch_is_whole(store: Path) -> None:
    """A queue between processes pickles it."""
    batch = last_batch(store, "boxes")
    assert batch.boxes is not None

    copy = pickle.loads(pickle.dumps(batch))

    assert (type(copy), copy.row_weight) == (Batch, 2 / 3)
    assert torch.equal(copy.boxes, batch.boxes)
    assert torch.equal(copy.images, batch.images)  # type: ignore[arg-type]
