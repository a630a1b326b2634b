"""Our reader and any zarr reader read the same features, and refuse damaged ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.features.reader import open_features
from pipeline.store import derived, features, layout
from pipeline.store.open import open_objects
from tests.pipeline.features.small import BOTH, DIM, ROWS, make


def test_rows_are_returned_in_the_requested_order(store: Path, trunk: Path) -> None:
    """A row that is requested twice is returned twice."""
    opened = open_features(store, make(store, trunk, kinds=BOTH), "train")
    rows = np.arange(ROWS)
    order = np.array([20, 3, 3, 8, 0])
    assert np.array_equal(opened.rows(order), opened.rows(rows)[order])
    assert opened.rows(np.array([], np.int64)).shape == (0, DIM)
    assert (opened.dim, len(opened), opened.kinds) == (DIM, ROWS, BOTH)
    assert not np.array_equal(opened.rows(rows), opened.rows(rows, "mirrored"))


def test_rows_out_of_range_are_refused(store: Path, trunk: Path) -> None:
    """The padding rows of the last chunk are out of range, too."""
    opened = open_features(store, make(store, trunk), "train")
    for rows in ([ROWS], [-1], [0, 100]):
        with pytest.raises(ValueError, match=f"expected 0 to {ROWS - 1}"):
            opened.rows(np.array(rows))
    with pytest.raises(StoreError, match="those of kind mirrored are missing"):
        opened.rows(np.arange(2), "mirrored")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_any_zarr_reader_opens_features(store: Path, trunk: Path, dtype: str) -> None:
    """zarr-python and tensorstore agree bit for bit, and zarr writes identical shards."""
    name = make(store, trunk, dtype=dtype)
    expected = open_features(store, name, "train").rows(np.arange(ROWS))
    path = store / layout.FEATURES.array(name, "train", "plain")
    root = zarr.open_group(store / layout.FEATURES.folder / name / "features.zarr", mode="r")
    opened = root["train/plain"]
    assert isinstance(opened, zarr.Array)
    assert (opened.dtype, opened.shape) == (dtype, (ROWS, DIM))
    assert (opened.shards, opened.chunks) == ((8, DIM), (4, DIM))
    assert np.array_equal(np.asarray(opened[:]).astype(np.float32), expected)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    by_tensorstore = tensorstore.open(spec).result().read().result()
    assert np.array_equal(by_tensorstore.astype(np.float32), expected)
    rewritten = Path(shutil.copytree(path, store.parent / "again"))
    for shard in rewritten.glob("c.*"):
        shard.unlink()
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(rewritten, mode="r+")[:] = opened[:]
    assert len(list(path.glob("c.*"))) == 3
    for shard in path.glob("c.*"):
        assert (rewritten / shard.name).read_bytes() == shard.read_bytes()


def test_missing_or_unfinished_features_are_refused(store: Path, trunk: Path) -> None:
    """The error lists existing names; renamed folders are refused, too."""
    name = make(store, trunk, shards=[0, 2], finish=False)
    with pytest.raises(StoreError, match=f"has no features 'none': it has {name}"):
        open_features(store, "none", "train")
    with pytest.raises(StoreError, match="of split 'train' are not finished"):
        open_features(store, name, "train")
    make(store, trunk)
    with pytest.raises(StoreError, match="of split 'val' are not finished"):
        open_features(store, name, "val")
    folder = store / layout.FEATURES.folder / name
    folder.rename(folder.with_name("mine"))
    with pytest.raises(StoreMismatchError, match=f"holds features {name}: rename its folder back"):
        open_features(store, "mine", "train")


def test_features_of_another_store_are_refused(store: Path, trunk: Path, tmp_path: Path) -> None:
    """The other store's images differ, though it has as many rows."""
    from tests.images import make_folder, prepare_inline

    name = make(store, trunk)
    other_store = tmp_path / "other"
    prepare_inline(make_folder(tmp_path / "images", ROWS, bad=1), str(other_store), sizes=(8, 16))
    shutil.copytree(store / layout.FEATURES.folder, other_store / layout.FEATURES.folder)
    with pytest.raises(StoreMismatchError, match="belong to images that have changed"):
        open_features(other_store, name, "train")


def test_a_damaged_shard_is_refused(store: Path, trunk: Path) -> None:
    """The error is raised at first use; a shard that was mapped before stays valid."""
    name = make(store, trunk)
    shard = store / layout.FEATURES.shard(name, "train", "plain", 1)
    before = open_features(store, name, "train")
    rows = before.rows(np.arange(ROWS))
    data = shard.read_bytes()
    for changed in (data[:-1], data[:-9] + bytes(9), data + b"x", b""):
        replacement = shard.with_name("other")
        replacement.write_bytes(changed)
        replacement.replace(shard)
        with pytest.raises(StoreDamagedError, match=r"c\.1\.0 is (damaged|missing)"):
            open_features(store, name, "train").rows(np.arange(ROWS))
        assert np.array_equal(before.rows(np.arange(ROWS)), rows)
    shard.unlink()
    with pytest.raises(StoreDamagedError, match=r"c\.1\.0 is missing\. Run the same"):
        open_features(store, name, "train").rows(np.array([9]))
    assert np.array_equal(open_features(store, name, "train").rows(np.array([3])), rows[3:4])


def test_errors_of_damaged_records_contain_the_command_that_repairs_them(
    store: Path, trunk: Path
) -> None:
    """The command is not `tesserae repair`, which has no network."""
    name = make(store, trunk)
    for file in (layout.FEATURES.recipe(name), layout.FEATURES.done(name, "train")):
        data = (store / file).read_bytes()
        (store / file).write_bytes(data.replace(b'"', b"'", 1))
        with pytest.raises(StoreDamagedError, match="Run the same `tesserae features` again"):
            open_features(store, name, "train")
        (store / file).write_bytes(data)
    objects = open_objects(str(store))
    assert derived.splits_of(objects, features.FAMILY) == {name: ["train"]}
