"""The spool: record files on a local disk, for a source that cannot be read at random.

Each block of the source is streamed once into two files in the spool's folder:

    <block>.records       the samples' bytes, one after the other, nothing between them
    <block>.index.arrow   Arrow file: key, num_bytes, offset, crc32c (of each sample's bytes);
                          its metadata has the length of the records, and the byte limit. Renamed
                          into place last, so its presence says that the block is whole.

For a sample that cannot be a readable image (`pipeline.images.formats.is_worth_reading`), the
records hold only the first bytes, and its crc32c is null, so that a film takes no disk space.

A block whose files exist is not streamed again, so an interrupted pass continues where it stopped.
Two tasks may spool the same block at once: each writes its own temporary files, and the later
rename replaces the files by equal ones. The next task of a block removes the temporary files of a
killed one, whose locks ended with it.
"""

import glob
import os
import time
import uuid
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.filesystem import sync_folder
from pipeline.images.formats import HEAD_BYTES, is_worth_reading
from pipeline.locks import LocksMissingError, try_lock
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.duplicates import rename_duplicates
from pipeline.sources.listing import ListedSample, ListingBuilder, SkippedFiles, sort_listing

RECORDS = ".records"
INDEX = ".index.arrow"
_LENGTH_KEY = b"tesserae records bytes"
_SOURCE_KEY = b"tesserae source"
_LIMIT_KEY = b"tesserae image bytes"
_LOCK_GRACE_SECONDS = 10.0
"""The age below which a file may be in use without a lock, since it was just created."""
_ABANDONED_SECONDS = 3600.0
"""The age at which a file is removed where no lock tells whether it is in use."""
_SLACK = 1.05  # an index costs about 80 bytes a sample; compressed archives hardly expand

WriteBytes = Callable[[Iterable[bytes]], int]
"""A function that appends one sample's bytes, given in pieces, and returns their offset."""


@dataclass(frozen=True)
class Block(ABC):
    """A part of a source that one task streams once; a small picklable value."""

    name: str
    """The file name without suffix, unique among the blocks of the source."""
    num_bytes: int
    """The approximate size of the samples in bytes."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The full name of the file that the block is a part of, for a message."""

    @abstractmethod
    def samples(self, write: WriteBytes) -> Iterator[ListedSample | SkippedFiles]:
        """Read the block from front to back, and pass each sample's bytes to *write*.

        Args:
            write: A function of an iterable of bytes, the pieces of one sample, that appends them
                to the spool and returns their offset in bytes there.

        Yields:
            A `ListedSample` (`key`, `num_bytes`, `offset`, `same_as`, `basis` of the class) for
            each sample, with what *write* returned as its offset. Of a link, `num_bytes` and
            `offset` are 0, and `same_as` is the key of its target; else that is ''. Also
            `SkippedFiles` (`reason`, `name` of the first, `num_files`) that count the files that
            are none.

        Raises:
            ReadError: The source could not be read now.
            SourceError: The source is damaged, or of another kind than detected.
        """

    def unique_name(self, number: int, name: str) -> str:
        """Return a unique name for a sample whose own name repeats; empty: it is refused.

        This default is empty; shards and tables give names such as `train-00000-000000012.jpg`.

        Args:
            number: The number of the sample in the block, from 0.
            name: The file name that repeats.
        """
        return ""


Blocks = Sequence[Block]


def spool_bytes_needed(blocks: Sequence[Block]) -> int:
    """Estimate the size of a spool in bytes, with its indexes.

    That is 1.05 times the sum of the blocks' `num_bytes`, and 4,096 bytes a block. The `num_bytes`
    of a compressed archive is its own size.

    Args:
        blocks: The blocks that will be streamed; those that are spooled already count, too.
    """
    return int(sum(block.num_bytes for block in blocks) * _SLACK) + 4096 * len(blocks)


def spool_block(block: Block, directory: str, source: str = "", limit: int | None = None) -> None:
    """Stream a block into its record file and index, unless both exist.

    They are `<block>.records` and `<block>.index.arrow`; each appears only when it is whole and
    durable, the index last. Temporary files that a killed task left of this block are removed, and
    after an error none of this call remains. Of a sample longer than *limit*, and of one of more
    than 1 MiB in a format that is not decoded, only the first 4,096 bytes are stored.

    Args:
        block: The block to stream.
        directory: The spool's folder, on a local disk; created if it is missing.
        source: The fingerprint of the source and of how it is read, as `Source.fingerprint` returns
            it. Files of another fingerprint are replaced, those of older versions, which have none,
            are accepted; empty: any fingerprint is accepted (default).
        limit: The bytes of the longest image that is read, as in the recipe; None: no limit, and
            all samples are stored whole (default). Files of another limit are replaced.

    Raises:
        ReadError: The source could not be read now.
        SourceError: The source is damaged, or of another kind than detected.
        OSError: The spool could not be written.
    """
    folder = Path(directory)
    if _is_block_complete(folder, block.name, source, limit):
        return
    folder.mkdir(parents=True, exist_ok=True)
    _sweep_abandoned_files(folder, block.name)
    mark = f".{block.name}.{uuid.uuid4().hex}.tmp"
    records, index = folder / (mark + RECORDS), folder / (mark + INDEX)
    try:
        with records.open("xb") as file:
            with suppress(LocksMissingError):  # then only its age tells that it is in use
                try_lock(file.fileno())  # held until the file is closed
            table = _spool_samples(block, file, source, limit)
            _sync_spool_file(file)
        with index.open("xb") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            _sync_spool_file(file)
        records.rename(folder / (block.name + RECORDS))
        sync_folder(folder)
        index.rename(folder / (block.name + INDEX))  # last: its presence means the block is whole
        sync_folder(folder)
    except OSError as e:
        if e.errno is not None and e.filename is None:  # of a write, which does not name its file
            e.filename = str(folder)
        raise
    finally:
        records.unlink(missing_ok=True)
        index.unlink(missing_ok=True)


def _sweep_abandoned_files(folder: Path, name: str) -> None:
    """Remove the files that killed tasks left of this block: a spool has no room for it twice."""
    for path in folder.glob(f".{glob.escape(name)}.*.tmp*"):
        with suppress(OSError):  # another task removed it, or it is another user's file
            age = time.time() - path.stat().st_mtime
            if age > _LOCK_GRACE_SECONDS and _is_abandoned(path, age):
                path.unlink()


def _is_abandoned(path: Path, age: float) -> bool:
    """Return True if no task is writing a file whose last write was *age* seconds ago."""
    if path.is_symlink():  # no task creates links, so its target must not be opened
        return True
    with path.open("r+b") as file:
        try:
            return try_lock(file.fileno())
        except LocksMissingError:
            # A slow task whose file is removed here fails at its rename and is retried, so that
            # no partial file can count as complete.
            return age > _ABANDONED_SECONDS


def _spool_samples(block: Block, file: BinaryIO, source: str, limit: int | None) -> pa.Table:
    """Write the samples of *block* to *file* and return their index."""
    offsets, checksums = array("q"), array("q")

    def write(pieces: Iterable[bytes]) -> int:
        offset = file.tell()
        checksums.append(_write_record(pieces, file, limit))
        offsets.append(offset)
        return offset

    builder = ListingBuilder()
    builder.collect(block.name + RECORDS, block.samples(write), lambda _: None)
    table = builder.finish().drop_columns(["path"])
    crc32c = _checksums_at(table, np.array(offsets, np.int64), np.array(checksums, np.int64))
    table = table.append_column("crc32c", crc32c)
    own_metadata = {
        _LENGTH_KEY: str(file.tell()).encode(),
        _SOURCE_KEY: source.encode(),
        _LIMIT_KEY: str(limit).encode(),
    }
    metadata = {**(table.schema.metadata or {}), **own_metadata}
    return table.replace_schema_metadata(metadata)


_TRUNCATED = -1
"""The value in place of the checksum of a record that holds only the beginning of its sample."""


def _write_record(pieces: Iterable[bytes], file: BinaryIO, limit: int | None) -> int:
    """Write one sample's bytes, or its first ones; return the crc32c, or `_TRUNCATED`."""
    offset, crc, length, head = file.tell(), 0, 0, b""
    for piece in pieces:
        if len(head) < HEAD_BYTES:
            head += bytes(piece[: HEAD_BYTES - len(head)])
        elif crc == _TRUNCATED:
            break  # the source skips the remaining bytes
        length += len(piece)
        if crc == _TRUNCATED or not (limit is None or is_worth_reading(head, length, limit)):
            crc = _TRUNCATED
            continue
        crc = google_crc32c.extend(crc, bytes(piece))
        file.write(piece)
    if crc == _TRUNCATED:
        file.seek(offset)
        file.truncate()
        file.write(head)
    return crc


def _checksums_at(
    table: pa.Table, offsets: NDArray[np.int64], checksums: NDArray[np.int64]
) -> pa.Array:
    """Return (rows,) uint32, the checksum of each row's record, in any order of rows."""
    row_offsets = table["offset"].to_numpy()
    if not len(row_offsets):
        return pa.array([], pa.uint32())
    # An empty record shares its offset with the next one: right - 1 finds the one with bytes.
    row_checksums: NDArray[np.int64] = checksums[np.searchsorted(offsets, row_offsets, "right") - 1]
    row_checksums[table["num_bytes"].to_numpy() == 0] = 0
    return pa.array(row_checksums, pa.int64(), mask=row_checksums == _TRUNCATED).cast(pa.uint32())


def _sync_spool_file(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _is_block_complete(folder: Path, name: str, source: str, limit: int | None) -> bool:
    try:
        table = _read_spool_index(folder, name)
    except (OSError, SourceError):
        return False  # an absent or damaged block is streamed again
    stored_source = table.schema.metadata.get(_SOURCE_KEY)
    # Earlier versions wrote no fingerprint, and accepted every block.
    is_same_source = not source or stored_source is None or stored_source.decode() == source
    # A run that stopped before its recipe was written may have had another limit.
    stored_limit = table.schema.metadata.get(_LIMIT_KEY, b"None").decode()
    return bool(is_same_source and stored_limit == str(limit))


def remove_stale(
    directory: str, blocks: Sequence[Block], source: str, limit: int | None = None
) -> int:
    """Remove the records and indexes that *blocks* cannot use.

    These are all blocks that are not among *blocks*, those of another fingerprint or limit, whose
    keys would be outdated, for example by another column of names, and damaged ones. Temporary
    files, and records without an index, stay.

    Args:
        directory: The spool's folder, which may be missing; nothing is removed if it is a link.
        blocks: The blocks that are to be streamed.
        source: The fingerprint of the source that is passed to `spool_block`; empty: any is
            accepted.
        limit: The byte limit that is passed to `spool_block` (default: None, no limit).

    Returns:
        The number of bytes in the records that were removed.

    Raises:
        OSError: A file cannot be removed.
    """
    folder = Path(directory)
    block_names = {block.name for block in blocks}
    removed = 0
    if folder.is_symlink():
        return 0
    for index in sorted(folder.glob(f"*{INDEX}")):
        name = index.name.removesuffix(INDEX)
        if name.startswith("."):  # in use by a task, or removed by the next task of its block
            continue
        if name in block_names and _is_block_complete(folder, name, source, limit):
            continue
        records = folder / (name + RECORDS)
        index.unlink(missing_ok=True)  # first, since an index must never lack its records
        if records.exists():
            removed += records.stat().st_size
            records.unlink()
    return removed


def remaining_spool_text(directory: str) -> str:
    """Return sentences for the user on a spool that remains, its size and its use.

    Args:
        directory: The spool's folder, which may be missing.

    Returns:
        The sentences with a space before them; empty without records.
    """
    num_bytes = sum(path.stat().st_size for path in Path(directory).glob(f"*{RECORDS}"))
    if not num_bytes:
        return ""
    return (
        f" The streamed data stay in {directory} ({num_bytes:,} bytes): the same command continues"
        " with them; delete that folder if you will not run it again."
    )


def _read_spool_index(folder: Path, name: str) -> pa.Table:
    """Return the index of one block, after a check of the length of its records."""
    path, records = folder / (name + INDEX), folder / (name + RECORDS)
    if path.exists() and not path.is_file():
        raise SourceError(f"the spool's index {path} is not a file. Delete it.")
    try:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        expected = int(table.schema.metadata[_LENGTH_KEY])
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as e:
        raise SourceError(
            f"the spool's index {path} is damaged. Delete it; its block is then streamed again."
        ) from e
    size = records.stat().st_size
    if size != expected:
        raise SourceError(
            f"the spool's {records} has {size} bytes, its index says {expected}. "
            f"Delete {path}; the block is then streamed again."
        )
    return table


def spool_listing(directory: str, blocks: Sequence[Block]) -> pa.Table:
    """List all samples of a finished spool.

    Args:
        directory: The spool's folder.
        blocks: All blocks of the source, which must have been streamed.

    Returns:
        The listing (`pipeline.sources.listing`), sorted by key: the columns `key` (large_string,
        `<class>/<file name>`), `num_bytes` of the sample in the source (int64), `path` of the
        record file relative to *directory* (a dictionary of texts), `offset` in it in bytes
        (int64), and `crc32c` (uint32), which is null for a sample of which only the beginning is
        stored. Samples whose names repeat in shards or tables are renamed.

    Raises:
        SourceError: A block is missing or damaged, two samples have one key, or there are no
            samples.
        OSError: A file of the spool cannot be read.
    """
    folder = Path(directory)
    tables = []
    evidence = Evidence()
    block_of = {block.name + RECORDS: block for block in blocks}
    for block in blocks:
        try:
            table = _read_spool_index(folder, block.name)
        except FileNotFoundError as e:
            raise SourceError(
                f"the spool {directory} lacks the block {block.name!r}: it was not streamed yet."
            ) from e
        evidence.merge(Evidence.decode(table.schema.metadata))
        tables.append(_with_path_column(table, block.name + RECORDS))
    if not sum(map(len, tables)):
        raise SourceError(
            f"no images found in {len(blocks)} blocks of the source: nothing in them is an image "
            "of the requested split."
        )
    table = pa.concat_tables(tables).replace_schema_metadata(evidence.encode())
    table = rename_duplicates(
        table.unify_dictionaries().combine_chunks(),
        lambda path, number, name: block_of[path].unique_name(number, name),
    )
    return sort_listing(table, lambda table, row: repr(block_of[table["path"][row].as_py()].where))


def _with_path_column(table: pa.Table, path: str) -> pa.Table:
    codes = pa.array(np.zeros(len(table), np.int32))
    paths = pa.DictionaryArray.from_arrays(codes, pa.array([path], pa.string()))
    columns = [table["key"], table["num_bytes"], paths, table["offset"], table["crc32c"]]
    return pa.table(columns, ["key", "num_bytes", "path", "offset", "crc32c"])
