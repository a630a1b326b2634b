"""A split as a dask array has the same pixels, read block by block."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.loader import Loader
from pipeline.store import arrays, layout
from pipeline.store.open import open_objects
from pipeline.view import view
from tests.images import make_folder, plan_inline, prepare_inline

CHOICES: dict[str, Any] = {"sizes": (8,), "shard_rows": 8, "chunk_rows": 4}


@pytest.mark.parametrize(
    ("where", "codec"),
    [
        ("disk", "none"),
        ("memory", "zstd:1"),
        pytest.param("disk", "zstd:1", marks=pytest.mark.slow),
        pytest.param("memory", "none", marks=pytest.mark.slow),
    ],
)
def test_the_dask_array_equals_the_store(tmp_path: Path, where: str, codec: str) -> None:
    """All rows are equal, for any chunk size and any scheduler."""
    url = str(tmp_path / "store") if where == "disk" else f"memory://{tmp_path}/store"
    prepare_inline(make_folder(tmp_path / "train", 29, bad=2), url, **CHOICES, codec=codec)
    objects = open_objects(url)
    pixels = arrays.read_pixel_rows(objects, "train", 8, 0, 29)
    for chunk_rows, chunks in ((None, (8, 8, 8, 5)), (5, (5, 5, 5, 5, 5, 4)), (100, (29,))):
        viewed = view(url, size=8, chunk_rows=chunk_rows)
        assert viewed.images.chunks == (chunks, (8,), (8,), (3,))
        assert viewed.images.dtype == np.uint8
        for scheduler in ("synchronous", "threads"):
            with dask.config.set(scheduler=scheduler):
                assert np.array_equal(viewed.images.compute(), pixels)
                assert np.array_equal(viewed.images[3:17].compute(), pixels[3:17])
    assert np.array_equal(viewed.labels, arrays.read_small(objects, "train", "label"))
    assert np.array_equal(viewed.readable, arrays.read_small(objects, "train", "status") == 0)
    assert (~viewed.readable).sum() == 2
    mean = viewed.images[viewed.readable].mean(axis=(0, 1, 2)).compute(scheduler="synchronous")
    assert np.allclose(mean, pixels[viewed.readable].mean(axis=(0, 1, 2)))


def test_the_dask_graph_contains_no_pixels(tmp_path: Path) -> None:
    """A pickled array is small, and its name is reproducible."""
    prepare_inline(make_folder(tmp_path / "train", 20), str(tmp_path / "store"), **CHOICES)
    images = view(tmp_path / "store", size=8).images
    assert len(pickle.dumps(images)) < 20_000
    assert images.name == view(tmp_path / "store", size=8).images.name


def test_an_unfinished_split_is_refused(tmp_path: Path) -> None:
    """Rows of a shard that is not committed are zeros; a chunk of 0 rows is refused, too."""
    plan_inline(make_folder(tmp_path / "train", 20), str(tmp_path / "store"), **CHOICES)
    with pytest.raises(StoreError, match="not finished"):
        view(tmp_path / "store", size=8)
    prepare_inline(tmp_path / "train", str(tmp_path / "other"), **CHOICES)
    with pytest.raises(ValueError, match="chunk_rows is 0"):
        view(tmp_path / "other", size=8, chunk_rows=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, r"8/c\.1\.0\.0\.0 is missing"),
        (lambda file: file.write_bytes(bytes(len(file.read_bytes()))), r"train/8 are damaged"),
    ],
)
def test_pixels_of_a_damaged_shard_are_never_shown(
    tmp_path: Path, damage: Any, message: str
) -> None:
    """Zarr reads a missing shard as zeros; rows of intact shards can still be read."""
    store = tmp_path / "store"
    prepare_inline(make_folder(tmp_path / "train", 20), str(store), sizes=(8,))
    shard_rows = 8
    damage(store / "images.zarr" / "train" / "8" / "c.1.0.0.0")
    images = view(store, size=8).images
    assert images[:shard_rows].compute().any()
    with pytest.raises(StoreDamagedError, match=message):
        images[shard_rows : shard_rows + 1].compute()


@pytest.mark.parametrize("encoding", ["jpeg:16@90", "original"])
def test_encoded_rows_are_viewed_as_centre_squares(tmp_path: Path, encoding: str) -> None:
    """They equal those of a loader, in chunks that cross shards; quarantined rows are zeros."""
    store = str(tmp_path / "store")
    options = {**CHOICES, "sizes": (), "encoded": (encoding,)}
    prepare_inline(make_folder(tmp_path / "train", 29, bad=2), store, **options)
    loader = Loader(store, encoded=encoding, size=12, batch_size=29, drop_last=False, rank=0,
                    world=1)  # fmt: skip
    (batch,) = loader
    expected = np.zeros((29, 12, 12, 3), np.uint8)
    expected[batch.rows] = batch.images.permute(0, 2, 3, 1)  # type: ignore[union-attr]
    for chunk_rows in (None, 5, 100):
        viewed = view(store, size=12, encoded=encoding, chunk_rows=chunk_rows)
        assert np.array_equal(viewed.images.compute(scheduler="threads"), expected)
    assert (~viewed.readable).sum() == 2
    assert len(pickle.dumps(viewed.images)) < 20_000
    with pytest.raises(StoreError, match="no finished 8 px: it has"):
        view(store, size=8)
    with pytest.raises(ValueError, match="size is 0"):
        view(store, size=0, encoded=encoding)
    name = encoding.replace(":", "")
    (tmp_path / "store" / layout.encoded_shard("train", name, 1)).unlink()
    damaged = view(store, size=12, encoded=encoding).images
    assert damaged[:8].compute().any()
    with pytest.raises(StoreDamagedError, match="is missing or damaged"):
        damaged[8:9].compute()
