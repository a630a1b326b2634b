"""A folder that holds a source, on this machine or behind fsspec, with one face for both.

`file://` counts as local. Everything else with a scheme goes through fsspec, whose listing
cache is emptied after each folder: a million entries in it would cost a gigabyte. Errors of the
system or of a remote client come out as `ReadError`, with the whole path in them.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from pipeline.errors import SourceError
from pipeline.sources.magic import HEAD_BYTES
from pipeline.sources.naming import may_be_image
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions
from pipeline.sources.remote import RangeFile, reading, reading_remote
from pipeline.sources.text_tables import decode_table
from pipeline.urls import is_url

_ARCHIVES = (
    *(".tar", ".tgz", ".gz", ".tzst", ".zst", ".tbz2", ".tbz", ".bz2", ".txz", ".xz"),
    *(".zip", ".parquet"),
)


class Names(NamedTuple):
    """What lies directly in one folder, each list sorted; names that start with '.' left out."""

    files: list[str]
    folders: list[str]


class Sizes(NamedTuple):
    """The files of one folder that may be images, in no order, and the names of its folders."""

    files: list[str]
    num_bytes: list[int]
    folders: list[str]


@dataclass(frozen=True)
class Place:
    """A folder, and optionally the single file of it that was named as the source."""

    root: str
    """Absolute local path, or an fsspec URL; no slash at the end."""
    only: str = ""
    """Name of the one file that is the source; empty: all of the folder."""
    options: SourceOptions = DEFAULT_OPTIONS
    """How what lies here is read."""
    _seen: dict[str, Names] = field(default_factory=dict, compare=False, repr=False)
    _remembered: dict[tuple[str, str], Any] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[type["Place"], tuple[str, str, SourceOptions]]:
        return Place, (self.root, self.only, self.options)  # what was seen stays here

    @classmethod
    def at(cls, root: str | os.PathLike[str], options: SourceOptions = DEFAULT_OPTIONS) -> "Place":
        """Look where *root* points: to a folder or to a single file."""
        text = os.fspath(root).removeprefix("file://")
        if is_url(text):
            place = cls(text.rstrip("/"), "", options)
        else:
            place = cls(str(Path(text).expanduser().absolute()), "", options)
        # a web server calls any page a file, and finds out what a folder is by fetching it whole
        if place.is_file("") and (not place.remote or place.root.lower().endswith(_ARCHIVES)):
            folder, _, name = place.root.rpartition("/")
            return cls(folder, name, options)
        if not place.is_folder(""):
            raise SourceError(
                f"no source at {place.root!r}: neither a file nor a folder is there. "
                "Pass the folder or archive that holds the images."
            )
        return place

    @property
    def remote(self) -> bool:
        """Whether this place is behind fsspec."""
        return is_url(self.root)

    @property
    def shown(self) -> str:
        """The place as a person named it."""
        return self.full(self.only) if self.only else self.root

    @cached_property
    def _filesystem(self) -> tuple[Any, str]:
        import fsspec.core  # here: a local source never pays for this import

        with reading_remote(self.root):
            filesystem, path = fsspec.core.url_to_fs(self.root)
            filesystem.invalidate_cache()
        return filesystem, path.rstrip("/")

    def full(self, path: str) -> str:
        """Whole name of *path*, which is relative to this place."""
        return f"{self.root}/{path}" if path else self.root

    def inside(self, path: str) -> "Place":
        """The folder *path* of this place."""
        return Place(self.full(path), "", self.options) if path else self

    def above(self) -> "Place":
        """The folder that holds this place."""
        return Place(self.root.rpartition("/")[0] or "/", "", self.options)

    def _remote_path(self, path: str) -> str:
        base = self._filesystem[1]
        return f"{base}/{path}" if path else base

    def is_file(self, path: str) -> bool:
        """Say whether a file lies at *path*; not, where this user may not look."""
        if not self.remote:
            with suppress(PermissionError):
                return Path(self.full(path)).is_file()
            return False
        with reading_remote(self.full(path)):
            return bool(self._filesystem[0].isfile(self._remote_path(path)))

    def is_folder(self, path: str) -> bool:
        """Say whether a folder lies at *path*; not, where this user may not look."""
        if not self.remote:
            with suppress(PermissionError):
                return Path(self.full(path)).is_dir()
            return False
        with reading_remote(self.full(path)):
            return bool(self._filesystem[0].isdir(self._remote_path(path)))

    def names(self, path: str = "") -> Names:
        """Names directly in the folder *path*; one look, remembered. No sizes."""
        if self.only and not path:
            return Names([self.only], [])
        if path not in self._seen:
            found = self._remote_names(path) if self.remote else _local_names(self.full(path))
            self._seen[path] = Names(sorted(found.files), sorted(found.folders))
        return self._seen[path]

    def sizes(self, path: str) -> Sizes:
        """Names and sizes in bytes of the files in folder *path* that may be images."""
        if not self.remote:
            return _local_sizes(self.full(path))
        found = Sizes([], [], [])
        for name, entry in self._remote_entries(path):
            if entry["type"] == "directory":
                found.folders.append(name)
            elif may_be_image(name):
                found.files.append(name)
                known = entry.get("size")
                # a plain web server lists names only
                whole = f"{path}/{name}" if path else name
                found.num_bytes.append(self.size(whole) if known is None else known)
        return found

    def _remote_entries(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        filesystem, where = self._filesystem[0], self._remote_path(path)
        with reading_remote(self.full(path)):
            entries = filesystem.ls(where, detail=True)
            filesystem.invalidate_cache(where)
        for entry in entries:
            name = entry["name"].rstrip("/").rpartition("/")[2]
            # object stores list the folder's own marker as an entry
            if name and not name.startswith(".") and entry["name"].strip("/") != where.strip("/"):
                yield name, entry

    def _remote_names(self, path: str) -> Names:
        found = Names([], [])
        for name, entry in self._remote_entries(path):
            (found.folders if entry["type"] == "directory" else found.files).append(name)
        return found

    def size(self, path: str) -> int:
        """Size in bytes of the file *path*."""
        if not self.remote:
            with reading(self.full(path)):
                return Path(self.full(path)).stat().st_size
        with reading_remote(self.full(path)):
            size = self._filesystem[0].size(self._remote_path(path))
        if size is None:
            raise SourceError(
                f"{self.full(path)} does not say how long it is. Copy it to a disk first."
            )
        return int(size)

    def mark(self, path: str) -> str:
        """A text that changes when the file or local folder at *path* changes; cheap."""
        if not self.remote:
            with reading(self.full(path)):
                found = Path(self.full(path)).stat()
            return f"{path}\t{found.st_size}\t{found.st_mtime_ns}"
        with reading_remote(self.full(path)):
            return f"{path}\t{self._filesystem[0].ukey(self._remote_path(path))}"

    def open(self, path: str, *, start: int = 0, stop: int | None = None) -> BinaryIO:
        """Open *path* for exact reads; nothing past *stop* is ever fetched from afar."""
        if not self.remote:
            with reading(self.full(path)):
                return cast("BinaryIO", Path(self.full(path)).open("rb", buffering=0))
        end = self.size(path) if stop is None else stop
        piece = RangeFile(self._filesystem[0], self._remote_path(path), self.full(path), start, end)
        return cast("BinaryIO", piece)

    def head(self, path: str) -> bytes:
        """Return the first `magic.HEAD_BYTES` of a file; one look, remembered."""

        def look() -> bytes:
            stop = min(HEAD_BYTES, self.size(path))
            with self.open(path, stop=stop) as file, reading(self.full(path)):
                return file.read(stop)

        data: bytes = self.remembered(("head", path), look)
        return data

    def remembered(self, key: tuple[str, str], look: Callable[[], Any]) -> Any:
        """Return what *look* found of a file; each finder asks, and one look is enough.

        Args:
            key: What is looked for, and the path.
            look: Called the first time.
        """
        if key not in self._remembered:
            self._remembered[key] = look()
        return self._remembered[key]

    def read_text(self, path: str, *, lenient: bool = False) -> str:
        """Read a text table, however it was saved (`text_tables.decode_table`)."""
        with self.open(path) as file, reading(self.full(path)):
            data = file.read()
        return decode_table(data, self.full(path), lenient=lenient)


def _local_names(folder: str) -> Names:
    found = Names([], [])
    with reading(folder), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                (found.folders if entry.is_dir() else found.files).append(entry.name)
    return found


def _local_sizes(folder: str) -> Sizes:
    found = Sizes([], [], [])
    with reading(folder), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if not entry.name.startswith("."):
                    found.folders.append(entry.name)
            elif may_be_image(entry.name):
                try:
                    status = entry.stat()
                except FileNotFoundError as e:
                    raise SourceError(
                        f"{entry.path!r} is a link that leads nowhere. Restore its target or "
                        "delete the link."
                    ) from e
                if stat.S_ISREG(status.st_mode):
                    found.files.append(entry.name)
                    found.num_bytes.append(status.st_size)
    return found


def fingerprint_of(marks: list[str], options: SourceOptions) -> str:
    """One short digest of many marks, which also changes when the rules of listing do."""
    rules = f"tesserae listing {options.rules}"
    if options.rules > 1:
        rules = f"{rules}\t{options}"
    text = "\n".join([rules, *marks])
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
