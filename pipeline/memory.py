"""The memory available to this process: that of the machine or of its control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

_FILES = ("inactive_file", "active_file")
"""The names of a group's page-cache counters; the kernel reclaims these pages on demand."""


def limit_bytes() -> int:
    """Return the bytes of memory that this process and those beside it may use together.

    It is the least of the machine's memory and the limits of the control groups of this process.
    """
    limits = (limit for folder in _control_groups() if (limit := _group_limit(folder)) is not None)
    return min([int(psutil.virtual_memory().total), *limits])


def free_bytes() -> int:
    """Return the bytes of memory that are still available; the page cache counts as free.

    It is the least of what the machine and each control group of this process has left, at least 0.
    """
    free = int(psutil.virtual_memory().available)
    for folder in _control_groups():
        limit, used = _group_limit(folder), _group_usage(folder)
        if limit is not None and used is not None:
            free = min(free, limit - used)
    return max(0, free)


def _control_groups() -> Iterator[Path]:
    """Yield the folders of all control groups of this process, of version 1 or 2."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory" or "memory" in controllers.split(","):
            root = GROUPS / "memory"
        elif not controllers:
            root = GROUPS
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        for parent in (inside, *inside.parents):  # in a container, only some of these folders exist
            yield root / parent


def _group_limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        number = _read_number(folder / name)
        if number is not None:
            return number
    return None


def _group_usage(folder: Path) -> int | None:
    """Return the bytes in use without the page cache; None if unknown."""
    used = _read_number(folder / "memory.current") or _read_number(folder / "memory.usage_in_bytes")
    if used is None:
        return None
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        stat = {name: int(number) for name, number in map(str.split, lines)}
    except (OSError, ValueError):
        return used
    # Version 1 counts the pages of subgroups under separate names, with the prefix `total_`.
    return max(0, used - sum(stat.get(f"total_{kind}", stat.get(kind, 0)) for kind in _FILES))


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # the file does not exist, or says "max"
        return None
