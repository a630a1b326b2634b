"""Upscaled images keep the promises of images and features, whatever computes them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import StoreMismatchError
from pipeline.features import extract
from pipeline.features.shard_task import compute_shard
from pipeline.loader import Loader
from pipeline.store import arrays, derived, local
from pipeline.store.layout import UPSCALED
from pipeline.store.open import open_objects
from pipeline.store.shard import ShardComposer
from pipeline.store.upscaled import UpscaledCommit, UpscaledFinishRecord
from tests.damage import damage
from tests.disk import Disk, lay_out, recording, replay
from tests.images import make_folder, prepare_inline
from tests.pipeline.features.small import ROWS
from tests.pipeline.features.upscaled import (
    NAME,
    SCALE,
    SIDE,
    NearestNetwork,
    begin,
    enlarged,
    files,
    make,
    problems,
)

SIZE = SCALE * SIDE
ARRAY = UPSCALED.array(NAME, "train", str(SIZE))


def test_any_zarr_reader_opens_upscaled_images(store: Path) -> None:
    """They are the enlarged stored ones, zeros where rows are in quarantine, and apart from 16 px.

    Zarr writes identical shards.
    """
    make(store)
    objects = open_objects(str(store))
    opened = zarr.open_array(store / ARRAY, mode="r")
    assert (opened.shape, opened.dtype) == ((ROWS, SIZE, SIZE, 3), np.uint8)
    assert (opened.shards, opened.chunks) == ((8, SIZE, SIZE, 3), (4, SIZE, SIZE, 3))
    pixels = np.asarray(opened[:])
    assert np.array_equal(pixels, enlarged(arrays.read_pixel_rows(objects, "train", SIDE, 0, ROWS)))
    status = arrays.read_small(objects, "train", "status")
    assert (status != 0).sum() == 2
    assert not pixels[status != 0].any()
    assert not np.array_equal(
        pixels, arrays.read_pixel_rows(objects, "train", SIZE, 0, ROWS)
    )  # the real array of that size
    rewritten = Path(shutil.copytree(store / ARRAY, store.parent / "again"))
    for shard in rewritten.glob("c.*"):
        shard.unlink()
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(rewritten, mode="r+")[:] = pixels
    names = sorted(shard.name for shard in (store / ARRAY).glob("c.*"))
    assert names == [f"c.{shard}.0.0.0" for shard in range(3)]
    for name in names:
        assert (rewritten / name).read_bytes() == (store / ARRAY / name).read_bytes()


def test_quarantined_rows_are_zeros_wherever_they_lie(tmp_path: Path) -> None:
    """Rows at the beginning, in the middle and at the end of a shard keep their places."""
    store = tmp_path / "store"
    prepare_inline(make_folder(tmp_path / "images", ROWS, bad=9), str(store), sizes=(SIDE,))
    make(store)
    objects = open_objects(str(store))
    bad = arrays.read_small(objects, "train", "status") != 0
    assert {*np.flatnonzero(bad) % 8} >= {0, 3, 7}
    pixels = np.asarray(zarr.open_array(store / ARRAY, mode="r")[:])
    assert np.array_equal(pixels, enlarged(arrays.read_pixel_rows(objects, "train", SIDE, 0, ROWS)))
    assert pixels.any((1, 2, 3)).tolist() == (~bad).tolist()


@pytest.mark.parametrize("kind", ["flip", "remove"])
def test_every_damage_is_named_and_repaired(store: Path, kind: str) -> None:
    """Each file is damaged in turn."""
    make(store)
    expected, rng = files(store), np.random.default_rng(1)
    folder = store / UPSCALED.set_folder(NAME)
    names = sorted(str(f.relative_to(store)) for f in folder.rglob("*") if f.is_file())
    assert len(names) == 1 + 2 + 1 + 3 + 3 + 1  # recipe, groups, array, shards, commits, record
    for name in names:
        damage(store, name, kind, rng)
        assert name in problems(store), name
        make(store, repair=True)
        assert files(store) == expected, name
        assert problems(store) == {}


def test_another_recipe_under_the_same_name_is_refused(store: Path) -> None:
    """Nothing of the set is changed, and the recipes say how they differ."""
    make(store)
    before = files(store)
    with pytest.raises(StoreMismatchError, match=f"upscaled/{NAME}/recipe.json holds upscaled im"):
        begin(store, weights="b" * 64)
    assert files(store) == before
    recipe = begin(store).recipe
    changed = replace(
        recipe, weights="b" * 64, step=9, precision="bfloat16", self_ensemble=True, name="mine"
    )
    assert recipe.differences(changed) == [
        "step 5, not 9",
        "self ensemble False, not True",
        "precision float32, not bfloat16",
        "other weights",
    ]
    assert recipe.differences(replace(recipe, name="mine")) == []
    assert recipe.digest == replace(recipe, name="mine").digest


def test_a_shard_needs_the_memory_of_a_few_batches(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are written as they are computed, before the next batches are read."""
    events: list[str] = []
    append, compute = ShardComposer.append, NearestNetwork.compute
    monkeypatch.setattr(
        ShardComposer, "append", lambda self, row: (events.append("write"), append(self, row))[1]
    )
    monkeypatch.setattr(
        NearestNetwork,
        "compute",
        lambda self, images, kind: (events.append("compute"), compute(self, images, kind))[1],
    )
    compute_shard(begin(store).work, 0)
    assert events[0] == "compute"
    assert events.index("write") < len(events) - 1 - events[::-1].index("compute")


def test_the_first_of_two_tasks_to_write_wins(store: Path) -> None:
    """The task commits the bytes that exist."""
    run = begin(store)
    compute_shard(run.work, 1)
    ours = run.objects.get(run.shard(1))
    run.objects.remove(run.shard(1))
    run.objects.remove(UPSCALED.commit(NAME, "train", 1))
    theirs = bytes([ours[0] ^ 1, *ours[1:]])
    run.objects.put(run.shard(1), theirs)
    compute_shard(run.work, 1)
    assert run.objects.get(run.shard(1)) == theirs
    extract.remove_shards(*run.context, [])
    compute_shard(run.work, 0)
    compute_shard(run.work, 2)
    extract.finish(*run.context)
    assert problems(store) == {}


def test_commits_vouch_only_for_durable_shards(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power is lost at every operation, with all that was not synced."""
    monkeypatch.setattr(local, "_durable", set())
    root = tmp_path / "recorded"
    shutil.copytree(store, root / "store")
    left: dict[str, bytes | None] = {".": None, "store": None}
    for path in sorted(store.rglob("*")):
        left[f"store/{path.relative_to(store)}"] = None if path.is_dir() else path.read_bytes()
    with recording(monkeypatch, root, len(list(store.rglob("*"))) + 2) as ops:
        make(root / "store")
    moved = [op for op in ops if not (op[0] == "rename" and ".tmp/" in op[2])]
    commits = 0
    for prefix in range(len(moved) + 1):
        durable = replay(moved[:prefix], Disk.holding(left)).lose("strict")
        for name, data in durable.items():
            if f"{UPSCALED.commits(NAME, 'train')}/" in name and data is not None:
                commit = derived.decode_document(UpscaledCommit, data, name)
                commits += 1
                for written in commit.arrays.values():
                    assert len(durable.get(f"store/{written.name}") or b"") == written.num_bytes
    assert commits
    lost = replay(moved[: len(moved) // 2], Disk.holding(left)).lose("strict")
    continued = lay_out(lost, tmp_path / "continued") / "store"
    make(continued)
    assert files(continued) == files(root / "store")


def test_upscaled_images_of_other_images_are_refused(store: Path, tmp_path: Path) -> None:
    """The other store's images differ, though it has as many rows."""
    make(store)
    other = tmp_path / "other"
    prepare_inline(make_folder(tmp_path / "images", ROWS, bad=1), str(other), sizes=(SIDE,))
    shutil.copytree(store / UPSCALED.folder, other / UPSCALED.folder)
    with pytest.raises(StoreMismatchError, match="belong to images that have changed since"):
        len(Loader(other, size=SIZE, upscaled=NAME))
    done = derived.load_finish_record(
        open_objects(str(store)), type(begin(store).recipe), NAME, "train"
    )
    assert isinstance(done, UpscaledFinishRecord)
    assert done.kinds == (str(SIZE),)
