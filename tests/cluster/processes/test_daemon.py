"""Programs without a terminal: found whatever has happened, and stopped with all they started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
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
    """Where they are known; nothing of them is left."""
    monkeypatch.setattr(daemon, "STOP_SECONDS", 0.5)
    yield tmp_path
    daemon.stop(tmp_path, "one")


def ended(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs; process 1 may take a while to notice that one has ended."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return not any(runs(process) for process in processes)


def start(folder: Path, name: str = "one") -> list[psutil.Process]:
    """A program with a child; returns both."""
    daemon.start(folder, name, [sys.executable, "-c", FAMILY])
    assert wait_until(lambda: "there" in daemon.log(folder, name).read_text())
    first = daemon.process(folder, name)
    assert first is not None
    assert wait_until(first.children)
    return [first, *first.children()]


def test_it_is_stopped_with_all_that_it_started(folder: Path) -> None:
    """Also what does not want to."""
    family = start(folder)
    assert daemon.stop(folder, "one")
    assert ended(family)
    assert daemon.process(folder, "one") is None
    assert not daemon.stop(folder, "one")


def test_what_a_killed_program_leaves_is_still_known(folder: Path) -> None:
    """And stopped."""
    first, child = start(folder)
    first.kill()
    first.wait()
    assert daemon.process(folder, "one") == child
    with pytest.raises(FileExistsError, match="runs already"):
        daemon.start(folder, "one", ["true"])
    assert daemon.stop(folder, "one")
    assert ended([child])


def test_others_are_let_alone(folder: Path) -> None:
    """One with the same number, one of another name, one whose record is torn."""
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
def test_what_was_started_elsewhere_is_not_forgotten(folder: Path, fields: tuple[str, ...]) -> None:
    """By another machine, or in another container, that shares the folder; a reboot ends all."""
    family = start(folder)
    file = folder / "one.json"
    record = json.loads(file.read_text())
    other = record | {"where": record["where"] | {field: ANOTHER[field] for field in fields}}
    file.write_text(json.dumps(other))
    for call in (lambda: daemon.stop(folder, "one"), lambda: start(folder)):
        with pytest.raises(ClusterError, match="ask there"):
            call()
    assert json.loads(file.read_text()) == other
    file.write_text(json.dumps(record))
    assert daemon.stop(folder, "one")
    assert ended(family)
    rebooted = record["where"] | {"boot": "before", "space": "another"}
    file.write_text(json.dumps(record | {"where": rebooted}))
    assert not daemon.stop(folder, "one")


@pytest.mark.parametrize("old", [False, True])
def test_a_machine_may_be_renamed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, old: bool
) -> None:
    """What runs is stopped under its new name; so is what an earlier version has started."""
    family = start(folder)
    if old:
        record = json.loads((folder / "one.json").read_text())
        del record["where"]["id"]
        (folder / "one.json").write_text(json.dumps(record))
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert daemon.process(folder, "one") == family[0]
    with pytest.raises(FileExistsError, match="runs already"):
        daemon.start(folder, "one", ["true"])
    assert daemon.stop(folder, "one")
    assert ended(family)


@pytest.mark.parametrize("identity", ["same", ""])
def test_a_machine_may_be_renamed_and_restarted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, identity: str
) -> None:
    """It is known by its own id; where it has none, it could be any other machine."""
    monkeypatch.setattr(daemon, "_machine_id", lambda: identity)
    where = {"machine": "before", "id": identity, "boot": "before", "space": "before"}
    (folder / "one.json").write_text(json.dumps({"mark": "m", "where": where}))
    if identity:
        assert not daemon.stop(folder, "one")
        assert not (folder / "one.json").exists()
        return
    with pytest.raises(ClusterError, match=r"is of before, .* ask there"):
        daemon.stop(folder, "one")
    (folder / "one.json").unlink()


def test_who_starts_one_may_be_killed_meanwhile(folder: Path) -> None:
    """What runs is known from before it does."""
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
def test_a_record_that_is_none_says_nothing(tmp_path: Path, text: str) -> None:
    """No program is known by it, and none is looked for."""
    (tmp_path / "one.json").write_text(text)
    daemon.check_same_host(tmp_path, "one")
    assert daemon.process(tmp_path, "one") is None
    assert daemon.stop(tmp_path, "one") is False


def test_links_in_the_place_of_its_files_lead_nowhere(tmp_path: Path) -> None:
    """The folder may be one in which others write, too."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "one.json").symlink_to(victim)
    (tmp_path / "one.log").symlink_to(victim)
    with pytest.raises(OSError, match=r"one\.log"):
        daemon.start(tmp_path, "one", [sys.executable, "-c", "pass"])
    assert victim.read_text() == "mine"
    assert not (tmp_path / "one.json").is_symlink()
