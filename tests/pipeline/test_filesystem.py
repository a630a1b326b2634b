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
    advice_for,
    identify_process,
    locking_method,
    name_exclusively,
    naming_method,
    numbered_lock,
    replacing,
    sync_folder,
    try_lock,
    write_file,
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
    """Start *count* processes that run *code* with a number and *words*; kill them at the end."""
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
    """Release all processes at once; return the output of each."""
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
    before = time.time() - filesystem.EXPIRY_SECONDS
    os.utime(file, (before, before - 1))
    assert lock.acquire() is None
    assert not file.exists()
    lock.release()


def test_a_numbered_lock_is_renewed_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other machines see by the file's time that the holder is alive."""
    monkeypatch.setattr(filesystem, "EXPIRY_SECONDS", 0.06)
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
        filesystem.unlock(first.fileno())
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
def test_one_of_many_processes_gets_a_name_exclusively(tmp_path: Path, method: str) -> None:
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
def test_naming_way_names_the_creation_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The trial leaves no file."""
    lacking.remove(NAMINGS[method], monkeypatch.setattr)
    assert naming_method(tmp_path) == method
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_nfs_link_request_counts_as_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS repeats a lost request and then finds the name taken by the same file."""
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


def test_a_failed_exclusive_name_raises_the_systems_error(tmp_path: Path) -> None:
    """The error is not mistaken for a name that is taken."""
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileNotFoundError):
        name_exclusively(tmp_path / "a", tmp_path / "nowhere" / "b", tmp_path)


# --- durable folders, and what to do about errors -------------------------------------------------


def test_the_file_system_is_synced_if_a_folder_cannot_be(
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


def test_an_io_error_of_fsync_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails is not mistaken for one that cannot sync folders."""
    monkeypatch.setattr(os, "fsync", lacking._fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)


def test_a_small_file_is_written_completely(tmp_path: Path) -> None:
    """A link with the name of the file is replaced and not followed, and nothing else remains."""
    (tmp_path / "keys").write_text("mine")
    (tmp_path / "options.json").symlink_to(tmp_path / "keys")
    write_file(tmp_path / "options.json", [b"{", memoryview(b"}")], durable=True)
    assert not (tmp_path / "options.json").is_symlink()
    assert (tmp_path / "options.json").read_bytes() == b"{}"
    assert (tmp_path / "keys").read_text() == "mine"
    (tmp_path / "plain").touch()
    assert (tmp_path / "options.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "options.json", "plain"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path, durable: bool) -> None:
    """The file has its old content until the block ends, also if it ends with an error."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path, durable=durable) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    with replacing(path, durable=durable) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("leads", [True, False])
def test_an_existing_temporary_file_is_replaced(tmp_path: Path, leads: bool) -> None:
    """A planted link is not followed, and the file of a killed writer is overwritten."""
    (tmp_path / "keys").write_text("mine")
    temporary = tmp_path / "file.new"
    if leads:
        temporary.symlink_to(tmp_path / "keys")
    else:
        temporary.write_text("half of a longer file")
    with replacing(tmp_path / "file", durable=False, temporary=temporary) as file:
        assert temporary.is_file()
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "keys").read_text() == "mine"
    assert not temporary.exists()


@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_file_is_synced_before_its_rename_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """Only a file that must survive a power failure is synced."""
    done: list[tuple[str, int]] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(("folder" if path == tmp_path else "file", path.stat().st_size))
        fsync(descriptor)

    def note_rename(self: Path, target: Path) -> Path:
        done.append(("name", self.stat().st_size))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    write_file(tmp_path / "file", [b"new"], durable=durable)
    synced = [("file", 3), ("name", 3), ("folder", tmp_path.stat().st_size)]
    assert done == (synced if durable else [("name", 3)])


def test_a_small_file_that_cannot_be_renamed_leaves_no_file(tmp_path: Path) -> None:
    """A folder has the name of the file."""
    (tmp_path / "options.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "options.json", [b"{}"], durable=False)
    assert [path.name for path in tmp_path.iterdir()] == ["options.json"]


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
def test_the_advice_depends_on_the_errno(number: int, says: str) -> None:
    """For example, freeing space is suggested only if space is missing."""
    text = advice_for(OSError(number, os.strerror(number)))
    assert says in text
    assert not text.endswith(".")
