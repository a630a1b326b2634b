"""Features of a store: made shard by shard, read again, and what happens to them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import torch
import zarr

from pipeline.backbone import open_backbone
from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.features import making
from pipeline.features.check import check_features
from pipeline.features.loader import FeatureLoader
from pipeline.features.making import FeatureChoices
from pipeline.features.reading import open_features
from pipeline.features.task import FeatureWork, make_features, workspace
from pipeline.store import arrays, features, layout, records
from pipeline.store.objects import open_objects
from tests.pictures import make_folder, prepare_inline

FIRST = "layers.0"
"""Of the transformer."""
SIZE, ROWS = 16, 21  # three shards, the last of 5 rows, the last chunk of one


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer of two thin layers, 16 px."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    thin = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(image_size=SIZE, patch_size=8, intermediate_size=16, **thin)
    made = tmp_path_factory.mktemp("vit") / "tiny"
    ViTModel(config, add_pooling_layer=False).save_pretrained(made)
    (made / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": SIZE, "width": SIZE}, "image_mean": [0.5] * 3,
                    "image_std": [0.5] * 3})
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 pictures, two of them in quarantine."""
    root = tmp_path_factory.mktemp("images")
    source = make_folder(root / "train", ROWS, bad=2)
    prepare_inline(source, str(root / "store"), sizes=(8, SIZE))
    return root / "store"


@pytest.fixture
def store(images: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(images, tmp_path / "store"))


def make(
    store: Path, trunk: Path, *, kinds: tuple[str, ...] = ("plain",), shards: Any = None,
    finish: bool = True, repair: bool = False, **choices: Any,
) -> str:  # fmt: skip
    """Make features in this process, as the command does on a cluster; returns their name."""
    objects = open_objects(str(store))
    cut, pooling = choices.pop("cut", None), choices.pop("pooling", "end")
    backbone = open_backbone(trunk, cut=cut, pooling=pooling)
    recipe = making.settle(objects, "train", backbone, FeatureChoices(**choices))
    plan = records.load_plan(objects, "train")
    run = making.new_run(recipe.name, "train")
    objects = open_objects(str(store), run)
    objects.begin()
    making.begin(objects, recipe, plan, kinds)
    work = FeatureWork(
        store=str(store), split="train", run=run, name=recipe.name, trunk=str(trunk), kinds=kinds,
        repair=repair,
    )  # fmt: skip
    workspace.cache_clear()
    todo = making.missing(objects, recipe, plan, kinds, repair=repair)
    for shard in todo if shards is None else shards:
        make_features(work, shard)
    if finish:
        making.finish(objects, recipe, plan)
    objects.end()
    return recipe.name


def files(store: Path, name: str) -> dict[str, bytes]:
    """What is promised of features: all but what commits say of when and where."""
    root = store / layout.FEATURES / name
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file() and "commits" not in file.parts
    }


def problems(store: Path) -> dict[str, str]:
    """What is found wrong, by file."""
    objects = open_objects(str(store))
    return {
        found.name: found.what
        for name in features.names(objects)
        for _, found in check_features(objects, name)
        if found is not None
    }


def test_features_are_those_of_the_stored_pixels(store: Path, trunk: Path) -> None:
    """Of each readable row and of its mirror image; zeros for those in quarantine."""
    name = make(store, trunk, kinds=("plain", "mirrored"))
    found = open_features(store, name, "train")
    status = arrays.read_small(open_objects(str(store)), "train", "status")
    assert (status != 0).sum() == 2
    assert found.readable.tolist() == np.flatnonzero(status == 0).tolist()
    pixels = arrays.read_rows(open_objects(str(store)), "train", SIZE, 0, ROWS)
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    backbone = open_backbone(trunk)
    rows = np.arange(ROWS)
    for kind, seen in (("plain", tensors), ("mirrored", tensors.flip(3))):
        expected = backbone.features(seen).numpy()
        expected[status != 0] = 0
        np.testing.assert_allclose(found.rows(rows, kind), expected, rtol=1e-4, atol=1e-5)
    order = np.array([20, 3, 3, 8, 0])
    assert np.array_equal(found.rows(order), found.rows(rows)[order])
    assert (found.dim, len(found), found.kinds) == (12, ROWS, ("plain", "mirrored"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_any_reader_of_zarr_opens_them(store: Path, trunk: Path, dtype: str) -> None:
    """zarr-python and tensorstore, bit for bit; and shards are byte for byte what zarr writes."""
    name = make(store, trunk, dtype=dtype)
    found = open_features(store, name, "train").rows(np.arange(ROWS))
    path = store / layout.features_array(name, "train", "plain")
    opened = zarr.open_array(path, mode="r")
    assert opened.dtype == dtype
    assert np.array_equal(opened[:].astype(np.float32), found)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    other = tensorstore.open(spec).result().read().result()
    assert np.array_equal(other.astype(np.float32), found)
    again = store.parent / "again"
    shutil.copytree(path, again)
    for shard in again.glob("c.*"):
        shard.unlink()
    zarr.open_array(again, mode="r+")[:] = opened[:]
    for shard in path.glob("c.*"):
        assert (again / shard.name).read_bytes() == shard.read_bytes()


def test_any_order_and_any_interruption_gives_the_same_bytes(store: Path, trunk: Path) -> None:
    """Shards backwards, in two runs, some of them twice."""
    other = Path(shutil.copytree(store, store.parent / "other"))
    name = make(store, trunk, kinds=("plain", "mirrored"))
    assert make(other, trunk, kinds=("plain", "mirrored"), shards=[2], finish=False) == name
    make(other, trunk, kinds=("plain", "mirrored"), shards=[2, 1, 2, 0])
    assert files(store, name) == files(other, name)


def test_mirrored_ones_are_added_to_what_is_there(store: Path, trunk: Path) -> None:
    """Plain ones are not made again."""
    name = make(store, trunk)
    plain = store / layout.features_shard(name, "train", "plain", 0)
    before, when = plain.read_bytes(), plain.stat().st_mtime_ns
    with pytest.raises(StoreError, match="mirrored ones are missing"):
        open_features(store, name, "train").rows(np.arange(2), "mirrored")
    assert make(store, trunk, kinds=("plain", "mirrored")) == name
    assert (plain.read_bytes(), plain.stat().st_mtime_ns) == (before, when)
    assert open_features(store, name, "train").kinds == ("plain", "mirrored")
    assert problems(store) == {}


def test_what_decides_features_decides_their_name(store: Path, trunk: Path, tmp_path: Path) -> None:
    """Weights, cut, pooling, size, precision, kind; the folder of the model does not."""
    moved = Path(shutil.copytree(trunk, tmp_path / "tiny"))
    name = make(store, trunk)
    assert make(store, moved) == name
    others = [
        make(store, trunk, **choices)
        for choices in (
            {"pooling": "max"},
            {"cut": FIRST},
            {"stored_size": 8},
            {"dtype": "float16"},
            {"precision": "bfloat16"},
        )
    ]
    assert len({name, *others}) == 6
    changed = Path(shutil.copytree(trunk, tmp_path / "changed"))
    _change_a_weight(changed)
    assert make(store, changed) not in {name, *others}
    assert problems(store) == {}


def _change_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    state = load_file(file)
    first = min(state)
    state[first] = state[first] + 1e-6
    save_file(state, file, metadata={"format": "pt"})


def test_another_network_under_the_same_path_is_refused(
    store: Path, trunk: Path, tmp_path: Path
) -> None:
    """A worker that finds other weights makes nothing."""
    folder = Path(shutil.copytree(trunk, tmp_path / "model"))
    name = make(store, folder, shards=[0], finish=False)
    _change_a_weight(folder)
    objects = open_objects(str(store), f"{name}.train-1")
    objects.begin()
    work = FeatureWork(
        store=str(store), split="train", run=f"{name}.train-1", name=name, trunk=str(folder),
        kinds=("plain",),
    )  # fmt: skip
    workspace.cache_clear()
    with pytest.raises(StoreMismatchError, match="is another network"):
        make_features(work, 1)
    with pytest.raises(StoreMismatchError, match="there is another Tesserae"):
        make_features(replace(work, code="0" * 64), 1)


def test_what_is_not_finished_cannot_be_read(store: Path, trunk: Path) -> None:
    """And is no damage: the same command goes on."""
    name = make(store, trunk, shards=[0, 2], finish=False)
    with pytest.raises(StoreError, match="are not finished"):
        open_features(store, name, "train")
    with pytest.raises(StoreError, match="1 of 3 shards are not committed"):
        making.finish(
            open_objects(str(store)), features.load_recipe(open_objects(str(store)), name),
            records.load_plan(open_objects(str(store)), "train"),
        )  # fmt: skip
    found = problems(store)
    assert found
    assert all(what.startswith("not finished") for what in found.values())
    make(store, trunk)
    assert problems(store) == {}


def test_every_damage_is_named_and_mended(store: Path, trunk: Path) -> None:
    """Each file, cut off, changed, and missing; then made anew, as it was."""
    name = make(store, trunk, kinds=("plain", "mirrored"))
    whole = files(store, name)
    root = store / layout.FEATURES / name
    every = [file.relative_to(root) for file in sorted(root.rglob("*")) if file.is_file()]
    assert len(every) == 1 + 2 + 2 + 6 + 3 + 1
    for place, file in enumerate(every):
        path = root / file
        data = path.read_bytes()
        spoilt = (data[:-1], data[: len(data) // 2] + b"\x7f" + data[len(data) // 2 + 1 :], None)
        for how in spoilt[place % 2 :: 2] if place % 3 else spoilt:
            if how is None:
                path.unlink()
            elif how == data:
                continue
            else:
                path.write_bytes(how)
            assert any(str(file) in named for named in problems(store)), file
            if how is not None or file.name != "recipe.json":
                path.write_bytes(data)
            path.write_bytes(data)
    shard = root / "features.zarr/train/plain/c.1.0"
    shard.write_bytes(shard.read_bytes()[:-9] + bytes(9))
    with pytest.raises(StoreDamagedError, match="is damaged"):
        open_features(store, name, "train").rows(np.arange(ROWS))
    make(store, trunk, kinds=("plain", "mirrored"), repair=True)
    assert files(store, name) == whole
    shard.unlink()
    with pytest.raises(StoreDamagedError, match="is missing"):
        open_features(store, name, "train").rows(np.arange(ROWS))
    make(store, trunk, kinds=("plain", "mirrored"))  # of another size: seen without reading
    assert files(store, name) == whole


def test_images_that_are_others_by_now_make_features_anew(store: Path, trunk: Path) -> None:
    """A commit of features says which pixels they are of."""
    name = make(store, trunk)
    objects = open_objects(str(store))
    kept = records.load_commit(objects, "train", 1)
    assert kept is not None
    other = replace(kept.arrays[str(SIZE)], digest="0" * 32)
    changed = replace(kept, arrays={**kept.arrays, str(SIZE): other})
    (store / layout.commit("train", 1)).write_bytes(changed.encode())
    assert any("is of other images" in what for what in problems(store).values())
    recipe = features.load_recipe(objects, name)
    plan = records.load_plan(objects, "train")
    assert making.missing(objects, recipe, plan, ("plain",)) == [1]


def test_a_run_that_has_ended_can_write_nothing(store: Path, trunk: Path) -> None:
    """A ghost of it, still computing, finds its folder gone."""
    name = make(store, trunk, shards=[0], finish=False)
    work = FeatureWork(
        store=str(store), split="train", run=f"{name}.train-gone", name=name, trunk=str(trunk),
        kinds=("plain",),
    )  # fmt: skip
    workspace.cache_clear()
    with pytest.raises(StoreError, match="the run has ended"):
        make_features(work, 1)


def test_numbers_that_are_none_are_refused(store: Path, trunk: Path, tmp_path: Path) -> None:
    """Too large for float16, or not a number at all."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(trunk, tmp_path / "model"))
    file = folder / "model.safetensors"
    state = {name: value * 1e6 for name, value in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(StoreError, match="no finite numbers for row"):
        make(store, folder, dtype="float16")


def test_sizes_that_are_not_there_are_refused(store: Path, trunk: Path) -> None:
    """With those that are."""
    with pytest.raises(StoreError, match="has no 99 px: it has 8, 16"):
        make(store, trunk, stored_size=99)
    with pytest.raises(StoreError, match="has no features 'none'"):
        open_features(store, "none", "train")


class TestFeatureLoader:
    """The face of `Loader`, over features."""

    def test_an_epoch_is_every_readable_row_once(self, store: Path, trunk: Path) -> None:
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

    def test_only_some_classes_are_handed_out(self, store: Path, trunk: Path) -> None:
        """No row of another, in any epoch."""
        loader = FeatureLoader(store, make(store, trunk), batch_size=3, only=[0, 2])
        labels = {label for _ in range(3) for batch in loader for label in batch.labels.tolist()}
        assert labels == {0, 2}
        assert loader.num_rows == int(
            np.isin(loader.labels[loader.features.readable], [0, 2]).sum()
        )
        with pytest.raises(ValueError, match="labels are 0 to 3: expected 0 to 2"):
            len(FeatureLoader(store, loader.name, only=[0, 3]))

    def test_it_goes_on_where_it_was(self, store: Path, trunk: Path) -> None:
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

    def test_half_of_an_epoch_is_mirrored(self, store: Path, trunk: Path) -> None:
        """The same rows whatever the batches; others in another epoch."""
        name = make(store, trunk, kinds=("plain", "mirrored"))
        found = open_features(store, name, "train")

        def mirrored(batch_size: int, epoch: int) -> set[int]:
            loader = FeatureLoader(
                store, name, batch_size=batch_size, mirrored=True, drop_last=False
            )
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
