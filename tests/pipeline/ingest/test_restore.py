"""Repair: which objects are rebuilt, from which copy, and which are left unchanged."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.ingest import restore, verify
from pipeline.ingest.restore import Rebuild
from pipeline.ingest.verify import SplitRecords
from pipeline.ingest.worker import ShardTaskConfig
from pipeline.store import integrity, layout, table
from pipeline.store.integrity import Problem
from pipeline.store.local import LocalObjects
from tests.damage import damage, snapshot, touched
from tests.images import SMALL, prepare_inline


def damage_and_verify(store: Path, *names: str) -> tuple[SplitRecords, list[Problem]]:
    for name in names:
        damage(store, name, "flip", np.random.default_rng(0))
    objects = LocalObjects(str(store), "reader")
    split_records = verify.read_records(objects, "train")
    wrong = [
        problem
        for _, problem in integrity.check_objects(objects, split_records.objects)
        if problem is not None
    ]
    return split_records, [*split_records.problems, *wrong]


def test_records_are_restored_byte_for_byte(store: Path, objects: LocalObjects) -> None:
    """Only the damaged records are written."""
    before = snapshot(store)
    names = [layout.RECIPE, layout.plan("train"), layout.commit("train", 1)]
    split_records, _ = damage_and_verify(store, *names)
    assert sorted(restore.restore_records(objects, split_records)) == sorted(names)
    after = snapshot(store)
    assert after.data == before.data
    assert touched(before, after) == set(names)


@pytest.mark.parametrize("group_rows", [3, 4, 65_536])
def test_parts_are_restored_from_the_whole_table(
    finished_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_rows: int
) -> None:
    """The row groups may begin anywhere, and no image is read."""
    monkeypatch.setattr(table, "GROUP_ROWS", group_rows)
    prepare_inline(finished_store.parent / "images", str(tmp_path / "store"), **SMALL)
    shutil.rmtree(tmp_path / "store" / ".cache")
    before = snapshot(tmp_path / "store")
    names = [layout.part("train", 0), layout.part("train", 2)]
    split_records, problems = damage_and_verify(tmp_path / "store", *names)
    objects = LocalObjects(str(tmp_path / "store"), "train-1")
    objects.begin()
    assert restore.restore_parts(objects, split_records, problems) == names
    after = snapshot(tmp_path / "store")
    assert after.data == before.data
    assert touched(before, after) == set(names)


def test_parts_are_not_restored_from_a_damaged_table(store: Path, objects: LocalObjects) -> None:
    """A missing table, or one with other rows, is not used either."""
    part, name = layout.part("train", 0), layout.table("train")
    split_records, problems = damage_and_verify(store, part, name)
    assert restore.restore_parts(objects, split_records, problems) == []
    objects.remove(name)
    assert restore.restore_parts(objects, split_records, problems) == []
    objects.put(name, objects.get(layout.part("train", 1)))
    assert (
        restore.restore_parts(objects, split_records, [p for p in problems if p.name == part]) == []
    )


def test_only_damaged_objects_are_rebuilt(store: Path) -> None:
    """A rebuild lists the arrays of a shard, and whether its table part is included."""
    names = [layout.shard("train", 16, 0), layout.part("train", 1), layout.shard("train", 8, 1)]
    split_records, problems = damage_and_verify(
        store, *names, layout.table("train"), layout.ledger("train")
    )
    rebuilds = [Rebuild(0, ("16",), part=False), Rebuild(1, ("8",), part=True)]
    assert restore.plan_rebuilds(split_records, problems) == rebuilds
    work = ShardTaskConfig(store=str(store), split="train", run="r", arrays=())
    jobs = restore.rebuild_jobs(work, rebuilds)
    assert [job.name for job in jobs] == ["repair-train-000000", "repair-train-000001"]
    assert jobs[1].options == {"arrays": ("8",), "part": True}


def test_a_damaged_commit_without_a_copy_counts_as_lost(store: Path) -> None:
    """A commit that was never written does not."""
    split_records, problems = damage_and_verify(store, layout.commit("train", 1))
    assert restore.shards_without_commit(split_records, problems) == []
    lost = replace(
        split_records, commits={0: split_records.commits[0]}
    )  # as if the ledger had none either
    assert restore.shards_without_commit(lost, problems) == [1]
    assert restore.shards_without_commit(lost, []) == []
    assert restore.shards_without_commit(replace(lost, plan=None), problems) == []


def test_the_sizes_follow_from_any_remaining_record(store: Path, objects: LocalObjects) -> None:
    """The sizes come from the finish record, from other commits, or from the arrays."""
    split_records, _ = damage_and_verify(store)
    assert restore.planned_arrays(objects, split_records) == ("8", "16")
    assert restore.planned_arrays(objects, replace(split_records, done=None)) == ("8", "16")
    assert restore.planned_arrays(objects, replace(split_records, commits={})) == ("8", "16")
    assert restore.planned_arrays(objects, replace(split_records, done=None, commits={})) == (
        "8",
        "16",
    )
