"""A run over a split: what decides its features, how it goes on, what its record vouches for."""

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
from pipeline.features.reader import finished, open_features
from pipeline.features.shard import FeatureWork, make_features
from pipeline.store import features, layout, records
from pipeline.store.features import FeatureRecipe
from pipeline.store.objects import open_objects
from tests.pictures import make_folder, prepare_inline
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
    """Shards backwards, in three runs, some of them twice."""
    other = Path(shutil.copytree(store, store.parent / "other"))
    name = make(store, trunk, kinds=BOTH)
    assert make(other, trunk, kinds=BOTH, shards=[2], finish=False) == name
    make(other, trunk, kinds=("plain",), shards=[1], finish=False)
    make(other, trunk, kinds=BOTH, shards=[2, 1, 2, 0])
    assert files(store, name) == files(other, name)
    assert problems(other) == {}


def test_mirrored_ones_are_added_to_what_is_there(store: Path, trunk: Path) -> None:
    """Plain ones are not made again, and can be read all the time."""
    name = make(store, trunk)
    plain = store / layout.features_shard(name, "train", "plain", 0)
    before, when = plain.read_bytes(), plain.stat().st_mtime_ns
    assert make(store, trunk, kinds=BOTH, shards=[1], finish=False) == name
    assert open_features(store, name, "train").kinds == ("plain",)
    assert make(store, trunk, kinds=BOTH) == name
    assert (plain.read_bytes(), plain.stat().st_mtime_ns) == (before, when)
    assert open_features(store, name, "train").kinds == BOTH
    assert problems(store) == {}


def test_why_features_are_made_though_there_are_some(store: Path, trunk: Path) -> None:
    """The nearest of those that are stored, and what of it is not as it is wanted."""
    trunk = Path(shutil.copytree(trunk, store.parent / "tiny"))

    def why(kinds: Sequence[str] = ("plain",), **choices: Any) -> str:
        run = begin(store, trunk, kinds=kinds, **choices)
        return extract.why_made(*run.what, kinds)

    assert why() == ""
    name = make(store, trunk)
    assert why(BOTH) == (
        f"those stored as {name} are not --mirrored (`train devise --no-mirrored` needs none that"
        " are)"
    )
    assert why(dtype="float16") == (f"those stored as {name} have dtype float32, not float16")
    assert why(cut=FIRST, pooling="mean", precision="bfloat16") == (
        f"those stored as {name} have cut at the end, not {FIRST}, pooling end, not mean,"
        " precision float32, not bfloat16"
    )
    half = make(store, trunk, dtype="float16")
    assert why(BOTH, dtype="float16").startswith(f"those stored as {half} are not --mirrored")
    (store / layout.features_shard(name, "train", "plain", 1)).unlink()
    assert why().startswith(f"some of those stored as {name} are missing")
    change_weights(trunk)
    assert why(dtype="float16") == (
        f"those stored as {half} have the trunk ViTModel (tiny) with other weights"
    )


def test_a_further_split_and_a_further_size_touch_nothing(
    store: Path, trunk: Path, tmp_path: Path
) -> None:
    """Features of the first are as they were; those of the second have the same name."""
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
    assert list(finished(open_objects(str(store)), "val")) == [name]


def test_what_decides_features_decides_their_name(store: Path, trunk: Path, tmp_path: Path) -> None:
    """Weights, cut, pooling, size, precision, kind, and how pictures are normalised."""
    name = make(store, trunk)
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
    changed = Path(shutil.copytree(trunk, tmp_path / "changed"))
    change_weights(changed)
    others.append(make(store, changed))
    brighter = Path(shutil.copytree(trunk, tmp_path / "brighter"))
    told = brighter / "preprocessor_config.json"
    told.write_text(told.read_text().replace("0.5", "0.4"))
    others.append(make(store, brighter))
    assert len({name, *others}) == 8
    assert problems(store) == {}


def test_the_folder_of_a_network_does_not(store: Path, trunk: Path, tmp_path: Path) -> None:
    """What is made already is found, however the folder is called now; also if it lost its head."""
    name = make(store, trunk)
    before = files(store, name)
    moved = Path(shutil.copytree(trunk, tmp_path / "another name"))
    assert make(store, moved) == name
    assert files(store, name) == before
    (store / layout.features_recipe(name)).unlink()
    assert make(store, moved) == name
    assert problems(store) == {}
    assert features.names(open_objects(str(store))) == [name]


def test_features_of_other_pixels_are_made_anew(store: Path, trunk: Path) -> None:
    """A commit of features says which pixels they are of; until then they cannot be read."""
    name = make(store, trunk, kinds=BOTH)
    whole = files(store, name)
    run = begin(store, trunk, kinds=BOTH)
    file = layout.features_commit(name, "train", 1)
    kept = features.load_commit(run.objects, run.recipe, run.plan, 1)
    assert kept is not None
    run.objects.put(file, replace(kept, pixels="0" * 32).encode())
    assert any("is of other images" in what for what in problems(store).values())
    assert not extract.is_done(*run.what, BOTH)
    assert extract.missing(*run.what, ("plain",)) == [1]
    assert make(store, trunk, kinds=BOTH) == name
    assert files(store, name) == whole
    assert extract.is_done(*run.what, BOTH)


def test_kinds_of_other_pixels_are_not_kept(store: Path, trunk: Path) -> None:
    """A commit is of one shard of pixels, also where only some kinds are asked for."""
    make(store, trunk, kinds=BOTH, finish=False)
    run = begin(store, trunk)
    kept = features.load_commit(run.objects, run.recipe, run.plan, 1)
    assert kept is not None
    file = layout.features_commit(run.recipe.name, "train", 1)
    run.objects.put(file, replace(kept, pixels="0" * 32).encode())
    make(store, trunk)
    after = features.load_commit(run.objects, run.recipe, run.plan, 1)
    assert after is not None
    assert after.arrays.keys() == {"plain"}
    assert problems(store) == {}


def test_features_of_other_pictures_cannot_be_read(store: Path, trunk: Path) -> None:
    """The split's record says of each row which picture it is of."""
    name = make(store, trunk)
    objects = open_objects(str(store))
    done = records.load_done(objects, "train")
    assert done is not None
    (store / layout.done("train")).write_bytes(replace(done, parts="0" * 32).encode())
    with pytest.raises(StoreMismatchError, match="are of other images than the store holds now"):
        open_features(store, name, "train")
    run = begin(store, trunk)
    assert not extract.is_done(*run.what, ("plain",))
    with pytest.raises(StoreError, match="were made anew since the split was finished"):
        extract.finish(*run.what)


def test_a_record_vouches_for_what_is_there_alone(store: Path, trunk: Path) -> None:
    """Not for a commit whose object is gone, and not for kinds that some shards lack."""
    run = begin(store, trunk, kinds=BOTH)
    for shard in (0, 2):
        make_features(run.work, shard)
    with pytest.raises(StoreError, match=r"1 of 3 shards are not committed \(the first is 1\)"):
        extract.finish(*run.what)
    make_features(replace(run.work, kinds=("plain",)), 1)
    assert extract.finish(*run.what).kinds == ("plain",)
    make_features(run.work, 1)
    assert extract.finish(*run.what).kinds == BOTH
    run.objects.remove(run.shard("mirrored", 0))
    assert extract.finish(*run.what).kinds == ("plain",)
    run.objects.put(run.shard("plain", 0), b"short")
    with pytest.raises(StoreError, match="are not finished: 1 of 3"):
        extract.finish(*run.what)


def test_whether_all_is_done_is_seen_without_reading_shards(store: Path, trunk: Path) -> None:
    """By records, metadata and sizes; of more kinds than were made it is not."""
    name = make(store, trunk)
    run = begin(store, trunk)
    assert extract.is_done(*run.what, ("plain",))
    assert not extract.is_done(*run.what, BOTH)
    root = f"{layout.FEATURES}/{name}"
    for file in (
        f"{root}/recipe.json", f"{root}/features.zarr/zarr.json",
        f"{root}/features.zarr/train/plain/zarr.json", run.shard("plain", 2),
        layout.features_commit(name, "train", 0), layout.features_done(name, "train"),
    ):  # fmt: skip
        data = (store / file).read_bytes()
        (store / file).write_bytes(data[:-1])
        assert not extract.is_done(*run.what, ("plain",)), file
        make(store, trunk)
        if "commits" not in file:
            assert (store / file).read_bytes() == data
        assert extract.is_done(*run.what, ("plain",)), file
    assert problems(store) == {}


def test_what_was_promised_once_is_kept(store: Path, trunk: Path) -> None:
    """The kinds of the record; if that is damaged, those of all commits."""
    run = begin(store, trunk)
    assert extract.promised(*run.what) == ()
    name = make(store, trunk, kinds=BOTH)
    assert extract.promised(*run.what) == BOTH
    (store / layout.features_done(name, "train")).write_bytes(b"x")
    assert extract.promised(*run.what) == BOTH
    for shard in range(3):
        (store / layout.features_commit(name, "train", shard)).unlink()
    assert extract.promised(*run.what) == ()


def test_what_is_made_anew_goes_first_and_its_record_before_it(store: Path, trunk: Path) -> None:
    """Of what the record does not vouch for, it stays."""
    make(store, trunk)
    run = begin(store, trunk, kinds=BOTH)
    done = layout.features_done(run.recipe.name, "train")
    make_features(run.work, 1)
    run.objects.remove(layout.features_commit(run.recipe.name, "train", 1))
    lost = extract.leftovers(*run.what, ("mirrored",))
    assert lost == [run.shard("mirrored", shard) for shard in range(3)]
    extract.clear(*run.what, lost)
    assert run.objects.size(run.shard("mirrored", 1)) is None
    assert run.objects.size(done) is not None
    extract.clear(*run.what, extract.leftovers(*run.what, BOTH))
    assert run.objects.size(run.shard("plain", 1)) is None
    assert run.objects.size(run.shard("plain", 0)) is not None
    assert run.objects.size(done) is None


def test_features_of_another_recipe_under_this_name_are_left_alone(
    store: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve digits may agree where the rest does not."""
    run = begin(store, trunk)
    monkeypatch.setattr(FeatureRecipe, "name", run.recipe.name)
    with pytest.raises(StoreMismatchError, match="is of features with digest"):
        extract.begin(run.objects, replace(run.recipe, dim=7), run.plan, ("plain",))


def test_what_cannot_be_made_is_refused(store: Path, trunk: Path) -> None:
    """A size that is not there, with those that are; a split that is not finished."""
    with pytest.raises(StoreError, match="has no 99 px: it has 8, 16"):
        make(store, trunk, stored_size=99)
    (store / layout.done("train")).unlink()
    with pytest.raises(StoreError, match="split 'train' is not finished"):
        make(store, trunk)


@pytest.mark.parametrize(
    ("sizes", "wanted", "fits"),
    [((72, 224, 288), 224, 224), ((72, 224, 288), 200, 224), ((72, 224), 300, 224), ((8,), 9, 8)],
)
def test_a_network_is_given_the_size_that_fits_it(
    sizes: tuple[int, ...], wanted: int, fits: int
) -> None:
    """The smallest that need not be enlarged, or the largest."""
    assert extract._fitting(sizes, wanted) == fits


def work(*, gpu: bool) -> FeatureWork:
    """Of nothing that is there."""
    return FeatureWork(
        store="s", split="train", run="r", name="n", trunk="t", kinds=("plain",), gpu=gpu
    )


def test_tasks_ask_for_a_gpu_where_there_is_one() -> None:
    """As Dask's workers offer it."""
    for gpu, options in ((True, {"resources": {"GPU": 1}}), (False, {})):
        (job,) = extract.feature_jobs(work(gpu=gpu), [7])
        assert job.options == options
        assert (job.name, job.arguments[1:]) == ("features-train-000007", (7, 1))


@given(st.integers(1, 50), st.integers(1, 9))
def test_no_processor_waits_for_the_end(shards: int, slots: int) -> None:
    """Full rounds have a thread each; the last, if it is not full, shares all of them out."""
    jobs = extract.feature_jobs(work(gpu=False), range(shards), slots)
    threads = [job.arguments[2] for job in jobs]
    assert [job.arguments[1] for job in jobs] == list(range(shards))
    last = shards % slots
    assert threads[: shards - last] == [1] * (shards - last)
    if last:
        assert set(threads[-last:]) == {slots // last}
        assert sum(threads[-last:]) <= slots


def test_a_recipe_says_how_it_was_asked_for(store: Path, trunk: Path) -> None:
    """So that a person can ask for the same again."""
    recipe = begin(store, trunk).recipe
    assert recipe.words() == "--size 16"
    other = replace(recipe, cut="a.b", pooling="max", dtype="float16", precision="bfloat16")
    assert other.words(BOTH) == (
        "--cut a.b --pooling max --size 16 --precision bfloat16 --dtype float16 --mirrored"
    )
    with pytest.raises(ValueError, match="features of 0 numbers, float32, computed in float32"):
        replace(recipe, dim=0)
    assert np.dtype(recipe.dtype).itemsize * recipe.dim == recipe.row_bytes


def test_features_of_a_store_of_an_older_format_are_of_that_format(
    trunk: Path, tmp_path: Path
) -> None:
    """They are whole, and a reader of that format knows every document of theirs."""
    golden = Path(__file__).parents[2] / "golden" / "format-1"
    store = Path(shutil.copytree(golden, tmp_path / "store"))
    name = make(store, trunk)
    for file in (store / "features" / name).rglob("*.json"):
        if file.name != "zarr.json":
            assert json.loads(file.read_bytes())["format"] == 1, file
    assert problems(store) == {}
    found = open_features(store, name, "train")
    assert np.isfinite(found.rows(found.readable)).all()
