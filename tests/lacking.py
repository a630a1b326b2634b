"""File systems without some calls, in this process and in those of a command."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import filesystem, locks
from tests.commands import saboteur

LINUX_NFS = ("flock", "fcntl")
"""The calls that fail on NFS without lockd, or on Lustre without -o flock."""
EXFAT = ("link",)
"""The calls that fail on exFAT."""
SMB = ("flock", "fcntl", "link", "renameat2", "folder sync")
"""The calls that fail on SMB."""

SetAttribute = Callable[[Any, str, Any], None]


def remove(calls: Sequence[str], change: SetAttribute) -> None:
    """Make *calls* fail as on a file system that lacks them.

    Args:
        calls: Any of `flock`, `fcntl`, `link`, `renameat2` and `folder sync`.
        change: `monkeypatch.setattr`, or `setattr` in a process that lacks them to its end.
    """
    for call in calls:
        _CHANGES[call](change)


def _fail(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def _without_folder_sync(change: SetAttribute) -> None:
    fsync = os.fsync

    def sync(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            _fail(errno.EINVAL)()
        fsync(file)

    change(os, "fsync", sync)


_CHANGES: dict[str, Callable[[SetAttribute], None]] = {
    "flock": lambda change: change(fcntl, "flock", _fail(errno.ENOSYS)),
    "fcntl": lambda change: change(locks, "_description_lock", _fail(errno.ENOLCK)),
    "link": lambda change: change(os, "link", _fail(errno.EPERM)),
    "renameat2": lambda change: change(filesystem, "_named_by_rename", _fail(errno.EINVAL)),
    "folder sync": _without_folder_sync,
}


@contextmanager
def processes_lacking(folder: Path, calls: Sequence[str]) -> Iterator[Path]:
    """Yield a folder that removes *calls* from every process with it first on its module path."""
    code = f"import tests.lacking\ntests.lacking.remove({list(calls)!r}, setattr)\n"
    with saboteur(folder, code) as path:
        yield path
