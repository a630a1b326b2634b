"""A task's commit vouches for durable objects, and for nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import code_digest
from pipeline.errors import StoreError, StoreMismatchError
from pipeline.images import rows
from pipeline.images.rejection import CRASHED, STATUS_WORDS, TIMEOUT, TRUNCATED
from pipeline.ingest.shard_task import prepare_shard
from pipeline.ingest.worker import ShardTaskConfig, workspace
from pipeline.store import layout, records, table
from pipeline.store.fingerprint import fingerprint
from pipeline.store.local import LocalObjects, LocalWriter
from pipeline.store.objects import Objects
from tests.images import contents, make_folder, plan_inline, prepare_inline

ALL = [layout.shard("train", 8, 0), layout.shard("train", 16, 0), layout.part("train", 0)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make 10 images: a full shard and a short one."""
    return make_folder(tmp_path_factory.mktemp("source") / "train", 10)


def test_a_worker_with_other_code_makes_no_shard(source: Path, tmp_path: Path) -> None:
    """The worker joined after the others were checked."""
    _, _, work = plan_inline(source, str(tmp_path / "store"))
    with pytest.raises(StoreMismatchError, match="another version of Tesserae"):
        prepare_shard(replace(work, code="another"), 0)
    assert not list((tmp_path / "store" / "commits").rglob("*.json"))
    assert prepare_shard(replace(work, code=code_digest.running_code_digest()), 0).num_rows == 8


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_worker_with_another_disk_at_the_path_makes_no_shard(
    source: Path, tmp_path: Path, prefix: str
) -> None:
    """Its own folder of that name has none of the run's temporary files."""
    _, _, work = plan_inline(source, str(tmp_path / "store"))
    (tmp_path / "local").mkdir()
    with pytest.raises(StoreError, match="is not the folder that the command writes to"):
        prepare_shard(replace(work, store=f"{prefix}{tmp_path}/local"), 0)
    assert prepare_shard(replace(work, store=f"{prefix}{tmp_path}/store"), 0).num_rows == 8


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("arrives", [False, True])
def test_a_failed_object_prevents_the_commit(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arrives: bool
) -> None:
    """Objects are finished in parallel, and the failure of any of them counts."""
    prepare_inline(source, str(tmp_path / "whole"))
    store = tmp_path / "store"
    objects, plan, work = plan_inline(source, str(store))
    finish = LocalWriter.finish

    def fail(self: LocalWriter) -> None:
        if self.name != name or arrives:
            finish(self)
        if self.name == name:
            raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(LocalWriter, "finish", fail)
        with pytest.raises(StoreError, match="the disk is full"):
            prepare_shard(work, 0)
    assert records.load_commits(objects, plan) == {}
    assert not list((store / ".tmp" / work.run).iterdir()), "no temp file is left"
    prepare_inline(source, str(store))
    assert contents(store) == contents(tmp_path / "whole")


@pytest.mark.parametrize(("together", "expected_threads"), [(True, 3), (False, 1)])
def test_objects_in_memory_are_finished_one_by_one(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    together: bool,
    expected_threads: int,
) -> None:
    """A PUT holds several copies of its object; a disk only makes a thread wait."""
    _, _, work = plan_inline(source, str(tmp_path / "store"))
    monkeypatch.setattr(LocalObjects, "finish_together", together)
    seen: list[int] = []

    class Pool:
        """A thread pool that records its number of threads."""

        def __init__(self, threads: int, *arguments: Any) -> None:
            if arguments == ("finish",):
                seen.append(threads)
            self._pool = real(threads, *arguments)

        def __enter__(self) -> Any:
            return self._pool.__enter__()

        def __exit__(self, *error: Any) -> None:
            self._pool.__exit__(*error)

    import pipeline.ingest.shard_task as module

    real = module.ThreadPoolExecutor
    monkeypatch.setattr(module, "ThreadPoolExecutor", Pool)
    prepare_shard(work, 0)
    assert seen == [expected_threads]


def commit_with_status(
    source: Path, store: Path, status: int, reason: str | None
) -> tuple[Objects, ShardTaskConfig]:
    """Make a store at 8 px whose first row was committed with another status."""
    objects, plan, work = plan_inline(source, str(store), sizes=(8,))
    prepare_shard(work, 0)
    commit = records.load_commits(objects, plan)[0]
    lines = table.decode_part(objects.get(commit.table.name)).to_pylist()
    blank = dict.fromkeys(("width", "height", "mode", "format", "box"))
    lines[0] |= {**blank, "status": status, "reason": reason}
    data = table.encode_table(pa.Table.from_pylist(lines, schema=table.SCHEMA))
    objects.put(commit.table.name, data)
    counts = {"readable": len(lines) - 1, STATUS_WORDS[status]: 1}
    written = fingerprint(commit.table.name, data)
    objects.put(layout.commit("train", 0), replace(commit, table=written, counts=counts).encode())
    workspace.cache_clear()
    return objects, replace(work, arrays=("8", "16"))


@pytest.mark.parametrize("status", [CRASHED, TIMEOUT])
def test_an_image_that_crashed_a_decoder_is_not_decoded_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """The table part names it when a store gets a further size."""
    objects, work = commit_with_status(source, tmp_path / "store", status, "it was killed")
    decoded: list[bytes] = []
    real = rows.decode

    def note(data: bytes, **options: Any) -> Any:
        decoded.append(data)
        return real(data, **options)

    monkeypatch.setattr(rows, "decode", note)
    report = prepare_shard(work, 0)
    assert len(decoded) == 7
    assert report.counts == {"readable": 7, STATUS_WORDS[status]: 1}
    data = np.frombuffer(objects.get(layout.shard("train", 16, 0)), np.uint8)
    assert not data[: 16 * 16 * 3].any(), "its row is zeros"
    assert data[16 * 16 * 3 : 2 * 16 * 16 * 3].any()


def test_a_row_whose_status_has_changed_is_an_error(source: Path, tmp_path: Path) -> None:
    """The bytes were unreadable before, so one of the two decoders is not the recipe's."""
    objects, work = commit_with_status(source, tmp_path / "store", TRUNCATED, "it breaks off")
    with pytest.raises(StoreMismatchError, match="was truncated when it was committed and is rea"):
        prepare_shard(work, 0)
    assert records.load_commits(objects, records.load_plan(objects, "train"))[0].sizes == {8}


def test_a_commit_of_another_plan_is_ignored(source: Path, tmp_path: Path) -> None:
    """Rows of another plan are other images, so the shard is prepared again at every size."""
    store = tmp_path / "store"
    objects, plan, work = plan_inline(source, str(store), sizes=(8,))
    prepare_shard(work, 0)
    commit = records.load_commits(objects, plan)[0]
    objects.put(layout.commit("train", 0), replace(commit, plan="0" * 64).encode())
    assert records.load_commits(objects, plan) == {}
    report = prepare_shard(replace(work, arrays=("8", "16")), 0)
    assert sorted(report.written_objects) == sorted(ALL)
    after = records.load_commits(objects, plan)[0]
    assert (after.plan, after.sizes) == (plan.digest, {8, 16})
