"""A loader of features has the interface of `Loader`."""

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


def test_an_epoch_has_every_readable_row_once(store: Path, trunk: Path) -> None:
    """Each row comes with its features and its label, for any number of ranks."""
    name = make(store, trunk)
    opened = open_features(store, name, "train")
    for world in (1, 2, 3):
        loaders = [
            FeatureLoader(store, name, batch_size=6, drop_last=False, rank=rank, world=world)
            for rank in range(world)
        ]
        seen = []
        for parts in zip(*loaders, strict=True):
            for images, labels, rows in parts:
                assert np.array_equal(images.numpy(), opened.rows(rows.numpy()))
                assert labels.tolist() == opened.split.labels[rows.numpy()].tolist()
            seen.append([row for _, _, rows in parts for row in rows.tolist()])
        assert sorted(row for batch in seen for row in batch) == opened.readable.tolist()
        assert [len(batch) for batch in seen] == [6, 6, 6, 1]
        if world == 1:
            alone = seen
        assert seen == alone


def test_only_the_selected_classes_are_returned(store: Path, trunk: Path) -> None:
    """No epoch has a row of another class."""
    loader = FeatureLoader(store, make(store, trunk), batch_size=3, include_labels=[0, 2])
    labels = {label for _ in range(3) for batch in loader for label in batch.labels.tolist()}
    assert labels == {0, 2}
    assert loader.num_rows == int(np.isin(loader.labels[loader.features.readable], [0, 2]).sum())
    with pytest.raises(ValueError, match="labels are 0 to 3: expected 0 to 2"):
        len(FeatureLoader(store, loader.name, include_labels=[0, 3]))


def test_a_loader_resumes_at_the_next_batch(store: Path, trunk: Path) -> None:
    """The loader may be in a later epoch; a state of other options is refused."""
    name = make(store, trunk)
    loader = FeatureLoader(store, name, batch_size=4, seed=5)
    list(loader)
    batches = iter(loader)
    next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    remaining = [batch.rows.tolist() for batch in batches]
    resumed = FeatureLoader(store, name, batch_size=4, seed=5)
    resumed.load_state_dict(state)
    assert [batch.rows.tolist() for batch in resumed] == remaining
    with pytest.raises(StoreMismatchError, match="seed is 5 in the state, 6 here"):
        FeatureLoader(store, name, batch_size=4, seed=6).load_state_dict(state)


def test_half_of_an_epoch_is_mirrored(store: Path, trunk: Path) -> None:
    """The choice of rows does not depend on the batch size, and differs between epochs."""
    name = make(store, trunk, kinds=BOTH)
    opened = open_features(store, name, "train")

    def mirrored(batch_size: int, epoch: int) -> set[int]:
        loader = FeatureLoader(store, name, batch_size=batch_size, mirrored=True, drop_last=False)
        loader.set_epoch(epoch)
        mirrored_numbers = set()
        for images, _, rows in loader:
            plain_rows, mirrored_rows = (opened.rows(rows.numpy(), kind) for kind in opened.kinds)
            is_mirrored = (images.numpy() == mirrored_rows).all(1)
            assert ((images.numpy() == plain_rows).all(1) | is_mirrored).all()
            mirrored_numbers |= set(rows[torch.from_numpy(is_mirrored)].tolist())
        return mirrored_numbers

    assert mirrored(4, 0) == mirrored(7, 0)
    assert mirrored(4, 0) != mirrored(4, 1)
    assert 3 <= len(mirrored(4, 0)) <= 16


def test_invalid_arguments_are_refused_before_files_are_opened() -> None:
    """The order must exist, and a batch needs a row for each rank, also of a later world."""
    with pytest.raises(ValueError, match="order is 'windowed': expected one of random, sequential"):
        FeatureLoader("nowhere", "none", order="windowed")
    with pytest.raises(ValueError, match="batch_size is 0: expected at least one row for each of"):
        FeatureLoader("nowhere", "none", batch_size=0)
    loader = FeatureLoader("nowhere", "none", batch_size=2)
    with pytest.raises(ValueError, match="for each of 3 ranks"):
        loader.for_rank(0, 3)


def test_features_that_changed_on_the_disk_are_an_error(store: Path, trunk: Path) -> None:
    """Each chunk is compared with its checksum when one of its rows is first read."""
    name = make(store, trunk)
    shard = store / layout.FEATURES.shard(name, "train", "plain", 1)
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


def test_epochs_and_states_behave_as_in_other_loaders(store: Path, trunk: Path) -> None:
    """`set_epoch` keeps a loaded position, empty epochs are errors, states hold plain numbers."""
    name = make(store, trunk)
    loader = FeatureLoader(store, name, batch_size=np.int64(4), seed=np.int64(3))  # type: ignore[arg-type]
    batches = iter(loader)
    next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    remaining = [batch.rows.tolist() for batch in batches]
    again = FeatureLoader(store, name, batch_size=4, seed=3)
    again.load_state_dict(state)
    again.set_epoch(0)
    assert [batch.rows.tolist() for batch in again] == remaining
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
    with pytest.raises(TypeError, match=r"yields whole batches\. Iterate it directly"):
        loader[0]


def test_an_endless_iteration_yields_one_epoch_after_the_other(store: Path, trunk: Path) -> None:
    """Batches and position are those of separate iterations, after a state, too."""
    name = make(store, trunk)
    separate = FeatureLoader(store, name, batch_size=4)
    endless = FeatureLoader(store, name, batch_size=4)
    state = {**separate.state_dict(), "epoch": 2, "batch": 1}
    for loader in (separate, endless):
        loader.load_state_dict(state)
    iterator = endless.endless()
    for _ in range(3):
        for expected in separate:
            batch = next(iterator)
            assert torch.equal(batch.rows, expected.rows)
            assert torch.equal(batch.images, expected.images)  # type: ignore[arg-type]
            assert endless.state_dict() == separate.state_dict()
    assert endless.epoch == 4
