"""The staging folder on a local disk: marks, locks and space.

    AREA/.tesserae-staging.lock   locked while space is counted or freed
    AREA/<set>/.tesserae-staging  the mark of a copy set, written before anything else in it
    AREA/<set>/.use               locked, shared, by each process that uses the set
    AREA/<set>/images.zarr/...    copies of shards, under their names in the store

All other files in the folder are foreign: they count as used space, and are never changed or
removed. A copy set is removed only if its mark is the one that staging wrote into exactly this
folder, and then only files with the name of a shard are removed. Folders are opened one level at a
time, without following links, so no link leads out of the area.
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
from pipeline.locks import try_lock, unlock
from pipeline.store import layout

LOCK_NAME = ".tesserae-staging.lock"
MARK_NAME = ".tesserae-staging"
LAST_USE_NAME = ".use"

COPY_SUFFIX = ".copy"
"""The suffix of an incomplete copy."""

FREE_SHARE = 0.9
"""The share of the free space that copies may use if no limit is set."""

RECOUNT_SECONDS = 10.0
"""The interval after which foreign files are counted again."""

_MARK_TEXT = (
    "Tesserae staging, mark 0f1b2c9e-6c0f-4f0e-9d55-6a8e0c7d5a41.\n"
    "Copies of shards, which are removed when room is short.\n"
)
_MAX_MARK_BYTES = 4096
_SET_NAME = re.compile(r"[0-9a-f]{32}")
_SHARD_NAMES = {
    # In `images.zarr`, the split and the size; for encoded rows in the array of bytes below that.
    3: re.compile(rf"c\.\d+\.0\.0\.0({re.escape(COPY_SUFFIX)})?"),
    4: re.compile(rf"c\.\d+({re.escape(COPY_SUFFIX)})?"),
}
"""The names of shards by the number of folders above them in a copy set."""
_FOLDER_NAMES = {0: layout.IMAGES, 3: "bytes"}
"""The only folder at a depth that may hold copies; at other depths any may."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCKABLE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class StagingFolder:
    """A folder that holds copy sets, and possibly foreign files."""

    def __init__(self, folder: Path, limit_bytes: int | None) -> None:
        """Open the folder, creating it if it does not exist.

        Args:
            folder: The folder. It may be a link; links inside it are not followed.
            limit_bytes: Maximum bytes of everything in the folder; None for 90 % of the space that
                is free now.

        Raises:
            OSError: The folder cannot be created or written to.
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
        self._usable_at_start = int(FREE_SHARE * shutil.disk_usage(folder).free)
        self._bytes_at_start = self._bytes_of_sets() if limit_bytes is None else 0
        self._foreign = (-math.inf, 0)

    def locked(self) -> contextlib.AbstractContextManager[int | None]:
        """Try to hold the lock of this folder inside the block, without waiting for it.

        The block yields a descriptor of the locked file; or None if another open file, of this
        process or another, holds the lock: the block then runs without it.
        """
        return locked(self._file, LOCK_NAME)

    def open_set(self, name: str) -> int:
        """Open the folder of a copy set, creating and marking it if it does not exist.

        A copy set is the local copies of the shards of one split. Call it inside `locked()` of this
        object, if that yielded no None.

        Args:
            name: The name of the copy set, 32 hexadecimal digits in lower case, which is that of
                its folder. This is not checked, but a set of another name is never evicted.

        Returns:
            A descriptor of its folder, which the caller closes.

        Raises:
            StoreError: A file or folder of that name exists that staging did not create, or that
                another user owns, or the folder cannot be opened.
            OSError: The set cannot be created.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self._file)
        try:
            folder = os.open(name, _FOLDER, dir_fd=self._file)
        except OSError as e:  # a file, a link, or a folder without permission
            raise StoreError(
                f"cannot stage in {self.folder / name}: {e.strerror or e}. Remove it, or stage"
                " in another folder."
            ) from e
        try:
            self._adopt(folder, name)
        except BaseException:
            os.close(folder)
            raise
        return folder

    def evict_for(self, num_bytes: int, copy_set: str) -> bool:
        """Make room for *num_bytes* more, and return True if they now fit into the folder's limit.

        The limit is that of the constructor: the bytes of everything in the folder, or by default
        those of the copy sets alone, to which 90 % of the space that was free when this object was
        created may be added. Call it inside `locked()` of this object, if that yielded no None.
        Copy sets (local copies of the shards of one split) that no process uses are deleted from
        the disk, least recently used first, until the bytes fit. Nothing is deleted if they would
        not fit without any other set. If sets that processes use prevent it, the unused ones are
        deleted and False is returned.

        Args:
            num_bytes: The number of bytes that are about to be written.
            copy_set: The name of the copy set that they belong to, 32 hexadecimal digits, which is
                never deleted and need not exist.

        Raises:
            OSError: A copy set cannot be deleted.
        """
        max_bytes = self._limit_of_sets() - num_bytes
        if self._bytes_of_set(copy_set) > max_bytes:
            return False
        evictable = [name for name in self._names() if name != copy_set and self._is_set(name)]
        for name in sorted(evictable, key=self._last_use):
            if self._bytes_of_sets() <= max_bytes:
                return True
            self._evict(name)
        return self._bytes_of_sets() <= max_bytes

    # --- marks --------------------------------------------------------------------------------

    def _adopt(self, folder: int, name: str) -> None:
        """Mark a new folder, or accept one that has a valid mark."""
        info = os.fstat(folder)
        if info.st_uid != self._owner:
            raise self._not_ours(name, f"it belongs to user {info.st_uid}")
        mark = _read_mark(folder)
        if mark == _mark_of_set(name, info):
            return
        # A set that was moved from another disk has a mark with another inode: it is marked again.
        # An unmarked folder is accepted only if it is empty, after a crash before its mark.
        if not mark.startswith(_mark_of_set(name)) and _names_in(folder) - {
            MARK_NAME + COPY_SUFFIX
        }:
            raise self._not_ours(name, "staging has not marked it as its own")
        _write_mark(folder, _mark_of_set(name, info))

    def _not_ours(self, name: str, reason: str) -> StoreError:
        return StoreError(
            f"cannot stage in {self.folder / name}: {reason}. Remove that folder, or stage in"
            " another folder."
        )

    def _is_set(self, name: str) -> bool:
        """Return True if staging created the folder *name* for this user and on this disk."""
        if not _SET_NAME.fullmatch(name):
            return False
        try:
            folder = os.open(name, _FOLDER, dir_fd=self._file)
        except OSError:  # a link, a file, or a folder of another user
            return False
        try:
            info = os.fstat(folder)
            is_own = (info.st_dev, info.st_uid) == (self._device, self._owner)
            return is_own and _read_mark(folder) == _mark_of_set(name, info)
        finally:
            os.close(folder)

    def _names(self) -> list[str]:
        return sorted(_names_in(self._file))

    # --- space --------------------------------------------------------------------------------

    def _last_use(self, name: str) -> float:
        try:
            return os.stat(
                f"{name}/{LAST_USE_NAME}", dir_fd=self._file, follow_symlinks=False
            ).st_mtime
        except OSError:  # its eviction was interrupted after the file was removed
            return 0

    def _bytes_of_sets(self) -> int:
        return sum(self._bytes_of_set(name) for name in self._names() if self._is_set(name))

    def _bytes_of_set(self, name: str) -> int:
        return sum(_file_sizes(self.folder / name / layout.IMAGES))

    def _limit_of_sets(self) -> int:
        """Return the maximum bytes of all copy sets together."""
        if self._limit is None:
            return self._usable_at_start + self._bytes_at_start
        counted, foreign_bytes = self._foreign
        if time.monotonic() - counted > RECOUNT_SECONDS:
            foreign_bytes = self._foreign_bytes(self._limit)
            self._foreign = (time.monotonic(), foreign_bytes)
        return self._limit - foreign_bytes

    def _foreign_bytes(self, max_bytes: int) -> int:
        """Return the bytes of foreign files; stop counting when they exceed *max_bytes*.

        The area may be a large scratch folder that many people share.
        """
        total = 0
        for name in self._names():
            if self._is_set(name):
                continue
            for size in _file_sizes(self.folder / name):
                total += size
                if total > max_bytes:
                    return total
        return total

    def _evict(self, name: str) -> None:
        """Remove the copies of a set unless a process uses it.

        The mark is removed last, so that the next process can continue if this one is killed. A
        foreign file is kept, and with it the folder and its mark.
        """
        folder = os.open(name, _FOLDER, dir_fd=self._file)
        try:
            with locked(folder, LAST_USE_NAME) as use_lock:
                if use_lock is None:
                    return
                _remove_copies(folder, 0)
                if _names_in(folder) <= {LAST_USE_NAME, MARK_NAME}:
                    for file in (LAST_USE_NAME, MARK_NAME):
                        os.unlink(file, dir_fd=folder)
                    os.rmdir(name, dir_fd=self._file)
        finally:
            os.close(folder)


@contextlib.contextmanager
def locked(folder: int, name: str) -> Iterator[int | None]:
    """Try to hold an exclusive lock of a file inside the block, without waiting for it.

    Args:
        folder: The descriptor of the folder of the file.
        name: The name of the file, which is created if it does not exist. A link is not followed.

    Yields:
        The descriptor of the locked file, open inside the block; None if another open file, of this
        process or another, holds the lock, or the name was removed meanwhile: the block then runs
        without the lock. At the end the file is unlocked and closed, and stays on the disk.

    Raises:
        OSError: The file cannot be opened or locked, or is a link.
    """
    file = open_lockable(folder, name)
    try:
        try:
            is_held = try_lock(file)
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
            # Between open and lock, the holder before may have removed or renamed the file.
            is_held &= info.st_ino == os.fstat(file).st_ino
        except FileNotFoundError:
            is_held = False
        yield file if is_held else None
    finally:
        unlock(file)  # explicitly: a forked child may hold the descriptor, and closing would not
        os.close(file)


def open_lockable(folder: int, name: str) -> int:
    """Open a file for locking, creating it if it does not exist; do not follow a link.

    Args:
        folder: The descriptor of the folder of the file.
        name: The name of the file in that folder.

    Returns:
        A descriptor for reading and writing, which the caller closes. It is read-only for a file
        that this user may not write.

    Raises:
        OSError: The file cannot be opened, or is a link.
    """
    try:
        return os.open(name, _LOCKABLE, 0o644, dir_fd=folder)
    except PermissionError:  # another user's file: reading suffices for a lock
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


@contextlib.contextmanager
def folder_below(folder: int, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """Open a folder below another, level by level, without following links.

    Args:
        folder: The descriptor of the folder to start from; it stays open.
        parts: The names of the levels, such as `["train", "72"]`, from the outermost; without any,
            *folder* itself is opened again.
        make: True to create missing levels, for this user alone (default: False).

    Yields:
        A descriptor of the innermost folder, which is valid inside the block and closed at its end.

    Raises:
        StoreError: A name is empty, `.` or `..`, or contains a slash.
        OSError: A level is missing, or is a link or a file.
    """
    current = os.dup(folder)
    try:
        for part in parts:
            if part in ("", ".", "..") or "/" in part:
                raise StoreError(f"{'/'.join(parts)!r} is not the name of a folder in a store.")
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=current)
            subfolder = os.open(part, _FOLDER, dir_fd=current)
            os.close(current)
            current = subfolder
        yield current
    finally:
        os.close(current)


def split_name(name: str) -> tuple[Sequence[str], str]:
    """Split the name of an object of a store at its slashes.

    Args:
        name: A name such as `images.zarr/train/72/c.0.0.0.0`.

    Returns:
        A pair: the names of its folders, from the outermost, and the name of the file; for this
        example `(("images.zarr", "train", "72"), "c.0.0.0.0")`.

    Raises:
        IndexError: *name* is empty.
    """
    parts = PurePosixPath(name).parts
    return parts[:-1], parts[-1]


def _names_in(folder: int) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}


def _remove_copies(folder: int, depth: int) -> None:
    """Remove files that have the name of a shard, and folders that become empty."""
    with os.scandir(folder) as scan:
        entries = list(scan)
    for entry in entries:
        if entry.is_file(follow_symlinks=False):
            if depth in _SHARD_NAMES and _SHARD_NAMES[depth].fullmatch(entry.name):
                os.unlink(entry.name, dir_fd=folder)
        elif entry.is_dir(follow_symlinks=False) and depth < max(_SHARD_NAMES):
            if entry.name != _FOLDER_NAMES.get(depth, entry.name):
                continue
            with folder_below(folder, [entry.name]) as subfolder:
                _remove_copies(subfolder, depth + 1)
            with contextlib.suppress(OSError):  # the folder contains a foreign file
                os.rmdir(entry.name, dir_fd=folder)


def _file_sizes(path: Path) -> Iterator[int]:
    """Yield the size of a file, or of each file below a folder; links are not followed."""
    with contextlib.suppress(OSError):  # another process renamed or removed it
        info = os.lstat(path)
        if not stat.S_ISDIR(info.st_mode):
            yield info.st_size
            return
    for parent, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(f"{parent}/{name}").st_size


def _mark_of_set(name: str, folder: os.stat_result | None = None) -> bytes:
    """Return the mark of a copy set, or its prefix if *folder* is None.

    The mark contains the inode of the folder, so a copy of it in another folder is invalid.
    """
    prefix = f"{_MARK_TEXT}set {name}\ninode ".encode()
    return prefix if folder is None else prefix + f"{folder.st_ino}\n".encode()


def _read_mark(folder: int) -> bytes:
    """Return the contents of a folder's mark; empty if there is no such regular file."""
    try:
        file = os.open(MARK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return b""
        return os.read(file, _MAX_MARK_BYTES)
    finally:
        os.close(file)


def _write_mark(folder: int, data: bytes) -> None:
    """Write the mark atomically and durably."""
    temporary = MARK_NAME + COPY_SUFFIX
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(temporary, flags, 0o644, dir_fd=folder)
    try:
        os.write(file, data)
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(temporary, MARK_NAME, src_dir_fd=folder, dst_dir_fd=folder)
