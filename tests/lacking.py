"""File systems that lack calls, here and in the processes of a command."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import filesystem
from tests.commands import saboteur

LINUX_NFS = ("flock", "fcntl")
"""NFS without lockd, or Lustre without -o flock."""
EXFAT = ("link",)
SMB = ("flock", "fcntl", "link", "renameat2", "folder sync")

Set = Callable[[Any, str, Any], None]


def remove(calls: Sequence[str], change: Set) -> None:
    """Have *calls* fail as on a file system without them.

    Args:
        calls: Of `flock`, `fcntl`, `link`, `renameat2` and `folder sync`.
        change: `monkeypatch.setattr`, or `setattr` in a process that ends so.
    """
    for call in calls:
        _CHANGES[call](change)


def _fail(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def _without_folder_sync(change: Set) -> None:
    fsync = os.fsync

    def sync(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            _fail(errno.EINVAL)()
        fsync(file)

    change(os, "fsync", sync)


_CHANGES: dict[str, Callable[[Set], None]] = {
    "flock": lambda change: change(fcntl, "flock", _fail(errno.ENOSYS)),
    "fcntl": lambda change: change(filesystem, "_description_lock", _fail(errno.ENOLCK)),
    "link": lambda change: change(os, "link", _fail(errno.EPERM)),
    "renameat2": lambda change: change(filesystem, "_named_by_rename", _fail(errno.EINVAL)),
    "folder sync": _without_folder_sync,
}


@contextmanager
def processes_lacking(folder: Path, calls: Sequence[str]) -> Iterator[Path]:
    """A folder which, first on the path of a command, takes *calls* from all its processes."""
    code = f"import tests.lacking\ntests.lacking.remove({list(calls)!r}, setattr)\n"
    with saboteur(folder, code) as made:
        yield made
