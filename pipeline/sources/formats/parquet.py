"""The Parquet files with the bytes of images in a column.

The Hub's layout is `image: struct<bytes, path>` with `label: int64`, whose names are in the
schema's metadata; plain tables have a binary column and columns for name and class. Both are read
in blocks of whole row groups, each streamed once; memory is bounded by one row group.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ReadError, SourceError
from pipeline.sources.archives.detection import container_of_file
from pipeline.sources.archives.tar_source import block_name
from pipeline.sources.classes.class_names import abbreviate
from pipeline.sources.classes.class_table import ClassTable
from pipeline.sources.classes.evidence import ClassBasis, Evidence
from pipeline.sources.classes.labeller import Labeller
from pipeline.sources.classes.number_tables import find_class_table, table_marks
from pipeline.sources.content import PARQUET, advice_on_content, content_of, description_of
from pipeline.sources.formats.parquet_columns import Columns, columns_of
from pipeline.sources.keys import PARTIAL_PREFIX, known_split
from pipeline.sources.listing import ListedSample, bad_key, refused_key
from pipeline.sources.location import Location
from pipeline.sources.numbered_files import check_complete, missing_numbers
from pipeline.sources.read_errors import as_read_error
from pipeline.sources.source import Source
from pipeline.sources.split_files import left_out_text, paths_by_split, without_split
from pipeline.sources.spool import Block, Blocks, WriteBytes

BLOCK_BYTES = 256 << 20
"""The size in bytes up to which row groups are joined, so that a block is worth a task."""
_BATCH_ROWS = 256
_PREVIEW_ROWS = 1 << 14


@dataclass(frozen=True)
class ParquetBlock(Block):
    """A block of a source: the row groups [first, first + count) of one file."""

    location: Location
    path: str
    first: int
    count: int
    first_row: int
    """The number in the file of the first row."""

    @property
    def where(self) -> str:
        """The full name of the file."""
        return self.location.full_path(self.path)

    def unique_name(self, number: int, name: str) -> str:
        """Return a name for a row whose own name repeats: `<file>-<row number>`.

        Args:
            number: The number of the row in the block, from 0.
            name: The name that repeats; unused.

        Returns:
            The file name without `.parquet`, and the number of the row in the file, from 0, with
            nine digits, such as `train-00000-000000012`.
        """
        return _BatchOrigin(self.where, self.first_row).missing_name(number)

    def samples(self, write: WriteBytes) -> Iterator[ListedSample]:
        """Read the row groups of this block one by one, and pass each image's bytes to *write*.

        Args:
            write: A function of an iterable of bytes, the pieces of one sample, that appends them
                to the spool and returns their offset in bytes there.

        Yields:
            One `ListedSample` (`key`, `num_bytes`, `offset`, `same_as` = '', `basis` of the class)
            for each row, in the order of the file, with what *write* returned as its offset. A row
            without an image is a sample of no bytes; one without a name gets that of the file and
            its number.

        Raises:
            ReadError: The file could not be read now.
            SourceError: The file is damaged, a row's label or name cannot be used, or none of the
                rows of a batch (up to 256 of a row group) has an image.
        """
        row = self.first_row
        labeller = None
        for batch, columns in self.batches(images=True):
            if labeller is None:  # all batches of a file have the same columns and table
                table = _class_table_of(columns, self.location, self.where)
                labeller = Labeller(table, self.location.options)
            yield from _samples_in_batch(
                batch, columns, labeller, _BatchOrigin(self.where, row), write
            )
            row += len(batch)

    def preview(self, labeller: Labeller, evidence: Evidence) -> None:
        """Read the names and labels of this block's images, without their bytes, and count them.

        Args:
            labeller: The maker of keys for the classes of the source, made as
                `Labeller(source.class_table(), location.options)`.
            evidence: The evidence to which each row is added, in place; a new one is `Evidence()`.

        Raises:
            ReadError: The file could not be read now.
            SourceError: The file is damaged, or a row's label or name cannot be used. Rows are
                counted in batches of up to 16,384; that of the error may be counted or not.
        """
        row = self.first_row
        for batch, columns in self.batches(images=False):
            origin = _BatchOrigin(self.where, row)
            keys = list(
                _keys_of_rows(_paths_of_rows(batch, columns), batch, columns, labeller, origin)
            )
            for key, basis in keys:
                evidence.add(key, basis)
            bad = bad_key(pa.array([key for key, _ in keys], pa.large_string()))
            if bad >= 0:
                raise refused_key(keys[bad][0], f"row {row + bad} of {self.where}")
            row += len(batch)

    # Apart from `samples`, so that no error of its writer is taken for one of the file.
    def batches(self, *, images: bool) -> Iterator[tuple[pa.RecordBatch, Columns]]:
        """Yield batches of the rows of this block with the columns of names and labels.

        Args:
            images: True to read the bytes of images, too.

        Yields:
            A batch of up to 256 rows with images, or of up to 16,384 without, in the order of the
            file, and a `Columns`, whose `image`, `name` and `label` are the names of the columns
            ('' without one). Only the columns that are read are in the batch; where none is, it has
            the column `nothing` of nulls. The file is open until the last batch.

        Raises:
            ReadError: The file could not be read now.
            SourceError: The file is damaged, or has no usable column of images.
        """
        with _reading_table(self.where), _open_parquet_file(self.location, self.path) as file:
            columns = columns_of(file.schema_arrow, self.where, self.location.options)
            column_names = columns.read(file.schema_arrow, images=images)
            size = _BATCH_ROWS if images else _PREVIEW_ROWS
            for group in range(self.first, self.first + self.count):
                if not column_names:
                    rows = file.metadata.row_group(group).num_rows
                    for first in range(0, rows, size):
                        yield _rows_without_columns(min(size, rows - first)), columns
                    continue
                batches = file.iter_batches(
                    size, row_groups=[group], columns=column_names, use_threads=False
                )
                for batch in batches:
                    yield batch, columns


def _rows_without_columns(num_rows: int) -> pa.RecordBatch:
    """Return a batch of rows without names and labels."""
    return pa.record_batch([pa.nulls(num_rows)], ["nothing"])


@dataclass(frozen=True)
class _BatchOrigin:
    """The file and first row of a batch of rows."""

    where: str
    first_row: int

    def missing_name(self, i: int) -> str:
        """Return a name for row *i* of the batch, where the table has none."""
        stem = self.where.rpartition("/")[2].removesuffix(".parquet")
        return f"{stem}-{self.first_row + i:09d}"


def _class_table_of(columns: Columns, location: Location, where: str) -> ClassTable | None:
    """Return the numbered classes: those in the schema, else those of a table beside the file."""
    if columns.names:
        return ClassTable(columns.names, f"the column {columns.label!r} of {where}")
    return find_class_table(location)


def _samples_in_batch(
    batch: pa.RecordBatch,
    columns: Columns,
    labeller: Labeller,
    origin: _BatchOrigin,
    write: WriteBytes,
) -> Iterator[ListedSample]:
    images = _image_bytes(batch, columns)
    # Single nulls are quarantined as empty; a batch without any bytes is a table of file names.
    if len(batch) and images.null_count == len(batch):
        raise SourceError(
            f"{origin.where}: rows {origin.first_row} to {origin.first_row + len(batch) - 1} hold "
            "no bytes of images, only their names. Save the table with the bytes embedded."
        )
    keys = _keys_of_rows(_paths_of_rows(batch, columns), batch, columns, labeller, origin)
    for image, (key, basis) in zip(images, keys, strict=True):
        data = bytes(image.as_buffer()) if image.is_valid else b""
        yield ListedSample(key, len(data), write((data,)), basis=basis)


def _keys_of_rows(
    paths: list[Any],
    batch: pa.RecordBatch,
    columns: Columns,
    labeller: Labeller,
    origin: _BatchOrigin,
) -> Iterator[tuple[str, ClassBasis]]:
    """Yield the key of each row, and the basis of its class."""
    labels = batch[columns.label].to_pylist() if columns.label else [None] * len(batch)
    for i, (path, label) in enumerate(zip(paths, labels, strict=True)):
        path = str(path) if path is not None and path != "" else origin.missing_name(i)
        sample = f"{origin.where}: row {origin.first_row + i} ({path!r})"
        yield labeller.key(path, {columns.label: label} if columns.label else {}, sample)


def _image_bytes(batch: pa.RecordBatch, columns: Columns) -> pa.Array:
    images = batch[columns.image]
    if pa.types.is_dictionary(images.type):
        images = images.dictionary_decode()
    # struct_field, unlike field(), keeps the nulls of the struct itself.
    return pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images


def _paths_of_rows(batch: pa.RecordBatch, columns: Columns) -> list[Any]:
    paths: list[Any] = [None] * len(batch)
    inner = batch[columns.image] if columns.image in batch.schema.names else None
    if (
        inner is not None
        and pa.types.is_struct(inner.type)
        and inner.type.get_field_index("path") >= 0
    ):
        paths = pc.struct_field(inner, "path").to_pylist()
    if columns.name:
        # A separate column of names takes precedence over the struct's path, but may have nulls.
        outer = batch[columns.name].to_pylist()
        paths = [path if name is None else name for path, name in zip(paths, outer, strict=True)]
    return paths


@contextmanager
def _reading_table(where: str) -> Iterator[None]:
    """Raise `SourceError` for damaged bytes of the file, and `ReadError` for a failing disk."""
    damaged = f"{where} is not a complete Parquet file: {{}}. Download it again."
    try:
        with as_read_error(where):
            try:
                yield
            except OSError as e:
                # pyarrow reports broken pages as an OSError without errno; a disk's error has one.
                if isinstance(e, ReadError) or e.errno is not None:
                    raise
                raise SourceError(damaged.format(e)) from e
    except (pa.ArrowException, UnicodeDecodeError) as e:
        raise SourceError(damaged.format(e)) from e


@contextmanager
def _open_parquet_file(location: Location, path: str) -> Iterator[pq.ParquetFile]:
    """Open a file for exact reads: the footer once, then the requested columns."""
    check_is_parquet(location, path)
    with location.open(path) as raw:
        # No read-ahead: Arrow's threads would hold Python objects while the process ends.
        file = pq.ParquetFile(pa.PythonFile(raw, "r"), pre_buffer=False)
        with file:
            yield file


def check_is_parquet(location: Location, path: str) -> None:
    """Refuse a file that is not a whole Parquet file, by its first and last bytes.

    Args:
        location: The folder of the file.
        path: The path of the file in that folder.

    Raises:
        ReadError: The file is missing or cannot be read.
        SourceError: The file begins or ends as another kind; the message says what it is.
    """
    where, head = location.full_path(path), location.head(path)
    if content_of(head) != PARQUET:
        raise SourceError(
            f"{where} is not a complete Parquet file: it is {description_of(head)}."
            f" {advice_on_content(head)}"
        )
    size = location.size(path)
    with location.open(path, start=max(0, size - 4)) as file, as_read_error(where):
        if not location.remote:
            file.seek(-4, 2)
        tail = file.read(4)
    if tail not in (b"PAR1", b"PARE"):  # PARE: the footer is encrypted
        raise SourceError(
            f"{where} is not a complete Parquet file: it begins as one, and its {size:,} bytes end"
            " without the table of its columns. The download was cut off: download it again."
        )


@dataclass(frozen=True)
class ParquetSource(Source):
    """A source of images in the rows of Parquet files."""

    paths: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """The files beside these whose names tell no split, and which are not read."""

    def marks(self) -> Iterable[str]:
        """Return the files' names, sizes and times, and those of the table of classes."""
        return (*map(self.location.mark, self.paths), *table_marks(self.location))

    def class_table(self) -> ClassTable | None:
        """Return the numbered classes, which must be the same in all files.

        Raises:
            SourceError: Two files have different classes.
        """
        tables = [_class_table_of_file(self.location, path) for path in self.paths]
        for path, table in zip(self.paths, tables, strict=True):
            if (table and table.names) != (tables[0] and tables[0].names):
                raise SourceError(
                    f"{self.location.full_path(path)} has other names of classes than"
                    f" {self.location.full_path(self.paths[0])}: expected the same in the same"
                    " order. Pass one of the files at a time, or save them with the same names."
                )
        return tables[0]

    def remarks(self) -> tuple[str, ...]:
        """Return sentences on files that are left out, gaps in numbers, and a partial split."""
        folders = {self.location.full_path(path).split("/")[-2] for path in self.paths}
        partial = sorted(name for name in folders if name.startswith(PARTIAL_PREFIX))
        texts = (
            f"{name}/ holds only a part of the split: the Hub did not convert the rest"
            for name in partial
        )
        return (
            *map(left_out_text, self.left_out),
            *missing_numbers(self.location, self.paths),
            *texts,
        )

    def blocks(self) -> Blocks:
        """Return blocks of consecutive row groups, of about `BLOCK_BYTES` each."""
        check_complete(self.location, self.paths)
        return list(self._blocks())

    def _blocks(self) -> Iterator[ParquetBlock]:
        for path in self.paths:
            yield from _blocks_of(self.location, path)

    def _columns_note(self) -> str:
        """Return a remark that names the column of images, of labels, and of names."""
        path = self.paths[0]
        with (
            _reading_table(self.location.full_path(path)),
            _open_parquet_file(self.location, path) as file,
        ):
            columns = columns_of(
                file.schema_arrow, self.location.full_path(path), self.location.options
            )
        alternatives = " or ".join(map(repr, columns.other_labels))
        return (
            f"columns: images {columns.image!r}, labels {columns.label or None!r}"
            f"{f' (--label-column for {alternatives})' if alternatives else ''}, names"
            f" {columns.name or None!r}"
        )

    def preview(self) -> Evidence:
        """Read the names and labels of all images: a thousandth of the bytes.

        Raises:
            SourceError: A label or name cannot be used; streaming would find that hours later.
        """
        check_complete(self.location, self.paths)
        labeller = Labeller(self.class_table(), self.location.options)
        evidence = Evidence(notes=[self._columns_note()])
        for block in self._blocks():
            block.preview(labeller, evidence)
        return evidence


def _class_table_of_file(location: Location, path: str) -> ClassTable | None:
    where = location.full_path(path)
    with _reading_table(where), _open_parquet_file(location, path) as file:
        return _class_table_of(
            columns_of(file.schema_arrow, where, location.options), location, where
        )


def _blocks_of(location: Location, path: str) -> Iterator[ParquetBlock]:
    where = location.full_path(path)
    with _reading_table(where), _open_parquet_file(location, path) as file:
        image = columns_of(file.schema_arrow, where, location.options).image
        groups = [
            _row_group_bytes(file.metadata.row_group(i), image) for i in range(file.num_row_groups)
        ]
        rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    first = 0
    while first < len(groups):
        count = 1
        while first + count < len(groups) and sum(groups[first : first + count + 1]) <= BLOCK_BYTES:
            count += 1
        yield ParquetBlock(
            f"{block_name(path)}-{first:05d}",
            sum(groups[first : first + count]),
            location,
            path,
            first,
            count,
            sum(rows[:first]),
        )
        first += count


def _row_group_bytes(group: Any, image: str) -> int:
    """Return the bytes of the image column in one row group, uncompressed."""
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.split(".")[0] == image
    )


_MAX_CONFIGURATIONS = 16
"""The maximum number of folders that are examined: more may be classes of many files."""


def find_parquet(
    location: Location, requested_split: str, explicit: bool
) -> dict[str, ParquetSource]:
    """Find `*.parquet` in *location*, its `data` folder, or folders named after splits.

    In a local folder, a further one named after the configuration may lie in between, such as
    `default` in the Hugging Face Hub's own conversion.

    Args:
        location: The folder or file that the user named, as `Location.at` returns it.
        requested_split: A further split that a folder or a name may tell; '' for none.
        explicit: True if the user named the kind `parquet`: then tables beside shards count, too.

    Returns:
        The source of each split, '' for one without a name; empty if there are no such files. A
        single file is always ''.

    Raises:
        ReadError: A folder or file cannot be read.
        SourceError: There are several configurations, a split has several folders, or a link leads
            back to itself.
    """

    def fits(path: str) -> bool:
        return container_of_file(location, path) == PARQUET and (
            explicit or not _is_table_of_img2dataset(location, path)
        )

    paths_of_split = paths_by_split(location, fits, requested_split)
    if location.only_file:
        paths_of_split = {"": next(iter(paths_of_split.values()))} if paths_of_split else {}
    elif not paths_of_split and location.options.rules > 1 and not location.remote:
        configurations = _configuration_folders(location, requested_split)
        if len(configurations) > 1:
            raise SourceError(
                f"{location.root} holds {len(configurations)} tables of one set"
                f" ({abbreviate(configurations)}). Pass the folder of one of them."
            )
        if configurations:
            return find_parquet(location.child(configurations[0]), requested_split, explicit)
    left_out = without_split(location, fits, requested_split)
    return {
        split: ParquetSource("parquet", location, tuple(paths), left_out)
        for split, paths in paths_of_split.items()
    }


def _is_table_of_img2dataset(location: Location, path: str) -> bool:
    """Return True if img2dataset wrote the table beside a shard: its texts, without images."""
    folder, _, name = path.rpartition("/")
    return (
        not location.only_file
        and f"{name.removesuffix('.parquet')}.tar" in location.names(folder).files
    )


def _configuration_folders(location: Location, requested_split: str) -> list[str]:
    """Return the folders of *location* that hold folders of splits with Parquet files."""
    folders = location.names().folders
    configurations = []
    for name in folders if len(folders) <= _MAX_CONFIGURATIONS else ():
        inside = location.child(name)
        splits = [
            folder for folder in inside.names().folders if known_split(folder, requested_split)
        ]
        files = (f"{folder}/{file}" for folder in splits for file in inside.names(folder).files[:1])
        if any(container_of_file(inside, path) == PARQUET for path in files):
            configurations.append(name)
    return configurations
