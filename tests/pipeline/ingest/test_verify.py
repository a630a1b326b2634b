"""Verification reads intact records, and the ledger's copies of damaged ones."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest import verify
from pipeline.ingest.verify import SplitRecords
from pipeline.store import integrity, layout, records
from pipeline.store.integrity import Problem
from pipeline.store.local import LocalObjects
from tests.damage import snapshot


def read_train_records(objects: LocalObjects) -> SplitRecords:
    return verify.read_records(objects, "train")


def test_every_file_of_a_finished_split_has_a_digest(objects: LocalObjects) -> None:
    """The digest of a file is in another record or in the file itself."""
    split_records = read_train_records(objects)
    documents = {
        layout.RECIPE,
        layout.plan("train"),
        layout.done("train"),
        layout.ledger("train"),
        *(layout.commit("train", shard) for shard in range(3)),
    }
    vouched = {written.name for written in split_records.objects}
    assert vouched | documents == set(snapshot(Path(objects.url)).data)
    assert not vouched & documents


def test_the_ledger_replaces_damaged_records(objects: LocalObjects) -> None:
    """Each damaged record is still reported."""
    before = read_train_records(objects)
    names = {layout.RECIPE, layout.plan("train"), layout.commit("train", 2)}
    for name in names:
        objects.put(name, objects.get(name)[:-1])
    after = read_train_records(objects)
    assert replace(after, problems=()) == before
    assert {problem.name for problem in after.problems} == names


def test_a_copy_in_a_damaged_ledger_must_match_its_name(objects: LocalObjects) -> None:
    """The names in a ledger have no digest of their own."""
    name, other_name = layout.commit("train", 1), layout.commit("train", 2)
    text = objects.get(layout.ledger("train"))
    objects.put(layout.ledger("train"), text.replace(other_name.encode(), name.encode(), 1))
    objects.remove(name)
    objects.remove(other_name)
    assert set(read_train_records(objects).commits) == {0}
    split_records = read_train_records(objects)
    assert {p.name for p in split_records.problems} == {name, other_name, layout.ledger("train")}


def test_a_record_of_another_kind_or_store_is_a_problem(
    objects: LocalObjects, finished_store: Path
) -> None:
    """The record is intact, but belongs to another file or another store."""
    recipe = records.load_recipe(objects)
    objects.put(layout.RECIPE, replace(recipe, fit="pad").encode())
    objects.put(layout.commit("train", 0), recipe.encode())
    done = records.load_finish_record(objects, "train")
    assert done is not None
    objects.put(layout.done("train"), replace(done, plan="0" * 64).encode())
    split_records = read_train_records(objects)
    assert split_records.recipe == recipe
    assert split_records.commits[0].shard == 0
    assert {p.name: p.description for p in split_records.problems} == {
        layout.RECIPE: "belongs to another store, plan or shard",
        layout.commit("train", 0): "damaged: arrays is missing",
        layout.done("train"): "belongs to another store, plan or shard",
    }


@pytest.mark.parametrize("change", [{"plan": "0" * 64}, {"start": 1, "stop": 9}])
def test_a_commit_of_another_plan_is_a_problem(
    objects: LocalObjects, change: dict[str, Any]
) -> None:
    """The commit is intact and of the same split and shard, but of other rows."""
    commit = read_train_records(objects).commits[0]
    stop = change.get("stop", commit.stop)
    counts = {"readable": stop - change.get("start", commit.start)}
    objects.put(layout.commit("train", 0), replace(commit, **change, counts=counts).encode())
    problem = Problem(layout.commit("train", 0), "belongs to another store, plan or shard")
    assert read_train_records(objects).problems == (problem,)
    assert read_train_records(objects).commits[0] == commit, (
        "the ledger has the one that belongs here"
    )


def test_a_replaced_plan_is_a_problem(objects: LocalObjects) -> None:
    """The ledger contains the plan that the commits belong to."""
    planned = records.load_plan(objects, "train")
    objects.put(layout.plan("train"), replace(planned, seed=9).encode())
    split_records = read_train_records(objects)
    assert split_records.plan == planned
    assert {problem.name for problem in split_records.problems} == {layout.plan("train")}


def test_an_unreadable_object_is_a_problem(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk error does not end the verification."""
    shard = layout.shard("train", 8, 0)
    written = read_train_records(objects).commits[0].arrays["8"]
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
    message = "cannot be read: Input/output error"
    assert integrity.check_object(objects, written) == Problem(shard, message)
    assert read_train_records(objects).problems == (Problem(layout.commit("train", 1), message),)


def test_a_folder_with_the_name_of_an_object_is_not_the_object(objects: LocalObjects) -> None:
    """The object counts as missing."""
    written = read_train_records(objects).commits[0].arrays["8"]
    objects.remove(written.name)
    (Path(objects.url) / written.name).mkdir()
    assert integrity.check_object(objects, written) == Problem(written.name, "missing")


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_any_number_of_threads_checks_every_object(objects: LocalObjects, threads: int) -> None:
    """Each object is checked once."""
    split_records = read_train_records(objects)
    checked = list(integrity.check_objects(objects, split_records.objects, threads=threads))
    assert [written for written, _ in checked] == split_records.objects
    assert {problem for _, problem in checked} == {None}


def test_missing_parts_of_an_unfinished_split_are_reported(objects: LocalObjects) -> None:
    """A split can lack shards, a size, or the finish step."""
    split_records = read_train_records(objects)
    assert verify.check_finished(split_records) == []
    plan, done = layout.plan("train"), layout.done("train")
    assert verify.check_finished(replace(split_records, commits={0: split_records.commits[0]})) == [
        Problem(plan, "not finished: 2 of 3 shards are not committed")
    ]
    assert verify.check_finished(replace(split_records, done=None)) == [
        Problem(done, "not finished: the finish step has not run")
    ]
    lost = replace(split_records, done=None, problems=(Problem(done, "missing"),))
    assert verify.check_finished(lost) == []
    assert split_records.done is not None
    smaller = replace(split_records, done=replace(split_records.done, sizes=(8,)))
    assert verify.check_finished(smaller) == [
        Problem("images.zarr/train/16", "not finished: the finish step has not run at 16 px")
    ]
    larger = replace(split_records, done=replace(split_records.done, sizes=(8, 16, 24)))
    assert verify.check_finished(larger) == [
        Problem("images.zarr/train/24", "not finished: 3 of 3 shards are not committed at 24 px")
    ]


def test_unknown_objects_are_those_without_a_record(objects: LocalObjects) -> None:
    """Only unknown objects of this split are returned, and only if it is finished."""
    objects.put("images.zarr/train/8/c.9.0.0.0", b"x")
    objects.put("images.zarr/val/8/c.0.0.0.0", b"x")
    objects.put("samples/train.parts/000009.parquet", b"x")
    split_records = read_train_records(objects)
    assert verify.unknown_objects(objects, split_records) == [
        "images.zarr/train/8/c.9.0.0.0",
        "samples/train.parts/000009.parquet",
    ]
    assert verify.unknown_objects(objects, replace(split_records, done=None)) == []
