"""A loader of features has the face of `Loader`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.features.loader import FeatureLoader
from pipeline.features.reader import open_features
from pipeline.store import layout
from tests.pipeline.features.small import BOTH, make


def test_an_epoch_is_every_readable_row_once(store: Path, trunk: Path) -> None:
    """With its features and its label, for any number of ranks."""
    name = make(store, trunk)
    found = open_features(store, name, "train")
    for world in (1, 2, 3):
        loaders = [
            FeatureLoader(store, name, batch_size=6, drop_last=False, rank=rank, world=world)
            for rank in range(world)
        ]
        seen = []
        for parts in zip(*loaders, strict=True):
            for images, labels, rows in parts:
                assert np.array_equal(images.numpy(), found.rows(rows.numpy()))
                assert labels.tolist() == found.split.labels[rows.numpy()].tolist()
            seen.append([row for _, _, rows in parts for row in rows.tolist()])
        assert sorted(row for batch in seen for row in batch) == found.readable.tolist()
        assert [len(batch) for batch in seen] == [6, 6, 6, 1]
        if world == 1:
            alone = seen
        assert seen == alone


def test_only_some_classes_are_handed_out(store: Path, trunk: Path) -> None:
    """No row of another, in any epoch."""
    loader = FeatureLoader(store, make(store, trunk), batch_size=3, only=[0, 2])
    labels = {label for _ in range(3) for batch in loader for label in batch.labels.tolist()}
    assert labels == {0, 2}
    assert loader.num_rows == int(np.isin(loader.labels[loader.features.readable], [0, 2]).sum())
    with pytest.raises(ValueError, match="labels are 0 to 3: expected 0 to 2"):
        len(FeatureLoader(store, loader.name, only=[0, 3]))


def test_it_goes_on_where_it_was(store: Path, trunk: Path) -> None:
    """Right behind the last batch, in another epoch too; and not elsewhere."""
    name = make(store, trunk)
    loader = FeatureLoader(store, name, batch_size=4, seed=5)
    list(loader)
    batches = iter(loader)
    next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = [batch.rows.tolist() for batch in batches]
    other = FeatureLoader(store, name, batch_size=4, seed=5)
    other.load_state_dict(state)
    assert [batch.rows.tolist() for batch in other] == rest
    with pytest.raises(StoreMismatchError, match="seed is 5 in the state, 6 here"):
        FeatureLoader(store, name, batch_size=4, seed=6).load_state_dict(state)


def test_half_of_an_epoch_is_mirrored(store: Path, trunk: Path) -> None:
    """The same rows whatever the batches; others in another epoch."""
    name = make(store, trunk, kinds=BOTH)
    found = open_features(store, name, "train")

    def mirrored(batch_size: int, epoch: int) -> set[int]:
        loader = FeatureLoader(store, name, batch_size=batch_size, mirrored=True, drop_last=False)
        loader.set_epoch(epoch)
        turned = set()
        for images, _, rows in loader:
            plain, other = (found.rows(rows.numpy(), kind) for kind in found.kinds)
            is_other = (images.numpy() == other).all(1)
            assert ((images.numpy() == plain).all(1) | is_other).all()
            turned |= set(rows[torch.from_numpy(is_other)].tolist())
        return turned

    assert mirrored(4, 0) == mirrored(7, 0)
    assert mirrored(4, 0) != mirrored(4, 1)
    assert 3 <= len(mirrored(4, 0)) <= 16


def test_what_makes_no_sense_is_said_before_anything_is_opened() -> None:
    """An order that features are not read in; fewer rows than ranks, also of a world to come."""
    with pytest.raises(ValueError, match="order is 'windowed': expected one of random, sequential"):
        FeatureLoader("nowhere", "none", order="windowed")
    with pytest.raises(ValueError, match="batch_size is 0: expected at least one row for each of"):
        FeatureLoader("nowhere", "none", batch_size=0)
    loader = FeatureLoader("nowhere", "none", batch_size=2)
    with pytest.raises(ValueError, match="for each of 3 ranks"):
        loader.for_rank(0, 3)


def test_features_that_changed_on_the_disk_are_an_error(store: Path, trunk: Path) -> None:
    """Each chunk is compared with its checksum when a row of it is first wanted."""
    name = make(store, trunk)
    shard = store / layout.features_shard(name, "train", "plain", 1)
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    shard.write_bytes(data)
    try:
        with pytest.raises(StoreDamagedError, match=r"c\.1\.0 is damaged \(chunk 0\)"):
            list(FeatureLoader(store, name, batch_size=4))
    finally:
        data[7] ^= 1
        shard.write_bytes(data)
    assert len(list(FeatureLoader(store, name, batch_size=4))) == 4


def test_its_epochs_obey_the_laws_of_all_loaders(store: Path, trunk: Path) -> None:
    """`set_epoch` keeps a loaded place, no batch is an error, numbers are plain in the state."""
    name = make(store, trunk)
    loader = FeatureLoader(store, name, batch_size=np.int64(4), seed=np.int64(3))  # type: ignore[arg-type]
    batches = iter(loader)
    next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = [batch.rows.tolist() for batch in batches]
    again = FeatureLoader(store, name, batch_size=4, seed=3)
    again.load_state_dict(state)
    again.set_epoch(0)
    assert [batch.rows.tolist() for batch in again] == rest
    with pytest.raises(StoreError, match=r"batch_size is 64 and drop_last is True: .* no batch"):
        list(FeatureLoader(store, name, batch_size=64))
    parts = [
        FeatureLoader(store, name, batch_size=6, drop_last=False, rank=r, world=4) for r in range(4)
    ]
    for batch in zip(*parts, strict=True):
        rows = torch.cat([part.rows for part in batch]).double()
        means = [(part.rows.double() * part.row_weight).sum() for part in batch]
        assert float(torch.stack(means).mean()) == pytest.approx(float(rows.mean()))
    assert repr(loader).startswith(f"FeatureLoader({str(store)!r}, 'train', features={name!r}")
    with pytest.raises(TypeError, match="hands out whole batches and is iterated itself"):
        loader[0]
