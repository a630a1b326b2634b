"""Locks between processes, on file systems that lack the usual calls."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pipeline import locks
from pipeline.locks import (
    LocksMissingError,
    NumberedLock,
    identify_process,
    locking_method,
    numbered_lock,
    try_lock,
)
from tests import lacking
from tests.commands import wait_until
from tests.pipeline.simultaneous import several, together

METHODS = {
    "flock": (),
    "fcntl": ("flock",),
    "files created exclusively": ("flock", "fcntl"),
}


COUNT = """
from pathlib import Path
from pipeline.locks import numbered_lock
folder = Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    with numbered_lock(folder, "count"):
        number = int((folder / "number").read_text())
        (folder / "number").write_text(str(number + 1))
"""

HOLD = """
import time
from pathlib import Path
from pipeline.locks import NumberedLock
assert NumberedLock(Path(sys.argv[2]), "train.lock").acquire() is None
print("ready", flush=True)
time.sleep(60)
"""


def test_a_numbered_lock_admits_one_process_at_a_time(tmp_path: Path) -> None:
    """No update of several competing processes is lost."""
    (tmp_path / "number").write_text("0")
    with several(COUNT, 4, tmp_path, 25) as started:
        together(started)
    assert (tmp_path / "number").read_text() == "100"
    assert len(list(tmp_path.glob("count.held-*"))) == 1  # the last number, which is not used again


def test_a_numbered_lock_is_free_after_its_process_was_killed(tmp_path: Path) -> None:
    """The lock is free at once on the same machine; before, an error names its holder."""
    with several(HOLD, 1, tmp_path) as (holder,):
        assert holder.stdout is not None
        holder.stdout.readline()
        lock = NumberedLock(tmp_path, "train.lock")
        assert (lock.acquire() or "").startswith(f"process {holder.pid} on ")
        holder.kill()
        assert wait_until(lambda: lock.acquire() is None)
    lock.release()


def test_a_reused_pid_does_not_hold_a_lock(tmp_path: Path) -> None:
    """A lock also records the start time of its process."""
    record = identify_process() | {"started": "1"}
    (tmp_path / "train.lock.held-00000007").write_text(json.dumps(record))
    lock = NumberedLock(tmp_path, "train.lock")
    assert lock.acquire() is None
    lock.release()


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(identify_process() | {"boot": "another", "host": "n1"}),
        json.dumps(identify_process() | {"pid": 10**40, "started": ""}),
        "",
        "[",
        "[1]",
    ],
    ids=["another boot", "a number of 40 digits", "empty", "half", "a list"],
)
def test_a_lock_of_another_machine_expires_if_it_is_not_renewed(tmp_path: Path, text: str) -> None:
    """A lock whose holder was killed while writing its record expires, too."""
    file = tmp_path / "train.lock.held-00000001"
    file.write_text(text)
    lock = NumberedLock(tmp_path, "train.lock")
    assert lock.acquire() is not None
    before = time.time() - locks.EXPIRY_SECONDS
    os.utime(file, (before, before - 1))
    assert lock.acquire() is None
    assert not file.exists()
    lock.release()


def test_a_numbered_lock_is_renewed_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other machines see by the file's time that the holder is alive."""
    monkeypatch.setattr(locks, "EXPIRY_SECONDS", 0.06)
    with numbered_lock(tmp_path, "train.lock"):
        (file,) = tmp_path.glob("train.lock.held-*")
        os.utime(file, (0, 0))
        until = time.monotonic() + 20
        while file.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0


def test_a_slow_process_with_a_used_lock_number_yields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others had the lock between its check and its attempt, and one of them still has it."""
    rivals = [NumberedLock(tmp_path, "train.lock") for _ in range(3)]
    os_open = os.open

    def open_late(path: Path, *more: int) -> int:
        monkeypatch.setattr(os, "open", os_open)
        for rival in rivals:
            assert rival.acquire() is None
            if rival is not rivals[-1]:
                rival.release()
        return os_open(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_late)
        assert NumberedLock(tmp_path, "train.lock").acquire() is not None
    assert [path.name for path in tmp_path.iterdir()] == ["train.lock.held-00000003"]
    rivals[-1].release()


@pytest.mark.parametrize("method", METHODS)
def test_locking_way_names_the_locking_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The trial leaves no file."""
    lacking.remove(METHODS[method], monkeypatch.setattr)
    assert locking_method(tmp_path) == method
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["flock", "fcntl"])
def test_a_lock_belongs_to_the_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Another open file of the same process is refused, unless both are shared."""
    lacking.remove(METHODS[method], monkeypatch.setattr)
    with (tmp_path / "lock").open("w+b") as first, (tmp_path / "lock").open("r+b") as second:
        assert try_lock(first.fileno())
        assert not try_lock(second.fileno())
        assert not try_lock(second.fileno(), shared=True)
        locks.unlock(first.fileno())
        assert try_lock(first.fileno(), shared=True)
        assert try_lock(second.fileno(), shared=True)
        (tmp_path / "lock").open("rb").close()  # a lock of the process would be gone now
        assert not try_lock(second.fileno())


def test_missing_locks_are_distinguished_from_a_lock_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error contains the call and the system's message."""
    lacking.remove(("flock", "fcntl"), monkeypatch.setattr)
    with (
        (tmp_path / "lock").open("w+b") as file,
        pytest.raises(LocksMissingError, match="flock: Function not implemented"),
    ):
        try_lock(file.fileno())
