"""Objects on an object store, through fsspec. One PUT makes an object whole and durable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import fsspec
import numpy as np
from numpy.typing import NDArray

from pipeline.confined import check_name
from pipeline.errors import StoreError
from pipeline.store.objects import check_length


class RemoteObjects:
    """Objects under an fsspec URL such as `s3://bucket/prefix`."""

    finish_together = False  # what is being PUT is held several times over

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            # Listings change under our feet: other workers write them.
            self._files, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as e:
            raise StoreError(f"cannot open {url}: {e}. Install the extra it names.") from e
        except ValueError as e:
            raise StoreError(f"cannot open {url}: {e}.") from e

    def _path(self, name: str) -> str:
        return f"{self._root}/{check_name(name)}"

    def get(self, name: str, limit: int | None = None) -> bytes:
        """See `Objects`."""
        with self._in_words("read", name):
            data = bytes(self._files.cat_file(self._path(name)))
        if limit is not None:
            check_length(name, len(data), limit)
        return data

    def read_cached(self, name: str, start: int, to: memoryview) -> bool:
        """See `Objects`: nothing."""
        return False

    def read_direct(
        self, name: str, start: int, num_bytes: int, memory: NDArray[np.uint8]
    ) -> memoryview | None:
        """See `Objects`: nothing."""
        return None

    def open(self, name: str) -> BinaryIO:
        """See `Objects`."""
        with self._in_words("read", name):
            return cast(BinaryIO, self._files.open(self._path(name), "rb"))

    def read(self, name: str, start: int, num_bytes: int) -> bytes:
        """See `Objects`."""
        with self._in_words("read", name):
            data = self._files.cat_file(self._path(name), start=start, end=start + num_bytes)
            return bytes(data)

    def size(self, name: str) -> int | None:
        """See `Objects`."""
        with self._in_words("read", name), contextlib.suppress(FileNotFoundError):
            return int(self._files.size(self._path(name)))
        return None

    def names(self, folder: str) -> list[str]:
        """See `Objects`."""
        with self._in_words("list", folder):
            found = self._files.find(self._path(folder) if folder else self._root)
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    def put(self, name: str, data: bytes) -> None:
        """See `Objects`."""
        self._pipe(name, data, mode="overwrite")

    def put_new(self, name: str, data: bytes) -> bool:
        """See `Objects`."""
        try:
            self._pipe(name, data, mode="create")
        except FileExistsError:
            return False
        return True

    def create(self, name: str) -> RemoteWriter:
        """See `Objects`."""
        return RemoteWriter(self, check_name(name))

    def remove(self, name: str) -> None:
        """See `Objects`."""
        if self.size(name) is not None:
            with self._in_words("remove", name), contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

    def sync(self, folder: str) -> None:
        """Nothing to do: an object that is seen is durable."""

    def begin(self) -> None:
        """Nothing to sweep: an object store has no temp files."""

    def end(self) -> None:
        """Nothing to sweep: an object store has no temp files."""

    def room(self) -> int | None:
        """No limit to ask for."""
        return None

    def _pipe(self, name: str, data: bytes, mode: str) -> None:
        with self._in_words("write", name):
            try:
                self._files.pipe_file(self._path(name), data, mode=mode)
            except FileNotFoundError as e:
                raise StoreError(f"cannot write {self.url}/{name}: {e}. Make the bucket.") from e

    @contextlib.contextmanager
    def _in_words(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError, StoreError):
            raise
        except Exception as e:  # every file system has errors of its own
            raise StoreError(
                f"cannot {what} {self.url}/{name}: {type(e).__name__}: {e}. When it can be done,"
                " run the same command again: it goes on from what is committed."
            ) from e


class RemoteWriter:
    """Gathers an object in memory, for one PUT."""

    def __init__(self, objects: RemoteObjects, name: str) -> None:
        self.name = name
        self._objects = objects
        self._data = bytearray()

    def write(self, data: memoryview) -> None:
        """Append *data*."""
        self._data += data

    def finish(self) -> None:
        """PUT the object under its name."""
        data = bytes(self._data)
        self._data = bytearray()  # a shard is large: it is held once while it travels
        self._objects.put(self.name, data)

    def abort(self) -> None:
        """Forget what was written."""
        self._data = bytearray()
