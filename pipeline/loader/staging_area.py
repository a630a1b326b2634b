"""The folder on a node's disk in which staging keeps its copies: marks, locks and room.

    AREA/.tesserae-staging.lock   held while room is counted or made
    AREA/<set>/.tesserae-staging  the mark of a copy set, written before anything else in it
    AREA/<set>/.use               locked, shared, by each process that reads the set
    AREA/<set>/images.zarr/...    copies of shards, under the names that they have in the store

Anything else in the folder belongs to somebody else. It counts as room that is taken; it is never
written to and never removed. A copy set is removed only if its mark is the one that staging wrote
into exactly this folder, and then only files that have the name of a shard are removed. Folders are
opened one level at a time, without following links, so no link leads out of the area.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipeline.errors import StoreError
from pipeline.filesystem import try_lock, unlock
from pipeline.store import layout

LOCK = ".tesserae-staging.lock"
MARK = ".tesserae-staging"
USE = ".use"

COPYING = ".copy"
"""Suffix of a copy that is not complete."""

FREE_SHARE = 0.9
"""Share of the disk's free bytes that copies may fill where no limit is set."""

COUNT_SECONDS = 10.0
"""How long the bytes of files that are no copies are taken to stay the same."""

_MARK_TEXT = (
    "Tesserae staging, mark 0f1b2c9e-6c0f-4f0e-9d55-6a8e0c7d5a41.\n"
    "Copies of shards, which are removed when room is short.\n"
)
_MAX_MARK_BYTES = 4096
_SET_NAME = re.compile(r"[0-9a-f]{32}")
_SHARD_NAME = re.compile(rf"c\.\d+\.0\.0\.0({re.escape(COPYING)})?")
_SHARD_DEPTH = 3
"""Folders above a shard in a copy set: `images.zarr`, the split and the size."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCKABLE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class StagingArea:
    """A folder that holds copy sets, and perhaps files of others."""

    def __init__(self, folder: Path, limit_bytes: int | None) -> None:
        """Open the folder, making it if there is none.

        Args:
            folder: The folder. It may be a link; nothing in it is followed if it is one.
            limit_bytes: Most bytes of all that lies in the folder. None for nine tenths of what is
                free on the disk now.

        Raises:
            OSError: The folder cannot be made or written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file).atexit = False
        self._device = os.fstat(self._file).st_dev
        with tempfile.TemporaryFile(dir=folder) as probe:
            # On some network file systems a new file belongs to another user than the process.
            self._owner = os.fstat(probe.fileno()).st_uid
        self._limit = limit_bytes
        self._free = int(FREE_SHARE * shutil.disk_usage(folder).free)
        self._taken = self._bytes_of_sets() if limit_bytes is None else 0
        self._others = (-math.inf, 0)

    def locked(self) -> contextlib.AbstractContextManager[int | None]:
        """Hold the lock of the area if it is free; yield None if another process holds it."""
        return locked(self._file, LOCK)

    def open_set(self, name: str) -> int:
        """Open the copy set *name*, making and marking it if there is none.

        To be called with the lock held.

        Returns:
            A descriptor of its folder.

        Raises:
            StoreError: A folder or file of that name exists that staging did not make.
            OSError: The set cannot be made.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self._file)
        try:
            folder = os.open(name, _FOLDER, dir_fd=self._file)
        except OSError as e:  # a file, a link, or a folder that this user may not read
            raise StoreError(
                f"cannot stage in {self.folder / name}: {e.strerror or e}. Remove it, or pass"
                " another staging_dir."
            ) from e
        try:
            self._adopt(folder, name)
        except BaseException:
            os.close(folder)
            raise
        return folder

    def make_room(self, num_bytes: int, own: str) -> bool:
        """Return True if *num_bytes* more fit, after removing unused copy sets if they must go.

        To be called with the lock held. Sets go in the order of their last use; one that a process
        reads stays, and so do all where their room would not be enough.

        Args:
            num_bytes: Bytes that are about to be written.
            own: Name of the copy set that they are for.
        """
        most = self._limit_of_sets() - num_bytes
        if self._bytes_of_set(own) > most:
            return False
        unused = [name for name in self._names() if name != own and self._is_set(name)]
        for name in sorted(unused, key=self._last_use):
            if self._bytes_of_sets() <= most:
                return True
            self._evict(name)
        return self._bytes_of_sets() <= most

    # --- marks --------------------------------------------------------------------------------

    def _adopt(self, folder: int, name: str) -> None:
        """Mark a folder that was just made; accept one that is marked already."""
        info = os.fstat(folder)
        if info.st_uid != self._owner:
            raise self._not_ours(name, f"it belongs to user {info.st_uid}")
        mark = _read_mark(folder)
        if mark == _mark(name, info):
            return
        # The mark of a set that was moved from another disk has another inode.
        if not mark.startswith(_mark(name)) and _names_in(folder) - {MARK + COPYING}:
            raise self._not_ours(name, "staging has not marked it as its own")
        _write_mark(folder, _mark(name, info))

    def _not_ours(self, name: str, reason: str) -> StoreError:
        return StoreError(
            f"cannot stage in {self.folder / name}: {reason}. Remove that folder, or pass another"
            " staging_dir."
        )

    def _is_set(self, name: str) -> bool:
        """Return True if staging made the folder *name*, for this user and on this disk."""
        if not _SET_NAME.fullmatch(name):
            return False
        try:
            folder = os.open(name, _FOLDER, dir_fd=self._file)
        except OSError:  # a link, a file, or a folder of another user
            return False
        try:
            info = os.fstat(folder)
            ours = (info.st_dev, info.st_uid) == (self._device, self._owner)
            return ours and _read_mark(folder) == _mark(name, info)
        finally:
            os.close(folder)

    def _names(self) -> list[str]:
        return sorted(_names_in(self._file))

    # --- room ---------------------------------------------------------------------------------

    def _last_use(self, name: str) -> float:
        try:
            return os.stat(f"{name}/{USE}", dir_fd=self._file, follow_symlinks=False).st_mtime
        except OSError:  # whoever evicted it was killed
            return 0

    def _bytes_of_sets(self) -> int:
        return sum(self._bytes_of_set(name) for name in self._names() if self._is_set(name))

    def _bytes_of_set(self, name: str) -> int:
        return sum(_file_sizes(self.folder / name / layout.IMAGES))

    def _limit_of_sets(self) -> int:
        """Return the most bytes that all copy sets may take together."""
        if self._limit is None:
            return self._free + self._taken
        counted, others = self._others
        if time.monotonic() - counted > COUNT_SECONDS:
            others = self._bytes_of_others(self._limit)
            self._others = (time.monotonic(), others)
        return self._limit - others

    def _bytes_of_others(self, most: int) -> int:
        """Return the bytes of everything but copy sets; stop counting when they exceed *most*.

        The area may be a large scratch folder that many people share.
        """
        total = 0
        for name in self._names():
            if self._is_set(name):
                continue
            for size in _file_sizes(self.folder / name):
                total += size
                if total > most:
                    return total
        return total

    def _evict(self, name: str) -> None:
        """Remove the copies of a set that no process reads.

        The mark goes last: if this process is killed, the next one goes on. A file that is no
        copy stays, and with it the folder and its mark.
        """
        folder = os.open(name, _FOLDER, dir_fd=self._file)
        try:
            with locked(folder, USE) as use:
                if use is None:
                    return
                _remove_copies(folder, 0)
                if _names_in(folder) <= {USE, MARK}:
                    for file in (USE, MARK):
                        os.unlink(file, dir_fd=folder)
                    os.rmdir(name, dir_fd=self._file)
        finally:
            os.close(folder)


@contextlib.contextmanager
def locked(folder: int, name: str) -> Iterator[int | None]:
    """Hold the lock of a file alone; yield None if another process holds it.

    Args:
        folder: Descriptor of the folder that the file is in.
        name: Name of the file, which is made if there is none.
    """
    file = open_lockable(folder, name)
    try:
        try:
            held = try_lock(file)
            named = os.stat(name, dir_fd=folder, follow_symlinks=False)
            held &= named.st_ino == os.fstat(file).st_ino  # else it was removed meanwhile
        except FileNotFoundError:
            held = False
        yield file if held else None
    finally:
        unlock(file)  # a forked child may hold the descriptor too
        os.close(file)


def open_lockable(folder: int, name: str) -> int:
    """Open a file to lock it, making it if there is none; never through a link."""
    try:
        return os.open(name, _LOCKABLE, 0o644, dir_fd=folder)
    except PermissionError:  # another user's: a lock needs no more than to read
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


@contextlib.contextmanager
def folder_below(folder: int, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """Open a folder below another, level by level, without following a link.

    Args:
        folder: Descriptor of the folder to begin at.
        parts: Names of the levels.
        make: Whether to make those that are missing.

    Raises:
        StoreError: A name would lead elsewhere.
        OSError: A level is missing, or is no folder.
    """
    current = os.dup(folder)
    try:
        for part in parts:
            if part in ("", ".", "..") or "/" in part:
                raise StoreError(f"{'/'.join(parts)!r} is no name of a folder of a store.")
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=current)
            inner = os.open(part, _FOLDER, dir_fd=current)
            os.close(current)
            current = inner
        yield current
    finally:
        os.close(current)


def split_name(name: str) -> tuple[Sequence[str], str]:
    """Return the folders and the file of an object's name."""
    parts = PurePosixPath(name).parts
    return parts[:-1], parts[-1]


def _names_in(folder: int) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}


def _remove_copies(folder: int, depth: int) -> None:
    """Remove files that have the name of a shard, and the folders that are empty then."""
    with os.scandir(folder) as scan:
        entries = list(scan)
    for entry in entries:
        if depth == _SHARD_DEPTH:
            if _SHARD_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=folder)
        elif entry.is_dir(follow_symlinks=False) and (depth or entry.name == layout.IMAGES):
            with folder_below(folder, [entry.name]) as inner:
                _remove_copies(inner, depth + 1)
            with contextlib.suppress(OSError):  # it holds what is no copy
                os.rmdir(entry.name, dir_fd=folder)


def _file_sizes(path: Path) -> Iterator[int]:
    """Yield the size of a file, or of each file below a folder; a link counts for itself."""
    with contextlib.suppress(OSError):  # it was renamed or removed meanwhile
        info = os.lstat(path)
        if not stat.S_ISDIR(info.st_mode):
            yield info.st_size
            return
    for where, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(f"{where}/{name}").st_size


def _mark(name: str, folder: os.stat_result | None = None) -> bytes:
    """Return the mark of a copy set, or without *folder* what it begins with.

    It names the folder's inode too, so a copy of it in any other folder is no mark.
    """
    begin = f"{_MARK_TEXT}set {name}\ninode ".encode()
    return begin if folder is None else begin + f"{folder.st_ino}\n".encode()


def _read_mark(folder: int) -> bytes:
    """Return the contents of the folder's mark; nothing where there is no such regular file."""
    try:
        file = os.open(MARK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return b""
        return os.read(file, _MAX_MARK_BYTES)
    finally:
        os.close(file)


def _write_mark(folder: int, data: bytes) -> None:
    """Write the mark so that it is seen whole or not at all."""
    half = MARK + COPYING
    with contextlib.suppress(FileNotFoundError):
        os.unlink(half, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(half, flags, 0o644, dir_fd=folder)
    try:
        os.write(file, data)
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(half, MARK, src_dir_fd=folder, dst_dir_fd=folder)
