"""Objects on a disk, as files under the folder of the store.

A file is written under a temporary name, in a folder that only one run of the split has, and gets
its own name when it is complete and durable.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import mmap
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline import confined
from pipeline.errors import StoreError
from pipeline.filesystem import advice_for, name_exclusively, sync_folder
from pipeline.store.direct import open_direct, read_direct
from pipeline.store.layout import TEMPORARY
from pipeline.store.objects import ObjectWriter, check_length

BLOCK_BYTES = 4194304
"""The size of the write buffer: a multiple of any disk's block size."""


class LocalObjects:
    """The objects of a store on a disk, as files under a folder."""

    finish_together = True

    def __init__(self, url: str, run: str) -> None:
        """Open the folder of a store; nothing is read or written.

        Args:
            url: The path of the folder, which need not exist yet.
            run: The name of this run's folder of temporary files in `.tmp`: `<split>-<anything>`
                for a run that writes, which must call `begin` first. A reader may pass any name.
        """
        self.url = url
        self._root = Path(url)
        self._run = run

    def _path(self, name: str) -> Path:
        return self._root / confined.check_name(name)

    def get(self, name: str, limit: int | None = None) -> bytes:
        """Return all bytes of a file of the store.

        Args:
            name: The name of the object: its path relative to the store.
            limit: The maximum length in bytes; a longer file is not read (default: no limit).

        Raises:
            FileNotFoundError: The file does not exist.
            OSError: The file cannot be read, or is a folder.
            StoreDamagedError: The file is longer than *limit*, is a device or a pipe, or its name
                is not valid: absolute, or with a part that is empty, `.` or `..`.
        """
        with self.open(name) as file:
            if limit is not None:
                check_length(name, os.fstat(file.fileno()).st_size, limit)
            return file.read()

    def read(self, name: str, start: int, num_bytes: int) -> bytes:
        """Return a part of a file of the store.

        Args:
            name: The name of the object: its path relative to the store.
            start: The offset of the first byte, at least 0.
            num_bytes: The number of bytes to read; fewer are returned if the file ends first, and
                none if it ends before *start*.

        Raises:
            FileNotFoundError: The file does not exist.
            OSError: The file cannot be read, is a folder, or *start* is negative.
            StoreDamagedError: It is a device or a pipe, or its name is not valid.
        """
        with self.open(name) as file:
            file.seek(start)
            # A read may return less than it asks for before the end, on some network file systems.
            data = b""
            while len(data) < num_bytes and (piece := file.read(num_bytes - len(data))):
                data += piece
            return data

    def read_cached(self, name: str, start: int, to: memoryview) -> bool:
        """Fill memory from the page cache, without waiting for the disk.

        Args:
            name: The name of the object: its path relative to the store.
            start: The offset of the first byte in the file, at least 0.
            to: Writable memory of single bytes, whose length is the number of bytes to read; its
                contents are arbitrary if the result is False.

        Returns:
            True if the cache held all of the bytes; False otherwise, also if the file is missing,
            is too short, or cannot be read in this way.
        """
        try:
            file = confined.open_regular(self._path(name))
        except (OSError, StoreError):  # the blocking read that follows reports it
            return False
        try:
            return os.preadv(file, [to], start, os.RWF_NOWAIT) == len(to)
        except (AttributeError, OSError):  # not cached, or no RWF_NOWAIT on this platform
            return False
        finally:
            os.close(file)

    def read_direct(
        self, name: str, start: int, num_bytes: int, memory: NDArray[np.uint8]
    ) -> memoryview | None:
        """Read a part of a file with O_DIRECT, past the page cache.

        Args:
            name: The name of the object: its path relative to the store.
            start: The offset of the first byte, of any alignment.
            num_bytes: The number of bytes to read.
            memory: A writable buffer of any alignment, (at least num_bytes + 12,288,) uint8: 3 *
                `ALIGNMENT` more. It is overwritten, also outside of the part that is returned.

        Returns:
            The bytes, a view of *memory*, fewer if the file ends first, none if it ends before
            *start*; None if the file is missing, is a folder, or cannot be read in this way.

        Raises:
            StoreDamagedError: The name is not valid.
        """
        file = open_direct(self._path(name))
        if file is None:
            return None
        try:
            return read_direct(file, start, num_bytes, memory)
        except OSError:  # the buffered read that follows reports it
            return None
        finally:
            os.close(file)

    def open(self, name: str) -> BinaryIO:
        """Open a file of the store for reading in binary mode; the caller closes it.

        Args:
            name: The name of the object: its path relative to the store.

        Returns:
            A buffered, seekable file, positioned at its beginning.

        Raises:
            FileNotFoundError: The file does not exist.
            OSError: The file cannot be opened, or is a folder.
            StoreDamagedError: It is a device or a pipe, or its name is not valid.
        """
        return os.fdopen(confined.open_regular(self._path(name)), "rb")

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if there is no regular file of that name.

        Args:
            name: The name of the object: its path relative to the store.

        Raises:
            OSError: The file cannot be examined.
            StoreDamagedError: The name is not valid.
        """
        try:
            status = self._path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def names(self, folder: str) -> list[str]:
        """Return the names of all files under *folder*, at any depth, sorted.

        Args:
            folder: A path relative to the store, without a `/` at its end; empty for the whole
                store, temporary files in `.tmp` included. A folder that is missing or cannot be
                read has no names, nor has a file.

        Returns:
            Names relative to the store, not to *folder*, with `/` between parts. Links to folders
            are not followed, except for *folder* itself.

        Raises:
            StoreDamagedError: *folder* is not a valid name.
        """
        names = []
        for parent, _, files in os.walk(self._path(folder) if folder else self._root):
            names += [os.path.relpath(os.path.join(parent, file), self._root) for file in files]
        return sorted(names)

    def put(self, name: str, data: bytes) -> None:
        """Write a file atomically and durably, replacing any file of that name.

        Args:
            name: The name of the object: its path relative to the store. Missing folders are
                created.
            data: All bytes of the file.

        Raises:
            StoreError: The file cannot be written, its name is not valid, or this run may not
                write: `begin` was not called, the run has ended, or a later run of the split has
                begun.
        """
        writer = self.create(name)
        with contextlib.closing(_AbortOnClose(writer)):
            writer.write(memoryview(data))
            writer.finish()

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a file atomically and durably unless one of that name exists.

        Args:
            name: The name of the object: its path relative to the store. Missing folders are
                created.
            data: All bytes of the file.

        Returns:
            True if it was written; False if the name was taken, also by a file with the same bytes
            or by a folder.

        Raises:
            StoreError: The file cannot be written, its name is not valid, or this run may not
                write: `begin` was not called, the run has ended, or a later run of the split has
                begun.
        """
        writer = self.create(name)
        with contextlib.closing(_AbortOnClose(writer)):
            writer.write(memoryview(data))
            return writer.finish_new()

    def create(self, name: str) -> LocalWriter:
        """Return a writer that fills a temporary file, which `finish` makes the object.

        Args:
            name: The name that the object will get: its path relative to the store. Missing folders
                are created now.

        Returns:
            A writer without bytes. The caller ends it with `finish`, `finish_new` or `abort`;
            `abort` may follow either of the others, without an effect.

        Raises:
            StoreError: The temporary file cannot be created, the name is not valid, or this run may
                not write: `begin` was not called, the run has ended, or a later run of the split
                has begun.
        """
        return LocalWriter(self._root, name, self._run)

    def remove(self, name: str) -> None:
        """Remove a file durably; nothing happens if it does not exist.

        It needs no `begin`.

        Args:
            name: The name of the object: its path relative to the store.

        Raises:
            StoreError: The file cannot be removed, is a folder, or its name is not valid.
        """
        path = confined.confined_path(self._root, name)
        # An object that does not exist is no error: an interrupted run repeats its removals.
        with _explain_os_errors(f"cannot remove {path}"), contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            sync_folder(path.parent)

    def sync(self, folder: str) -> None:
        """Make the names in *folder*, and the folder itself, durable if the folder exists.

        The names in deeper folders are not included. It needs no `begin`.

        Args:
            folder: A path relative to the store, without a `/` at its end; empty for the store's
                own folder.

        Raises:
            StoreError: The disk reports an error, the name is not valid, or the folder leads out
                of the store.
        """
        path = confined.confined_path(self._root, folder) if folder else self._root
        if path.is_dir():
            confined.check_inside(path, self._root)
            with _explain_os_errors(f"cannot write to {path}"):
                make_folders(path, self._root)
                sync_folder(path)

    def begin(self) -> None:
        """Begin this run: remove the temporary files of earlier runs of the split.

        After that, earlier runs cannot write anything. This run's own folder of temporary files is
        created, and the store's folder if it is missing.

        Raises:
            StoreError: The disk reports an error, or `.tmp` leads out of the store by a link.
        """
        split = self._run.rpartition("-")[0]
        confined.check_inside(self._root / TEMPORARY, self._root)
        for folder in (self._root / TEMPORARY).glob(f"{glob.escape(split)}-*"):
            # The glob for split "a" also matches the folders of a split named "a-b".
            if folder.is_dir() and folder.name.rpartition("-")[0] == split:
                _remove_run_folder(folder, split, self._root)
        with _explain_os_errors(f"cannot write to {self._root}"):
            make_folders(self._root / TEMPORARY / self._run, self._root)

    def end(self) -> None:
        """Remove this run's temporary files, after which it cannot write anything."""
        with contextlib.suppress(StoreError):  # the next run removes it
            _remove_run_folder(
                self._root / TEMPORARY / self._run, self._run.rpartition("-")[0], self._root
            )

    def free_bytes(self) -> int | None:
        """Return the free bytes of the file system that holds the store."""
        folder = self._root
        while not folder.exists():  # a new store: its file system is that of the nearest parent
            folder = folder.parent
        return shutil.disk_usage(folder).free


class _AbortOnClose:
    def __init__(self, writer: ObjectWriter) -> None:
        self.close = writer.abort


class LocalWriter:
    """A writer that fills a temporary file, which becomes an object when it is finished.

    Data is collected in blocks, and a thread writes a full block while the next one is filled.
    Blocks bypass the page cache (O_DIRECT) where the file system supports it: a store is far
    larger than memory and is not read back soon, so caching it would evict pages of the source.
    """

    def __init__(self, root: Path, name: str, run: str) -> None:
        """Create the temporary file, and the folders of the object.

        Args:
            root: The folder of the store.
            name: The name that the object will get, relative to the store.
            run: The name of the run's folder of temporary files, which `LocalObjects.begin`
                created.

        Raises:
            StoreError: The file cannot be created, *name* leads out of the store, or the run's
                folder is gone because the run was ended or another one of the same split has begun.
        """
        self.name = name
        self._final = confined.confined_path(root, name)
        self._temporary = root / TEMPORARY / run / uuid.uuid4().hex
        confined.check_inside(self._temporary.parent, root)
        self._locks = root / TEMPORARY
        self._is_named = False
        """True once the temporary file is renamed, or removed because the name was taken."""
        self._blocks: list[mmap.mmap] = []
        self._filled = 0
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._direct = False
        with _explain_os_errors(f"cannot create {self._final}"):
            make_folders(self._final.parent, root)
            try:
                self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileNotFoundError:
                # The folder of this run is its right to write: a later run has removed it.
                raise StoreError(
                    f"cannot create {self._final}: run {run!r} was ended, or another run of the"
                    " same split has started since. Only the latest run may write."
                ) from None

    def write(self, data: memoryview) -> None:
        """Append a copy of *data* to the object; the memory may be reused as soon as this returns.

        Args:
            data: A memoryview, not bytes, of C-contiguous memory of any item size; its bytes are
                copied.

        Raises:
            TypeError: The memory is not C-contiguous.
            StoreError: The disk is full or failing. An error may be reported by a later call.
        """
        data = data.cast("B")
        with _explain_os_errors(f"cannot write {self._final}"):
            while data.nbytes:
                if not self._blocks:
                    self._blocks = [_allocate_block()]
                piece = data[: BLOCK_BYTES - self._filled]
                self._blocks[0][self._filled : self._filled + piece.nbytes] = piece
                self._filled += piece.nbytes
                data = data[piece.nbytes :]
                if self._filled == BLOCK_BYTES:
                    self._submit_block()

    def finish(self) -> None:
        """Make the object durable under its name, replacing any object of that name.

        Raises:
            StoreError: The disk is full or failing; also for data of an earlier `write`.
        """
        with _explain_os_errors(f"cannot write {self._final}"):
            self._seal()
            os.replace(self._temporary, self._final)
            self._is_named = True
            # A rename survives a power failure only once the folder is synced, too.
            sync_folder(self._final.parent)

    def finish_new(self) -> bool:
        """Make the object durable unless its name is taken.

        Returns:
            True if the object has the name now; False if another object had it, which is kept.

        Raises:
            StoreError: The disk is full or failing; also for data of an earlier `write`.
        """
        with _explain_os_errors(f"cannot write {self._final}"):
            self._seal()
            new = name_exclusively(self._temporary, self._final, self._locks)
            self._is_named = True
            # Also if the name was taken: its writer may have been killed before this sync.
            sync_folder(self._final.parent)
            return new

    def abort(self) -> None:
        """Discard what was written. Has no effect after `finish`."""
        if self._thread is not None:
            # It waits for the write in progress, which still uses the descriptor closed below.
            self._thread.shutdown()
        with contextlib.suppress(OSError):
            self._close_file()
        if not self._is_named:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)

    def _submit_block(self) -> None:
        # The thread writes the full block while the other one, written by now, is filled.
        if self._thread is None:
            # An object smaller than a block needs neither a thread nor O_DIRECT.
            self._thread = ThreadPoolExecutor(1, "write")
            self._direct = _set_o_direct(self._file, on=True)
            self._blocks.append(_allocate_block())
        self._wait_for_write()
        self._writing = self._thread.submit(_write_all, self._file, memoryview(self._blocks[0]))
        self._blocks.reverse()
        self._filled = 0

    def _wait_for_write(self) -> None:
        if self._writing is not None:
            self._writing.result()  # raises the thread's error, such as a full disk
            self._writing = None

    def _seal(self) -> None:
        self._wait_for_write()
        if self._direct:  # the last block is partly filled, and O_DIRECT writes whole ones only
            _set_o_direct(self._file, on=False)
        if self._filled:
            _write_all(self._file, memoryview(self._blocks[0])[: self._filled])
        os.fsync(self._file)
        self._close_file()

    def _close_file(self) -> None:
        # The attribute is cleared first: after a failed close the descriptor is closed all the
        # same, and its number may belong to another file by the time of a second attempt.
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _allocate_block() -> mmap.mmap:
    # Anonymous memory is page-aligned, as O_DIRECT requires. Huge pages, which need a private
    # mapping, spare the copy and the pinning for the disk a thousand small pages.
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, BLOCK_BYTES)
    block = mmap.mmap(-1, BLOCK_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _set_o_direct(file: int, *, on: bool) -> bool:
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    direct = getattr(os, "O_DIRECT", 0)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | direct if on else flags & ~direct)
    except OSError:  # the file system does not support O_DIRECT
        return False
    return bool(direct)


def _write_all(file: int, data: memoryview) -> None:
    while data.nbytes:
        try:
            written = os.write(file, data)
        except OSError as e:
            # Some file systems accept O_DIRECT but refuse the writes, and after a short write the
            # remaining bytes are not a whole number of blocks: go on through the page cache.
            if e.errno != errno.EINVAL or not _has_o_direct(file):
                raise
            _set_o_direct(file, on=False)
            continue
        data = data[written:]


def _has_o_direct(file: int) -> bool:
    return bool(fcntl.fcntl(file, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))


_durable: set[Path] = set()
"""The folders of stores that this process has made durable in their parents."""


def make_folders(folder: Path, root: Path) -> None:
    """Create *folder* in the store at *root*, and its parents, each durable in its own parent.

    A folder that exists may have been created by another process that has not synced it yet, or was
    killed before. So each process syncs each folder once.

    Args:
        folder: The folder to create: *root* or a folder in it. For one outside of *root*, nothing
            happens if it exists.
        root: The folder of the store, which is created, too, with its parents.

    Raises:
        OSError: A folder cannot be created or synced.
    """
    exists = folder.is_dir()
    if exists and (folder in _durable or not folder.is_relative_to(root)):
        return
    make_folders(folder.parent, root)
    if not exists:
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(folder)
    try:
        sync_folder(folder.parent)
    except PermissionError:
        if folder != root:  # the parent of the store itself need not be readable
            raise
    _durable.add(folder)


def _remove_run_folder(folder: Path, split: str, root: Path) -> None:
    # The folder is renamed first, which is atomic: a run that lost its lease could otherwise add
    # files faster than they are removed.
    confined.check_inside(folder.parent, root)
    renamed = folder.with_name(f"{split}-{uuid.uuid4().hex}")
    with _explain_os_errors(f"cannot remove {folder}"), contextlib.suppress(FileNotFoundError):
        os.rename(folder, renamed)
    confined.remove_folder(renamed, root)


@contextlib.contextmanager
def _explain_os_errors(problem: str) -> Iterator[None]:
    """Raise an OSError inside the block as a StoreError: *problem*, its cause and a cure."""
    try:
        yield
    except OSError as e:
        raise StoreError(
            f"{problem}: {e.strerror or e}. {advice_for(e)}, then run the same command again: it"
            " continues from the committed shards."
        ) from e
