"""Paths that cannot leave a folder, whatever names and links it contains.

A store, a run or an index may come from an untrusted source. The names in its documents and the
links in its folders must not make a command write or remove anything outside of it.

    check_name      validates a relative name, as documents contain it
    confined        returns the path of such a name, if it may be written or removed
    remove_folder   removes a folder and its content without following links

The path of the folder itself may contain links, because the user chose it. Inside the folder, a
link as the last part of a path is replaced or removed as a link, and a link to a folder may only
lead to another folder inside. The checks are made before the file is touched: they protect against
existing links, not against a process that replaces folders at the same moment.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from pathlib import Path

from pipeline.errors import StoreDamagedError, StoreError

MAX_NAME_BYTES = 4096
"""The maximum length of a name: no system opens a longer path."""
_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f]")


def check_name(name: str) -> str:
    """Return *name* if it is a valid relative name, which cannot leave its folder.

    No file is looked at, so the name need not exist, and links are not considered.

    Args:
        name: The name of an object, with `/` between its parts, such as
            `images.zarr/train/72/c.0.0.0.0`.

    Returns:
        *name*, unchanged.

    Raises:
        StoreDamagedError: The name is empty, absolute or longer than 4,096 bytes in UTF-8, has a
            part that is empty, `.` or `..`, or contains a backslash or an ASCII control character.
    """
    parts = name.split("/")
    plain = _UNSAFE.search(name) is None
    short = len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES
    if not (plain and short and all(part not in ("", ".", "..") for part in parts)):
        raise StoreDamagedError(
            f"{name[:200]!r} is not a valid name of an object: expected parts joined by '/', none"
            " of them empty, '.' or '..', without backslashes and control characters."
        )
    return name


def is_inside(path: Path, root: Path) -> bool:
    """Return True if *path*, with all links resolved, is *root* or lies in it.

    Args:
        path: A path, which need not exist. If it is a link, its target counts.
        root: A folder, which need not exist; its own links are resolved, too.
    """
    real = os.path.realpath(root)
    return Path(os.path.realpath(path)).is_relative_to(real)


def confined_path(root: Path, name: str) -> Path:
    """Return the path of *name* in *root*, for writing or removing; nothing is created.

    Args:
        root: The folder of a store, run or index, whose path may contain links.
        name: A relative name, with `/` between its parts. Neither it nor its folders need to exist.
            Its last part may be a link, which the caller must replace or remove as a link.

    Returns:
        `root / name`, with its links unresolved.

    Raises:
        StoreDamagedError: The name is empty, absolute or longer than 4,096 bytes in UTF-8, has a
            part that is empty, `.` or `..`, or contains a backslash or an ASCII control character.
        StoreError: A folder of the path is a link that leads out of *root*.
    """
    path = root / check_name(name)
    check_inside(path.parent, root)
    return path


def check_inside(folder: Path, root: Path) -> None:
    """Refuse a folder that a link leads out of *root*; nothing is changed.

    Args:
        folder: The folder, *root* itself or one below it; it need not exist.
        root: The folder in which it must lie once all links of both are resolved.

    Raises:
        StoreError: The folder lies outside of *root*, with or without a link.
    """
    if not is_inside(folder, root):
        raise StoreError(
            f"{folder} leads to {os.path.realpath(folder)}, outside of {root}, by a symbolic link:"
            " nothing is written or removed there. Replace the link with a folder. To use another"
            f" disk, move {root} there, or mount that disk in place of the link."
        )


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open a regular file; refuse a pipe or a device without blocking on it.

    Args:
        path: The path of the file. A link is followed unless *flags* contain `os.O_NOFOLLOW`.
        flags: The flags of `os.open` (default: read-only). `O_CLOEXEC` and `O_NONBLOCK` are added.
        mode: The permissions of a file that `os.O_CREAT` in *flags* creates, before the umask
            (default: 0o666).

    Returns:
        The file descriptor, which the caller closes.

    Raises:
        OSError: The file cannot be opened, or is a folder (IsADirectoryError). Sockets cannot be
            opened, nor pipes for writing alone while nobody reads them.
        StoreDamagedError: The path is another pipe or a device.
    """
    # Without O_NONBLOCK, opening a pipe would wait for a process at its other end.
    file = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    kind = os.fstat(file).st_mode
    if stat.S_ISREG(kind):
        return file
    os.close(file)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(f"{path} is a folder: expected a file.")
    raise StoreDamagedError(f"{path} is a device or a pipe: expected a file. Remove it.")


def remove_folder(path: Path, root: Path) -> None:
    """Remove a folder below *root* and its content as far as possible.

    Links are removed, not followed. Files that cannot be removed stay, without an error.

    Args:
        path: The folder to remove; it need not exist. If it is a link, only the link is removed; a
            file stays.
        root: The folder in which it lies, at any depth; not *path* itself.

    Raises:
        StoreError: The folder is not below *root*, by its path or because a link above it leads
            elsewhere; nothing is removed.
    """
    check_inside(path.parent, root)
    if path.is_symlink():
        with contextlib.suppress(OSError):
            path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)
