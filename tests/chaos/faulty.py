"""A source and a disk that fail and stall on demand, inside the processes that use them.

A spell is a file: `source` or `disk` in a folder of control, which says `fail SHARE` or
`stall SHARE SECONDS`. That share of all calls is struck, and each that is leaves a byte in
`source.fail`, `disk.stall` and so on, whose sizes are the counts.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = 4096

SOURCE_CALLS = ("open", "pread", "read")
DISK_CALLS = ("open", "write", "fsync", "replace", "link", "rename", "mkdir", "preadv")

_lot = random.SystemRandom()
"""Forked processes would draw the same from another."""


class Faulty:
    """Stands in for `os` in a module."""

    def __init__(self, what: str, calls: tuple[str, ...], control: Path) -> None:
        self._what = what
        self._calls = calls
        self._control = control

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self._calls:
            return real

        def call(*words: Any, **options: Any) -> Any:
            if not self._fails():
                return real(*words, **options)
            if name == "write":  # half of it is written
                os.write(words[0], words[1][: len(words[1]) // 2 // PAGE * PAGE])
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        return call

    def _fails(self) -> bool:
        try:
            kind, *numbers = (self._control / self._what).read_text().split()
        except OSError:
            return False
        if not numbers or _lot.random() > float(numbers[0]):
            return False
        note(self._control, f"{self._what}.{kind}")
        if kind == "stall":
            time.sleep(float(numbers[1]))
            return False
        return True


def note(control: Path, what: str) -> None:
    """Count one."""
    file = os.open(control / what, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(file, b".")
    os.close(file)


def make_faulty(
    after_import: Callable[[str, Callable[[ModuleType], None]], None], control: Path
) -> None:
    """Have every process that imports them read a faulty source, and write to a faulty disk."""
    for module, what, calls in (
        ("pipeline.sources.reader", "source", SOURCE_CALLS),
        ("pipeline.store.local", "disk", DISK_CALLS),
    ):
        faulty = Faulty(what, calls, control)
        after_import(module, lambda found, faulty=faulty: setattr(found, "os", faulty))  # type: ignore[misc]
