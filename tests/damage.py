"""Random damage to files of a store, and snapshots that show which other files have changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

KINDS = ("flip", "truncate", "remove")
"""The kinds of damage: a byte is changed, the file is truncated, the file is removed."""


def files(store: Path) -> list[Path]:
    """Return all files of a store, without caches, temporary files and the report."""
    excluded = (".tmp", ".cache", "report.html")
    return sorted(
        file
        for file in store.rglob("*")
        if file.is_file() and file.relative_to(store).parts[0] not in excluded
    )


def category(name: str) -> str:
    """Return the kind of a file, so that rare kinds are damaged as often as frequent ones."""
    parts = name.split("/")
    if parts[0] == "images.zarr":
        if parts[-1] == "zarr.json":
            return "metadata"
        if len(parts) == 5:  # an array of encoded rows
            return f"{parts[3]} of {parts[2]}"
        return parts[2] if parts[2].isalpha() else "shard"
    if parts[0] == "samples":
        return "part" if len(parts) == 3 else "table"
    if parts[0] == "splits":
        return ".".join(parts[1].split(".")[1:])
    return parts[0]


@dataclass(frozen=True)
class Snapshot:
    """All bytes of a store, and the identities of its files."""

    data: dict[str, bytes]
    marks: dict[str, tuple[int, int]]
    """The inode and the modification time in nanoseconds of each file."""


def snapshot(store: Path) -> Snapshot:
    """Return the current state of a store, without `.cache` and `.tmp`."""
    paths = {str(file.relative_to(store)): file for file in files(store)}
    return Snapshot(
        {name: file.read_bytes() for name, file in paths.items()},
        {name: (file.stat().st_ino, file.stat().st_mtime_ns) for name, file in paths.items()},
    )


def touched(before: Snapshot, after: Snapshot) -> set[str]:
    """Return the files that were written or removed, whatever their content is."""
    names = {*before.marks, *after.marks}
    return {name for name in names if before.marks.get(name) != after.marks.get(name)}


def damage(store: Path, name: str, kind: str, rng: np.random.Generator) -> None:
    """Damage one file at a random position; *kind* is one of `KINDS`."""
    file = store / name
    data = bytearray(file.read_bytes())
    position = int(rng.integers(len(data)))
    if kind == "remove":
        file.unlink()
    elif kind == "truncate":
        file.write_bytes(data[:position])
    else:
        data[position] ^= int(rng.integers(1, 256))
        file.write_bytes(data)


def choose(store: Path, rng: np.random.Generator) -> tuple[str, str]:
    """Return a random file of a store and a random kind of damage."""
    names = [str(file.relative_to(store)) for file in files(store)]
    by_category: dict[str, list[str]] = {}
    for name in names:
        by_category.setdefault(category(name), []).append(name)
    chosen = by_category[str(rng.choice(sorted(by_category)))]
    return str(rng.choice(chosen)), str(rng.choice(KINDS))
