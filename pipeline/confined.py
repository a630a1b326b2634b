"""Paths that stay inside a folder, however the names in them came about.

A store, a run or an index may have been made by somebody else. Names in its documents, and links
in its folders, must not lead a command out of it: nothing outside is written or removed.

    check_name      a name relative to the folder, as documents hold them
    confined        the path of such a name, if it may be written or removed
    remove_folder   a folder and all that is in it, links as links

The folder itself may be named through links: who runs a command chose that path. Of what lies in
it, a last part that is a link is replaced or removed as a link, and a folder on the way may be a
link only to another place inside. These checks are made before the file is touched: they hold
against whatever lies there, not against somebody who exchanges folders at the same moment.
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
"""Longest name that is looked at: no system opens a longer path."""
_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f]")


def check_name(name: str) -> str:
    """Return *name* if it names something inside a folder.

    Raises:
        StoreDamagedError: It is empty, absolute, has a part that is empty, `.` or `..`, or holds a
            backslash or a control character.
    """
    parts = name.split("/")
    plain = _UNSAFE.search(name) is None
    short = len(name) <= MAX_NAME_BYTES
    if not (plain and short and all(part not in ("", ".", "..") for part in parts)):
        raise StoreDamagedError(
            f"{name[:200]!r} is no name of an object: expected parts that are joined by '/', none"
            " of them empty, '.' or '..', without backslashes and control characters."
        )
    return name


def is_inside(path: Path, root: Path) -> bool:
    """Return True if *path*, with every link on the way followed, is *root* or lies in it."""
    real = os.path.realpath(root)
    return Path(os.path.realpath(path)).is_relative_to(real)


def confined(root: Path, name: str) -> Path:
    """Return the path of *name* in *root*, for writing or removing.

    Raises:
        StoreDamagedError: The name itself leads out of *root*.
        StoreError: A folder on the way is a link out of *root*.
    """
    path = root / check_name(name)
    check_inside(path.parent, root)
    return path


def check_inside(folder: Path, root: Path) -> None:
    """Refuse a folder of *root* that a link makes another place.

    Raises:
        StoreError: It lies outside of *root*.
    """
    if not is_inside(folder, root):
        raise StoreError(
            f"{folder} leads to {os.path.realpath(folder)}, out of {root}, by a link: nothing is"
            " written or removed there. Put a folder in the place of the link. Where it is to be on"
            " another disk, move the whole folder there, or mount that disk in its place."
        )


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open a file, and refuse what is none without waiting for it: a pipe, a device.

    Raises:
        OSError: As `os.open` does.
        StoreDamagedError: It is no file.
    """
    file = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    kind = os.fstat(file).st_mode
    if stat.S_ISREG(kind):
        return file
    os.close(file)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(f"{path} is a folder: expected a file.")
    raise StoreDamagedError(f"{path} is no file but a device or a pipe: remove it.")


def remove_folder(path: Path, root: Path) -> None:
    """Remove a folder of *root* and all that is in it, as far as that can be done.

    Links are removed, never followed.

    Raises:
        StoreError: A link leads out of *root*.
    """
    check_inside(path.parent, root)
    if path.is_symlink():
        with contextlib.suppress(OSError):
            path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)
