"""Whatever is lost with the power, a store opens, is gone on with, and ends as if nothing had been."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.ingest import check
from pipeline.store import layout, records
from pipeline.store import objects as door
from pipeline.store.objects import open_objects
from tests.disk import LOSSES, Disk, careless, lay_out, recording, replay
from tests.pictures import contents, make_folder, prepare_inline

CHOICES = {"shard_rows": 4, "chunk_rows": 2}
ONE, TWO = (8,), (8, 16)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"), 6, bad=1)


@dataclass
class Run:
    """A prepare whose every operation was recorded, and what it should lead to."""

    source: Path
    sizes: tuple[int, ...]
    whole: dict[str, bytes]
    before: Disk
    ops: list


def prepare(source: Path, root: Path, sizes: tuple[int, ...]) -> Path:
    prepare_inline(source, str(root / "store"), sizes=sizes, **CHOICES)
    return root / "store"


@pytest.fixture(params=["fresh", "a further size"])
def run(
    request: pytest.FixtureRequest,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """One whole prepare of an empty folder, or of a store that has a size."""
    root = tmp_path / "recorded"
    root.mkdir()
    monkeypatch.setattr(door, "BLOCK_BYTES", 4096)  # so that a thread writes some of it
    before = Disk()
    if request.param == "a further size":
        with recording(monkeypatch, root) as ops:
            prepare(source, root, ONE)
        replay(ops, before)
    with recording(monkeypatch, root, max(before.data, default=0)) as ops:
        store = prepare(source, root, TWO)
    return Run(source, TWO, contents(store), before, ops)


def after(run: Run, prefix: int) -> Disk:
    disk = Disk(*(dict(part) for part in vars(run.before).values()))
    return replay(run.ops[:prefix], disk)


def problems(store: Path) -> list[check.Problem]:
    objects = open_objects(str(store))
    found = check.read_records(objects, "train")
    wrong = [problem for _, problem in check.check_objects(objects, found) if problem is not None]
    metadata = check.check_metadata(objects, found)
    return [*found.problems, *wrong, *check.check_whole(found), *metadata]


def check_goes_on(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with careless(monkeypatch):
        store = prepare(run.source, root, run.sizes)
    assert contents(store) == run.whole
    assert problems(store) == []


def check_every(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefixes: Iterator[int] | range
) -> None:
    for place, prefix in enumerate(prefixes):
        disk = after(run, prefix)
        for how in LOSSES:
            root = lay_out(disk.lose(how, seed=prefix), tmp_path / f"{place}-{how}")
            check_goes_on(run, root, monkeypatch)
            shutil.rmtree(root)


def test_a_run_cut_off_by_the_power_is_gone_on_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one operation in twelve, whichever of the unsynced is lost."""
    check_every(run, tmp_path, monkeypatch, range(7, len(run.ops) + 1, 12))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_cut_off_by_the_power_anywhere_is_gone_on_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every single operation."""
    check_every(run, tmp_path, monkeypatch, range(len(run.ops) + 1))


def test_what_a_commit_vouches_for_is_durable_at_every_moment(run: Run) -> None:
    """With the harshest loss, every commit there is finds its objects, and done finds all."""
    for prefix in range(len(run.ops) + 1):
        left = after(run, prefix).lose("strict")
        check_vouched(left)


def check_vouched(left: dict[str, bytes | None]) -> None:
    files = {name.removeprefix("store/"): data for name, data in left.items() if data is not None}
    from pipeline.store import commit

    vouched = [
        kept
        for name, data in files.items()
        if name.startswith("commits/")
        for kept in commit.decode(data, name).objects
    ]
    name = layout.done("train")
    if name in files:
        vouched += records.decode_done(files[name], name).objects
        assert layout.RECIPE in files
        assert layout.plan("train") in files
    for kept in vouched:
        if kept.name not in files or records.fingerprint(kept.name, files[kept.name]) != kept:
            raise AssertionError(kept.name)
