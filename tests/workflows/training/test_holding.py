"""A run's folder is held by one command at a time, and left as it was where nothing came of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import TesseraeError
from tests.commands import ROOT
from workflows.training.holding import held
from workflows.training.run_folder import RunFolder

HOLD = """
import sys, time
from pathlib import Path
from workflows.training.run_folder import RunFolder
from workflows.training.holding import held
with held(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(600)
"""


def files(folder: Path) -> list[str]:
    """All that lies below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_second_command_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    """However it ends: what was killed holds nothing any more."""
    run = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(TesseraeError) as caught, held(RunFolder(run)):
            pass
        text = str(caught.value)
        assert text.startswith(f"{run} is being trained in by process {first.pid} on ")
        assert "Wait for it to end, or pass another --run." in text
    finally:
        first.kill()
        first.communicate()
    with held(RunFolder(run)):
        pass


def fail(run: RunFolder, *, step: bool = False) -> None:
    """Write all that is written before the first step, or that step too, and fail."""
    run.begin({"seed": 1}, {}, files={"space.npz": b"words"})
    run.claim()
    (run.path / "meetings").mkdir()
    (run.path / "meetings" / "000001.json").write_text("{}")
    if step:
        run.say({"step": 1, "generation": 1})
    raise ZeroDivisionError


def test_a_run_that_never_came_to_a_step_leaves_no_folder(tmp_path: Path) -> None:
    """Nor those that were made around it."""
    run = RunFolder(tmp_path / "runs" / "deep" / "run")
    with pytest.raises(ZeroDivisionError), held(run):
        fail(run)
    assert files(tmp_path) == []


def test_a_run_that_came_to_a_step_stays(tmp_path: Path) -> None:
    """And so does one of before, whatever happens to the command that goes on."""
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), held(run):
        fail(run, step=True)
    before = files(tmp_path)
    assert "run/options.json" in before
    (run.path / "metrics.jsonl").unlink()
    with pytest.raises(ZeroDivisionError), held(RunFolder(run.path)):
        raise ZeroDivisionError
    assert files(tmp_path) == [name for name in before if name != "run/metrics.jsonl"]


@pytest.mark.parametrize("name", ["generations/000001.json", ".tmp/train.lock", "thesis.txt"])
def test_files_of_others_are_left_where_they_are(tmp_path: Path, name: str) -> None:
    """Though a run was to be made among them."""
    theirs = tmp_path / "theirs" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    before = files(tmp_path)
    with pytest.raises(ZeroDivisionError), held(RunFolder(tmp_path / "theirs")):
        raise ZeroDivisionError
    assert files(tmp_path) == before
