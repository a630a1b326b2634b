"""The interface through which a store is read and written, on a disk or an object store.

An object appears complete and durable, or not at all:

    disk            temporary file in `.tmp/<run>/`, fsync, rename, fsync of the folder (and of the
                    parent of each folder created on the way)
    object store    one PUT

Names are relative, with `/` between parts. A name that leads out of the store, by itself or through
a link in an untrusted store, is refused (`pipeline.confined`). An error of the disk is raised as a
StoreError, in one sentence.
"""

from __future__ import annotations

from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError


class Writer(Protocol):
    """A writer of one object, piece by piece."""

    name: str

    def write(self, data: memoryview) -> None:
        """Append bytes to the object.

        Args:
            data: A memoryview, not bytes, of C-contiguous memory, which may be overwritten as soon
                as this returns.

        Raises:
            StoreError: The bytes cannot be written; an error may be reported by a later call.
        """

    def finish(self) -> None:
        """Make the object durable under its name."""


class ObjectWriter(Writer, Protocol):
    """A writer of one object, which can be abandoned."""

    def finish_new(self) -> bool:
        """Make the object durable under its name unless one of that name exists.

        Returns:
            True if the object has the name now; False if another object had it, which is kept.

        Raises:
            StoreError: The object cannot be written.
        """

    def abort(self) -> None:
        """Discard what was written. Has no effect after `finish`."""


class Objects(Protocol):
    """A collection of named objects: the files or the keys of one store.

    Attributes:
        url: The path or URL of the store.
        finish_together: True if several objects should be finished at once, because finishing
            waits for the disk and holds no memory.
    """

    url: str
    finish_together: bool

    def get(self, name: str, limit: int | None = None) -> bytes:
        """Return all bytes of an object.

        Args:
            name: The name of the object, relative to the store, with `/` between its parts.
            limit: The maximum length in bytes (default: no limit).

        Raises:
            FileNotFoundError: The object does not exist.
            OSError: The disk reports an error, or the name is that of a folder on a disk.
            StoreDamagedError: The object is longer than *limit* or is a device or a pipe, or its
                name is not valid: absolute, or with a part that is empty, `.` or `..`.
            StoreError: The request to an object store failed.
        """

    def read(self, name: str, start: int, num_bytes: int) -> bytes:
        """Return a part of an object.

        Args:
            name: The name of the object, relative to the store.
            start: The offset of the first byte, at least 0. An object store may refuse one that is
                not less than the length of the object.
            num_bytes: The number of bytes to read; fewer are returned if the object ends first.

        Raises:
            FileNotFoundError: The object does not exist.
            OSError: The disk reports an error, or the name is that of a folder on a disk.
            StoreDamagedError: The object is a device or a pipe, or its name is not valid.
            StoreError: The request to an object store failed.
        """

    def read_cached(self, name: str, start: int, to: memoryview) -> bool:
        """Fill memory with a part of an object if that needs no disk and no network.

        Args:
            name: The name of the object, relative to the store.
            start: The offset of the first byte in the object, at least 0.
            to: Writable memory of single bytes, whose length is the number of bytes to read; its
                contents are arbitrary if the result is False.

        Returns:
            True if all of *to* was filled; False otherwise, also if the object does not exist, and
            always for an object store.
        """

    def read_direct(
        self, name: str, start: int, num_bytes: int, memory: NDArray[np.uint8]
    ) -> memoryview | None:
        """Read a part of an object without the page cache.

        Args:
            name: The name of the object, relative to the store.
            start: The offset of the first byte, of any alignment.
            num_bytes: The number of bytes to read.
            memory: A writable buffer of any alignment, (at least num_bytes + 12,288,) uint8: 3 *
                `pipeline.store.direct.ALIGNMENT` more. It is overwritten, also outside of the part
                that is returned.

        Returns:
            The bytes, a view of *memory*, fewer if the object ends first; None if the object does
            not exist or cannot be read in this way, and always for an object store.

        Raises:
            StoreDamagedError: The name of an object on a disk is not valid.
        """

    def open(self, name: str) -> BinaryIO:
        """Open an object as a seekable binary file for reading; the caller closes it.

        Args:
            name: The name of the object, relative to the store.

        Raises:
            FileNotFoundError: The object does not exist.
            OSError: The disk reports an error, or the name is that of a folder on a disk.
            StoreDamagedError: The object is a device or a pipe, or its name is not valid.
            StoreError: The request to an object store failed. Later reads of the file raise the
                errors of that store's own package.
        """

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes, or None if it does not exist or is a folder.

        Args:
            name: The name of the object, relative to the store.

        Raises:
            StoreError: The name is not valid, or the request to an object store failed.
            OSError: The disk reports an error.
        """

    def names(self, folder: str) -> list[str]:
        """Return the names of all objects under *folder*, at any depth, sorted.

        Args:
            folder: The beginning of their names up to a `/`, which is left out, such as
                `commits/train`; empty for the whole store.

        Returns:
            Names relative to the store, not to *folder*; an empty list if nothing lies there.

        Raises:
            StoreError: *folder* is not a valid name, or the request to an object store failed.
        """

    def put(self, name: str, data: bytes) -> None:
        """Write an object, complete and durable, replacing any object of that name.

        Args:
            name: The name of the object, relative to the store.
            data: All its bytes.

        Raises:
            StoreError: The object cannot be written, its name is not valid, or this run may not
                write to a disk: `begin` was not called, the run has ended, or a later run of the
                split has begun.
        """

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object, complete and durable, unless one of that name exists.

        Args:
            name: The name of the object, relative to the store.
            data: All its bytes.

        Returns:
            True if it was written; False if the name was taken, also by an object with the same
            bytes.

        Raises:
            StoreError: The object cannot be written, its name is not valid, or this run may not
                write to a disk: `begin` was not called, the run has ended, or a later run of the
                split has begun.
        """

    def create(self, name: str) -> ObjectWriter:
        """Return a writer for an object, which appears when the writer is finished.

        Args:
            name: The name that the object will get, relative to the store.

        Returns:
            A writer without bytes, which takes memoryviews: `writer.write(memoryview(data))`. The
            caller ends it with `finish`, which replaces any object of that name, or `abort`, which
            discards the bytes and has no effect after `finish`.

        Raises:
            StoreError: The object cannot be created, its name is not valid, or this run may not
                write to a disk: `begin` was not called, the run has ended, or a later run of the
                split has begun.
        """

    def remove(self, name: str) -> None:
        """Remove an object; nothing happens if it does not exist. It needs no `begin`.

        Args:
            name: The name of the object, relative to the store.

        Raises:
            StoreError: The object cannot be removed, is a folder on a disk, or its name is not
                valid.
        """

    def sync(self, folder: str) -> None:
        """Make the names in *folder* durable if the folder exists.

        A visible object is complete, but the process that named it may have been killed before the
        name was durable. Call this before a durable record refers to the object. An object store
        does nothing.

        Args:
            folder: The beginning of the names up to the last `/`, which is left out, such as
                `commits/train`; deeper names are not included. It is empty for the store's root.

        Raises:
            StoreError: The names cannot be made durable, or *folder* is not a valid name.
        """

    def begin(self) -> None:
        """Begin this run: remove the temporary files of earlier runs and exclude those runs.

        Call this while holding the lease of the split, before writing anything. An earlier run
        that lost its lease but is still computing cannot write anything afterwards.

        Raises:
            StoreError: The disk reports an error, or `.tmp` leads out of the store by a link.
        """

    def end(self) -> None:
        """End this run, after which it cannot write anything."""

    def free_bytes(self) -> int | None:
        """Return the free space in bytes, or None if there is no known limit."""


def check_length(name: str, num_bytes: int, limit: int) -> None:
    """Refuse an object that is longer than one of its kind can be.

    Args:
        name: The name of the object, for the message.
        num_bytes: Its length in bytes.
        limit: The maximum length in bytes.

    Raises:
        StoreDamagedError: *num_bytes* is greater than *limit*.
    """
    if num_bytes > limit:
        raise StoreDamagedError(
            f"{name} has {num_bytes:,} bytes: expected at most {limit:,}. It is not read."
        )


class WriterFile:
    """A file object over a writer, for libraries that write to files."""

    closed = False

    def __init__(self, writer: Writer) -> None:
        """Wrap a writer.

        Args:
            writer: The writer that gets all bytes. It stays open when this file is closed: the
                caller finishes or aborts it.
        """
        self._writer = writer
        self._position = 0

    def write(self, data: bytes) -> int:
        """Append *data* to the object of the writer; return its length in bytes.

        Args:
            data: The bytes to append.

        Raises:
            StoreError: The bytes cannot be written; an error may be reported by a later call.
        """
        self._writer.write(memoryview(data))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._position

    def flush(self) -> None:
        """Do nothing: this object buffers no data."""

    def close(self) -> None:
        """Close this file only: the caller finishes or aborts the writer."""
        # Libraries also close a file after an error, when the object must not become visible.
        self.closed = True
