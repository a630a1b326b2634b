"""Checking: by the records that are whole, and by a copy of those that are not."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest import verify
from pipeline.ingest.verify import Found, Problem
from pipeline.store import layout, records
from pipeline.store.objects import LocalObjects
from tests.damage import snapshot
from tests.pictures import make_folder, prepare_inline

CHOICES = {"shard_rows": 4, "chunk_rows": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("check")
    prepare_inline(make_folder(root / "images", 11, bad=1), str(root / "store"), **CHOICES)
    return root / "store"


@pytest.fixture
def objects(whole: Path, tmp_path: Path) -> LocalObjects:
    objects = LocalObjects(str(shutil.copytree(whole, tmp_path / "store")), "train-1")
    objects.begin()
    return objects


def found(objects: LocalObjects) -> Found:
    return verify.read_records(objects, "train")


def test_every_file_of_a_finished_split_is_vouched_for(objects: LocalObjects) -> None:
    """By a digest in another record, or by its own."""
    kept = found(objects)
    documents = {
        layout.RECIPE,
        layout.plan("train"),
        layout.done("train"),
        layout.ledger("train"),
        *(layout.commit("train", shard) for shard in range(3)),
    }
    vouched = {written.name for written in kept.objects}
    assert vouched | documents == set(snapshot(Path(objects.url)).data)
    assert not vouched & documents


def test_copies_stand_in_for_records_that_are_damaged(objects: LocalObjects) -> None:
    """And each is named."""
    before = found(objects)
    names = {layout.RECIPE, layout.plan("train"), layout.commit("train", 2)}
    for name in names:
        objects.put(name, objects.get(name)[:-1])
    after = found(objects)
    assert replace(after, problems=()) == before
    assert {problem.name for problem in after.problems} == names


def test_a_damaged_ledger_lends_no_copy_under_another_name(objects: LocalObjects) -> None:
    """Names in it have no digest of their own."""
    name, other = layout.commit("train", 1), layout.commit("train", 2)
    text = objects.get(layout.ledger("train"))
    objects.put(layout.ledger("train"), text.replace(other.encode(), name.encode(), 1))
    objects.remove(name)
    objects.remove(other)
    assert set(found(objects).commits) == {0}
    kept = found(objects)
    assert {p.name for p in kept.problems} == {name, other, layout.ledger("train")}


def test_a_record_of_another_kind_or_store_is_named(objects: LocalObjects, whole: Path) -> None:
    """It is whole, but does not belong here."""
    recipe = records.load_recipe(objects)
    objects.put(layout.RECIPE, replace(recipe, fit="pad").encode())
    objects.put(layout.commit("train", 0), recipe.encode())
    done = records.load_done(objects, "train")
    assert done is not None
    objects.put(layout.done("train"), replace(done, plan="0" * 64).encode())
    kept = found(objects)
    assert kept.recipe == recipe
    assert kept.commits[0].shard == 0
    assert {p.name: p.what for p in kept.problems} == {
        layout.RECIPE: "belongs to another store, plan or shard",
        layout.commit("train", 0): "damaged: arrays is missing",
        layout.done("train"): "belongs to another store, plan or shard",
    }


@pytest.mark.parametrize("change", [{"plan": "0" * 64}, {"start": 1, "stop": 9}])
def test_a_commit_of_another_plan_is_named(objects: LocalObjects, change: dict[str, Any]) -> None:
    """It is of the same split and shard, and whole; its rows are others."""
    kept = found(objects).commits[0]
    stop = change.get("stop", kept.stop)
    counts = {"readable": stop - change.get("start", kept.start)}
    objects.put(layout.commit("train", 0), replace(kept, **change, counts=counts).encode())
    problem = Problem(layout.commit("train", 0), "belongs to another store, plan or shard")
    assert found(objects).problems == (problem,)
    assert found(objects).commits[0] == kept, "the ledger has the one that belongs here"


def test_a_plan_that_is_not_the_first_is_named(objects: LocalObjects) -> None:
    """The ledger has the one that the commits belong to."""
    planned = records.load_plan(objects, "train")
    objects.put(layout.plan("train"), replace(planned, seed=9).encode())
    kept = found(objects)
    assert kept.plan == planned
    assert {problem.name for problem in kept.problems} == {layout.plan("train")}


def test_what_cannot_be_read_is_named(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk is no reason to stop looking."""
    shard = layout.shard("train", 8, 0)
    kept = found(objects).commits[0].arrays["8"]
    real_open, real_get = LocalObjects.open, LocalObjects.get

    def fail_open(self: LocalObjects, name: str):
        if name == shard:
            raise OSError(5, os.strerror(5))
        return real_open(self, name)

    def fail_get(self: LocalObjects, name: str, limit: int | None = None) -> bytes:
        if name == layout.commit("train", 1):
            raise OSError(5, os.strerror(5))
        return real_get(self, name, limit)

    monkeypatch.setattr(LocalObjects, "open", fail_open)
    monkeypatch.setattr(LocalObjects, "get", fail_get)
    words = "cannot be read: Input/output error"
    assert verify.check_object(objects, kept) == Problem(shard, words)
    assert found(objects).problems == (Problem(layout.commit("train", 1), words),)


def test_a_folder_in_the_place_of_an_object_is_not_the_object(objects: LocalObjects) -> None:
    """It is missing."""
    kept = found(objects).commits[0].arrays["8"]
    objects.remove(kept.name)
    (Path(objects.url) / kept.name).mkdir()
    assert verify.check_object(objects, kept) == Problem(kept.name, "missing")


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_objects_are_all_checked_by_any_number_of_threads(
    objects: LocalObjects, threads: int
) -> None:
    """Each once."""
    kept = found(objects)
    checked = list(verify.check_objects(objects, kept, threads=threads))
    assert [written for written, _ in checked] == kept.objects
    assert {problem for _, problem in checked} == {None}


def test_what_keeps_a_split_from_being_finished_is_said(objects: LocalObjects) -> None:
    """Shards, a size, or the last step."""
    kept = found(objects)
    assert verify.check_whole(kept) == []
    plan, done = layout.plan("train"), layout.done("train")
    assert verify.check_whole(replace(kept, commits={0: kept.commits[0]})) == [
        Problem(plan, "not finished: 2 of 3 shards are not committed")
    ]
    assert verify.check_whole(replace(kept, done=None)) == [
        Problem(done, "not finished: the finish step has not run")
    ]
    lost = replace(kept, done=None, problems=(Problem(done, "missing"),))
    assert verify.check_whole(lost) == []
    assert kept.done is not None
    smaller = replace(kept, done=replace(kept.done, sizes=(8,)))
    assert verify.check_whole(smaller) == [
        Problem("images.zarr/train/16", "not finished: the finish step has not run at 16 px")
    ]
    larger = replace(kept, done=replace(kept.done, sizes=(8, 16, 24)))
    assert verify.check_whole(larger) == [
        Problem("images.zarr/train/24", "not finished: 3 of 3 shards are not committed at 24 px")
    ]


def test_strangers_are_objects_that_no_record_knows(objects: LocalObjects) -> None:
    """Of this split alone, and only once it is finished."""
    objects.put("images.zarr/train/8/c.9.0.0.0", b"x")
    objects.put("images.zarr/val/8/c.0.0.0.0", b"x")
    objects.put("samples/train.parts/000009.parquet", b"x")
    kept = found(objects)
    assert verify.strangers(objects, kept) == [
        "images.zarr/train/8/c.9.0.0.0",
        "samples/train.parts/000009.parquet",
    ]
    assert verify.strangers(objects, replace(kept, done=None)) == []
