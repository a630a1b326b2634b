"""Whatever is wrong with features is named; and made anew."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.features import verify
from pipeline.ingest import verify as image_check
from pipeline.store import features, layout
from pipeline.store.objects import open_objects
from tests.damage import KINDS, damage
from tests.pictures import make_folder, prepare_inline
from tests.pipeline.features.small import BOTH, ROWS, files, make, problems


@pytest.fixture(scope="module")
def whole(images: Path, trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with features of both kinds, and their name."""
    store = Path(shutil.copytree(images, tmp_path_factory.mktemp("whole") / "store"))
    return store, make(store, trunk, kinds=BOTH)


def all_files(store: Path, name: str) -> list[str]:
    """Of the features *name*."""
    folder = store / layout.FEATURES / name
    return sorted(str(f.relative_to(store)) for f in folder.rglob("*") if f.is_file())


def test_every_file_is_looked_at(whole: tuple[Path, str]) -> None:
    """Recipe, metadata, commits, shards, and the record of all."""
    store, name = whole
    assert len(all_files(store, name)) == 1 + 2 + 2 + 6 + 3 + 1
    assert problems(store) == {}


@pytest.mark.parametrize(
    "kind",
    ["flip", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "flip")],
)
def test_every_damage_is_named_and_mended(
    whole: tuple[Path, str], trunk: Path, tmp_path: Path, kind: str
) -> None:
    """Each file, changed, cut off, and missing; then it is as it was, and no other is touched."""
    store = Path(shutil.copytree(whole[0], tmp_path / "store"))
    name, rng = whole[1], np.random.default_rng(3)
    for file in all_files(store, name):
        before = files(store, name)
        damage(store, file, kind, rng)
        assert file in problems(store), file
        marks = {f: (store / f).stat().st_mtime_ns for f in all_files(store, name)}
        make(store, trunk, kinds=BOTH, repair=True)
        assert files(store, name) == before, file
        assert problems(store) == {}
        done = layout.features_done(name, "train")
        shard = file.rpartition("/")[2].partition(".")[0]  # a commit is made anew with its shards
        for other, mark in marks.items():
            its = "commits" in file and f"c.{int(shard)}.0" in other
            if other not in (file, done) and not its and "commits" not in other:
                assert (store / other).stat().st_mtime_ns == mark, (file, other)


def test_what_is_not_finished_is_no_damage(store: Path, trunk: Path) -> None:
    """The same command goes on with it."""
    name = make(store, trunk, shards=[0, 2], finish=False)
    found = problems(store)
    assert found[layout.features_done(name, "train")].startswith("not finished")
    assert "1 of 3 shards" in found[layout.features_commits(name, "train")]
    assert all(what.startswith("not finished") for what in found.values())
    plain = f"{layout.features_array(name, 'train', 'plain')}/zarr.json"
    (store / plain).write_bytes(b"{}")
    assert "has 2 bytes" in problems(store)[plain]
    make(store, trunk)
    assert problems(store) == {}


def test_features_of_another_store_are_named(whole: tuple[Path, str], tmp_path: Path) -> None:
    """By their commits and record, if its pictures are others; by their recipe, if its pixels."""
    store, name = whole
    other = tmp_path / "other"
    prepare_inline(make_folder(tmp_path / "images", ROWS, bad=1), str(other), sizes=(8, 16))
    shutil.copytree(store / layout.FEATURES, other / layout.FEATURES)
    found = problems(other)
    assert "is of other features or another plan" in found[layout.features_done(name, "train")]
    assert "another plan" in found[layout.features_commit(name, "train", 0)]
    third = tmp_path / "third"
    prepare_inline(tmp_path / "images", str(third), sizes=(16,), fit="squish")
    shutil.copytree(store / layout.FEATURES, third / layout.FEATURES)
    assert problems(third) == {layout.features_recipe(name): "is of images of another store"}


def test_a_folder_that_was_renamed_is_named(whole: tuple[Path, str], tmp_path: Path) -> None:
    """With the name that it should have."""
    store = Path(shutil.copytree(whole[0], tmp_path / "store"))
    folder = store / layout.FEATURES / whole[1]
    folder.rename(folder.with_name("mine"))
    assert whole[1] in problems(store)[layout.features_recipe("mine")]


def test_features_wait_for_a_plan_that_is_lost(whole: tuple[Path, str], tmp_path: Path) -> None:
    """Where the ledger has no copy of it either; with one they are checked as ever."""
    store = Path(shutil.copytree(whole[0], tmp_path / "store"))
    (store / layout.plan("train")).unlink()
    assert problems(store) == {}
    (store / layout.ledger("train")).unlink()
    assert (
        "before the plan of its split" in problems(store)[layout.features_done(whole[1], "train")]
    )


def test_strangers_are_found(whole: tuple[Path, str], tmp_path: Path) -> None:
    """And splits that the store has not."""
    store, name = Path(shutil.copytree(whole[0], tmp_path / "store")), whole[1]
    stray = f"{layout.features_array(name, 'train', 'plain')}/c.9.0"
    (store / stray).write_bytes(b"x")
    objects = open_objects(str(store))
    found = verify.read_records(objects, name, image_check.read_records(objects, "train"))
    assert verify.strangers(objects, found) == [stray]
    (store / layout.features_commits(name, "val")).mkdir()
    (store / layout.features_commit(name, "val", 0)).write_bytes(b"x")
    splits = features.splits_of(objects)[name]
    assert splits == ["train", "val"]
    (problem,) = verify.unknown_splits(["train"], splits, name)
    assert "val" in problem.name


def test_checking_loads_no_torch() -> None:
    """Nor does what says what a store holds."""
    code = (
        "import sys, pipeline.features.verify, workflows.preparation.verify;"
        "import workflows.reports.store_facts;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
