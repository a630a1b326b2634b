"""A folder behind a URL of fsspec, to which files are pushed and from which they are pulled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import fsspec

from pipeline.errors import TesseraeError
from pipeline.installation import missing_filesystem
from pipeline.urls import is_url

ATTEMPTS = 4
"""The number of times that a request is sent."""
PAUSE_SECONDS = 1.0
"""The pause after the first failure; it doubles with each further one."""

WITH_FOLDERS = {"file", "local", "memory", "sftp", "ssh", "ftp", "smb", "webdav"}
"""The protocols behind which a file needs a folder that exists."""

T = TypeVar("T")


def open_remote_folder(url: str) -> RemoteFolder:
    """Open the folder at a URL, which need not exist; nothing is requested.

    Args:
        url: The URL, or the path of a folder.

    Raises:
        TesseraeError: No installed package implements the protocol, or the URL is not valid.
    """
    if url.startswith("hf://"):
        from workflows.transfer.hub_folder import HubFolder

        return HubFolder(url)
    return RemoteFolder(url)


class RemoteFolder:
    """The files below a URL, such as `s3://bucket/imagenet`."""

    files_at_once: ClassVar[int] = 1
    """The number of files that one call of `upload` takes."""

    def __init__(self, url: str) -> None:
        """Open the file system of a URL; nothing is read or written.

        Args:
            url: The URL, or the path of a folder, which need not exist.

        Raises:
            TesseraeError: No installed package implements the protocol, or the URL is not valid.
        """
        self.url = url.rstrip("/")
        target = self.url if is_url(self.url) else str(Path(self.url).expanduser().absolute())
        try:
            self._files, self._root = fsspec.core.url_to_fs(target, use_listings_cache=False)
        except ImportError as e:
            raise TesseraeError(f"cannot open {url}: {missing_filesystem(e)}.") from e
        except (ValueError, OSError) as e:
            raise TesseraeError(f"cannot open {url}: {e}.") from e

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file; None if there is none of this name.

        Args:
            name: The name, relative to the folder.

        Raises:
            TesseraeError: The request failed.
        """
        return self._try(f"read {name} of", lambda: self._read(name))

    def _read(self, name: str) -> bytes | None:
        try:
            return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, and replace one of this name.

        Args:
            name: The name, relative to the folder.
            data: The bytes.

        Raises:
            TesseraeError: The request failed.
        """

        def put() -> None:
            self._make_folder(name)
            self._files.pipe_file(self._path(name), data)

        self._try(f"write {name} to", put)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is not an error.

        Args:
            name: The name, relative to the folder.

        Raises:
            TesseraeError: The request failed.
        """

        def remove() -> None:
            with suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

        self._try(f"remove {name} of", remove)

    def upload(self, files: Sequence[tuple[Path, str]]) -> None:
        """Upload files, and replace those of these names.

        Args:
            files: The path of each file on this machine, and its name relative to the folder; at
                most `files_at_once`.

        Raises:
            TesseraeError: A request failed, or a file has another length there afterwards.
        """
        for file, name in files:
            self._upload(file, name)

    def _upload(self, file: Path, name: str) -> None:
        def put() -> None:
            self._make_folder(name)
            self._files.put_file(str(file), self._path(name))

        self._try(f"write {name} to", put)
        self._check_length(file, name)

    def _check_length(self, file: Path, name: str) -> None:
        num_bytes, expected = self.num_bytes(name), file.stat().st_size
        if num_bytes != expected:
            raise TesseraeError(
                f"{name} has {num_bytes} bytes at {self.url} after it was written: expected"
                f" {expected:,}. Push again."
            )

    def download(self, name: str, file: Path) -> None:
        """Download a file, and replace one at that path.

        Args:
            name: The name, relative to the folder.
            file: The path of the file on this machine, in a folder that exists.

        Raises:
            TesseraeError: There is no such file, or the request failed.
            OSError: The file cannot be written.
        """
        self._try(f"read {name} of", lambda: self._files.get_file(self._path(name), str(file)))

    def num_bytes(self, name: str) -> int | None:
        """Return the length of a file; None if there is none of this name.

        Args:
            name: The name, relative to the folder.

        Raises:
            TesseraeError: The request failed.
        """

        def request() -> int | None:
            try:
                return int(self._files.info(self._path(name))["size"])
            except FileNotFoundError:
                return None

        return self._try(f"look at {name} of", request)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_folder(self, name: str) -> None:
        # Object stores have no folders, and a bucket is not ours to create.
        protocol: Any = self._files.protocol
        if set([protocol] if isinstance(protocol, str) else protocol) & WITH_FOLDERS:
            self._files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)

    def _try(self, what: str, request: Callable[[], T]) -> T:
        """Send a request, and again after a failure that may pass; explain the last failure."""
        for attempt in range(ATTEMPTS):
            try:
                return request()
            except (FileNotFoundError, PermissionError, NotImplementedError) as e:
                raise TesseraeError(f"cannot {what} {self.url}: {_reason(e)}.") from e
            except Exception as e:
                if attempt + 1 == ATTEMPTS:
                    raise TesseraeError(f"cannot {what} {self.url}: {_reason(e)}.") from e
                time.sleep(PAUSE_SECONDS * 2**attempt)
        raise AssertionError


def _reason(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0].strip().rstrip(".")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
