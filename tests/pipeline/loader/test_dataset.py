"""A split behind torch's own DataLoader."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.loader import SplitDataset
from pipeline.store import arrays
from pipeline.store.objects import open_objects
from tests.pictures import make_folder, prepare_inline


@pytest.fixture(scope="module", params=["none", "zstd:3"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures, 2 of them broken."""
    folder = tmp_path_factory.mktemp("dataset")
    words: dict[str, Any] = {"sizes": (8,), "shard_rows": 8, "chunk_rows": 4}
    source = make_folder(folder / "train", 30, bad=2)
    prepare_inline(source, str(folder / "store"), **words, codec=request.param)
    return folder / "store"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_reads_every_readable_row(store: Path, workers: int) -> None:
    """In this process and in forked ones, whole batches at a time."""
    objects = open_objects(str(store))
    pixels = arrays.read_rows(objects, "train", 8, 0, 30)
    labels = arrays.read_small(objects, "train", "label")
    readable = np.flatnonzero(arrays.read_small(objects, "train", "status") == 0)
    data = SplitDataset(store, size=8)
    assert len(data) == 28
    seen = []
    for images, found, rows in DataLoader(data, batch_size=5, shuffle=True, num_workers=workers):
        assert images.dtype == torch.uint8
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), pixels[rows])
        assert found.tolist() == labels[rows].tolist()
        seen += rows.tolist()
    assert sorted(seen) == readable.tolist()


def test_it_is_a_small_value(store: Path) -> None:
    """Also after it was read."""
    data = SplitDataset(store, size=8)
    image, label, row = data[3]
    text = pickle.dumps(data)
    assert len(text) < 500
    again = pickle.loads(text)[3]
    assert torch.equal(again[0], image)
    assert again[1:] == (label, row)
    with pytest.raises(IndexError):
        data[28]
