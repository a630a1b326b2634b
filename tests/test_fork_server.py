"""A forked process behaves as if Python had been started for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.commands import wait_until
from tests.fork_server import Forked, can_fork, fork_server

PROBE = """
import atexit, json, os, sys, time
atexit.register(lambda: print("end", flush=True))
if sys.argv[1] == "wait":
    print("there", flush=True)
    time.sleep(600)
print(json.dumps({
    "main": __name__, "words": sys.argv[1:], "folder": os.getcwd(), "name": os.environ.get("NAME"),
    "variables": len(os.environ), "session": os.getsid(0) == os.getpid(), "pid": os.getpid(),
}))
sys.exit(3)
"""


def fork(folder: Path, *words: str) -> Forked:
    """Start the probe in *folder*, with two environment variables."""
    (folder / "probe.py").write_text(PROBE)
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        return fork_server().fork(
            "probe",
            words,
            out=out,
            err=err,
            folder=folder,
            environment={"NAME": "value", "PATH": os.environ["PATH"]},
            heavy=False,
        )


def test_a_forked_process_has_its_arguments_and_exit_status(tmp_path: Path) -> None:
    """The process has its arguments, folder, environment and session, and runs exit handlers."""
    process = fork(tmp_path, "a", "b c")
    assert process.wait(60) == process.poll() == 3
    said, end = (tmp_path / "out").read_text().splitlines()
    assert json.loads(said) == {
        "main": "__main__",
        "words": ["a", "b c"],
        "folder": str(tmp_path),
        "name": "value",
        "variables": 2,
        "session": True,
        "pid": process.pid,
    }
    assert end == "end"
    assert (tmp_path / "err").read_text() == ""


def test_a_forked_process_is_waited_for_and_killed_separately(tmp_path: Path) -> None:
    """A killed process returns the negative signal number, and the server goes on."""
    process = fork(tmp_path, "wait")
    assert wait_until(lambda: (tmp_path / "out").read_text())
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process.kill()  # of a process that has ended: nothing
    assert fork(tmp_path, "again").wait(60) == 3


def test_import_time_variables_need_a_new_interpreter() -> None:
    """The project's own variables, and those of S3 clients, are read when they are used."""
    assert can_fork({})
    assert can_fork({"TESSERAE_CERTS": "x", "AWS_ENDPOINT_URL": "x"})
    assert not can_fork({"TESSERAE_CERTS": "x", "OMP_NUM_THREADS": "7"})
