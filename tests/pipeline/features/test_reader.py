"""Features are read by us and by any reader of zarr, the same; or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.features.reader import open_features
from pipeline.store import features, layout
from pipeline.store.objects import open_objects
from tests.pipeline.features.small import BOTH, DIM, ROWS, make


def test_rows_come_in_the_order_in_which_they_are_asked_for(store: Path, trunk: Path) -> None:
    """Twice, if they are asked for twice."""
    found = open_features(store, make(store, trunk, kinds=BOTH), "train")
    rows = np.arange(ROWS)
    order = np.array([20, 3, 3, 8, 0])
    assert np.array_equal(found.rows(order), found.rows(rows)[order])
    assert found.rows(np.array([], np.int64)).shape == (0, DIM)
    assert (found.dim, len(found), found.kinds) == (DIM, ROWS, BOTH)
    assert not np.array_equal(found.rows(rows), found.rows(rows, "mirrored"))


def test_rows_that_are_not_there_are_refused(store: Path, trunk: Path) -> None:
    """Also those that zarr has filled the last chunk with."""
    found = open_features(store, make(store, trunk), "train")
    for rows in ([ROWS], [-1], [0, 100]):
        with pytest.raises(ValueError, match=f"expected 0 to {ROWS - 1}"):
            found.rows(np.array(rows))
    with pytest.raises(StoreError, match="mirrored ones are missing"):
        found.rows(np.arange(2), "mirrored")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_any_reader_of_zarr_opens_them(store: Path, trunk: Path, dtype: str) -> None:
    """zarr-python and tensorstore, bit for bit; and shards are byte for byte what zarr writes."""
    name = make(store, trunk, dtype=dtype)
    found = open_features(store, name, "train").rows(np.arange(ROWS))
    path = store / layout.features_array(name, "train", "plain")
    root = zarr.open_group(store / layout.FEATURES / name / "features.zarr", mode="r")
    opened = root["train/plain"]
    assert isinstance(opened, zarr.Array)
    assert (opened.dtype, opened.shape) == (dtype, (ROWS, DIM))
    assert (opened.shards, opened.chunks) == ((8, DIM), (4, DIM))
    assert np.array_equal(np.asarray(opened[:]).astype(np.float32), found)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    other = tensorstore.open(spec).result().read().result()
    assert np.array_equal(other.astype(np.float32), found)
    again = Path(shutil.copytree(path, store.parent / "again"))
    for shard in again.glob("c.*"):
        shard.unlink()
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(again, mode="r+")[:] = opened[:]
    assert len(list(path.glob("c.*"))) == 3
    for shard in path.glob("c.*"):
        assert (again / shard.name).read_bytes() == shard.read_bytes()


def test_what_is_not_there_is_refused(store: Path, trunk: Path) -> None:
    """None of the name, with those that are; none of the split; not finished; renamed."""
    name = make(store, trunk, shards=[0, 2], finish=False)
    with pytest.raises(StoreError, match=f"has no features 'none': it has {name}"):
        open_features(store, "none", "train")
    with pytest.raises(StoreError, match="of split 'train' are not finished"):
        open_features(store, name, "train")
    make(store, trunk)
    with pytest.raises(StoreError, match="of split 'val' are not finished"):
        open_features(store, name, "val")
    folder = store / layout.FEATURES / name
    folder.rename(folder.with_name("mine"))
    with pytest.raises(StoreMismatchError, match=f"is of features {name}: their name says"):
        open_features(store, "mine", "train")


def test_features_of_another_store_are_refused(store: Path, trunk: Path, tmp_path: Path) -> None:
    """Whose pictures are others, though they have as many rows."""
    from tests.pictures import make_folder, prepare_inline

    name = make(store, trunk)
    other = tmp_path / "other"
    prepare_inline(make_folder(tmp_path / "images", ROWS, bad=1), str(other), sizes=(8, 16))
    shutil.copytree(store / layout.FEATURES, other / layout.FEATURES)
    with pytest.raises(StoreMismatchError, match="are of other images"):
        open_features(other, name, "train")


def test_a_shard_that_is_not_whole_is_refused(store: Path, trunk: Path) -> None:
    """When rows of it are first wanted; another that was mapped before stays as it was."""
    name = make(store, trunk)
    shard = store / layout.features_shard(name, "train", "plain", 1)
    before = open_features(store, name, "train")
    rows = before.rows(np.arange(ROWS))
    data = shard.read_bytes()
    for other in (data[:-1], data[:-9] + bytes(9), data + b"x", b""):
        spoilt = shard.with_name("other")
        spoilt.write_bytes(other)
        spoilt.replace(shard)
        with pytest.raises(StoreDamagedError, match=r"c\.1\.0 is (damaged|missing)"):
            open_features(store, name, "train").rows(np.arange(ROWS))
        assert np.array_equal(before.rows(np.arange(ROWS)), rows)
    shard.unlink()
    with pytest.raises(StoreDamagedError, match=r"c\.1\.0 is missing\. Run the same"):
        open_features(store, name, "train").rows(np.array([9]))
    assert np.array_equal(open_features(store, name, "train").rows(np.array([3])), rows[3:4])


def test_damaged_records_say_how_to_make_them_anew(store: Path, trunk: Path) -> None:
    """Not by `tesserae repair`, which knows nothing of networks."""
    name = make(store, trunk)
    for file in (layout.features_recipe(name), layout.features_done(name, "train")):
        data = (store / file).read_bytes()
        (store / file).write_bytes(data.replace(b'"', b"'", 1))
        with pytest.raises(StoreDamagedError, match="Run the same `tesserae features` again"):
            open_features(store, name, "train")
        (store / file).write_bytes(data)
    objects = open_objects(str(store))
    assert features.splits_of(objects) == {name: ["train"]}
