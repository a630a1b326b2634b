"""A forked process is what it would be if Python had been started for it."""

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


def test_it_has_what_it_was_given_and_ends_as_a_script(tmp_path: Path) -> None:
    """Arguments, folder, environment, a session; its exit status, after what runs at exit."""
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


def test_it_is_waited_for_and_killed_alone(tmp_path: Path) -> None:
    """A signal is its exit status, negative, and the server goes on."""
    process = fork(tmp_path, "wait")
    assert wait_until(lambda: (tmp_path / "out").read_text())
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process.kill()  # of a process that has ended: nothing
    assert fork(tmp_path, "again").wait(60) == 3


def test_a_variable_that_imports_read_is_for_a_python_of_its_own() -> None:
    """The project's own variables, and those of S3 clients, are read when they are needed."""
    assert can_fork({})
    assert can_fork({"TESSERAE_CERTS": "x", "AWS_ENDPOINT_URL": "x"})
    assert not can_fork({"TESSERAE_CERTS": "x", "OMP_NUM_THREADS": "7"})
