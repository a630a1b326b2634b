"""Any damage to features is reported, and repaired by computing them again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.features import verify
from pipeline.ingest import verify as image_check
from pipeline.store import derived, features, layout
from pipeline.store.features import FeatureRecipe
from pipeline.store.open import open_objects
from tests.damage import KINDS, damage
from tests.images import make_folder, prepare_inline
from tests.pipeline.features.small import BOTH, ROWS, files, make, problems


@pytest.fixture(scope="module")
def finished_features(
    images: Path, trunk: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """Return a store with features of both kinds, and their name."""
    store = Path(shutil.copytree(images, tmp_path_factory.mktemp("whole") / "store"))
    return store, make(store, trunk, kinds=BOTH)


def all_files(store: Path, name: str) -> list[str]:
    """Return the paths of all files of the features *name*."""
    folder = store / layout.FEATURES.folder / name
    return sorted(str(f.relative_to(store)) for f in folder.rglob("*") if f.is_file())


def test_every_file_of_features_is_checked(finished_features: tuple[Path, str]) -> None:
    """The files are recipe, metadata, commits, shards and the record of the split."""
    store, name = finished_features
    assert len(all_files(store, name)) == 1 + 2 + 2 + 6 + 3 + 1
    assert problems(store) == {}


@pytest.mark.parametrize(
    "kind",
    ["flip", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "flip")],
)
def test_every_damage_is_named_and_repaired(
    finished_features: tuple[Path, str], trunk: Path, tmp_path: Path, kind: str
) -> None:
    """Each file is changed, truncated and removed; the repair touches no other file."""
    store = Path(shutil.copytree(finished_features[0], tmp_path / "store"))
    name, rng = finished_features[1], np.random.default_rng(3)
    for file in all_files(store, name):
        before = files(store, name)
        damage(store, file, kind, rng)
        assert file in problems(store), file
        marks = {f: (store / f).stat().st_mtime_ns for f in all_files(store, name)}
        make(store, trunk, kinds=BOTH, repair=True)
        assert files(store, name) == before, file
        assert problems(store) == {}
        done = layout.FEATURES.done(name, "train")
        shard = file.rpartition("/")[2].partition(".")[0]  # a commit is made anew with its shards
        for other_file, mark in marks.items():
            shard_of_commit = "commits" in file and f"c.{int(shard)}.0" in other_file
            if (
                other_file not in (file, done)
                and not shard_of_commit
                and "commits" not in other_file
            ):
                assert (store / other_file).stat().st_mtime_ns == mark, (file, other_file)


def test_unfinished_features_are_not_damaged(store: Path, trunk: Path) -> None:
    """The same command continues them."""
    name = make(store, trunk, shards=[0, 2], finish=False)
    reported = problems(store)
    assert reported[layout.FEATURES.done(name, "train")].startswith("not finished")
    assert "1 of 3 shards" in reported[layout.FEATURES.commits(name, "train")]
    assert all(problem.startswith("not finished") for problem in reported.values())
    plain = f"{layout.FEATURES.array(name, 'train', 'plain')}/zarr.json"
    (store / plain).write_bytes(b"{}")
    assert "has 2 bytes" in problems(store)[plain]
    make(store, trunk)
    assert problems(store) == {}


def test_features_of_another_store_are_a_problem(
    finished_features: tuple[Path, str], tmp_path: Path
) -> None:
    """Other images are detected in commits and records, other pixels in the recipe."""
    store, name = finished_features
    other_store = tmp_path / "other"
    prepare_inline(make_folder(tmp_path / "images", ROWS, bad=1), str(other_store), sizes=(8, 16))
    shutil.copytree(store / layout.FEATURES.folder, other_store / layout.FEATURES.folder)
    reported = problems(other_store)
    assert (
        "belongs to other features or another plan" in reported[layout.FEATURES.done(name, "train")]
    )
    assert "another plan" in reported[layout.FEATURES.commit(name, "train", 0)]
    squished_store = tmp_path / "third"
    prepare_inline(tmp_path / "images", str(squished_store), sizes=(16,), fit="squish")
    shutil.copytree(store / layout.FEATURES.folder, squished_store / layout.FEATURES.folder)
    assert problems(squished_store) == {
        layout.FEATURES.recipe(name): "belongs to images of another store"
    }


def test_a_renamed_folder_of_features_is_a_problem(
    finished_features: tuple[Path, str], tmp_path: Path
) -> None:
    """The problem states the name that the folder should have."""
    store = Path(shutil.copytree(finished_features[0], tmp_path / "store"))
    folder = store / layout.FEATURES.folder / finished_features[1]
    folder.rename(folder.with_name("mine"))
    assert finished_features[1] in problems(store)[layout.FEATURES.recipe("mine")]


def test_features_without_a_plan_are_not_checked(
    finished_features: tuple[Path, str], tmp_path: Path
) -> None:
    """A copy of the plan in the ledger is enough to check them."""
    store = Path(shutil.copytree(finished_features[0], tmp_path / "store"))
    (store / layout.plan("train")).unlink()
    assert problems(store) == {}
    (store / layout.ledger("train")).unlink()
    assert (
        "before the plan of its split"
        in problems(store)[layout.FEATURES.done(finished_features[1], "train")]
    )


def test_unknown_files_are_reported(finished_features: tuple[Path, str], tmp_path: Path) -> None:
    """Features of splits that the store does not have are reported, too."""
    store, name = (
        Path(shutil.copytree(finished_features[0], tmp_path / "store")),
        finished_features[1],
    )
    stray = f"{layout.FEATURES.array(name, 'train', 'plain')}/c.9.0"
    (store / stray).write_bytes(b"x")
    objects = open_objects(str(store))
    feature_records = verify.check_derived_records(
        objects, FeatureRecipe, name, image_check.read_records(objects, "train")
    )
    assert verify.unknown_row_objects(objects, feature_records) == [stray]
    (store / layout.FEATURES.commits(name, "val")).mkdir()
    (store / layout.FEATURES.commit(name, "val", 0)).write_bytes(b"x")
    splits = derived.splits_of(objects, features.FAMILY)[name]
    assert splits == ["train", "val"]
    (problem,) = verify.unknown_splits(["train"], splits, features.FAMILY, name)
    assert "val" in problem.name


def test_verification_loads_no_torch() -> None:
    """The store report does not load torch either."""
    code = (
        "import sys, pipeline.features.verify, workflows.preparation.verify;"
        "import workflows.reports.store_info;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
