"""The LMDBs of LSUN: `<class>_<split>_lmdb` folders, each a table of image files by a hash.

Yu et al.: LSUN (arXiv 1506.03365). Any LMDB whose values are image files can be read.
"""

import importlib.util
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.errors import ReadError, SourceError
from pipeline.images.formats import DECODED, OTHER_IMAGE, format_of
from pipeline.installation import install_advice
from pipeline.sources.keys import split_in_name
from pipeline.sources.listing import ListedSample
from pipeline.sources.location import Location
from pipeline.sources.source import Source
from pipeline.sources.spool import Block, Blocks, WriteBytes

DATA = "data.mdb"
_SUFFIX = "_lmdb"
_START = 2
"""The number of bytes that the keys of a block share: LSUN's hashes make 256 blocks."""
_MAX_EXAMINED_VALUES = 16
"""The number of values of which one must be an image: the first may be broken."""
_SUFFIXES = {
    b"RIFF": "webp", b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp",
}  # fmt: skip


_tables: dict[tuple[int, str], tuple[Any, int]] = {}
"""The open tables and their numbers of readers, by (process, folder).

LMDB forbids a process to open one table twice.
"""
_lock = threading.Lock()


@contextmanager
def _open_lmdb(folder: str) -> Iterator[Any]:
    import lmdb

    # A forked child must not use its parent's table, so the process is a part of the key.
    key = (os.getpid(), os.path.realpath(folder))
    with _lock:
        table, readers = _tables.get(key, (None, 0))
        if table is None:
            # lock=False: a read-only disk cannot hold the lock file. No read-ahead, as the rows
            # of a block lie scattered over the file.
            table = lmdb.open(folder, readonly=True, lock=False, readahead=False, create=False)
        _tables[key] = (table, readers + 1)
    try:
        yield table
    finally:
        with _lock:
            readers = _tables.pop(key)[1] - 1
            if readers:
                _tables[key] = (table, readers)
            else:
                table.close()


@contextmanager
def _lmdb_transaction(folder: str) -> Iterator[Any]:
    import lmdb

    try:
        with _open_lmdb(folder) as table, table.begin() as view:
            yield view
    except lmdb.DiskError as e:  # the disk failed, which may pass; other errors are the table's
        raise ReadError(f"cannot read {folder}: {e}") from e
    except lmdb.Error as e:
        raise SourceError(f"{folder} is not a readable LMDB ({e}). Download it again.") from e


@dataclass(frozen=True)
class LmdbBlock(Block):
    """A block of a source: the rows of one table whose keys begin with the same bytes."""

    folder: str
    class_name: str
    start: bytes

    @property
    def where(self) -> str:
        """The table's folder."""
        return self.folder

    def samples(self, write: WriteBytes) -> Iterator[ListedSample]:
        """Read the rows of the block in the order of their keys, and pass each image to *write*.

        The block is a part of the table: the rows whose keys begin with the bytes `start`.

        Args:
            write: A function of an iterable of bytes, the pieces of one sample, that appends them
                to the spool and returns their offset in bytes there.

        Yields:
            One `ListedSample` (`key`, `num_bytes`, `offset`, `same_as` = '', `basis` of the class)
            for each row, with what *write* returned as its offset. Its key is the class and the key
            of the row, in hexadecimal if it is not alphanumeric, with a suffix by the first bytes
            (`jpg`, `png`, `webp`, `gif`, `bmp`, else `img`): `bedroom/<hash>.webp`.

        Raises:
            ReadError: The disk failed.
            SourceError: The table is damaged or missing.
        """
        with _lmdb_transaction(self.folder) as view:
            cursor = view.cursor()
            more = cursor.set_range(self.start)
            while more and cursor.key()[:_START] == self.start:
                name, data = cursor.key(), cursor.value()
                yield ListedSample(
                    f"{self.class_name}/{_lmdb_file_name(name, data)}", len(data), write((data,))
                )
                more = cursor.next()


def _lmdb_file_name(key: bytes, data: bytes) -> str:
    kind = next((suffix for magic, suffix in _SUFFIXES.items() if data.startswith(magic)), "img")
    text = key.decode("ascii") if key.isalnum() else key.hex()
    return f"{text}.{kind}"


@dataclass(frozen=True)
class LmdbSource(Source):
    """A source of the images in the LMDBs of one split, one table a class."""

    folders: tuple[tuple[str, str], ...]
    """The (class, folder) of each table."""

    def marks(self) -> Iterable[str]:
        """Return the tables' names, sizes and times."""
        return (self.location.mark(f"{folder}/{DATA}".lstrip("/")) for _, folder in self.folders)

    def words(self) -> dict[str, str]:
        """Return no words: the names of classes are their words."""
        return {}

    def check(self) -> None:
        """Refuse tables whose values are not image files, such as Caffe's.

        Raises:
            SourceError: None of a table's first values is an image, or a table is unreadable.
        """
        self._check_package()
        for _, folder in self.folders:
            with _lmdb_transaction(self.location.full_path(folder)) as view:
                values = [value for _, value in islice(view.cursor(), _MAX_EXAMINED_VALUES)]
            if values and not any(map(_is_image, values)):
                raise SourceError(
                    f"{self.location.full_path(folder)} is an LMDB whose values are not image"
                    f" files: the first begins with {values[0][:16]!r}. Write its images as files"
                    " in class folders, with lmdb."
                )

    def _check_package(self) -> None:
        if importlib.util.find_spec("lmdb") is None:
            raise SourceError(
                f"{self.location.display_name} holds LMDBs, and the package lmdb is not"
                f" installed: {install_advice('lsun')}."
            )

    def blocks(self) -> Blocks:
        """Return the blocks: of each table, the rows whose keys begin with the same bytes."""
        self._check_package()
        blocks: list[LmdbBlock] = []
        for class_name, folder in self.folders:
            where = self.location.full_path(folder)
            starts = list(_key_prefixes(where))
            each = self.location.size(f"{folder}/{DATA}".lstrip("/")) // max(1, len(starts))
            blocks += [
                LmdbBlock(f"{class_name}-{start.hex()}", each, where, class_name, start)
                for start in starts
            ]
        return blocks


def _is_image(value: bytes) -> bool:
    file_format = format_of(value)
    return file_format is not None and file_format.kind in (DECODED, OTHER_IMAGE)


def _key_prefixes(folder: str) -> Iterator[bytes]:
    """Yield each distinct beginning of the keys of a table once."""
    with _lmdb_transaction(folder) as view:
        cursor = view.cursor()
        more = cursor.first()
        while more:
            start = cursor.key()[:_START]
            yield start
            after = _key_after_prefix(start)
            more = after is not None and cursor.set_range(after)


def _key_after_prefix(start: bytes) -> bytes | None:
    """Return the least key behind all that begin with *start*; None: there is none."""
    if len(start) < _START:
        return start + b"\0"
    prefix = start.rstrip(b"\xff")  # behind "K\xff..." comes "L", not "L\0"
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else None


def find_lmdbs(location: Location, requested_split: str, explicit: bool) -> dict[str, LmdbSource]:
    """Find LMDBs: *location* itself, or folders in it.

    Args:
        location: The folder that the user named, as `Location.at` returns it; a remote one holds
            none.
        requested_split: A further split that the name of a folder may tell; '' for none.
        explicit: Unused: the file `data.mdb` decides.

    Returns:
        The source of each split, '' for one without a name; empty if there are no LMDBs. The name
        of a folder tells class and split: `bedroom_train_lmdb` is the class `bedroom` of `train`,
        and `train_lmdb`, which names no class, is the class `images`.

    Raises:
        ReadError: The folder cannot be read.
        SourceError: A link in it leads back to itself.
    """
    if location.only_file or location.remote:
        return {}
    names = location.names()
    tables_of_split: dict[str, list[tuple[str, str]]] = {}
    if DATA in names.files:
        class_name, split = _class_and_split(location.root.rpartition("/")[2], requested_split)
        tables_of_split.setdefault(split, []).append((class_name, ""))
    for folder in names.folders:
        if location.is_file(f"{folder}/{DATA}"):
            class_name, split = _class_and_split(folder, requested_split)
            tables_of_split.setdefault(split, []).append((class_name, folder))
    return {
        split: LmdbSource("lsun", location, tuple(tables))
        for split, tables in tables_of_split.items()
    }


def _class_and_split(folder: str, requested_split: str) -> tuple[str, str]:
    """Return the class and split in a table's name: `bedroom`, `train` of `bedroom_train_lmdb`."""
    stem = folder.removesuffix(_SUFFIX)
    split = split_in_name(stem, requested_split)
    class_name, _, last = stem.rpartition("_")
    if split and class_name and split_in_name(last, requested_split):
        return class_name, split
    return ("images" if split else stem or "images"), split
