"""What file systems do not all have, each in one room: locks, exclusive creation, durable folders.

    call               is missing on (examples)         what is done instead
    flock              Lustre without `-o flock`,       a lock of the open file (fcntl's OFD),
                       NFS without lockd, some FUSE     then `NumberedLock`
    link               exFAT, SMB, gcsfuse              renameat2 with RENAME_NOREPLACE, then a
                                                        rename under a `NumberedLock`
    fsync of a folder  SMB, some FUSE                   syncfs, of the whole file system

`cure` says of an error of the system what a person can do about it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

MISSING = frozenset(
    {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK, errno.ENOTTY}
)
"""Error numbers by which file systems say that they do not have a call."""

MISSING_LINKS = MISSING | {errno.EPERM, errno.EMLINK, errno.EACCES, errno.EXDEV}
"""The same of hard links: exFAT says EPERM, and some servers refuse them as not allowed."""

EXPIRY_SECONDS = 120.0
"""How long a `NumberedLock` that is not renewed holds off processes that cannot see its holder."""

MAX_RECORD_BYTES = 4096
"""Most bytes that are read of a record of who holds a `NumberedLock`."""

RETRY_SECONDS = 0.02
"""Pause between two attempts to acquire a `NumberedLock` that is held for a moment."""

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_CURES = {
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Your quota is used up: make room within it",
    errno.EROFS: "The file system is mounted read-only: choose a folder on another, or mount it"
    " for writing",
    errno.EACCES: "Choose a folder that you may write to",
    errno.EPERM: "Choose a folder that you may write to",
    errno.ENAMETOOLONG: "Choose a folder with a shorter path, and shorter names of splits",
    errno.ESTALE: "The server no longer knows this folder: mount it again, or see whether it was"
    " removed there",
    errno.ENOTCONN: "The file system is no longer mounted: mount it again",
    errno.ENOLCK: "The file system has no locks: see `tesserae doctor` with this folder",
    errno.EIO: "Mend the disk",
}


class LocksMissingError(OSError):
    """The file system has no locks of its own."""


def cure(error: OSError, otherwise: str = "Make room or mend the disk") -> str:
    """Return what a person can do about *error*, as the beginning of a sentence without its end."""
    return _CURES.get(error.errno or 0, otherwise)


# --- locks ------------------------------------------------------------------------------------


def try_lock(file: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting; return False if another open file holds the lock.

    The lock belongs to the open file and ends with it, however its process ends. Where there is no
    `flock`, a lock of the open file description is taken, which has the same owner and the same
    end. All who lock a file on one file system meet the same answer of it, so they take the same
    kind.

    Args:
        file: Descriptor, open for writing; for a shared lock open for reading too.
        shared: Whether others may hold the lock too, if theirs is shared.

    Raises:
        LocksMissingError: The file system has neither kind.
        OSError: Locking fails in another way.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        if e.errno not in MISSING:
            raise
        return _try_description_lock(file, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, e)
    return True


def unlock(file: int) -> None:
    """Give up the lock of an open file that a forked child may have open too."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
        return
    with contextlib.suppress(OSError):
        _description_lock(file, fcntl.F_UNLCK)


def _try_description_lock(file: int, kind: int, first: OSError) -> bool:
    try:
        _description_lock(file, kind)
    except (BlockingIOError, PermissionError):  # fcntl says either of what is locked
        return False
    except (AttributeError, OSError) as e:
        if isinstance(e, OSError) and e.errno not in MISSING:
            raise
        raise LocksMissingError(first.errno, f"flock: {first.strerror}") from None
    return True


def _description_lock(file: int, kind: int) -> None:
    whole = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, whole)


def locking_way(folder: Path) -> str:
    """Lock a file in *folder* as a store is locked, and return by which call that is done.

    Raises:
        OSError: Nothing can be locked there.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".locks-") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno not in MISSING:
                raise
        else:
            return "flock"
        with contextlib.suppress(LocksMissingError):
            try_lock(file.fileno())
            return "fcntl"
    return _numbered_way(folder)


def _numbered_way(folder: Path) -> str:
    name = f".locks-{os.getpid()}"
    lock = NumberedLock(folder, name)
    try:
        if lock.acquire() is not None or NumberedLock(folder, name).acquire() is None:
            raise OSError(errno.ENOLCK, "files are not created exclusively")
        lock.release()
    finally:
        for path in folder.glob(f"{name}.held-*"):
            path.unlink(missing_ok=True)
    return "files created exclusively"


class NumberedLock:
    """A lock made of files that are created exclusively, for file systems that have no locks.

    `FOLDER/<name>.held-<number>` says who holds it; the highest number counts. Who finds the
    highest released, its process ended, or (from another machine or container) not renewed for
    `EXPIRY_SECONDS`, creates the next number. Numbers are never used again, so that of many who
    see the same end, the file system lets exactly one create the next; and one that was slow and
    creates a number that was removed meanwhile sees the higher one that is left, and gives way.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Name the lock; acquire nothing.

        Args:
            folder: A folder that exists, and that all who may want the lock see.
            name: The lock's name: a file name.
        """
        self._folder = folder
        self._name = name
        self._pattern = re.compile(re.escape(name) + r"\.held-(\d{8,})")
        self._number = 0
        self._file = -1
        self._released = threading.Event()
        self._renewing: threading.Thread | None = None

    def acquire(self) -> str | None:
        """Take the lock if it is free; otherwise return who holds it."""
        highest = max(self._numbers(), default=0)
        if highest and (holder := self._holder(highest)) is not None:
            return holder
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            file = os.open(self._path(highest + 1), flags, 0o666)
        except FileExistsError:
            return "another process"
        record = json.dumps(identify_process()).encode()
        try:
            os.pwrite(file, record, 0)
        except OSError:  # a full disk
            os.close(file)
            self._path(highest + 1).unlink(missing_ok=True)
            raise
        if max(self._numbers(), default=0) > highest + 1:  # the number had been used and removed
            os.close(file)
            self._path(highest + 1).unlink(missing_ok=True)
            return "another process"
        for number in self._numbers():
            if number <= highest:
                with contextlib.suppress(OSError):  # of another user, say: the highest counts
                    self._path(number).unlink()
        self._number, self._file = highest + 1, file
        self._released.clear()
        self._renewing = threading.Thread(
            target=self._renew, args=(record,), name="lock", daemon=True
        )
        self._renewing.start()
        return None

    def release(self) -> None:
        """Let go of the lock. The file stays, marked: its number must not be used again."""
        assert self._renewing is not None
        self._released.set()
        self._renewing.join()
        with contextlib.suppress(OSError):  # then it ends with this process, or runs out
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, b'{"free": true}', 0)
        os.close(self._file)

    def _numbers(self) -> list[int]:
        matches = map(self._pattern.fullmatch, os.listdir(self._folder))  # noqa: PTH208 - names
        return [int(match[1]) for match in matches if match]

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._name}.held-{number:08d}"

    def _holder(self, number: int) -> str | None:
        try:
            record = json.loads(self._read(number))
            if record.get("free"):
                return None
            shown = f"process {int(record['pid'])} on {record['host']}"
            seen = (record["boot"], record["space"]) == _seen_processes()
            if seen and record["boot"]:
                return shown if _is_running(record["pid"], record["started"]) else None
        except FileNotFoundError:  # removed by who holds a higher number
            return "another process"
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            shown = "another process"  # it is just being written, or is no record
        return None if self._age(number) > EXPIRY_SECONDS else shown

    def _read(self, number: int) -> bytes:
        # Neither through a link nor from a pipe, which somebody may have put there.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(self._path(number), flags)
        try:
            return os.pread(file, MAX_RECORD_BYTES, 0)
        except OSError as e:  # of a pipe or a folder
            raise ValueError(str(e)) from None
        finally:
            os.close(file)

    def _age(self, number: int) -> float:
        """Seconds since the file was written, by the clock that stamps files there."""
        with tempfile.TemporaryFile(dir=self._folder) as probe:
            probe.write(b"x")
            probe.flush()
            now = os.fstat(probe.fileno()).st_mtime
        try:
            return now - self._path(number).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _renew(self, record: bytes) -> None:
        while not self._released.wait(EXPIRY_SECONDS / 6):
            with contextlib.suppress(OSError):  # tried again long before it runs out
                os.pwrite(self._file, record, 0)


@contextlib.contextmanager
def numbered_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold a `NumberedLock` inside the block, after waiting for whoever holds it now."""
    lock = NumberedLock(folder, name)
    while lock.acquire() is not None:
        time.sleep(RETRY_SECONDS)
    try:
        yield
    finally:
        lock.release()


def identify_process() -> dict[str, str | int]:
    """Return what tells this process from every other: pid, start, and where its pid is seen."""
    boot, space = _seen_processes()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "boot": boot,
        "space": space,
    }


def _seen_processes() -> tuple[str, str]:
    """The boot of the kernel and the pid namespace: equal for processes that see each other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "", ""


def _started(pid: int) -> str:
    """When a process started, in ticks of this boot; empty if /proc does not show it."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "zombie" if after_name[0] in "ZX" else after_name[19]


def _is_running(pid: int, started: str) -> bool:
    """Return True if the process that had *pid* when it *started* still runs."""
    if now := _started(pid):
        return now == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, which this user's /proc hides
    return True


# --- exclusive creation -----------------------------------------------------------------------


def name_exclusively(temporary: Path, final: Path, locks: Path) -> bool:
    """Give a finished file its name, unless there is something of that name.

    Whoever sees the name sees the whole file. *temporary* is gone afterwards, in either case. A
    file system without hard links is asked for a rename that replaces nothing. Where it has none,
    a plain rename is made under a lock that all who come this way take: whether the name is
    taken is looked at, and the name given, with nobody in between. All machines must have mounted
    the file system alike, so that all come the same way.

    Args:
        temporary: The file, on the same file system.
        final: The name that it gets.
        locks: The folder where all who may create *final* lock each other out, if need be.

    Returns:
        True if the file has the name now; False if another has it.
    """
    try:
        return _named_by_link(temporary, final)
    except OSError as e:
        if e.errno not in MISSING_LINKS:
            raise
    try:
        new = _named_by_rename(temporary, final)
    except OSError as e:
        if e.errno not in MISSING:
            raise
        with numbered_lock(locks, f".{final.name}.create"):
            new = not os.path.lexists(final)
            if new:
                os.replace(temporary, final)  # noqa: PTH105 - one face of the system's calls
    if not new:
        os.unlink(temporary)  # noqa: PTH108
    return new


def naming_way(folder: Path) -> str:
    """Name files in *folder* as plans are named, and return by which call that is done.

    Raises:
        OSError: A name that is taken is given again, or none can be given.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".names-") as name:
        inside = Path(name)
        for source in ("first", "second"):
            (inside / source).write_text(source)
        if not name_exclusively(inside / "first", inside / "final", inside):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(inside / "final"))
        if name_exclusively(inside / "second", inside / "final", inside):
            raise OSError(errno.EIO, "a file that exists is replaced", str(inside / "final"))
        if list(inside.glob(".final.create.held-*")):
            return "a rename under a lock"
        (inside / "first").write_text("")
        with contextlib.suppress(OSError):
            _named_by_link(inside / "first", inside / "linked")
            return "link"
        return "renameat2"


def _named_by_link(temporary: Path, final: Path) -> bool:
    try:
        os.link(temporary, final)
        new = True
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and then finds what it made itself.
        new = os.path.samefile(temporary, final) if os.path.exists(final) else False  # noqa: PTH110, PTH121
    os.unlink(temporary)  # noqa: PTH108
    return new


def _named_by_rename(temporary: Path, final: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    old, new = os.fsencode(temporary), os.fsencode(final)
    if libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    raise OSError(number, os.strerror(number), str(final))


# --- durable folders --------------------------------------------------------------------------


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* durable: a rename is not, before its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in MISSING | {errno.EBADF}:
            raise
        _sync_file_system(descriptor)
    finally:
        os.close(descriptor)


def _sync_file_system(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "syncfs") and libc.syncfs(descriptor) == 0:
        return
    number = ctypes.get_errno()
    if number in MISSING or not hasattr(libc, "syncfs"):
        os.sync()
    else:
        raise OSError(number, os.strerror(number))
