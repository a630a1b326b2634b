"""Mending: what is made again, from where, and what is not."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.ingest import repair, verify
from pipeline.ingest.repair import Rebuild
from pipeline.ingest.shard import Work
from pipeline.ingest.verify import Found, Problem
from pipeline.store import layout, table
from pipeline.store.objects import LocalObjects
from tests.damage import damage, snapshot, touched
from tests.pictures import make_folder, prepare_inline

CHOICES = {"shard_rows": 4, "chunk_rows": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mend")
    prepare_inline(make_folder(root / "images", 11, bad=1), str(root / "store"), **CHOICES)
    return root / "store"


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "store")


@pytest.fixture
def objects(store: Path) -> LocalObjects:
    objects = LocalObjects(str(store), "train-1")
    objects.begin()
    return objects


def harm(store: Path, *names: str) -> tuple[Found, list[Problem]]:
    for name in names:
        damage(store, name, "flip", np.random.default_rng(0))
    objects = LocalObjects(str(store), "reader")
    found = verify.read_records(objects, "train")
    wrong = [problem for _, problem in verify.check_objects(objects, found) if problem is not None]
    return found, [*found.problems, *wrong]


def test_records_come_back_word_for_word(store: Path, objects: LocalObjects) -> None:
    """Those that were damaged, and no others."""
    before = snapshot(store)
    names = [layout.RECIPE, layout.plan("train"), layout.commit("train", 1)]
    found, _ = harm(store, *names)
    assert sorted(repair.restore_records(objects, found)) == sorted(names)
    after = snapshot(store)
    assert after.data == before.data
    assert touched(before, after) == set(names)


@pytest.mark.parametrize("group_rows", [3, 4, 65_536])
def test_parts_are_cut_out_of_the_whole_table(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_rows: int
) -> None:
    """Wherever its row groups begin; no image is read for that."""
    monkeypatch.setattr(table, "GROUP_ROWS", group_rows)
    prepare_inline(whole.parent / "images", str(tmp_path / "store"), **CHOICES)
    shutil.rmtree(tmp_path / "store" / ".cache")
    before = snapshot(tmp_path / "store")
    names = [layout.part("train", 0), layout.part("train", 2)]
    found, problems = harm(tmp_path / "store", *names)
    objects = LocalObjects(str(tmp_path / "store"), "train-1")
    objects.begin()
    assert repair.restore_parts(objects, found, problems) == names
    after = snapshot(tmp_path / "store")
    assert after.data == before.data
    assert touched(before, after) == set(names)


def test_parts_are_not_cut_out_of_a_damaged_table(store: Path, objects: LocalObjects) -> None:
    """Nor out of one that is gone, or holds other rows."""
    part, name = layout.part("train", 0), layout.table("train")
    found, problems = harm(store, part, name)
    assert repair.restore_parts(objects, found, problems) == []
    objects.remove(name)
    assert repair.restore_parts(objects, found, problems) == []
    objects.put(name, objects.get(layout.part("train", 1)))
    assert repair.restore_parts(objects, found, [p for p in problems if p.name == part]) == []


def test_only_what_is_damaged_is_made_again(store: Path) -> None:
    """By shard: which sizes, and whether the part."""
    names = [layout.shard("train", 16, 0), layout.part("train", 1), layout.shard("train", 8, 1)]
    found, problems = harm(store, *names, layout.table("train"), layout.ledger("train"))
    rebuilds = [Rebuild(0, (16,), part=False), Rebuild(1, (8,), part=True)]
    assert repair.plan_rebuilds(found, problems) == rebuilds
    work = Work(store=str(store), split="train", run="r", sizes=())
    jobs = repair.rebuild_jobs(work, rebuilds)
    assert [job.name for job in jobs] == ["repair-train-000000", "repair-train-000001"]
    assert jobs[1].options == {"sizes": (8,), "part": True}


def test_a_commit_is_lost_where_there_is_no_copy(store: Path) -> None:
    """One that was never made is not lost."""
    found, problems = harm(store, layout.commit("train", 1))
    assert repair.lost_shards(found, problems) == []
    lost = replace(found, commits={0: found.commits[0]})  # as if the ledger had none either
    assert repair.lost_shards(lost, problems) == [1]
    assert repair.lost_shards(lost, []) == []
    assert repair.lost_shards(replace(lost, plan=None), problems) == []


def test_the_sizes_of_a_split_are_known_from_whatever_is_left(
    store: Path, objects: LocalObjects
) -> None:
    """The finish record, other commits, or the arrays themselves."""
    found, _ = harm(store)
    assert repair.planned_sizes(objects, found) == (8, 16)
    assert repair.planned_sizes(objects, replace(found, done=None)) == (8, 16)
    assert repair.planned_sizes(objects, replace(found, commits={})) == (8, 16)
    assert repair.planned_sizes(objects, replace(found, done=None, commits={})) == (8, 16)
