"""Commands on file systems that lack some calls."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import lacking
from tests.commands import run, start, wait_until
from tests.images import contents, make_folder

TINY = ("--sizes", 8, "--shard-rows", 16, "--chunk-rows", 8, "--workers", 1, "--no-dashboard")


@pytest.mark.slow
def test_a_store_on_a_limited_file_system_has_the_same_bytes(tmp_path: Path) -> None:
    """The file system lacks locks, links and folder syncs; both paths contain `::`.

    TMPDIR is longer than a socket's path may be. The report and the verification read the written
    files, too.
    """
    make_folder(tmp_path / "run::1" / "train", 20)
    temporary = tmp_path / "pbs.1234567.batch-01.hsn.cm.cluster.example.org" / ("x" * 60)
    temporary.mkdir(parents=True)
    with lacking.processes_lacking(tmp_path / "lacking", lacking.SMB) as path:
        words = ("prepare", "run::1", "store::1", *TINY)
        done = run(*words, scratch=tmp_path, extra_path=path, TMPDIR=str(temporary))
        assert (done.status, done.err) == (0, "")
        checked = run("verify", "store::1", scratch=tmp_path, extra_path=path)
        assert (checked.status, checked.err) == (0, "")
    shutil.copytree(tmp_path / "run::1", tmp_path / "plain")
    done = run("prepare", "plain", tmp_path / "alone", *TINY, scratch=tmp_path)
    assert done.status == 0, done.err
    assert contents(tmp_path / "store::1") == contents(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("calls", [lacking.LINUX_NFS, lacking.EXFAT, lacking.SMB])
def test_concurrent_runs_work_without_locks_and_links(
    tmp_path: Path, calls: tuple[str, ...]
) -> None:
    """Runs of one split wait for each other, and runs of two splits share one recipe."""
    for split in ("train", "val"):
        make_folder(tmp_path / "source" / split, 40)
    store = tmp_path / "store"
    with lacking.processes_lacking(tmp_path / "lacking", calls) as path:
        words = ("prepare", tmp_path / "source", store, *TINY)
        kinds = [("--split", "train", "--wait"), ("--split", "train", "--wait"), ("--split", "val")]
        commands = [
            start(*words, *kind, scratch=tmp_path / str(index), extra_path=path)
            for index, kind in enumerate(kinds)
        ]
        try:
            assert wait_until(lambda: not any(command.running() for command in commands), 120)
            assert [(command.wait(), command.err) for command in commands] == [(0, "")] * 3
        finally:
            for command in commands:
                command.__exit__(None, None, None)
    done = run("prepare", tmp_path / "source", tmp_path / "alone", *TINY, "--split", "all",
               scratch=tmp_path)  # fmt: skip
    assert done.status == 0, done.err
    assert contents(store) == contents(tmp_path / "alone")
