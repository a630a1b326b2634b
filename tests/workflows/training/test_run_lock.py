"""Tests of the exclusive lock of a run folder, and of the removal of runs without a step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import TesseraeError
from tests.commands import PATIENCE, ROOT, wait_until
from tests.fork_server import fork_server
from tests.workflows.training import lock_holder
from workflows.training.run_folder import RunFolder
from workflows.training.run_lock import locked_run


def files(folder: Path) -> list[str]:
    """Return the relative paths below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_second_command_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    """The lock of a command ends with its process, even if it is killed."""
    run = tmp_path / "run"
    output = tmp_path / "output"
    with output.open("wb") as out:
        first = fork_server().fork(
            lock_holder.__name__, [str(run)], out=out, err=out, folder=tmp_path,
            environment={**os.environ, "PYTHONPATH": str(ROOT)}, heavy=True,
        )  # fmt: skip
    try:
        assert wait_until(output.read_text)
        assert output.read_text() == "locked\n"
        with pytest.raises(TesseraeError) as caught, locked_run(RunFolder(run)):
            pass
        text = str(caught.value)
        assert text.startswith(f"{run} is in use by process {first.pid} on ")
        assert "Wait for it to end, or pass another --run." in text
    finally:
        first.kill()
        first.wait(PATIENCE)
    with locked_run(RunFolder(run)):
        pass


def fail(run: RunFolder, *, step: bool = False) -> None:
    """Write everything that precedes the first step, or that step too, and fail."""
    run.create_or_continue({"seed": 1}, {}, files={"space.npz": b"words"})
    run.claim()
    (run.path / "meetings").mkdir()
    (run.path / "meetings" / "000001.json").write_text("{}")
    if step:
        run.log({"step": 1, "generation": 1})
    raise ZeroDivisionError


def test_a_run_without_a_step_leaves_no_folder(tmp_path: Path) -> None:
    """A run without a step is removed, with the folders that were created for it."""
    run = RunFolder(tmp_path / "runs" / "deep" / "run")
    with pytest.raises(ZeroDivisionError), locked_run(run):
        fail(run)
    assert files(tmp_path) == []


def test_a_run_with_a_step_is_kept(tmp_path: Path) -> None:
    """A run with a step stays after a failure, and so does a run from an earlier command."""
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), locked_run(run):
        fail(run, step=True)
    before = files(tmp_path)
    assert "run/options.json" in before
    (run.path / "metrics.jsonl").unlink()
    with pytest.raises(ZeroDivisionError), locked_run(RunFolder(run.path)):
        raise ZeroDivisionError
    assert files(tmp_path) == [name for name in before if name != "run/metrics.jsonl"]


@pytest.mark.parametrize("name", ["generations/000001.json", ".tmp/train.lock", "thesis.txt"])
def test_foreign_files_are_not_removed(tmp_path: Path, name: str) -> None:
    """Files that were in the folder before the run are not removed."""
    theirs = tmp_path / "theirs" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    before = files(tmp_path)
    with pytest.raises(ZeroDivisionError), locked_run(RunFolder(tmp_path / "theirs")):
        raise ZeroDivisionError
    assert files(tmp_path) == before
