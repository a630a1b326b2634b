"""Locks between processes, also on file systems that have none of their own.

    call     missing on (for example)         replacement
    flock    Lustre without `-o flock`,       a lock of the open file (fcntl's OFD),
             NFS without lockd, some FUSE     then `NumberedLock`

All processes get the same answer from one file system, so they use the same kind of lock.
"""

from __future__ import annotations

import contextlib
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
"""The error numbers by which file systems report that they lack a call."""

EXPIRY_SECONDS = 120.0
"""The time after which a `NumberedLock` that is not renewed is free on other machines."""

MAX_RECORD_BYTES = 4096
"""The maximum number of bytes that are read of the record of a `NumberedLock`'s holder."""

RETRY_SECONDS = 0.02
"""The time between two attempts to acquire a `NumberedLock` that is held only briefly."""


UNNAMED = "another process"
"""The description of a holder whose record is being written or is invalid."""


class LocksMissingError(OSError):
    """The file system has no locks of its own."""


def try_lock(file: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting; return False if another open file holds the lock.

    The lock belongs to the open file and ends when its last descriptor is closed, even if the
    process is killed. Without `flock`, a lock of the open file description is acquired, which has
    the same owner and the same end. All processes get the same answer from one file system, so they
    use the same kind of lock.

    Args:
        file: A descriptor that is open for writing, and for a shared lock also for reading.
        shared: True for a lock that several open files may hold at once (default: False, an
            exclusive lock). If this open file already holds a lock of the other kind, it is changed
            to this kind; if that fails, it may be lost.

    Returns:
        True if the lock is held now, also if this open file held it before.

    Raises:
        LocksMissingError: The file system supports neither kind.
        OSError: Locking failed for another reason.
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
    """Release the lock that `try_lock` acquired, also if a forked child has inherited the file.

    Args:
        file: The descriptor of the locked file, which stays open. Without a lock nothing happens,
            and errors of the system, such as that of a closed descriptor, are ignored.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
        return
    with contextlib.suppress(OSError):
        _description_lock(file, fcntl.F_UNLCK)


def _try_description_lock(file: int, kind: int, first: OSError) -> bool:
    try:
        _description_lock(file, kind)
    except (BlockingIOError, PermissionError):  # fcntl reports a held lock as either of them
        return False
    except (AttributeError, OSError) as e:
        if isinstance(e, OSError) and e.errno not in MISSING:
            raise
        raise LocksMissingError(first.errno, f"flock: {first.strerror}") from None
    return True


def _description_lock(file: int, kind: int) -> None:
    whole_file = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, whole_file)


def locking_method(folder: Path) -> str:
    """Lock a temporary file in *folder* as a store is locked, and return the method that works.

    Args:
        folder: An existing folder on the file system to be examined; it is left as it was.

    Returns:
        `flock`, `fcntl` or `files created exclusively` (a `NumberedLock`): the first that works.

    Raises:
        OSError: No method works in this folder, or it is not writable.
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
    return _numbered_locking_method(folder)


def _numbered_locking_method(folder: Path) -> str:
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

    The file `FOLDER/<name>.held-<number>` with the highest number names the holder. The lock is
    free if that file is marked as released, if its process has ended, or (seen from another machine
    or container) if it has not been renewed for `EXPIRY_SECONDS`. A process then creates the next
    number. Numbers are never reused, so the file system lets exactly one of several processes
    create the next one. A slow process that creates a number which was removed meanwhile sees the
    higher number that remains, and gives way.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Create the lock object without acquiring the lock.

        Args:
            folder: An existing folder that all processes that use the lock can see.
            name: The name of the lock, a file name.
        """
        self._folder = folder
        self._name = name
        self._pattern = re.compile(re.escape(name) + r"\.held-(\d{8,})")
        self._number = 0
        self._file = -1
        self._released = threading.Event()
        self._renewing: threading.Thread | None = None

    def acquire(self) -> str | None:
        """Acquire the lock and return None, or return a description of its holder.

        It does not wait. Once the lock is held, a thread renews it until `release`.

        Returns:
            None if this object holds the lock now; otherwise a text such as "process 12 on host",
            and nothing was acquired.

        Raises:
            OSError: The lock's files cannot be read or written.
        """
        highest = max(self._numbers(), default=0)
        if highest and (holder := self._holder(highest)) is not None:
            return holder
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            file = os.open(self._path(highest + 1), flags, 0o666)
        except FileExistsError:
            return UNNAMED
        record = json.dumps(identify_process()).encode()
        try:
            os.pwrite(file, record, 0)
        except OSError:  # a full disk: an empty file would look like a lock that is being written
            os.close(file)
            self._path(highest + 1).unlink(missing_ok=True)
            raise
        if max(self._numbers(), default=0) > highest + 1:  # the number had been used and removed
            os.close(file)
            self._path(highest + 1).unlink(missing_ok=True)
            return UNNAMED
        for number in self._numbers():
            if number <= highest:
                # Another user's file may be impossible to remove: it does not matter.
                with contextlib.suppress(OSError):
                    self._path(number).unlink()
        self._number, self._file = highest + 1, file
        self._released.clear()
        self._renewing = threading.Thread(
            target=self._renew, args=(record,), name="lock", daemon=True
        )
        self._renewing.start()
        return None

    def release(self) -> None:
        """Release the lock, which this object must hold.

        Its file is marked and stays, so that its number is not reused.
        """
        assert self._renewing is not None
        self._released.set()
        self._renewing.join()
        with contextlib.suppress(OSError):  # the lock then ends with this process or expires
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
            holder = f"process {int(record['pid'])} on {record['host']}"
            # Only a process of the same boot and pid namespace can be checked by its pid.
            seen = (record["boot"], record["space"]) == _boot_and_pid_namespace()
            if seen and record["boot"]:
                return holder if _is_running(record["pid"], record["started"]) else None
        except FileNotFoundError:  # removed by the holder of a higher number
            return UNNAMED
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            holder = UNNAMED  # the record is being written or is invalid
        return None if self._age(number) > EXPIRY_SECONDS else holder

    def _read(self, number: int) -> bytes:
        # An untrusted folder may hold a link or a pipe of this name: follow none, wait for none.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(self._path(number), flags)
        try:
            return os.pread(file, MAX_RECORD_BYTES, 0)
        except OSError as e:  # a pipe or a folder
            raise ValueError(str(e)) from None
        finally:
            os.close(file)

    def _age(self, number: int) -> float:
        """Return the seconds since the file was written, by the clock of the file system."""
        # A server's clock may differ from this machine's, so a new file gives the current time.
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
            with contextlib.suppress(OSError):  # repeated long before the lock expires
                os.pwrite(self._file, record, 0)


@contextlib.contextmanager
def numbered_lock(folder: Path, name: str) -> Iterator[None]:
    """Wait for a `NumberedLock`, without a timeout, and hold it inside the block.

    Such a lock is exclusive and made of files that are created exclusively, so it works on file
    systems that have no locks. It excludes processes on all machines that mount the folder. Inside
    the block a thread renews the lock. At the end of the block the lock is released. Its last small
    file stays in the folder: `<name>.held-00000001` after the first use, `-00000002` after the
    second. The block yields None.

    Args:
        folder: An existing folder that all processes that use the lock can see.
        name: The name of the lock, a file name; the same for all who exclude each other. A process
            that already holds the lock would wait for itself forever.

    Raises:
        OSError: The lock's files cannot be read or written.
    """
    lock = NumberedLock(folder, name)
    while lock.acquire() is not None:
        time.sleep(RETRY_SECONDS)
    try:
        yield
    finally:
        lock.release()


def identify_process() -> dict[str, str | int]:
    """Return the identity of this process, as JSON values.

    Returns:
        `host` and `pid`; `started`, the start time in ticks of this boot; `boot`, the id of the
        boot; and `space`, the pid namespace. The last three are empty where /proc does not show
        them.
    """
    boot, space = _boot_and_pid_namespace()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _process_start_time(os.getpid()),
        "boot": boot,
        "space": space,
    }


def _boot_and_pid_namespace() -> tuple[str, str]:
    """Return the boot id and the pid namespace, which processes that see each other share."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "", ""


def _process_start_time(pid: int) -> str:
    """Return the start time of a process in ticks of this boot; empty if /proc does not show it."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "zombie" if after_name[0] in "ZX" else after_name[19]


def _is_running(pid: int, started: str) -> bool:
    """Return True if the process that had *pid* when it *started* still runs."""
    if now := _process_start_time(pid):
        return now == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's process, which /proc hides from this user
    return True
