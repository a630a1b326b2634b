"""How much memory this process may use: of the machine, or of the group that it is confined to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

_FILES = ("inactive_file", "active_file")
"""What a group's pages of files are called; they are given up when memory is short."""


def limit_bytes() -> int:
    """Bytes of memory that there are for this process and those beside it."""
    limits = (limit for folder in _groups() if (limit := _limit(folder)) is not None)
    return min([int(psutil.virtual_memory().total), *limits])


def free_bytes() -> int:
    """Bytes of memory that can still be filled. Pages of files count as free."""
    free = int(psutil.virtual_memory().available)
    for folder in _groups():
        limit, used = _limit(folder), _used(folder)
        if limit is not None and used is not None:
            free = min(free, limit - used)
    return max(0, free)


def _groups() -> Iterator[Path]:
    """The folders of all control groups that this process is in, of either version."""
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
        for parent in (inside, *inside.parents):  # in a container only some of them are visible
            yield root / parent


def _limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        number = _number(folder / name)
        if number is not None:
            return number
    return None


def _used(folder: Path) -> int | None:
    """Bytes in use but for pages of files."""
    used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
    if used is None:
        return None
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        stat = {name: int(number) for name, number in map(str.split, lines)}
    except (OSError, ValueError):
        return used
    # Version 1 has those of the groups below under names of their own.
    return max(0, used - sum(stat.get(f"total_{kind}", stat.get(kind, 0)) for kind in _FILES))


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None
