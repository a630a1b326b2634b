"""A reader of exactly the bytes of one sample, by path or byte range, local or through fsspec.

A `SourceReader` pickles as its root and options. A failure to read raises a `ReadError` with the
full path, and never counts as a damaged image.
"""

import os
import threading
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from pipeline.errors import ReadError
from pipeline.urls import is_url

MAX_OPEN_FILES = 32


class _SharedDescriptor:
    """A file descriptor that is closed when its last thread releases it.

    Thus the cache may drop a file while another thread still reads it with `pread`.
    """

    __slots__ = ("fd",)

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        fd = getattr(self, "fd", None)  # unset if os.open failed
        if fd is not None:
            os.close(fd)


class SourceReader:
    """A reader of samples under one root; safe to share between threads.

    Args:
        root: The local folder or fsspec URL that the listing's paths are relative to.
        max_open_files: The maximum number of archives open at once; whole files are closed.
    """

    def __init__(self, root: str, max_open_files: int = MAX_OPEN_FILES) -> None:
        self.root = root.rstrip("/")
        self.max_open_files = max_open_files
        self._remote = is_url(root)
        self._open: LRUCache[str, _SharedDescriptor] = LRUCache(max_open_files)
        self._lock = threading.Lock()
        self._filesystem: tuple[Any, str] | None = None

    def __reduce__(self) -> tuple[type["SourceReader"], tuple[str, int]]:
        return SourceReader, (self.root, self.max_open_files)

    def read(self, path: str, offset: int | None, num_bytes: int) -> bytes:
        """Read one sample.

        Threads may read at once. A local file of which a range is read stays open for further
        reads; beyond `max_open_files` of the constructor, the least recently read one is closed.

        Args:
            path: The path of the file, relative to the root of the source.
            offset: The offset in bytes of the sample in the file; None: it is the whole file.
            num_bytes: The size of the sample in bytes, as listed.

        Returns:
            Exactly *num_bytes* bytes.

        Raises:
            ReadError: The bytes could not be read, the file ends before them, or a whole file has
                another size than listed.
        """
        full = f"{self.root}/{path}"
        if self._remote:
            return self._read_remote(path, full, offset, num_bytes)
        try:
            if offset is None:
                return _read_whole_file(full, num_bytes)
            return self._read_range(path, full, offset, num_bytes)
        except ReadError:
            raise
        except OSError as e:
            with self._lock:
                # A stale handle of a network file system fails forever, so the next read reopens.
                self._open.pop(path, None)
            raise ReadError(f"cannot read {full}: {e.strerror or e}") from e

    def read_head(self, path: str, offset: int | None, num_bytes: int, length: int) -> bytes:
        """Read the beginning of one sample.

        Args:
            path: The path of the file, relative to the root of the source.
            offset: The offset in bytes of the sample in the file; None: it is the whole file.
            num_bytes: The size of the whole sample in bytes, as listed.
            length: The number of bytes to read.

        Returns:
            *length* bytes, or *num_bytes* if those are fewer.

        Raises:
            ReadError: The bytes could not be read, or a sample that is a whole local file has
                another size than listed.
        """
        length = min(length, num_bytes)
        if offset is None and not self._remote:
            full = f"{self.root}/{path}"
            try:
                size = Path(full).stat().st_size
            except OSError as e:
                raise ReadError(f"cannot read {full}: {e.strerror or e}") from e
            if size != num_bytes:
                raise ReadError(_changed_size_text(full, size, num_bytes))
        return self.read(path, offset or 0, length)

    def close(self) -> None:
        """Close every open file. The reader may be used again."""
        with self._lock:
            # A thread that still reads holds its own reference, so its descriptor stays open.
            self._open.clear()
            self._filesystem = None

    def _descriptor(self, path: str, full: str) -> _SharedDescriptor:
        with self._lock:
            cached = self._open.get(path)
            if cached is not None:
                return cached
        # Open outside the lock: an open that hangs on a network disk must not block other reads.
        new = _SharedDescriptor(full)
        with self._lock:
            # Two threads may have opened the file at once; both then use the first descriptor.
            return self._open.setdefault(path, new)

    def _read_range(self, path: str, full: str, offset: int, num_bytes: int) -> bytes:
        file = self._descriptor(path, full)
        data = os.pread(file.fd, num_bytes, offset)
        while len(data) < num_bytes:  # a network file system may return less than requested
            more = os.pread(file.fd, num_bytes - len(data), offset + len(data))
            if not more:
                raise ReadError(
                    f"{full} ends at byte {offset + len(data)}, but a sample was listed at bytes "
                    f"{offset} to {offset + num_bytes}: the source changed"
                )
            data += more
        return data

    def _read_remote(self, path: str, full: str, offset: int | None, num_bytes: int) -> bytes:
        if num_bytes == 0 and offset is not None:
            return b""
        try:
            filesystem, base = self._connect()
            if offset is None:
                data = filesystem.cat_file(f"{base}/{path}")
            else:
                data = filesystem.cat_file(f"{base}/{path}", start=offset, end=offset + num_bytes)
        except Exception as e:  # aiohttp, botocore and others have their own error types
            raise ReadError(f"cannot read {full}: {type(e).__name__}: {e}") from e
        if len(data) != num_bytes:
            where = "" if offset is None else f" at byte {offset}"
            raise ReadError(
                f"{full}{where} has {len(data)} bytes, was listed with {num_bytes}: "
                "the source changed"
            )
        return bytes(data)

    def _connect(self) -> tuple[Any, str]:
        if self._filesystem is None:
            import fsspec.core  # imported here, so that a local source does not pay for it

            filesystem, base = fsspec.core.url_to_fs(self.root)
            self._filesystem = filesystem, base.rstrip("/")
        return self._filesystem


def _changed_size_text(full: str, size: int, num_bytes: int) -> str:
    return f"{full} has {size} bytes, was listed with {num_bytes}: the source changed"


def _read_whole_file(full: str, num_bytes: int) -> bytes:
    fd = os.open(full, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size != num_bytes:
            raise ReadError(_changed_size_text(full, size, num_bytes))
        data = os.read(fd, num_bytes)
        while len(data) < num_bytes:
            more = os.read(fd, num_bytes - len(data))
            if not more:
                raise ReadError(f"{full} ended after {len(data)} of its {num_bytes} bytes")
            data += more
        return data
    finally:
        os.close(fd)
