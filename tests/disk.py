"""A model of a disk that loses what was not synced, and a recorder of file system calls.

The disk holds files by inode, and names by folder. A name is durable once its folder was synced,
and bytes are durable once their file was. What a power loss leaves of the rest is undefined, so
there are several kinds of losses, each of which is allowed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import pytest

from pipeline import filesystem
from pipeline.store import local

FOLDER = -1
"""The inode of every folder."""
LOSSES = ("strict", "names", "torn", "mixed")
"""What remains of unsynced data: nothing (strict), names without bytes, names with half of the
bytes (torn), or at random the old or the new state of each name and file (mixed)."""

Op = tuple[Any, ...]
"""The name of a method of `Disk`, and its arguments."""


@dataclass
class Disk:
    """Files and folders by their names relative to the root, which is `.`."""

    seen: dict[str, int] = field(default_factory=lambda: {".": FOLDER})
    """The inode of each name while the system runs."""
    durable: dict[str, int] = field(default_factory=lambda: {".": FOLDER})
    """The inode of each name that survives a power loss."""
    data: dict[int, bytes] = field(default_factory=dict)
    """The content of each inode."""
    synced: dict[int, int] = field(default_factory=dict)
    """The number of bytes of each inode that survive a power loss."""

    @classmethod
    def holding(cls, left: dict[str, bytes | None]) -> Self:
        """Return a disk after a restart, on which everything in *left* is durable."""
        disk = cls()
        for inode, (name, data) in enumerate(left.items(), 1):
            disk.seen[name] = FOLDER if data is None else inode
            if data is not None:
                disk.data[inode], disk.synced[inode] = data, len(data)
        disk.durable = dict(disk.seen)
        return disk

    def apply(self, op: Op) -> None:
        """Apply one recorded operation."""
        getattr(self, op[0])(*op[1:])

    def mkdir(self, path: str) -> None:
        self.seen[path] = FOLDER

    def create(self, path: str, inode: int) -> None:
        self.seen[path] = inode
        self.data[inode] = b""
        self.synced[inode] = 0

    def write(self, inode: int, data: bytes) -> None:
        self.data[inode] += data

    def sync(self, inode: int) -> None:
        self.synced[inode] = len(self.data[inode])

    def sync_folder(self, path: str) -> None:
        old = {name for name in self.durable if _parent(name) == path}
        new = {name: inode for name, inode in self.seen.items() if _parent(name) == path}
        for name in old - set(new):
            del self.durable[name]
        self.durable |= new

    def rename(self, old: str, new: str) -> None:
        self.seen[new] = self.seen.pop(old)

    def link(self, old: str, new: str) -> None:
        self.seen[new] = self.seen[old]

    def unlink(self, path: str) -> None:
        del self.seen[path]

    def lose(self, how: str, seed: int = 0) -> dict[str, bytes | None]:
        """Return what a power loss leaves: path -> bytes, or None for a folder."""
        rng = np.random.default_rng(seed)
        names = dict(self.durable)
        if how in ("names", "torn"):
            names = dict(self.seen)
        if how == "mixed":
            for name in sorted({*self.durable, *self.seen}):
                inode = (self.durable if rng.random() < 0.5 else self.seen).get(name)
                names.pop(name, None)
                if inode is not None:
                    names[name] = inode
        return {
            name: None if inode == FOLDER else self._left(inode, how, rng)
            for name, inode in names.items()
            if all(str(parent) in names for parent in PurePosixPath(name).parents)
        }

    def after_kill(self) -> dict[str, bytes | None]:
        """Return what a killed process leaves, which is everything, durable or not."""
        return {n: None if inode == FOLDER else self.data[inode] for n, inode in self.seen.items()}

    def _left(self, inode: int, how: str, rng: np.random.Generator) -> bytes:
        data, synced = self.data[inode], self.synced[inode]
        part = {"torn": 0.5, "mixed": rng.random()}.get(how, 0.0)
        return data[: synced + int((len(data) - synced) * part)]


def _parent(name: str) -> str:
    return "" if name == "." else str(PurePosixPath(name).parent)


def lay_out(left: dict[str, bytes | None], root: Path) -> Path:
    """Write what is left into a folder, and return the folder."""
    root.mkdir(parents=True)
    for name in sorted(left):
        data = left[name]
        if name != "." and data is None:
            (root / name).mkdir()
        elif data is not None:
            (root / name).write_bytes(data)
    return root


class Recorder:
    """A replacement of `os` that performs all calls and records them."""

    def __init__(self, root: Path, inode: int = 0) -> None:
        self.ops: list[Op] = []
        self._root = root
        self._inode = inode
        self._open: dict[int, str | int] = {}
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _name(self, path: Any) -> str | None:
        path = Path(path)
        return str(path.relative_to(self._root)) if path.is_relative_to(self._root) else None

    def _note(self, *op: Any) -> None:
        if None not in op:
            with self._lock:
                self.ops.append(op)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        file = os.open(path, flags, mode)
        name = self._name(path)
        if flags & os.O_CREAT and name is not None:
            self._inode += 1
            self._open[file] = self._inode
            self._note("create", name, self._inode)
        elif name is not None:
            self._open[file] = name
        return file

    def close(self, file: int) -> None:
        self._open.pop(file, None)
        os.close(file)

    def write(self, file: int, data: Any) -> int:
        written = os.write(file, data)
        self._note("write", self._open.get(file), bytes(data[:written]))
        return written

    def fsync(self, file: int) -> None:
        os.fsync(file)
        opened = self._open.get(file)
        self._note("sync" if isinstance(opened, int) else "sync_folder", opened)

    def replace(self, old: Any, new: Any) -> None:
        os.replace(old, new)
        self._note("rename", self._name(old), self._name(new))

    def link(self, old: Any, new: Any) -> None:
        os.link(old, new)
        self._note("link", self._name(old), self._name(new))

    def unlink(self, path: Any) -> None:
        os.unlink(path)
        self._note("unlink", self._name(path))

    def mkdir(self, path: Any) -> None:
        os.mkdir(path)
        self._note("mkdir", self._name(path))


@contextmanager
def recording(monkeypatch: pytest.MonkeyPatch, root: Path, inode: int = 0) -> Iterator[list[Op]]:
    """Record the file system calls under *root*; *inode* is the last number in use."""
    recorder = Recorder(root, inode)
    with monkeypatch.context() as patch:
        patch.setattr(local, "os", recorder)
        patch.setattr(filesystem, "os", recorder)
        yield recorder.ops


def replay(ops: list[Op], disk: Disk | None = None) -> Disk:
    """Return the disk after *ops*."""
    disk = disk or Disk()
    for op in ops:
        disk.apply(op)
    return disk
