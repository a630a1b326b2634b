"""Programs that are run by the study, and the processes that they start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.commands import wait_until
from workflows.studies.parallel.programs import run_program


def is_running(pid: int) -> bool:
    """Return True if a process has not ended; a zombie has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_output_and_status_are_returned() -> None:
    """A program that fails raises no error."""
    code = "import sys; print(1); print(2, file=sys.stderr); sys.exit(3)"
    done = run_program([sys.executable, "-c", code], environment={"PATH": ""})
    assert (done.returncode, done.stdout, done.stderr) == (3, "1\n", "2\n")


def test_an_interrupt_ends_what_the_program_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal may reach the command alone, and pip has children that write into the folder."""
    file = tmp_path / "pid"
    script = f"sleep 1000 & echo $! > {file}.new; mv {file}.new {file}; wait"
    programs = []

    def interrupted(process: subprocess.Popen[str], timeout: float | None = None) -> None:
        programs.append(process)
        assert wait_until(file.exists)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_program(["sh", "-c", script])
    assert programs[0].returncode is not None
    assert wait_until(lambda: not is_running(int(file.read_text())))
