"""The one door for reading and writing a store, on a disk or an object store.

An object appears whole and durable, or not at all:

    disk            temp file in `.tmp/<run>/`, fsync, rename, fsync of the folder (and of the
                    parent of each folder made on the way)
    object store    one PUT

Names are relative, with `/` between parts. One that would lead out of the store, by itself or by
a link in a store that somebody else made, is refused (`pipeline.confined`). Errors of the disk
become one sentence.
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
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import confined
from pipeline.errors import StoreDamagedError, StoreError
from pipeline.filesystem import cure, name_exclusively, sync_folder
from pipeline.store.layout import TEMPORARY
from pipeline.store.shard import Writer
from pipeline.urls import is_url

ALIGNMENT = 4096
"""Of reads past the page cache: a multiple of what any file system asks for."""

BLOCK_BYTES = 4194304
"""What is gathered before it is written: a multiple of any disk's block."""


class ObjectWriter(Writer, Protocol):
    """An object on its way."""

    def abort(self) -> None:
        """Forget what was written. Harmless after `finish`."""


class Objects(Protocol):
    """A place that holds objects by name."""

    url: str
    finish_together: bool
    """Whether several objects are best finished at once: each waits, and holds no memory."""

    def get(self, name: str, limit: int | None = None) -> bytes:
        """The whole object.

        Args:
            name: Which.
            limit: Bytes that it may have at most.

        Raises:
            FileNotFoundError: There is none.
            StoreDamagedError: It is longer than *limit*, is no file, or its name leads out of the
                store.
        """

    def read(self, name: str, start: int, num_bytes: int) -> bytes:
        """A part of the object; less than was asked for where it ends before.

        Raises:
            FileNotFoundError: There is none.
        """

    def read_cached(self, name: str, start: int, to: memoryview) -> bool:
        """Fill *to* with a part of the object if that takes no waiting; whether it was done."""

    def read_direct(
        self, name: str, start: int, num_bytes: int, memory: NDArray[np.uint8]
    ) -> memoryview | None:
        """A part of the object past the page cache; None where that cannot be done.

        Args:
            name: Which.
            start: Byte at which it begins.
            num_bytes: How many.
            memory: (at least num_bytes + 3 * ALIGNMENT,) uint8, where it is read to.
        """

    def open(self, name: str) -> BinaryIO:
        """The object as a file that can be read anywhere.

        Raises:
            FileNotFoundError: There is none.
        """

    def size(self, name: str) -> int | None:
        """The object's size in bytes, or None where there is none."""

    def names(self, folder: str) -> list[str]:
        """The names of all objects under *folder*, at any depth, sorted."""

    def put(self, name: str, data: bytes) -> None:
        """Write an object, replacing what was there."""

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one; whether it was written."""

    def create(self, name: str) -> ObjectWriter:
        """Begin an object that is written piece by piece."""

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""

    def sync(self, folder: str) -> None:
        """Make the names in *folder* durable, if it is there.

        An object that is seen is whole, but whoever gave it its name may have been killed before
        the name was durable: to be called before something durable relies on it.
        """

    def begin(self) -> None:
        """Begin this run: remove what earlier runs of its split left behind, and shut them out.

        To be called under the split's lease, before anything is written. A ghost of an earlier
        run, cut off and still computing, can write nothing from here on.
        """

    def end(self) -> None:
        """End this run: nothing of it may be written any more."""

    def room(self) -> int | None:
        """Free bytes, or None where there is no limit to ask for."""


def open_objects(url: str, run: str = "reader") -> Objects:
    """The objects of the store at *url*, a path or an fsspec URL.

    Args:
        url: Where the store is, or will be.
        run: Names this run's temp files, `<split>-<anything>`.
    """
    if is_url(url) and not url.startswith("file://"):
        from pipeline.store.remote import RemoteObjects  # fsspec only where it is needed

        return RemoteObjects(url)
    return LocalObjects(os.path.abspath(Path(url.removeprefix("file://")).expanduser()), run)


def check_length(name: str, num_bytes: int, limit: int) -> None:
    """Refuse an object that is longer than one of its kind can be.

    Raises:
        StoreDamagedError: It is.
    """
    if num_bytes > limit:
        raise StoreDamagedError(
            f"{name} has {num_bytes:,} bytes: expected at most {limit:,}. It is not read."
        )


def write_file(path: Path, pieces: Iterable[bytes | memoryview], root: Path) -> None:
    """Write a file, durable, whole or not at all.

    Args:
        path: Which; its folder is there.
        pieces: All of it, in parts that are written one behind the other; views are of bytes.
        root: The folder that must not be left, such as a run's.

    Raises:
        OSError: It cannot be written.
        StoreError: A link leads out of *root*.
    """
    confined.check_inside(path.parent, root)
    # A name that could be foreseen may lie there as a link already.
    new = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.new")
    try:
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            for piece in pieces:
                _write_all(file, memoryview(piece))
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    sync_folder(path.parent)


def open_direct(path: Path) -> int | None:
    """A file for `read_direct`; None where the system or the file system has no such reads."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT)
    except (AttributeError, OSError):
        return None


def read_direct(file: int, start: int, num_bytes: int, memory: NDArray[np.uint8]) -> memoryview:
    """A part of a file past the page cache; less than was asked for where it ends before.

    Args:
        file: As `open_direct` opens it.
        start: Byte at which the part begins.
        num_bytes: How many.
        memory: (at least num_bytes + 3 * ALIGNMENT,) uint8, where it is read to.

    Raises:
        OSError: It cannot be read, or not in this way.
    """
    first = start // ALIGNMENT * ALIGNMENT
    stop = start + num_bytes - first
    skipped = -memory.ctypes.data % ALIGNMENT
    to = memory.data[skipped : skipped - (-stop // ALIGNMENT) * ALIGNMENT]
    done = 0
    while done < stop and (got := os.preadv(file, [to[done:]], first + done)):
        done += got
    return to[start - first : min(stop, max(done, start - first))]


class LocalObjects:
    """Objects as files under a folder."""

    finish_together = True

    def __init__(self, url: str, run: str) -> None:
        self.url = url
        self._root = Path(url)
        self._run = run

    def _path(self, name: str) -> Path:
        return self._root / confined.check_name(name)

    def get(self, name: str, limit: int | None = None) -> bytes:
        """See `Objects`."""
        with self.open(name) as file:
            if limit is not None:
                check_length(name, os.fstat(file.fileno()).st_size, limit)
            return file.read()

    def read(self, name: str, start: int, num_bytes: int) -> bytes:
        """See `Objects`."""
        with self.open(name) as file:
            file.seek(start)
            found = b""
            while len(found) < num_bytes and (piece := file.read(num_bytes - len(found))):
                found += piece
            return found

    def read_cached(self, name: str, start: int, to: memoryview) -> bool:
        """See `Objects`: what is in the page cache."""
        try:
            file = confined.open_regular(self._path(name))
        except (OSError, StoreError):  # who reads and waits will hear of it
            return False
        try:
            return os.preadv(file, [to], start, os.RWF_NOWAIT) == len(to)
        except (AttributeError, OSError):  # it is not there, or this system cannot say
            return False
        finally:
            os.close(file)

    def read_direct(
        self, name: str, start: int, num_bytes: int, memory: NDArray[np.uint8]
    ) -> memoryview | None:
        """See `Objects`."""
        file = open_direct(self._path(name))
        if file is None:
            return None
        try:
            return read_direct(file, start, num_bytes, memory)
        except OSError:  # who reads in another way hears what is wrong
            return None
        finally:
            os.close(file)

    def open(self, name: str) -> BinaryIO:
        """See `Objects`."""
        return os.fdopen(confined.open_regular(self._path(name)), "rb")

    def size(self, name: str) -> int | None:
        """See `Objects`."""
        try:
            there = self._path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return there.st_size if stat.S_ISREG(there.st_mode) else None

    def names(self, folder: str) -> list[str]:
        """See `Objects`."""
        found = []
        for where, _, files in os.walk(self._path(folder) if folder else self._root):
            found += [os.path.relpath(os.path.join(where, file), self._root) for file in files]
        return sorted(found)

    def put(self, name: str, data: bytes) -> None:
        """See `Objects`."""
        writer = self.create(name)
        with contextlib.closing(_Aborting(writer)):
            writer.write(memoryview(data))
            writer.finish()

    def put_new(self, name: str, data: bytes) -> bool:
        """See `Objects`."""
        writer = self.create(name)
        with contextlib.closing(_Aborting(writer)):
            writer.write(memoryview(data))
            return writer.finish_new()

    def create(self, name: str) -> LocalWriter:
        """See `Objects`."""
        return LocalWriter(self._root, name, self._run)

    def remove(self, name: str) -> None:
        """See `Objects`."""
        path = confined.confined(self._root, name)
        with _in_words(f"cannot remove {path}"), contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            sync_folder(path.parent)

    def sync(self, folder: str) -> None:
        """See `Objects`."""
        path = confined.confined(self._root, folder) if folder else self._root
        if path.is_dir():
            confined.check_inside(path, self._root)
            with _in_words(f"cannot write to {path}"):
                make_folders(path, self._root)
                sync_folder(path)

    def begin(self) -> None:
        """See `Objects`."""
        split = self._run.rpartition("-")[0]
        confined.check_inside(self._root / TEMPORARY, self._root)
        for folder in (self._root / TEMPORARY).glob(f"{glob.escape(split)}-*"):
            if folder.is_dir() and folder.name.rpartition("-")[0] == split:
                _drop(folder, split, self._root)
        with _in_words(f"cannot write to {self._root}"):
            make_folders(self._root / TEMPORARY / self._run, self._root)

    def end(self) -> None:
        """See `Objects`."""
        with contextlib.suppress(StoreError):  # the next run does it
            _drop(self._root / TEMPORARY / self._run, self._run.rpartition("-")[0], self._root)

    def room(self) -> int | None:
        """See `Objects`."""
        place = self._root
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free


class _Aborting:
    def __init__(self, writer: ObjectWriter) -> None:
        self.close = writer.abort


class LocalWriter:
    """A temp file that becomes an object.

    Pieces are gathered into blocks, and a thread writes a block while the next is filled. Blocks
    go past the page cache (O_DIRECT) where the file system can: a store is far larger than
    memory and is not read back soon, so caching it costs CPU for pages that push out the source.
    """

    def __init__(self, root: Path, name: str, run: str) -> None:
        self.name = name
        self._final = confined.confined(root, name)
        self._temporary = root / TEMPORARY / run / uuid.uuid4().hex
        confined.check_inside(self._temporary.parent, root)
        self._locks = root / TEMPORARY
        self._gone = False
        """Whether the temp file is one no more."""
        self._blocks: list[mmap.mmap] = []
        self._filled = 0
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._direct = False
        with _in_words(f"cannot create {self._final}"):
            make_folders(self._final.parent, root)
            try:
                self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileNotFoundError:
                raise StoreError(
                    f"cannot create {self._final}: run {run!r} was ended, or another run of the"
                    " same split has begun since. Only that one may write."
                ) from None

    def write(self, data: memoryview) -> None:
        """Append *data*."""
        data = data.cast("B")
        with _in_words(f"cannot write {self._final}"):
            while data.nbytes:
                if not self._blocks:
                    self._blocks = [_block()]
                piece = data[: BLOCK_BYTES - self._filled]
                self._blocks[0][self._filled : self._filled + piece.nbytes] = piece
                self._filled += piece.nbytes
                data = data[piece.nbytes :]
                if self._filled == BLOCK_BYTES:
                    self._turn_over()

    def finish(self) -> None:
        """Make the object durable under its name, replacing what was there."""
        with _in_words(f"cannot write {self._final}"):
            self._seal()
            os.replace(self._temporary, self._final)
            self._gone = True
            sync_folder(self._final.parent)

    def finish_new(self) -> bool:
        """Make the object durable under its name, unless there is one."""
        with _in_words(f"cannot write {self._final}"):
            self._seal()
            new = name_exclusively(self._temporary, self._final, self._locks)
            self._gone = True
            # Of the one that was there too: who made it may have been killed right after.
            sync_folder(self._final.parent)
            return new

    def abort(self) -> None:
        """Forget what was written. Harmless after `finish`."""
        if self._thread is not None:
            self._thread.shutdown()
        with contextlib.suppress(OSError):
            self._shut()
        if not self._gone:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)

    def _turn_over(self) -> None:
        # The full block goes to the thread; the other one, written by now, is filled next.
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "write")
            self._direct = _set_direct(self._file, on=True)
            self._blocks.append(_block())
        self._wait()
        self._writing = self._thread.submit(_write_all, self._file, memoryview(self._blocks[0]))
        self._blocks.reverse()
        self._filled = 0

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _seal(self) -> None:
        self._wait()
        if self._direct:  # the rest is no whole number of the disk's blocks
            _set_direct(self._file, on=False)
        if self._filled:
            _write_all(self._file, memoryview(self._blocks[0])[: self._filled])
        os.fsync(self._file)
        self._shut()

    def _shut(self) -> None:
        # Forgotten first: a number that could not be closed is closed, and may be another file's.
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _block() -> mmap.mmap:
    # Anonymous memory begins at a page, as O_DIRECT wants it. Private and in huge pages, where
    # there are such: what is copied here, and pinned for the disk, is spared a thousand small ones.
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, BLOCK_BYTES)
    block = mmap.mmap(-1, BLOCK_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _set_direct(file: int, *, on: bool) -> bool:
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    direct = getattr(os, "O_DIRECT", 0)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | direct if on else flags & ~direct)
    except OSError:  # not on this file system
        return False
    return bool(direct)


def _write_all(file: int, data: memoryview) -> None:
    while data.nbytes:
        try:
            written = os.write(file, data)
        except OSError as e:
            # Some file systems take O_DIRECT and refuse the writes; and after a short write the
            # rest is no whole number of blocks.
            if e.errno != errno.EINVAL or not _is_direct(file):
                raise
            _set_direct(file, on=False)
            continue
        data = data[written:]


def _is_direct(file: int) -> bool:
    return bool(fcntl.fcntl(file, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))


class WriterFile:
    """An object on its way as the writable file that other libraries want."""

    closed = False

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._position = 0

    def write(self, data: bytes) -> int:
        """Append *data*."""
        self._writer.write(memoryview(data))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._position

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """Leave the object to whoever began it: only `finish` makes it whole."""
        self.closed = True


_durable: set[Path] = set()
"""Folders of stores that this process knows to be durable in their parents."""


def make_folders(folder: Path, root: Path) -> None:
    """Make *folder*, of the store at *root*, and its parents, each one durable in its own parent.

    A folder that is there may have been made by another process that is still about to make it
    durable, or was killed before that. So each process makes sure of each folder, once.
    """
    there = folder.is_dir()
    if there and (folder in _durable or not folder.is_relative_to(root)):
        return
    make_folders(folder.parent, root)
    if not there:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
    try:
        sync_folder(folder.parent)
    except PermissionError:
        if folder != root:  # what the store itself lies in need not be ours to read
            raise
    _durable.add(folder)


def _drop(folder: Path, split: str, root: Path) -> None:
    # Renamed first, which happens at once: a ghost may put files into it faster than they go.
    confined.check_inside(folder.parent, root)
    gone = folder.with_name(f"{split}-{uuid.uuid4().hex}")
    with _in_words(f"cannot remove {folder}"), contextlib.suppress(FileNotFoundError):
        os.rename(folder, gone)
    confined.remove_folder(gone, root)


@contextlib.contextmanager
def _in_words(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise StoreError(
            f"{what}: {e.strerror or e}. {cure(e)}, then run the same command again: it goes on"
            " from what is committed."
        ) from e
