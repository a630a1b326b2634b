"""A run over a split: its name, how it continues, and what it records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError, StoreMismatchError
from pipeline.features import extract
from pipeline.features.reader import finished_features, open_features
from pipeline.features.shard_task import compute_shard
from pipeline.features.worker import FeatureTaskConfig
from pipeline.store import derived, features, layout, records
from pipeline.store.features import FeatureRecipe
from pipeline.store.open import open_objects
from tests.images import make_folder, prepare_inline
from tests.pipeline.features.small import (
    BOTH,
    FIRST,
    ROWS,
    SIZE,
    begin,
    change_weights,
    files,
    make,
    problems,
)


def test_any_order_and_any_interruption_gives_the_same_bytes(store: Path, trunk: Path) -> None:
    """The shards are computed backwards, in three runs, and some of them twice."""
    other_store = Path(shutil.copytree(store, store.parent / "other"))
    name = make(store, trunk, kinds=BOTH)
    assert make(other_store, trunk, kinds=BOTH, shards=[2], finish=False) == name
    make(other_store, trunk, kinds=("plain",), shards=[1], finish=False)
    make(other_store, trunk, kinds=BOTH, shards=[2, 1, 2, 0])
    assert files(store, name) == files(other_store, name)
    assert problems(other_store) == {}


def test_mirrored_features_are_added_to_plain_ones(store: Path, trunk: Path) -> None:
    """Plain features are not computed again, and can be read meanwhile."""
    name = make(store, trunk)
    plain = store / layout.FEATURES.shard(name, "train", "plain", 0)
    before, when = plain.read_bytes(), plain.stat().st_mtime_ns
    assert make(store, trunk, kinds=BOTH, shards=[1], finish=False) == name
    assert open_features(store, name, "train").kinds == ("plain",)
    assert make(store, trunk, kinds=BOTH) == name
    assert (plain.read_bytes(), plain.stat().st_mtime_ns) == (before, when)
    assert open_features(store, name, "train").kinds == BOTH
    assert problems(store) == {}


def test_the_reason_for_extracting_features_is_reported(store: Path, trunk: Path) -> None:
    """The reason names the most similar stored features, and how they differ."""
    trunk = Path(shutil.copytree(trunk, store.parent / "tiny"))

    def why(kinds: Sequence[str] = ("plain",), **choices: Any) -> str:
        run = begin(store, trunk, kinds=kinds, **choices)
        return extract.explain_extraction(*run.context, kinds)

    assert why() == ""
    name = make(store, trunk)
    assert why(BOTH) == (
        f"those stored as {name} lack mirror images (--mirrored; `train devise --no-mirrored` does"
        " not need them)"
    )
    assert why(dtype="float16") == (f"those stored as {name} have dtype float32, not float16")
    assert why(cut=FIRST, pooling="mean", precision="bfloat16") == (
        f"those stored as {name} have cut at the end, not {FIRST}, pooling end, not mean,"
        " precision float32, not bfloat16"
    )
    half = make(store, trunk, dtype="float16")
    assert why(BOTH, dtype="float16").startswith(
        f"those stored as {half} lack mirror images (--mirrored"
    )
    (store / layout.FEATURES.shard(name, "train", "plain", 1)).unlink()
    assert why().startswith(f"some of those stored as {name} are missing")
    change_weights(trunk)
    assert why(dtype="float16") == (
        f"those stored as {half} have the trunk ViTModel (tiny) with other weights"
    )


def test_a_further_split_and_size_leave_features_unchanged(
    store: Path, trunk: Path, tmp_path: Path
) -> None:
    """Features of the second split have the same name."""
    name = make(store, trunk)
    before = files(store, name)
    prepare_inline(make_folder(tmp_path / "val", 9), str(store), split="val", sizes=(8, SIZE))
    source = make_folder(tmp_path / "train", ROWS, bad=2)
    prepare_inline(source, str(store), sizes=(8, SIZE, 24))
    assert open_features(store, name, "train").kinds == ("plain",)
    assert make(store, trunk, split="val") == name
    after = files(store, name)
    assert before.items() <= after.items()
    assert {file.split("/")[1].partition(".")[0] for file in after.keys() - before.keys()} == {
        "val"
    }
    assert make(store, trunk, stored_size=24) != name
    assert problems(store) == {}
    assert list(finished_features(open_objects(str(store)), "val")) == [name]


def test_every_option_that_changes_features_changes_their_name(
    store: Path, trunk: Path, tmp_path: Path
) -> None:
    """Such options are weights, layer, pooling, size, precision, dtype and normalisation."""
    name = make(store, trunk)
    other_names = [
        make(store, trunk, **choices)
        for choices in (
            {"pooling": "max"},
            {"cut": FIRST},
            {"stored_size": 8},
            {"dtype": "float16"},
            {"precision": "bfloat16"},
        )
    ]
    changed = Path(shutil.copytree(trunk, tmp_path / "changed"))
    change_weights(changed)
    other_names.append(make(store, changed))
    brighter = Path(shutil.copytree(trunk, tmp_path / "brighter"))
    transform_file = brighter / "preprocessor_config.json"
    transform_file.write_text(transform_file.read_text().replace("0.5", "0.4"))
    other_names.append(make(store, brighter))
    assert len({name, *other_names}) == 8
    assert problems(store) == {}


def test_the_folder_of_a_network_does_not_change_the_name(
    store: Path, trunk: Path, tmp_path: Path
) -> None:
    """Existing features are found under any folder name, and also if they lost their recipe."""
    name = make(store, trunk)
    before = files(store, name)
    moved = Path(shutil.copytree(trunk, tmp_path / "another name"))
    assert make(store, moved) == name
    assert files(store, name) == before
    (store / layout.FEATURES.recipe(name)).unlink()
    assert make(store, moved) == name
    assert problems(store) == {}
    assert features.names(open_objects(str(store))) == [name]


def test_features_of_changed_pixels_are_computed_again(store: Path, trunk: Path) -> None:
    """A commit records the pixels of its features, which cannot be read until then."""
    name = make(store, trunk, kinds=BOTH)
    before = files(store, name)
    run = begin(store, trunk, kinds=BOTH)
    file = layout.FEATURES.commit(name, "train", 1)
    commit = derived.load_commit(run.objects, run.recipe, run.plan, 1)
    assert commit is not None
    run.objects.put(file, replace(commit, pixels="0" * 32).encode())
    assert any(
        "belongs to images that have changed" in problem for problem in problems(store).values()
    )
    assert not extract.is_done(*run.context, BOTH)
    assert extract.missing_shards(*run.context, ("plain",)) == [1]
    assert make(store, trunk, kinds=BOTH) == name
    assert files(store, name) == before
    assert extract.is_done(*run.context, BOTH)


def test_a_new_commit_drops_kinds_of_other_pixels(store: Path, trunk: Path) -> None:
    """A commit refers to one shard of pixels, even if only some kinds are requested."""
    make(store, trunk, kinds=BOTH, finish=False)
    run = begin(store, trunk)
    commit = derived.load_commit(run.objects, run.recipe, run.plan, 1)
    assert commit is not None
    file = layout.FEATURES.commit(run.recipe.name, "train", 1)
    run.objects.put(file, replace(commit, pixels="0" * 32).encode())
    make(store, trunk)
    after = derived.load_commit(run.objects, run.recipe, run.plan, 1)
    assert after is not None
    assert after.arrays.keys() == {"plain"}
    assert problems(store) == {}


def test_features_of_other_images_cannot_be_read(store: Path, trunk: Path) -> None:
    """The split's record identifies the image of each row."""
    name = make(store, trunk)
    objects = open_objects(str(store))
    done = records.load_finish_record(objects, "train")
    assert done is not None
    (store / layout.done("train")).write_bytes(replace(done, parts="0" * 32).encode())
    with pytest.raises(StoreMismatchError, match="belong to images that have changed since"):
        open_features(store, name, "train")
    run = begin(store, trunk)
    assert not extract.is_done(*run.context, ("plain",))
    with pytest.raises(StoreError, match="were rebuilt after the split was finished"):
        extract.finish(*run.context)


def test_a_record_vouches_only_for_existing_objects(store: Path, trunk: Path) -> None:
    """The record covers no commit whose object is missing, and no kind that some shards lack."""
    run = begin(store, trunk, kinds=BOTH)
    for shard in (0, 2):
        compute_shard(run.work, shard)
    with pytest.raises(StoreError, match=r"1 of 3 shards are not committed \(the first is 1\)"):
        extract.finish(*run.context)
    compute_shard(replace(run.work, kinds=("plain",)), 1)
    assert extract.finish(*run.context).kinds == ("plain",)
    compute_shard(run.work, 1)
    assert extract.finish(*run.context).kinds == BOTH
    run.objects.remove(run.shard("mirrored", 0))
    assert extract.finish(*run.context).kinds == ("plain",)
    run.objects.put(run.shard("plain", 0), b"short")
    with pytest.raises(StoreError, match="are not finished: 1 of 3"):
        extract.finish(*run.context)


def test_completion_is_seen_without_reading_shards(store: Path, trunk: Path) -> None:
    """Records, metadata and sizes are compared; a missing kind counts as unfinished."""
    name = make(store, trunk)
    run = begin(store, trunk)
    assert extract.is_done(*run.context, ("plain",))
    assert not extract.is_done(*run.context, BOTH)
    root = f"{layout.FEATURES.folder}/{name}"
    for file in (
        f"{root}/recipe.json", f"{root}/features.zarr/zarr.json",
        f"{root}/features.zarr/train/plain/zarr.json", run.shard("plain", 2),
        layout.FEATURES.commit(name, "train", 0), layout.FEATURES.done(name, "train"),
    ):  # fmt: skip
        data = (store / file).read_bytes()
        (store / file).write_bytes(data[:-1])
        assert not extract.is_done(*run.context, ("plain",)), file
        make(store, trunk)
        if "commits" not in file:
            assert (store / file).read_bytes() == data
        assert extract.is_done(*run.context, ("plain",)), file
    assert problems(store) == {}


def test_the_kinds_of_a_damaged_record_follow_from_commits(store: Path, trunk: Path) -> None:
    """The kinds are those that all commits have."""
    run = begin(store, trunk)
    assert extract.recorded_kinds(*run.context) == ()
    name = make(store, trunk, kinds=BOTH)
    assert extract.recorded_kinds(*run.context) == BOTH
    (store / layout.FEATURES.done(name, "train")).write_bytes(b"x")
    assert extract.recorded_kinds(*run.context) == BOTH
    for shard in range(3):
        (store / layout.FEATURES.commit(name, "train", shard)).unlink()
    assert extract.recorded_kinds(*run.context) == ()


def test_obsolete_objects_are_removed_after_their_record(store: Path, trunk: Path) -> None:
    """The record stays if it does not vouch for them."""
    make(store, trunk)
    run = begin(store, trunk, kinds=BOTH)
    done = layout.FEATURES.done(run.recipe.name, "train")
    compute_shard(run.work, 1)
    run.objects.remove(layout.FEATURES.commit(run.recipe.name, "train", 1))
    lost = extract.obsolete_shards(*run.context, ("mirrored",))
    assert lost == [run.shard("mirrored", shard) for shard in range(3)]
    extract.remove_shards(*run.context, lost)
    assert run.objects.size(run.shard("mirrored", 1)) is None
    assert run.objects.size(done) is not None
    extract.remove_shards(*run.context, extract.obsolete_shards(*run.context, BOTH))
    assert run.objects.size(run.shard("plain", 1)) is None
    assert run.objects.size(run.shard("plain", 0)) is not None
    assert run.objects.size(done) is None


def test_features_of_another_recipe_with_this_name_are_refused(
    store: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twelve digits of a name may collide."""
    run = begin(store, trunk)
    monkeypatch.setattr(FeatureRecipe, "name", run.recipe.name)
    with pytest.raises(StoreMismatchError, match="holds features with digest"):
        extract.write_metadata(run.objects, replace(run.recipe, dim=7), run.plan, ("plain",))


def test_a_missing_size_or_unfinished_split_is_refused(store: Path, trunk: Path) -> None:
    """The error lists the sizes that the split has."""
    with pytest.raises(StoreError, match="has no images of 99 px: it has 8, 16"):
        make(store, trunk, stored_size=99)
    (store / layout.done("train")).unlink()
    with pytest.raises(StoreError, match="split 'train' is not finished"):
        make(store, trunk)


@pytest.mark.parametrize(
    ("sizes", "network_size", "fits"),
    [((72, 224, 288), 224, 224), ((72, 224, 288), 200, 224), ((72, 224), 300, 224), ((8,), 9, 8)],
)
def test_the_stored_size_fits_the_network(
    sizes: tuple[int, ...], network_size: int, fits: int
) -> None:
    """The size is the smallest that need not be enlarged, or the largest one."""
    assert extract.fitting_size(sizes, network_size) == fits


def work(*, gpu: bool) -> FeatureTaskConfig:
    """Return the arguments of a run that does not exist."""
    return FeatureTaskConfig(
        store="s", split="train", run="r", name="n", trunk="t", kinds=("plain",), gpu=gpu
    )


def test_tasks_request_a_gpu_if_the_run_uses_one() -> None:
    """The resource has the name that Dask's workers offer."""
    for gpu, options in ((True, {"resources": {"GPU": 1}}), (False, {})):
        (job,) = extract.row_jobs(work(gpu=gpu), [7])
        assert job.options == options
        assert (job.name, job.arguments[1:]) == ("features-train-000007", (7, 1))


@given(st.integers(1, 50), st.integers(1, 9))
def test_the_last_round_of_tasks_uses_all_threads(shards: int, slots: int) -> None:
    """Tasks of full rounds have one thread each; a last, partial round shares all threads."""
    jobs = extract.row_jobs(work(gpu=False), range(shards), slots)
    threads = [job.arguments[2] for job in jobs]
    assert [job.arguments[1] for job in jobs] == list(range(shards))
    last = shards % slots
    assert threads[: shards - last] == [1] * (shards - last)
    if last:
        assert set(threads[-last:]) == {slots // last}
        assert sum(threads[-last:]) <= slots


def test_a_recipe_gives_its_command_line_options(store: Path, trunk: Path) -> None:
    """A user can request the same features again."""
    recipe = begin(store, trunk).recipe
    assert recipe.command_line_options() == "--size 16"
    other_recipe = replace(recipe, cut="a.b", pooling="max", dtype="float16", precision="bfloat16")
    assert other_recipe.command_line_options(BOTH) == (
        "--cut a.b --pooling max --size 16 --precision bfloat16 --dtype float16 --mirrored"
    )
    with pytest.raises(ValueError, match="features of 0 dimensions, float32, computed in float32"):
        replace(recipe, dim=0)
    assert np.dtype(recipe.dtype).itemsize * recipe.dim == recipe.row_bytes


def test_features_have_the_format_of_their_store(trunk: Path, tmp_path: Path) -> None:
    """An older reader of that format knows every document of the features."""
    golden = Path(__file__).parents[2] / "golden" / "format-1"
    store = Path(shutil.copytree(golden, tmp_path / "store"))
    name = make(store, trunk)
    for file in (store / "features" / name).rglob("*.json"):
        if file.name != "zarr.json":
            assert json.loads(file.read_bytes())["format"] == 1, file
    assert problems(store) == {}
    opened = open_features(store, name, "train")
    assert np.isfinite(opened.rows(opened.readable)).all()
