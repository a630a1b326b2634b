"""Background programs: they are found after any failure, and stopped with their descendants."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.errors import ClusterError
from cluster.processes import daemon
from tests.commands import wait_until

# Starts a child that has a session of its own, and pays no attention to a wish to end.
FAMILY = """
import signal, subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
print("there", flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder for records; stop the program `one` after the test."""
    monkeypatch.setattr(daemon, "STOP_SECONDS", 0.5)
    yield tmp_path
    daemon.stop(tmp_path, "one")


def ended(processes: list[psutil.Process]) -> bool:
    """Return True if none of *processes* runs; process 1 may reap orphans with a delay."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return not any(runs(process) for process in processes)


def start(folder: Path, name: str = "one") -> list[psutil.Process]:
    """Start a program with a child, and return both processes."""
    daemon.start(folder, name, [sys.executable, "-c", FAMILY])
    assert wait_until(lambda: "there" in daemon.log_path(folder, name).read_text())
    first = daemon.process(folder, name)
    assert first is not None
    assert wait_until(first.children)
    return [first, *first.children()]


def test_a_program_is_stopped_with_its_descendants(folder: Path) -> None:
    """A child that ignores SIGTERM is killed."""
    family = start(folder)
    assert daemon.stop(folder, "one")
    assert ended(family)
    assert daemon.process(folder, "one") is None
    assert not daemon.stop(folder, "one")


def test_children_of_a_killed_program_are_still_found(folder: Path) -> None:
    """A child of a killed program is found and stopped, and no second program is started."""
    first, child = start(folder)
    first.kill()
    first.wait()
    assert daemon.process(folder, "one") == child
    with pytest.raises(FileExistsError, match="is already running"):
        daemon.start(folder, "one", ["true"])
    assert daemon.stop(folder, "one")
    assert ended([child])


def test_other_programs_are_not_stopped(folder: Path) -> None:
    """Another program may have another name, the same process id, or a damaged record."""
    family = start(folder)
    daemon.start(folder, "two", [sys.executable, "-c", FAMILY])
    try:
        (folder / "three.json").write_text(json.dumps({"mark": "another", "pid": os.getpid()}))
        (folder / "four.json").write_text("{")
        assert daemon.process(folder, "three") is daemon.process(folder, "four") is None
        assert daemon.stop(folder, "one")
        assert ended(family)
        assert daemon.process(folder, "two") is not None
    finally:
        daemon.stop(folder, "two")


ANOTHER = {"machine": "another", "id": "another", "boot": "another", "space": "another"}


@pytest.mark.parametrize(
    "fields", [("machine", "id", "boot"), ("space",), ("machine", "space"), tuple(ANOTHER)]
)
def test_the_record_of_another_machine_is_kept(folder: Path, fields: tuple[str, ...]) -> None:
    """Another machine or container may share the folder; a reboot ends all programs."""
    family = start(folder)
    file = folder / "one.json"
    record = json.loads(file.read_text())
    foreign = record | {"where": record["where"] | {field: ANOTHER[field] for field in fields}}
    file.write_text(json.dumps(foreign))
    for call in (lambda: daemon.stop(folder, "one"), lambda: start(folder)):
        with pytest.raises(ClusterError, match="run the command there"):
            call()
    assert json.loads(file.read_text()) == foreign
    file.write_text(json.dumps(record))
    assert daemon.stop(folder, "one")
    assert ended(family)
    rebooted = record["where"] | {"boot": "before", "space": "another"}
    file.write_text(json.dumps(record | {"where": rebooted}))
    assert not daemon.stop(folder, "one")


@pytest.mark.parametrize("old", [False, True])
def test_a_program_is_stopped_after_its_machine_was_renamed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, old: bool
) -> None:
    """The program may have been started by an earlier version, which recorded no machine id."""
    family = start(folder)
    if old:
        record = json.loads((folder / "one.json").read_text())
        del record["where"]["id"]
        (folder / "one.json").write_text(json.dumps(record))
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert daemon.process(folder, "one") == family[0]
    with pytest.raises(FileExistsError, match="is already running"):
        daemon.start(folder, "one", ["true"])
    assert daemon.stop(folder, "one")
    assert ended(family)


@pytest.mark.parametrize("identity", ["same", ""])
def test_a_renamed_and_restarted_machine_is_identified_by_its_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch, identity: str
) -> None:
    """A machine without an id could be any other one, so its programs are not stopped."""
    monkeypatch.setattr(daemon, "_machine_id", lambda: identity)
    where = {"machine": "before", "id": identity, "boot": "before", "space": "before"}
    (folder / "one.json").write_text(json.dumps({"mark": "m", "where": where}))
    if identity:
        assert not daemon.stop(folder, "one")
        assert not (folder / "one.json").exists()
        return
    with pytest.raises(ClusterError, match=r"was written on before, .* run the command there"):
        daemon.stop(folder, "one")
    (folder / "one.json").unlink()


def test_a_program_is_found_if_its_starter_is_killed(folder: Path) -> None:
    """The record of a program is written before the program starts."""
    code = f"""
import os, subprocess
from pathlib import Path
from cluster.processes import daemon
class Killed(subprocess.Popen):
    def __init__(self, *words, **options):
        super().__init__(*words, **options)
        os.kill(os.getpid(), 9)
subprocess.Popen = Killed
daemon.start(Path({str(folder)!r}), "one", ["sleep", "600"])
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    assert daemon.process(folder, "one") is not None
    assert daemon.stop(folder, "one")


def test_a_program_is_found_while_the_kernel_starts_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of a process is empty until the kernel has replaced its program."""
    daemon.start(folder, "one", ["sleep", "600"])
    environ, calls = psutil.Process.environ, Counter[int]()

    def late(self: psutil.Process) -> dict[str, str]:
        calls[self.pid] += 1
        return environ(self) if calls[self.pid] > 3 else {}

    monkeypatch.setattr(psutil.Process, "environ", late)
    assert daemon.process(folder, "one") is not None
    assert daemon.stop(folder, "one")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "5",
        '{"mark": 5}',
        '{"mark": "x", "where": []}',
        '{"where": {"machine": 1}}',
        '{"mark": "x", "where": {"machine": "m"}}',
        "[" * 99_999,
    ],
)
def test_an_invalid_record_is_ignored(tmp_path: Path, text: str) -> None:
    """An invalid record identifies no program, and none is stopped."""
    (tmp_path / "one.json").write_text(text)
    daemon.check_same_host(tmp_path, "one")
    assert daemon.process(tmp_path, "one") is None
    assert daemon.stop(tmp_path, "one") is False


def test_links_in_place_of_records_and_logs_are_not_followed(tmp_path: Path) -> None:
    """Other users may be able to write to the folder."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "one.json").symlink_to(victim)
    (tmp_path / "one.log").symlink_to(victim)
    with pytest.raises(OSError, match=r"one\.log"):
        daemon.start(tmp_path, "one", [sys.executable, "-c", "pass"])
    assert victim.read_text() == "mine"
    assert not (tmp_path / "one.json").is_symlink()
