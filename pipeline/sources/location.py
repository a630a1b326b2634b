"""A folder that holds a source, local or behind fsspec, with one interface for both.

`file://` counts as local. Every other URL goes through fsspec, whose listing cache is emptied
after each folder: a million entries in it would cost a gigabyte. Errors of the system or of a
remote client are raised as `ReadError` with the full path.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from pipeline.errors import ReadError, SourceError
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.clutter import file_skip_reason, folder_skip_reason, name_skip_reason
from pipeline.sources.content import HEAD_BYTES
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions
from pipeline.sources.read_errors import as_read_error, as_remote_read_error
from pipeline.sources.remote import RangeFile
from pipeline.sources.text_tables import decode_table
from pipeline.urls import is_url

_ARCHIVES = (
    *(".tar", ".tgz", ".gz", ".tzst", ".zst", ".tbz2", ".tbz", ".bz2", ".txz", ".xz"),
    *(".zip", ".parquet"),
)


class FolderEntries(NamedTuple):
    """The entries of one folder, each list sorted, without those that are hidden or a system's."""

    files: list[str]
    """The names of files, without folders."""
    folders: list[str]
    """The names of folders, without their parents."""
    skipped: Evidence
    """The count of the skipped entries in its field `skipped`, by reason."""


class FolderSizes(NamedTuple):
    """The files of one folder that may be images, in no order, and the names of its folders."""

    files: list[str]
    """The names of files, without folders."""
    num_bytes: list[int]
    """The size of each of the files in bytes, in the same order."""
    folders: list[str]
    """The names of folders, without their parents."""
    skipped: Evidence
    """The count of the skipped entries in its field `skipped`, by reason."""


@dataclass(frozen=True)
class Location:
    """A folder, and optionally the single file of it that was named as the source."""

    root: str
    """The absolute local path, or an fsspec URL; no slash at the end."""
    only_file: str = ""
    """The name of the single file that is the source; empty: all of the folder."""
    options: SourceOptions = DEFAULT_OPTIONS
    """The options by which the files here are read."""
    _names_cache: dict[str, FolderEntries] = field(default_factory=dict, compare=False, repr=False)
    _cache: dict[tuple[str, str], Any] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[type["Location"], tuple[str, str, SourceOptions]]:
        return Location, (self.root, self.only_file, self.options)  # without the caches

    @classmethod
    def at(
        cls, root: str | os.PathLike[str], options: SourceOptions = DEFAULT_OPTIONS
    ) -> "Location":
        """Return the location of a source as the user named it; the path is looked up.

        Args:
            root: A folder or a single file; a local path, in which `~` is the home folder, or an
                fsspec URL; `file://` stands for a local path. A URL is a single file only if it
                ends as an archive or table does, such as `.tar`, `.tgz`, `.gz`, `.zip` or
                `.parquet`.
            options: The options by which the files are read.

        Returns:
            The location of the folder, as an absolute path or a URL; for a single file, of the
            folder that holds it, with the name of the file as `only_file`.

        Raises:
            SourceError: There is no such file or folder.
            ReadError: The server failed.
        """
        text = os.fspath(root).removeprefix("file://")
        if is_url(text):
            location = cls(text.rstrip("/"), "", options)
        else:
            location = cls(str(Path(text).expanduser().absolute()), "", options)
        # fsspec takes any page of a web server for a file, and fetches it whole to list a folder.
        if location.is_file("") and (
            not location.remote or location.root.lower().endswith(_ARCHIVES)
        ):
            folder, _, name = location.root.rpartition("/")
            return cls(folder, name, options)
        if not location.is_folder(""):
            raise SourceError(
                f"no source at {location.root!r}: no such file or folder. Pass the folder or"
                " archive that holds the images."
            )
        return location

    @property
    def remote(self) -> bool:
        """True if this location is behind fsspec."""
        return is_url(self.root)

    @property
    def display_name(self) -> str:
        """The location as the user named it."""
        return self.full_path(self.only_file) if self.only_file else self.root

    @cached_property
    def _filesystem(self) -> tuple[Any, str]:
        import fsspec.core  # imported here, so that a local source does not pay for it

        with as_remote_read_error(self.root):
            filesystem, path = fsspec.core.url_to_fs(self.root)
            filesystem.invalidate_cache()
        return filesystem, path.rstrip("/")

    def full_path(self, path: str) -> str:
        """Return the full local path or URL of a path in this location, which is not looked up.

        Args:
            path: A path relative to the location; '' is the location itself, without a slash at its
                end.
        """
        return f"{self.root}/{path}" if path else self.root

    def child(self, path: str) -> "Location":
        """Return the location of a folder in this one, with the same options; nothing is looked up.

        Args:
            path: The path of the folder, relative to the location; '' returns this object.
        """
        return Location(self.full_path(path), "", self.options) if path else self

    def parent(self) -> "Location":
        """Return the location of the folder that holds this one."""
        return Location(self.root.rpartition("/")[0] or "/", "", self.options)

    def _remote_path(self, path: str) -> str:
        base = self._filesystem[1]
        return f"{base}/{path}" if path else base

    def is_file(self, path: str) -> bool:
        """Return True if there is a file, or a link to one, that this user can see.

        Args:
            path: A path relative to the location; '' is the location itself.

        Raises:
            ReadError: The server failed.
        """
        if not self.remote:
            with suppress(PermissionError):  # a folder without permission is no source
                return Path(self.full_path(path)).is_file()
            return False
        with as_remote_read_error(self.full_path(path)):
            return bool(self._filesystem[0].isfile(self._remote_path(path)))

    def is_folder(self, path: str) -> bool:
        """Return True if there is a folder, or a link to one, that this user can see.

        On an object store, a prefix with objects is a folder.

        Args:
            path: A path relative to the location; '' is the location itself.

        Raises:
            ReadError: The server failed.
        """
        if not self.remote:
            with suppress(PermissionError):
                return Path(self.full_path(path)).is_dir()
            return False
        with as_remote_read_error(self.full_path(path)):
            return bool(self._filesystem[0].isdir(self._remote_path(path)))

    def names(self, path: str = "") -> FolderEntries:
        """Return the names directly in a folder, without sizes; the result is cached here.

        Args:
            path: A path relative to the location; '' is the location itself, or its single file
                (default).

        Returns:
            A `FolderEntries`: the sorted names of `files`, among them tables, archives and broken
            links, and of `folders`, without their parents; and `skipped`, which counts the entries
            that were skipped by their names. It must not be changed.

        Raises:
            ReadError: The folder is missing or cannot be read.
            SourceError: A link in it leads back to itself.
        """
        if self.only_file and not path:
            return FolderEntries([self.only_file], [], Evidence())
        if path not in self._names_cache:
            names = FolderEntries([], [], Evidence())
            for name, is_folder in self._entries(path):
                entry_path = f"{path}/{name}" if path else name
                if is_folder:
                    _add_or_skip(
                        folder_skip_reason(name, self.options),
                        entry_path,
                        name,
                        names,
                        names.folders,
                    )
                else:
                    _add_or_skip(
                        name_skip_reason(name, self.options), entry_path, name, names, names.files
                    )
            names.files.sort()
            names.folders.sort()
            self._names_cache[path] = names
        return self._names_cache[path]

    def _entries(self, path: str) -> Iterator[tuple[str, bool]]:
        """Yield (name, is it a folder) of each entry of the folder *path*."""
        if self.remote:
            for name, details in self._remote_entries(path):
                yield name, details["type"] == "directory"
            return
        folder = self.full_path(path)
        with as_read_error(folder), os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name, _is_folder(entry)

    def sizes(self, path: str) -> FolderSizes:
        """Return names and sizes in bytes of the files in a folder that may be images.

        The folder is read at each call. Links are followed.

        Args:
            path: A path relative to the location; '' is the location itself, all of it also where a
                single file is the source.

        Returns:
            A `FolderSizes`: the names of `files`, unsorted, their `num_bytes` in the same order,
            the names of `folders`, unsorted, and `skipped`, which counts the entries that were
            skipped.

        Raises:
            ReadError: The folder is missing or cannot be read.
            SourceError: A link in it leads nowhere or back to itself, or a server does not report a
                size.
        """
        sizes = FolderSizes([], [], [], Evidence())
        if not self.remote:
            _local_sizes(self.full_path(path), path, self.options, sizes)
            return sizes
        for name, entry in self._remote_entries(path):
            entry_path = f"{path}/{name}" if path else name
            if entry["type"] == "directory":
                _add_or_skip(
                    folder_skip_reason(name, self.options), entry_path, name, sizes, sizes.folders
                )
            elif _add_or_skip(
                file_skip_reason(name, self.options), entry_path, name, sizes, sizes.files
            ):
                num_bytes = entry.get("size")
                # A plain web server lists only names, so the size costs a request.
                sizes.num_bytes.append(self.size(entry_path) if num_bytes is None else num_bytes)
        return sizes

    def _remote_entries(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        filesystem, folder = self._filesystem[0], self._remote_path(path)
        with as_remote_read_error(self.full_path(path)):
            entries = filesystem.ls(folder, detail=True)
            filesystem.invalidate_cache(folder)  # a million cached entries would cost a gigabyte
        for entry in entries:
            name = entry["name"].rstrip("/").rpartition("/")[2]
            # Object stores list the folder's own marker as an entry.
            if name and entry["name"].strip("/") != folder.strip("/"):
                yield name, entry

    def size(self, path: str) -> int:
        """Return the size of a file in bytes; a link is followed.

        Args:
            path: A path relative to the location.

        Raises:
            ReadError: The file is missing or cannot be read.
            SourceError: The server does not report the size.
        """
        if not self.remote:
            with as_read_error(self.full_path(path)):
                return Path(self.full_path(path)).stat().st_size
        with as_remote_read_error(self.full_path(path)):
            size = self._filesystem[0].size(self._remote_path(path))
        if size is None:
            raise SourceError(
                f"the server does not report the size of {self.full_path(path)}. Copy it to a disk"
                " first."
            )
        return int(size)

    def mark(self, path: str) -> str:
        """Return a text that changes when a file or local folder changes: path, size and time.

        Args:
            path: A path relative to the location; '' is the location itself.

        Returns:
            The path, the size in bytes and the time of the last change in nanoseconds, with tabs
            between them; of a remote file, the path, a tab and the mark that fsspec computes. For
            a web server this is a digest of the address: neither a change nor a missing file shows.

        Raises:
            ReadError: The file is missing or cannot be read.
        """
        if not self.remote:
            with as_read_error(self.full_path(path)):
                status = Path(self.full_path(path)).stat()
            return f"{path}\t{status.st_size}\t{status.st_mtime_ns}"
        with as_remote_read_error(self.full_path(path)):
            return f"{path}\t{self._filesystem[0].ukey(self._remote_path(path))}"

    def open(self, path: str, *, start: int = 0, stop: int | None = None) -> BinaryIO:
        """Open a file for exact reads, unbuffered; the caller closes it.

        Args:
            path: A path relative to the location.
            start: The position in bytes at which a remote file is opened; a local one is at its
                start (default: 0).
            stop: The end in bytes of what is fetched from a remote server; None: the end of the
                file (default). It is unused for a local file.

        Returns:
            A binary file that can seek, and that a `with` block closes. A read may return fewer
            bytes than requested.

        Raises:
            ReadError: The file is missing or cannot be read; of a remote file with *stop*, only at
                its first read.
            SourceError: The server does not report the size, and *stop* is None.
        """
        if not self.remote:
            with as_read_error(self.full_path(path)):
                return cast("BinaryIO", Path(self.full_path(path)).open("rb", buffering=0))
        end = self.size(path) if stop is None else stop
        piece = RangeFile(
            self._filesystem[0], self._remote_path(path), self.full_path(path), start, end
        )
        return cast("BinaryIO", piece)

    def head(self, path: str) -> bytes:
        """Return the first 1,024 bytes of a file, or all of a shorter one; they are cached here.

        Args:
            path: A path relative to the location.

        Raises:
            ReadError: The file is missing or cannot be read.
            SourceError: The server does not report the size.
        """

        def read_head() -> bytes:
            stop = min(HEAD_BYTES, self.size(path))
            with self.open(path, stop=stop) as file, as_read_error(self.full_path(path)):
                return file.read(stop)

        data: bytes = self.cached(("head", path), read_head)
        return data

    def cached(self, key: tuple[str, str], compute: Callable[[], Any]) -> Any:
        """Return the cached value of *key*, computed at the first call and kept in this object.

        Each finder asks for it, and a look at a file behind a server is a request. Copies by
        pickling begin without cached values.

        Args:
            key: The kind of the value, such as `head`, and the path of the file, relative to the
                location.
            compute: The function without arguments that returns the value, of any type; it is
                called at most once, unless it raises an error, which is passed on.
        """
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]

    def read_text(self, path: str, *, lenient: bool = False) -> str:
        """Return the text of a table, which is decoded by its byte order mark, else as UTF-8.

        The mark of UTF-8, UTF-16 or UTF-32 is removed; line ends are kept as they are.

        Args:
            path: A path relative to the location.
            lenient: True to read text that has no mark and is no UTF-8 as Windows' Latin-1, zero
                bytes included (default: False).

        Raises:
            ReadError: The file is missing or cannot be read.
            SourceError: A line is no text, or has a zero byte; or the server does not report the
                size of the file.
        """
        with self.open(path) as file, as_read_error(self.full_path(path)):
            data = file.read()
        return decode_table(data, self.full_path(path), lenient=lenient)


def _add_or_skip(
    reason: str, path: str, name: str, result: FolderEntries | FolderSizes, names: list[str]
) -> bool:
    """Count *path* as skipped, or add *name* to *names*; return True if it is added."""
    if reason:
        result.skipped.skip(reason, path)
    else:
        names.append(name)
    return not reason


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as e:
        raise _broken_link_error(entry.path, e) from e


def _broken_link_error(path: str, error: OSError) -> SourceError | ReadError:
    if error.errno == errno.ELOOP:
        return SourceError(
            f"{path!r} is a link that leads back to itself. Delete the link, or pass --ignore"
            f" {path.rpartition('/')[2]!r}."
        )
    if isinstance(error, FileNotFoundError):
        return SourceError(
            f"{path!r} is a link that leads nowhere. Restore its target or delete the link."
        )
    return ReadError(f"cannot read {path}: {error.strerror or error}")


def _local_sizes(folder: str, path: str, options: SourceOptions, sizes: FolderSizes) -> None:
    with as_read_error(folder), os.scandir(folder) as entries:
        for entry in entries:
            entry_path = f"{path}/{entry.name}" if path else entry.name
            reason = file_skip_reason(entry.name, options)
            if reason:  # the name decides, so a broken link of that name is no error
                if _is_folder_or_broken(entry):
                    reason = folder_skip_reason(entry.name, options)
                    _add_or_skip(reason, entry_path, entry.name, sizes, sizes.folders)
                else:
                    sizes.skipped.skip(reason, entry_path)
            elif _is_folder(entry):
                reason = folder_skip_reason(entry.name, options)
                _add_or_skip(reason, entry_path, entry.name, sizes, sizes.folders)
            else:
                _add_file(entry, entry_path, sizes)


def _is_folder_or_broken(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _add_file(entry: "os.DirEntry[str]", path: str, sizes: FolderSizes) -> None:
    try:
        status = entry.stat()
    except OSError as e:
        raise _broken_link_error(entry.path, e) from e
    if stat.S_ISREG(status.st_mode):
        sizes.files.append(entry.name)
        sizes.num_bytes.append(status.st_size)
    else:
        sizes.skipped.skip("sockets, pipes and devices", path)


def fingerprint_of(marks: list[str], options: SourceOptions) -> str:
    """Return one SHA-256 of many marks and of the options by which the source is read.

    Args:
        marks: Texts that change when the source does; their order counts.
        options: The options, with the version of the listing rules.

    Returns:
        64 hexadecimal digits.
    """
    rules = f"tesserae listing {options.rules}"
    if options.rules > 1:  # options of rules 1 were not a part of the digest
        rules = f"{rules}\t{options}"
    # File names may be any bytes, which surrogateescape keeps.
    text = "\n".join([rules, *marks])
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
