"""Parquet files with the bytes of images in a column.

The Hub's layout is `image: struct<bytes, path>` with `label: int64`, whose names are in the
schema's metadata; plain tables have a binary column and columns for name and class. Both are read
in blocks of whole row groups, each streamed once; memory is bounded by one row group.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ReadError, SourceError
from pipeline.sources.archives import block_name, by_split
from pipeline.sources.beside import find_words
from pipeline.sources.class_tables import find_class_table, table_marks
from pipeline.sources.classes import ClassTable, Labeller
from pipeline.sources.containers import container_of
from pipeline.sources.listing import Row
from pipeline.sources.magic import PARQUET
from pipeline.sources.place import Place, fingerprint_of
from pipeline.sources.remote import reading
from pipeline.sources.spool import Blocks, Put

BLOCK_BYTES = 256 << 20
"""Row groups are put together up to about this size, so that a block is worth a task."""
_BATCH_ROWS = 256
_IMAGE = ("image", "bytes", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "content")
_NAME = ("key", "__key__", "filename", "file_name", "path", "image_path", "name")
_LABEL = ("wnid", "label", "cls", "class", "labels", "class_name")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table say what."""

    image: str
    name: str
    """Empty: no column for it."""
    label: str
    names: tuple[str, ...]
    """Class names in the order of the labels, where the schema tells them."""


def columns_of(schema: pa.Schema, where: str) -> Columns:
    """Choose the columns by their names and types.

    Raises:
        SourceError: No column can hold the bytes of images.
    """
    image = next((name for name in _IMAGE if name in schema.names and _bytes_in(schema, name)), "")
    if not image:
        rest = [name for name in schema.names if _bytes_in(schema, name)]
        if len(rest) != 1:
            raise SourceError(
                f"{where} has no column of images: expected binary or struct<bytes, path>, called "
                f"{', '.join(_IMAGE[:4])} or the like, among {schema.names}. Rename the column."
            )
        image = rest[0]

    def chosen(words: tuple[str, ...]) -> str:
        return next((word for word in words if word in schema.names and word != image), "")

    label = chosen(_LABEL)
    return Columns(image, chosen(_NAME), label, _label_names(schema, label))


def _bytes_in(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _label_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Class names as the Hub keeps them, in JSON in the schema's metadata."""
    text = (schema.metadata or {}).get(b"huggingface")
    if not text or not label:
        return ()
    try:
        names = json.loads(text)["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


@dataclass(frozen=True)
class ParquetBlock:
    """Row groups [first, first + count) of one file."""

    name: str
    place: Place
    path: str
    first: int
    count: int
    first_row: int
    """Number in the file of the first row."""
    num_bytes: int

    def samples(self, put: Put) -> Iterator[Row]:
        """Read the row groups one by one, handing each image's bytes to *put*."""
        where = self.place.full(self.path)
        row = self.first_row
        for batch, columns in self._batches(where):
            labeller = Labeller(_table(columns, self.place, where), self.place.options)
            yield from _rows(batch, columns, labeller, _Origin(where, row), put)
            row += len(batch)

    def _batches(self, where: str) -> Iterator[tuple[pa.RecordBatch, Columns]]:
        """The wanted columns. Apart from `samples`: an error of writing is none of reading."""
        with _reading_table(where), _open(self.place, self.path) as file:
            columns = columns_of(file.schema_arrow, where)
            wanted = [name for name in (columns.image, columns.name, columns.label) if name]
            for group in range(self.first, self.first + self.count):
                batches = file.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=wanted, use_threads=False
                )
                for batch in batches:
                    yield batch, columns


@dataclass(frozen=True)
class _Origin:
    """Where a batch of rows comes from."""

    where: str
    first_row: int

    def missing_name(self, i: int) -> str:
        """Name for row *i* of the batch, where the table has none."""
        stem = self.where.rpartition("/")[2].removesuffix(".parquet")
        return f"{stem}-{self.first_row + i:09d}"


def _table(columns: Columns, place: Place, where: str) -> ClassTable | None:
    """The classes that the label counts: those of the schema, else of a table beside the file."""
    if columns.names:
        return ClassTable(columns.names, f"the column {columns.label!r} of {where}")
    return find_class_table(place)


def _rows(
    batch: pa.RecordBatch, columns: Columns, labeller: Labeller, origin: _Origin, put: Put
) -> Iterator[Row]:
    images, paths = _images_and_paths(batch, columns)
    labels = batch[columns.label].to_pylist() if columns.label else [None] * len(batch)
    if len(batch) and images.null_count == len(batch):
        raise SourceError(
            f"{origin.where}: rows {origin.first_row} to {origin.first_row + len(batch) - 1} hold "
            "no bytes of images, only their names. Save the table with the bytes embedded."
        )
    for i, (path, label) in enumerate(zip(paths, labels, strict=True)):
        path = str(path) if path is not None and path != "" else origin.missing_name(i)
        sample = f"{origin.where}: row {origin.first_row + i} ({path!r})"
        key, basis = labeller.key(path, {columns.label: label} if columns.label else {}, sample)
        image = images[i].as_buffer() if images[i].is_valid else b""
        data = bytes(image)
        yield Row(key, len(data), put((data,)), basis=basis)


def _images_and_paths(batch: pa.RecordBatch, columns: Columns) -> tuple[pa.Array, list[Any]]:
    images = batch[columns.image]
    paths: list[Any] = [None] * len(batch)
    if pa.types.is_struct(images.type):
        has_path = images.type.get_field_index("path") >= 0
        images, inner = _fields(images, has_path)
        paths = inner.to_pylist() if inner is not None else paths
    if columns.name:
        # a table's own column is nearer to its maker's intent, but it may have gaps
        outer = batch[columns.name].to_pylist()
        paths = [path if named is None else named for path, named in zip(paths, outer, strict=True)]
    return images, paths


def _fields(images: pa.StructArray, has_path: bool) -> tuple[pa.Array, pa.Array | None]:
    import pyarrow.compute as pc  # struct_field minds the struct's own nulls

    return pc.struct_field(images, "bytes"), pc.struct_field(images, "path") if has_path else None


@contextmanager
def _reading_table(where: str) -> Iterator[None]:
    """Tell what the file's bytes are at fault for (`SourceError`) from what a disk is."""
    damaged = f"{where} is not a whole Parquet file: {{}}. Fetch it again."
    try:
        with reading(where):
            try:
                yield
            except OSError as e:
                # pyarrow reports broken pages as an OSError without a number; a disk's have one
                if isinstance(e, ReadError) or e.errno is not None:
                    raise
                raise SourceError(damaged.format(e)) from e
    except (pa.ArrowException, UnicodeDecodeError) as e:
        raise SourceError(damaged.format(e)) from e


@contextmanager
def _open(place: Place, path: str) -> Iterator[pq.ParquetFile]:
    """Open for exact reads: the footer once, then the wanted columns."""
    with place.open(path) as raw:
        # No read ahead: threads of Arrow's would hold Python objects when the process ends.
        file = pq.ParquetFile(pa.PythonFile(raw, "r"), pre_buffer=False)
        with file:
            yield file


@dataclass(frozen=True)
class ParquetSource:
    """Images in the rows of Parquet files."""

    kind: str
    place: Place
    paths: tuple[str, ...]
    access: Literal["random", "blocks"] = "blocks"

    @property
    def root(self) -> str:
        """The folder of the files."""
        return self.place.root

    def fingerprint(self) -> str:
        """Digest of the files' names, sizes and times."""
        marks = [self.kind, self.root, *map(self.place.mark, self.paths)]
        return fingerprint_of([*marks, *table_marks(self.place)], self.place.options)

    def words(self) -> dict[str, str]:
        """Class -> words, from a table beside the files; or the names of the labels."""
        return find_words(self.place)

    def class_table(self) -> ClassTable | None:
        """Return the classes that the labels count, which must be the same in all files.

        Raises:
            SourceError: Two files have other ones.
        """
        tables = [_table_of(self.place, path) for path in self.paths]
        for path, table in zip(self.paths, tables, strict=True):
            if (table and table.names) != (tables[0] and tables[0].names):
                raise SourceError(
                    f"{self.place.full(path)} has other names of classes than"
                    f" {self.place.full(self.paths[0])}: expected the same in the same order. Pass"
                    " one of the files at a time, or save them with the same names."
                )
        return tables[0]

    def list(self, progress: Callable[[int], None]) -> pa.Table:
        """Not possible: a Parquet file keeps no place for a single image."""
        raise SourceError(f"{self.place.shown} is read in blocks; spool it, then list the spool")

    def blocks(self) -> Blocks:
        """Row groups, put together to blocks of a good size."""
        found: Blocks = []
        for path in self.paths:
            found += _blocks_of(self.place, path)
        return found


def _table_of(place: Place, path: str) -> ClassTable | None:
    where = place.full(path)
    with _reading_table(where), _open(place, path) as file:
        return _table(columns_of(file.schema_arrow, where), place, where)


def _blocks_of(place: Place, path: str) -> Iterator[ParquetBlock]:
    where = place.full(path)
    with _reading_table(where), _open(place, path) as file:
        image = columns_of(file.schema_arrow, where).image
        groups = [
            _group_bytes(file.metadata.row_group(i), image) for i in range(file.num_row_groups)
        ]
        rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    first = 0
    while first < len(groups):
        count = 1
        while first + count < len(groups) and sum(groups[first : first + count + 1]) <= BLOCK_BYTES:
            count += 1
        yield ParquetBlock(
            f"{block_name(path)}-{first:05d}",
            place,
            path,
            first,
            count,
            sum(rows[:first]),
            sum(groups[first : first + count]),
        )
        first += count


def _group_bytes(group: Any, image: str) -> int:
    """Bytes of the image column in one row group, uncompressed."""
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.split(".")[0] == image
    )


def find_parquet(place: Place, wanted: str, named: bool) -> dict[str, ParquetSource]:
    """Find `*.parquet` in *place*, its `data` folder, or folders named as splits."""
    found = by_split(place, lambda path: container_of(place, path) == PARQUET, wanted)
    if place.only:
        found = {"": next(iter(found.values()))} if found else {}
    return {split: ParquetSource("parquet", place, tuple(paths)) for split, paths in found.items()}
