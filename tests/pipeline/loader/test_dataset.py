"""A split behind a torch `DataLoader`."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.errors import StoreDamagedError
from pipeline.loader import dataset, row_reader
from pipeline.loader.dataset import SplitDataset
from pipeline.store import arrays, layout
from pipeline.store.open import open_objects
from tests.images import make_folder, prepare_inline


@pytest.fixture(scope="module", params=["none", "zstd:3"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a store of 30 images, 2 of them broken."""
    folder = tmp_path_factory.mktemp("dataset")
    words: dict[str, Any] = {"sizes": (8,), "shard_rows": 8, "chunk_rows": 4}
    source = make_folder(folder / "train", 30, bad=2)
    prepare_inline(source, str(folder / "store"), **words, codec=request.param)
    return folder / "store"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_reads_every_readable_row(store: Path, workers: int) -> None:
    """Rows are read in this process and in forked ones, a batch at a time."""
    objects = open_objects(str(store))
    pixels = arrays.read_pixel_rows(objects, "train", 8, 0, 30)
    labels = arrays.read_small(objects, "train", "label")
    readable = np.flatnonzero(arrays.read_small(objects, "train", "status") == 0)
    data = SplitDataset(store, size=8)
    assert len(data) == 28
    seen = []
    for images, batch_labels, rows in DataLoader(
        data, batch_size=5, shuffle=True, num_workers=workers
    ):
        assert images.dtype == torch.uint8
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), pixels[rows])
        assert batch_labels.tolist() == labels[rows].tolist()
        seen += rows.tolist()
    assert sorted(seen) == readable.tolist()


def test_a_dataset_is_small_when_pickled(store: Path) -> None:
    """A dataset that was read from is as small as a new one."""
    data = SplitDataset(store, size=8)
    image, label, row = data[3]
    text = pickle.dumps(data)
    assert len(text) < 500
    again = pickle.loads(text)[3]
    assert torch.equal(again[0], image)
    assert again[1:] == (label, row)
    with pytest.raises(IndexError):
        data[28]


def flip_pixel(store: Path) -> None:
    shard = store / layout.shard("train", 8, 2)
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_changed_pixels_are_an_error(store: Path, tmp_path: Path, workers: int) -> None:
    """The dataset can be read without verification, too."""
    copy = shutil.copytree(store, tmp_path / "store")
    flip_pixel(copy)
    words: dict[str, Any] = {"batch_size": 5, "num_workers": workers}
    with pytest.raises(StoreDamagedError, match=r"8/c\.2\.0\.0\.0 is damaged"):
        list(DataLoader(SplitDataset(copy, size=8), **words))
    undamaged = SplitDataset(store, size=8, checksum="never")
    assert len(list(DataLoader(undamaged, **words))) == 6


def test_workers_share_the_record_of_verified_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers of the next epoch, which are new processes, share the record, too."""
    source = make_folder(tmp_path / "train", 30)
    prepare_inline(source, str(tmp_path / "store"), sizes=(8,), shard_rows=8, chunk_rows=4)
    log = tmp_path / "log"
    check = row_reader.ShardFile.check_chunk

    def note(self: row_reader.ShardFile, chunk: int, data: Any) -> None:
        with log.open("a") as file:
            file.write(f"{self.name} {chunk}\n")
        check(self, chunk, data)

    monkeypatch.setattr(row_reader.ShardFile, "check_chunk", note)
    loader = DataLoader(SplitDataset(tmp_path / "store", size=8), batch_size=4, num_workers=1)
    for _ in range(3):
        list(loader)
    seen = log.read_text().splitlines()
    assert len(seen) == len(set(seen)) == 8


def test_chunks_beyond_memory_are_verified_on_request_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verification would read the chunk again for each of its rows."""
    source = make_folder(tmp_path / "train", 30)
    prepare_inline(source, str(tmp_path / "store"), sizes=(8,), shard_rows=8, chunk_rows=4)
    flip_pixel(tmp_path / "store")
    monkeypatch.setattr(dataset, "free_bytes", lambda: 1000)
    assert len([SplitDataset(tmp_path / "store", size=8)[n] for n in range(30)]) == 30
    with pytest.raises(StoreDamagedError):
        [SplitDataset(tmp_path / "store", size=8, checksum="once")[n] for n in range(30)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"checksum": "always"}, "checksum is 'always': expected one of auto, never, once"),
        ({"size": (224, 224)}, r"size is \(224, 224\): expected the side of a square in pixels"),
    ],
)
def test_invalid_arguments_are_refused(words: dict[str, Any], message: str) -> None:
    """The error is raised before the store is opened."""
    with pytest.raises(ValueError, match=message):
        SplitDataset("nowhere", **words)


def test_repr_shows_the_arguments(store: Path) -> None:
    """A repr does not open the store, while `classes` reads those of the store."""
    assert repr(SplitDataset("nowhere", "val", size=8)) == "SplitDataset('nowhere', 'val', size=8)"
    assert [wnid for wnid, _ in SplitDataset(store, size=8).classes] == [
        "n00000000", "n00000001", "n00000002",
    ]  # fmt: skip
