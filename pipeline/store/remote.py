"""Objects on an object store, through fsspec. One PUT makes an object complete and durable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import fsspec
import numpy as np
from numpy.typing import NDArray

from pipeline.confined import check_name
from pipeline.errors import StoreError
from pipeline.installation import missing_filesystem
from pipeline.store.objects import check_length


class RemoteObjects:
    """The objects of a store under an fsspec URL such as `s3://bucket/prefix`."""

    finish_together = False  # each PUT in progress holds several copies of its object

    def __init__(self, url: str) -> None:
        """Open the file system of a URL; nothing is read or written.

        Args:
            url: The fsspec URL of the store, which need not exist yet.

        Raises:
            StoreError: No installed package implements the protocol of the URL, or it is not valid.
        """
        self.url = url.rstrip("/")
        try:
            # Listings must not be cached, because other workers add objects meanwhile.
            self._files, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as e:
            raise StoreError(f"cannot open {url}: {missing_filesystem(e)}.") from e
        except (ValueError, OSError) as e:
            raise StoreError(f"cannot open {url}: {e}.") from e

    def _path(self, name: str) -> str:
        return f"{self._root}/{check_name(name)}"

    def get(self, name: str, limit: int | None = None) -> bytes:
        """Return all bytes of an object, with one request.

        Args:
            name: The name of the object, relative to the store.
            limit: The maximum length in bytes, which is checked after the object is read (default:
                no limit).

        Raises:
            FileNotFoundError: The object does not exist.
            StoreDamagedError: The object is longer than *limit*, or its name is not valid.
            StoreError: The request failed.
        """
        with self._explain_errors("read", name):
            data = bytes(self._files.cat_file(self._path(name)))
        # Checked afterwards: asking for the size first would double the latency of each document.
        if limit is not None:
            check_length(name, len(data), limit)
        return data

    def read_cached(self, name: str, start: int, to: memoryview) -> bool:
        """Return False without filling *to*: there is no page cache for remote objects.

        Args:
            name: The name of the object, which is ignored.
            start: The offset of the first byte, which is ignored.
            to: Memory, which is left as it is.
        """
        return False

    def read_direct(
        self, name: str, start: int, num_bytes: int, memory: NDArray[np.uint8]
    ) -> memoryview | None:
        """Return None without filling *memory*: remote objects have no direct reads.

        Args:
            name: The name of the object, which is ignored.
            start: The offset of the first byte, which is ignored.
            num_bytes: The number of bytes, which is ignored.
            memory: A buffer, which is left as it is.
        """
        return None

    def open(self, name: str) -> BinaryIO:
        """Open an object as a seekable binary file for reading; the caller closes it.

        Args:
            name: The name of the object, relative to the store.

        Returns:
            A file of fsspec, whose methods raise the errors of the object store's own package.

        Raises:
            FileNotFoundError: The object does not exist.
            StoreDamagedError: The name is not valid.
            StoreError: The request failed.
        """
        with self._explain_errors("read", name):
            return cast(BinaryIO, self._files.open(self._path(name), "rb"))

    def read(self, name: str, start: int, num_bytes: int) -> bytes:
        """Return a part of an object, with one request.

        Args:
            name: The name of the object, relative to the store.
            start: The offset of the first byte, at least 0 and less than the length of the object:
                an object store may refuse another one.
            num_bytes: The number of bytes to read, at least 1; fewer are returned if the object
                ends first.

        Raises:
            FileNotFoundError: The object does not exist.
            StoreDamagedError: The name is not valid.
            StoreError: The request failed.
        """
        with self._explain_errors("read", name):
            data = self._files.cat_file(self._path(name), start=start, end=start + num_bytes)
            return bytes(data)

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes, or None if it does not exist or is a folder.

        Args:
            name: The name of the object, relative to the store.

        Raises:
            StoreDamagedError: The name is not valid.
            StoreError: The request failed.
        """
        with self._explain_errors("read", name), contextlib.suppress(FileNotFoundError):
            info = self._files.info(self._path(name))
            # A prefix of names is listed as a folder of 0 bytes.
            return None if info["type"] == "directory" else int(info["size"])
        return None

    def names(self, folder: str) -> list[str]:
        """Return the names of all objects under *folder*, at any depth, sorted.

        Args:
            folder: The beginning of their names up to a `/`, which is left out, such as
                `commits/train`; empty for the whole store. The whole name of an object has no names
                under it.

        Returns:
            Names relative to the store, not to *folder*; an empty list if nothing lies there.

        Raises:
            StoreDamagedError: *folder* is not a valid name.
            StoreError: The request failed.
        """
        root = self._path(folder) if folder else self._root
        with self._explain_errors("list", folder):
            paths = self._files.find(root)
        # For the whole name of an object, that object is found.
        return sorted(path.removeprefix(f"{self._root}/") for path in paths if path != root)

    def put(self, name: str, data: bytes) -> None:
        """Write an object with one PUT, replacing any object of that name.

        Args:
            name: The name of the object, relative to the store.
            data: All its bytes.

        Raises:
            StoreDamagedError: The name is not valid.
            StoreError: The request failed, or the bucket does not exist.
        """
        self._pipe(name, data, mode="overwrite")

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object with one exclusive PUT unless one of that name exists.

        Args:
            name: The name of the object, relative to the store.
            data: All its bytes.

        Returns:
            True if it was written; False if the name was taken, also by an object with the same
            bytes.

        Raises:
            StoreDamagedError: The name is not valid.
            StoreError: The request failed, or the bucket does not exist.
        """
        # The server decides, so that of two planners at most one has written the object.
        try:
            self._pipe(name, data, mode="create")
        except FileExistsError:
            return False
        return True

    def create(self, name: str) -> RemoteWriter:
        """Return a writer that collects an object in memory, and writes it when it is finished.

        Args:
            name: The name that the object will get, relative to the store.

        Returns:
            A writer without bytes, which the caller ends with `finish`, which replaces any object
            of that name, or `abort`, which discards the bytes.

        Raises:
            StoreDamagedError: The name is not valid.
        """
        # A bad name is refused now, not when a shard that took minutes is written.
        return RemoteWriter(self, check_name(name))

    def remove(self, name: str) -> None:
        """Remove an object; nothing happens if it does not exist.

        Args:
            name: The name of the object, relative to the store.

        Raises:
            StoreDamagedError: The name is not valid.
            StoreError: The request failed.
        """
        # Another run may remove it between the two requests, which is no error.
        if self.size(name) is not None:
            with self._explain_errors("remove", name), contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

    def sync(self, folder: str) -> None:
        """Do nothing: a visible object is durable.

        Args:
            folder: The beginning of the names, which is ignored.
        """

    def begin(self) -> None:
        """Do nothing: an object store has no temporary files."""

    def end(self) -> None:
        """Do nothing: an object store has no temporary files."""

    def free_bytes(self) -> int | None:
        """Return None: an object store has no known limit."""
        return None

    def _pipe(self, name: str, data: bytes, mode: str) -> None:
        with self._explain_errors("write", name):
            try:
                self._files.pipe_file(self._path(name), data, mode=mode)
            except FileNotFoundError as e:
                raise StoreError(f"cannot write {self.url}/{name}: {e}. Create the bucket.") from e

    @contextlib.contextmanager
    def _explain_errors(self, action: str, name: str) -> Iterator[None]:
        """Raise any error inside the block as a StoreError, but for those that callers handle."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, StoreError):
            raise
        except Exception as e:  # each fsspec implementation raises error types of its own
            raise StoreError(
                f"cannot {action} {self.url}/{name}: {type(e).__name__}: {e}. When the cause"
                " is removed, run the same command again: it continues from the committed shards."
            ) from e


class RemoteWriter:
    """A writer that collects an object in memory, for one PUT."""

    def __init__(self, objects: RemoteObjects, name: str) -> None:
        """Begin an empty object in memory.

        Args:
            objects: The store to which `finish` writes.
            name: The name that the object will get, relative to the store.
        """
        self.name = name
        self._objects = objects
        self._data = bytearray()

    def write(self, data: memoryview) -> None:
        """Append a copy of *data* to the object, in memory; nothing is sent before `finish`.

        Args:
            data: C-contiguous memory, which may be overwritten as soon as this returns.
        """
        self._data += data

    def finish(self) -> None:
        """Write the object under its name with one PUT, replacing any object of that name.

        Call it once: the memory is freed, and a second call would write an empty object.

        Raises:
            StoreError: The request failed, or the bucket does not exist.
        """
        self._objects.put(self.name, self._take())

    def finish_new(self) -> bool:
        """Write the object under its name with one PUT unless one of that name exists.

        Call it once, in place of `finish`.

        Returns:
            True if it was written; False if the name was taken.

        Raises:
            StoreError: The request failed, or the bucket does not exist.
        """
        return self._objects.put_new(self.name, self._take())

    def _take(self) -> bytes:
        """Return the bytes and free the buffer: a shard is large, and the PUT has its own copy."""
        data = bytes(self._data)
        self._data = bytearray()
        return data

    def abort(self) -> None:
        """Discard what was written."""
        self._data = bytearray()
