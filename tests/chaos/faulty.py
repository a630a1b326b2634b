"""A source and a disk that fail and stall on demand, inside the processes that use them.

A fault is requested by a file `source` or `disk` in a control folder, which contains `fail SHARE`
or `stall SHARE SECONDS`. That share of all calls is affected, and each affected call appends a byte
to `source.fail`, `disk.stall` and so on, whose sizes are the counts.
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
"""A seeded generator would draw the same numbers in all forked processes."""


class Faulty:
    """A replacement of `os` in a module, whose calls may fail."""

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
    """Count one affected call of the kind *what*."""
    file = os.open(control / what, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(file, b".")
    os.close(file)


def make_faulty(
    after_import: Callable[[str, Callable[[ModuleType], None]], None], control: Path
) -> None:
    """Make the modules that read sources and write stores faulty when they are imported."""
    for module, what, calls in (
        ("pipeline.sources.reader", "source", SOURCE_CALLS),
        ("pipeline.store.local", "disk", DISK_CALLS),
    ):
        faulty = Faulty(what, calls, control)
        after_import(module, lambda found, faulty=faulty: setattr(found, "os", faulty))  # type: ignore[misc]
