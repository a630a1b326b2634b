"""Operations that some file systems lack: exclusive creation, and durable folders.

    call               missing on (for example)         replacement
    link               exFAT, SMB, gcsfuse              renameat2 with RENAME_NOREPLACE, then a
                                                        rename under a `NumberedLock`
    fsync of a folder  SMB, some FUSE                   syncfs, of the whole file system

Locks have a module of their own, `pipeline.locks`.

`replacing` and `write_file` replace a file by a complete one, and `advice_for` gives the advice for
an error of the operating system.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import BinaryIO

from pipeline.locks import MISSING, numbered_lock

MISSING_LINKS = MISSING | {errno.EPERM, errno.EMLINK, errno.EACCES, errno.EXDEV}
"""The error numbers of a file system without hard links; exFAT and some servers say EPERM."""


NO_ROOM_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""The error numbers of a full disk and of an exhausted quota."""

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_ADVICE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Your quota is used up: delete files, or have it raised",
    errno.EROFS: "The file system is mounted read-only: choose a folder on another, or mount it"
    " for writing",
    errno.EACCES: "Choose a folder that you may write to",
    errno.EPERM: "Choose a folder that you may write to",
    errno.ENAMETOOLONG: "Choose a folder with a shorter path, and shorter names of splits",
    errno.ESTALE: "The server no longer has this folder: mount it again, or check if it was"
    " removed there",
    errno.ENOTCONN: "The file system is no longer mounted: mount it again",
    errno.ENOLCK: "The file system has no locks: see `tesserae doctor` with this folder",
    errno.EIO: "Repair or replace the disk",
}


def advice_for(error: OSError, otherwise: str = "Free some space or repair the disk") -> str:
    """Return the advice to a user for an error of the operating system.

    Args:
        error: The error, whose number (`errno`) selects the advice.
        otherwise: The advice for numbers without one of their own, and for an error without number.

    Returns:
        A sentence without its full stop, such as "Free some space".
    """
    return _ADVICE.get(error.errno or 0, otherwise)


# --- exclusive creation -----------------------------------------------------------------------


def name_exclusively(temporary: Path, final: Path, locks: Path) -> bool:
    """Give a complete file its final name unless the name is taken.

    A reader that sees the name sees the complete file. On a file system without hard links, a
    rename that replaces nothing is used. Without that either, the name is checked and a plain
    rename is made under a lock, whose small file stays in *locks*. All machines must mount the file
    system with the same options, so that all use the same method. The folder is not synced.

    Args:
        temporary: The path of the file, on the same file system as *final*. After the call it no
            longer exists, whatever the result.
        final: The path that it gets, in an existing folder.
        locks: The existing folder of the lock, the same for all processes that may create *final*.

    Returns:
        True if the file now has the name; False if the name was taken, whose file is unchanged.

    Raises:
        OSError: The file system refuses to name the file; *temporary* may then still exist.
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
                os.replace(temporary, final)  # noqa: PTH105 - functions of os throughout, as for links
    if not new:
        os.unlink(temporary)  # noqa: PTH108
    return new


def naming_method(folder: Path) -> str:
    """Test in *folder* how a file can be named without replacing another, and return the method.

    Temporary files are named in a temporary folder inside, exactly as `name_exclusively` does it.

    Args:
        folder: An existing folder on the file system to be examined; it is left as it was.

    Returns:
        `link` (hard links), `renameat2` (a rename that replaces nothing) or `a rename under a
        lock`: the first of them that works.

    Raises:
        OSError: An existing file was replaced, no method works, or the folder is not writable.
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
        # NFS repeats a request whose answer was lost, and then finds the link that it created.
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


# --- replaced files ---------------------------------------------------------------------------


UNFINISHED = re.compile(r"\..+\.[0-9a-f]{12}\.new")
"""The names that `replacing` gives to files until they are complete."""


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a new file that replaces *path* when the block ends.

    A reader sees the old file or the complete new one. After an error in the block or at its end,
    *path* is unchanged and the new file is removed. Only an error of the disk while the folder is
    synced comes too late for that: *path* is then the new file.

    Args:
        path: The path of the file, in a folder that exists; the file itself need not exist. A link
            of that name is replaced, and the file that it leads to stays as it is.
        durable: True if the new file must survive a power failure after the block, which waits for
            the disk twice; False if it may be lost then, or be empty.
        temporary: The path of the new file until it is complete, in the folder of *path*. A file of
            that name, which a killed writer may have left, is removed first, so only one writer at
            a time may pass it (default: a random name, for any number of writers).

    Yields:
        The empty new file, a buffered binary file for writing. The end of the block closes it,
        gives it the name *path*, and syncs it if *durable*; the caller does not close it.

    Raises:
        OSError: The file cannot be written.
    """
    if temporary is None:
        temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.new")
    else:
        temporary.unlink(missing_ok=True)
    try:
        # Exclusive, so that a link in an untrusted folder is never written through.
        with BufferedWriter(FileIO(temporary, "x")) as file:
            yield file
            if durable:
                # Before the name: a power failure leaves the old file or the new one.
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def write_file(path: Path, pieces: Iterable[bytes | memoryview], *, durable: bool) -> None:
    """Replace a file by one with the content *pieces*, or create it.

    A reader sees the old file or the complete new one. After an error the old file is unchanged,
    except one of the disk while the folder is synced, which comes after the replacement. A link of
    that name is replaced, and the file that it leads to stays as it is.

    Args:
        path: The path of the file, in a folder that exists.
        pieces: The content in consecutive pieces, such as `[b"a", b"b"]`; a single bytes object is
            no list of pieces. A memoryview must be contiguous.
        durable: True if the new file must survive a power failure after the call, which waits for
            the disk; False if it may be lost then, or be empty.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path, durable=durable) as file:
        file.writelines(pieces)


# --- durable folders --------------------------------------------------------------------------


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* survive a power failure; a rename is durable only after this.

    Args:
        folder: An existing folder. Names in the folders inside it, and the contents of files, are
            not synced, except on a file system that can only be synced as a whole.

    Raises:
        OSError: The folder cannot be opened, or the disk reports an error.
    """
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
