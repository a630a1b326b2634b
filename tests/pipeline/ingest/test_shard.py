"""One task: its commit vouches for what is durable, and for nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import identity
from pipeline.errors import StoreError, StoreMismatchError
from pipeline.ingest.shard import prepare_shard
from pipeline.store import layout, records
from pipeline.store.objects import LocalObjects, LocalWriter
from tests.pictures import contents, make_folder, plan_inline, prepare_inline

ALL = [layout.shard("train", 8, 0), layout.shard("train", 16, 0), layout.part("train", 0)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 pictures: a full shard and a short one."""
    return make_folder(tmp_path_factory.mktemp("source") / "train", 10)


def test_another_tesserae_makes_no_shard(source: Path, tmp_path: Path) -> None:
    """A worker that came when all others had been asked."""
    _, _, work = plan_inline(source, str(tmp_path / "store"))
    with pytest.raises(StoreMismatchError, match="another Tesserae"):
        prepare_shard(replace(work, code="another"), 0)
    assert not list((tmp_path / "store" / "commits").rglob("*.json"))
    assert prepare_shard(replace(work, code=identity.digest()), 0).num_rows == 8


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("arrives", [False, True])
def test_what_cannot_be_finished_is_not_committed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arrives: bool
) -> None:
    """Whichever of the objects it is: they are finished side by side, and each has a say."""
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


@pytest.mark.parametrize(("together", "most"), [(True, 3), (False, 1)])
def test_objects_that_hold_memory_are_finished_one_by_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool, most: int
) -> None:
    """A PUT holds its object several times over; a disk is only waited for."""
    _, _, work = plan_inline(source, str(tmp_path / "store"))
    monkeypatch.setattr(LocalObjects, "finish_together", together)
    seen: list[int] = []

    class Pool:
        """Notes how many threads it was asked for."""

        def __init__(self, threads: int, *rest: Any) -> None:
            if rest == ("finish",):
                seen.append(threads)
            self._pool = real(threads, *rest)

        def __enter__(self) -> Any:
            return self._pool.__enter__()

        def __exit__(self, *error: Any) -> None:
            self._pool.__exit__(*error)

    import pipeline.ingest.shard as module

    real = module.ThreadPoolExecutor
    monkeypatch.setattr(module, "ThreadPoolExecutor", Pool)
    prepare_shard(work, 0)
    assert seen == [most]
