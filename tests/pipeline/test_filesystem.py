"""Locks, exclusive names and durable folders, on file systems that lack the usual calls."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import filesystem
from pipeline.filesystem import (
    LocksMissingError,
    NumberedLock,
    cure,
    identify_process,
    locking_way,
    name_exclusively,
    naming_way,
    numbered_lock,
    sync_folder,
    try_lock,
)
from tests import lacking
from tests.commands import ROOT, wait_until

METHODS = {
    "flock": (),
    "fcntl": ("flock",),
    "files created exclusively": ("flock", "fcntl"),
}
NAMINGS = {
    "link": (),
    "renameat2": ("link",),
    "a rename under a lock": ("link", "renameat2"),
}


@contextmanager
def several(code: str, count: int, *words: object) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes that each run *code* with a number and *words*, after waiting for a line."""
    command = [sys.executable, "-c", f"import sys\n{code}"]
    started = [
        subprocess.Popen(
            [*command, str(number), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for number in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


def together(started: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Let all processes go at once; return the output of each."""
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = []
    for process in started:
        assert process.stdout is not None
        outputs.append(process.stdout.read().strip())
        assert process.wait(60) == 0
    return outputs


# --- locks ----------------------------------------------------------------------------------------

COUNT = """
from pathlib import Path
from pipeline.filesystem import numbered_lock
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
from pipeline.filesystem import NumberedLock
assert NumberedLock(Path(sys.argv[2]), "train.lock").acquire() is None
print("ready", flush=True)
time.sleep(60)
"""


def test_a_lock_of_files_lets_one_process_in_at_a_time(tmp_path: Path) -> None:
    """No update of several competing processes is lost."""
    (tmp_path / "number").write_text("0")
    with several(COUNT, 4, tmp_path, 25) as started:
        together(started)
    assert (tmp_path / "number").read_text() == "100"
    assert len(list(tmp_path.glob("count.held-*"))) == 1  # the last number, which is not used again


def test_a_lock_of_files_is_free_when_its_process_was_killed(tmp_path: Path) -> None:
    """On the same machine it is free at once; before that, its holder is named."""
    with several(HOLD, 1, tmp_path) as (holder,):
        assert holder.stdout is not None
        holder.stdout.readline()
        lock = NumberedLock(tmp_path, "train.lock")
        assert (lock.acquire() or "").startswith(f"process {holder.pid} on ")
        holder.kill()
        assert wait_until(lambda: lock.acquire() is None)
    lock.release()


def test_a_number_of_a_process_that_is_used_again_holds_nothing(tmp_path: Path) -> None:
    """The lock also records the start time of its process."""
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
def test_a_lock_from_another_machine_holds_until_it_was_not_renewed_for_long(
    tmp_path: Path, text: str
) -> None:
    """A lock whose holder was killed while writing its record expires, too."""
    file = tmp_path / "train.lock.held-00000001"
    file.write_text(text)
    lock = NumberedLock(tmp_path, "train.lock")
    assert lock.acquire() is not None
    before = time.time() - filesystem.EXPIRY_SECONDS
    os.utime(file, (before, before - 1))
    assert lock.acquire() is None
    assert not file.exists()
    lock.release()


def test_a_lock_of_files_is_renewed_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other machines see the holder by the file's time."""
    monkeypatch.setattr(filesystem, "EXPIRY_SECONDS", 0.06)
    with numbered_lock(tmp_path, "train.lock"):
        (file,) = tmp_path.glob("train.lock.held-*")
        os.utime(file, (0, 0))
        until = time.monotonic() + 20
        while file.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0


def test_who_was_slow_and_takes_a_number_that_was_used_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others had the lock between its check and its attempt, and one still has it."""
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
def test_the_doctor_is_told_how_files_are_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """No file of the trial remains."""
    lacking.remove(METHODS[method], monkeypatch.setattr)
    assert locking_way(tmp_path) == method
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
        filesystem.unlock(first.fileno())
        assert try_lock(first.fileno(), shared=True)
        assert try_lock(second.fileno(), shared=True)
        (tmp_path / "lock").open("rb").close()  # a lock of the process would be gone now
        assert not try_lock(second.fileno())


def test_no_lock_at_all_is_told_from_a_lock_that_another_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error contains the call and the system's message."""
    lacking.remove(("flock", "fcntl"), monkeypatch.setattr)
    with (
        (tmp_path / "lock").open("w+b") as file,
        pytest.raises(LocksMissingError, match="flock: Function not implemented"),
    ):
        try_lock(file.fileno())


# --- exclusive names ------------------------------------------------------------------------------

NAME = """
import os
from pathlib import Path
from tests import lacking
from pipeline.filesystem import name_exclusively
me, folder = sys.argv[1], Path(sys.argv[2])
lacking.remove(sys.argv[3].split(), setattr)
for place in range(20):
    (folder / f"{me}-{place}").write_text(me)
print("ready", flush=True)
sys.stdin.readline()
for p in range(20):
    if name_exclusively(folder / f"{me}-{p}", folder / f"final-{p}", folder):
        print(p)
"""


@pytest.mark.parametrize("method", NAMINGS)
def test_of_many_processes_one_gets_the_name(tmp_path: Path, method: str) -> None:
    """Each name is given once, the file is the winner's, and nothing else remains."""
    with several(NAME, 3, tmp_path, " ".join(NAMINGS[method])) as started:
        outputs = together(started)
    winners = {int(number): str(me) for me, lines in enumerate(outputs) for number in lines.split()}
    assert len(winners) == sum(len(lines.split()) for lines in outputs) == 20
    for number, me in winners.items():
        assert (tmp_path / f"final-{number}").read_text() == me
    left = [path.name for path in tmp_path.iterdir() if "create.held" not in path.name]
    assert sorted(left) == sorted(f"final-{number}" for number in range(20))


@pytest.mark.parametrize("method", NAMINGS)
def test_the_doctor_is_told_how_files_get_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """No file of the trial remains."""
    lacking.remove(NAMINGS[method], monkeypatch.setattr)
    assert naming_way(tmp_path) == method
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_was_made_and_not_answered_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS repeats the request and finds the name taken by the same file."""
    link = os.link

    def link_twice(old: Path, new: Path) -> None:
        link(old, new)
        link(old, new)

    monkeypatch.setattr(os, "link", link_twice)
    (tmp_path / "a").write_text("mine")
    assert name_exclusively(tmp_path / "a", tmp_path / "b", tmp_path)
    (tmp_path / "a").write_text("another's")
    assert not name_exclusively(tmp_path / "a", tmp_path / "b", tmp_path)
    assert (tmp_path / "b").read_text() == "mine"


def test_a_name_that_cannot_be_given_is_the_systems_error(tmp_path: Path) -> None:
    """The error is not mistaken for a name that is taken."""
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileNotFoundError):
        name_exclusively(tmp_path / "a", tmp_path / "nowhere" / "b", tmp_path)


# --- durable folders, and what to do about errors -------------------------------------------------


def test_a_folder_that_cannot_be_synced_alone_is_synced_with_all_of_its_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names in the folder are then durable as well."""
    synced: list[str] = []
    sync_all = filesystem._sync_file_system

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115 - no path
        sync_all(descriptor)

    monkeypatch.setattr(filesystem, "_sync_file_system", sync)
    sync_folder(tmp_path)
    assert synced == []
    lacking.remove(("folder sync",), monkeypatch.setattr)
    sync_folder(tmp_path)
    assert synced == [str(tmp_path)]


def test_a_disk_that_fails_to_sync_is_not_taken_for_one_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input or output error of fsync is raised."""
    monkeypatch.setattr(os, "fsync", lacking._fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Your quota is used up"),
        (errno.EROFS, "mounted read-only"),
        (errno.EACCES, "that you may write to"),
        (errno.ENAMETOOLONG, "a shorter path"),
        (errno.ESTALE, "mount it again"),
        (errno.ENOLCK, "tesserae doctor"),
        (errno.EIO, "Repair or replace the disk"),
        (errno.EBUSY, "Free some space or repair the disk"),
    ],
)
def test_what_to_do_depends_on_what_went_wrong(number: int, says: str) -> None:
    """More room helps only if room is missing."""
    text = cure(OSError(number, os.strerror(number)))
    assert says in text
    assert not text.endswith(".")
