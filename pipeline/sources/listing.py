"""The listing of a source: one Arrow table of its samples, sorted by key.

    key        large_string   `<class>/<file name>`, canonical; sorted by its UTF-8 bytes
    num_bytes  int64          size of the sample
    path       large_string, or dictionary<int32, string>; the file that holds the bytes, relative
               to the source's root. Absent: the path equals the key.
    offset     int64          the offset of the sample in that file. Absent: whole files.
    crc32c     uint32         the checksum of the sample's bytes. Absent without a spool.

14 M rows fit in about a gigabyte, so nothing here loops over rows in Python.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SourceError
from pipeline.sources.classes.evidence import ClassBasis, Evidence

SLICE_ROWS = 1 << 18
BATCH_ROWS = 1 << 14
_BAD_KEY = r"^[^/]*$|^/|/$|/[^/]*/|[\t\n\r\x00]|(^|/)\.\.?(/|$)"


class ListedSample(NamedTuple):
    """A sample as a source lists it."""

    key: str
    """The key, `<class>/<file name>`."""
    num_bytes: int
    """The size in bytes; 0 for a link."""
    offset: int
    """The offset of its bytes in the file that holds them; 0 for a link."""
    same_as: str = ""
    """The key of the sample whose bytes this one shares (a link in a tar); '' for others."""
    basis: ClassBasis = ClassBasis("folder")
    """The basis of its class."""


class SkippedFiles(NamedTuple):
    """A file of a source that is no sample, or several that are skipped for one reason."""

    reason: str
    """The reason in words, for a line that counts such files."""
    name: str
    """The name of the first such file."""
    num_files: int = 1
    """The number of such files."""


def skipped_files(evidence: Evidence) -> Iterator[SkippedFiles]:
    """Yield one count for each reason for which files were skipped.

    Args:
        evidence: The evidence of a part of a source, whose skipped files are counted.

    Yields:
        A `SkippedFiles`: `reason` in words, `name` of the first such file, and `num_files`.
    """
    for reason, group in evidence.skipped.items():
        yield SkippedFiles(reason, group.first, group.count)


class ListingBuilder:
    """A builder of Arrow columns, file by file; only the newest few samples are Python objects."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []
        self._paths: list[str] = []
        self._links: list[tuple[str, str]] = []
        self._evidence = Evidence()

    def collect(
        self,
        path: str,
        rows: Iterable[ListedSample | SkippedFiles],
        progress: Callable[[int], None],
    ) -> None:
        """Append the samples of one file, which `finish` returns later.

        Args:
            path: The path of the file that holds their bytes, relative to the source's root.
            rows: The samples as `ListedSample` (`key`, `num_bytes`, `offset`, `same_as`: the key of
                a link's target or '', `basis` of the class), in any order, and counts of skipped
                files as `SkippedFiles` (`reason`, `name`, `num_files`); they are read to their end.
            progress: A function that is called again and again, each time with the number of
                samples since its last call, up to 16,384; links are not counted.

        Raises:
            SourceError: A key is not valid UTF-8.
        """
        self._paths.append(path)
        batch: list[ListedSample] = []
        for row in rows:
            if isinstance(row, SkippedFiles):
                self._evidence.skip(*row)
                continue
            self._evidence.add(row.key, row.basis)
            if row.same_as:  # its target may come later, so links are resolved at the end
                self._links.append((row.key, row.same_as))
                continue
            batch.append(row)
            if len(batch) == BATCH_ROWS:
                self._add(batch)
                progress(len(batch))
                batch = []
        if batch:
            self._add(batch)
            progress(len(batch))

    def _add(self, batch: list[ListedSample]) -> None:
        keys, num_bytes, offsets, _, _ = zip(*batch, strict=True)
        columns = [
            string_array(keys, f"in {self._paths[-1]}"),
            pa.array(num_bytes, pa.int64()),
            pa.array(np.full(len(batch), len(self._paths) - 1, np.int32)),
            pa.array(offsets, pa.int64()),
        ]
        self._tables.append(pa.table(columns, ["key", "num_bytes", "path", "offset"]))

    def finish(self) -> pa.Table:
        """Return all samples as one unsorted table with dictionary paths, in the order they came.

        The metadata of its schema hold the basis of their classes (`Evidence`).
        """
        empty = pa.schema(
            [
                ("key", pa.large_string()),
                ("num_bytes", pa.int64()),
                ("path", pa.int32()),
                ("offset", pa.int64()),
            ]
        )
        table = pa.concat_tables(self._tables or [empty.empty_table()]).combine_chunks()
        self._tables.clear()  # frees half the memory of a large listing
        if self._links:
            table = pa.concat_tables([table, self._linked(table)]).combine_chunks()
        names = string_array(self._paths, "of an archive").cast(pa.string())
        codes = _as_one_array(table["path"])
        table = table.set_column(2, "path", pa.DictionaryArray.from_arrays(codes, names))
        return table.replace_schema_metadata(self._evidence.encode())

    def _linked(self, table: pa.Table) -> pa.Table:
        """Return the rows of the links: their own keys, and the bytes of their targets."""
        keys = [key for key, _ in self._links]
        targets = _final_link_targets(dict(self._links))
        target_rows = pc.index_in(string_array(targets, "as a link"), table["key"])
        if target_rows.null_count:
            lost = pc.index(pc.is_null(target_rows), True).as_py()
            raise SourceError(
                f"{keys[lost]!r} is a link to {targets[lost]!r}, which is not among the samples."
                " Create the archive again with the files themselves (tar --hard-dereference -h)."
            )
        linked = table.take(target_rows)
        return linked.set_column(0, "key", string_array(keys, "as a link"))


def _final_link_targets(links: dict[str, str]) -> list[str]:
    """Return for each link the key of its final target, through other links."""
    targets = []
    for key in links:
        seen = {key}
        target = links[key]
        while target in links and target not in seen:  # links may form a circle
            seen.add(target)
            target = links[target]
        targets.append(target)
    return targets


def string_array(names: Sequence[str], where: str) -> pa.Array:
    """Return texts as an Arrow array, (len(names),) large_string, in the same order.

    Args:
        names: The texts, such as keys or paths.
        where: The place of the names, as in "in FOLDER", for a message.

    Raises:
        SourceError: A name is not valid UTF-8, so Arrow cannot store it.
    """
    try:
        return pa.array(names, pa.large_string())
    except UnicodeEncodeError as e:
        bad = next(name for name in names if not _is_utf8(name))
        raise SourceError(
            f"the name {bad!r} {where} is not valid UTF-8. Rename it; a key must be text."
        ) from e


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def sort_listing(
    table: pa.Table, describe_row: Callable[[pa.Table, int], str] | None = None
) -> pa.Table:
    """Sort a listing by key, bytewise, and refuse invalid and duplicate keys.

    Args:
        table: The column `key` (large_string), and any of `num_bytes`, `path`, `offset` and
            `crc32c`, with rows in any order; it is not changed.
        describe_row: A function of the table and the position of a row in it that describes the row
            in a message (default: by its file, and its offset if the table has that column).

    Returns:
        The sorted table, with one chunk a column, so that slices of it cost nothing. The metadata
        of its schema are kept.

    Raises:
        SourceError: A key is not `<class>/<file name>`, or two samples have the same key.
    """
    describe_row = describe_row or row_position
    table = table.unify_dictionaries().combine_chunks()
    _check_valid_keys(table, describe_row)
    if not _is_strictly_increasing(table["key"]):
        order = pc.sort_indices(table["key"])
        table = table.take(order).combine_chunks()
        del order  # 8 bytes a row, which are not needed for the second check
        if not _is_strictly_increasing(table["key"]):
            _refuse_duplicate_key(table, describe_row)
    return table


def _as_one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.combine_chunks()


def _is_strictly_increasing(column: pa.ChunkedArray) -> bool:
    """Return True if each key is greater than the one before."""
    keys = _as_one_array(column)
    for start in range(0, max(len(keys) - 1, 0), SLICE_ROWS):
        stop = min(start + SLICE_ROWS, len(keys) - 1)
        now, following = keys.slice(start, stop - start), keys.slice(start + 1, stop - start)
        if not pc.all(pc.less(now, following)).as_py():
            return False
    return True


def bad_key(keys: pa.Array | pa.ChunkedArray) -> int:
    """Return the position of the first invalid key; -1 if all are valid.

    A valid key is `<class>/<file name>` with one slash, without tab, line break or zero byte, and
    neither part is empty, '.' or '..'.

    Args:
        keys: The keys, as large_string.
    """
    bad = pc.match_substring_regex(keys, _BAD_KEY)
    return int(pc.index(bad, True).as_py())


def refused_key(key: str, where: str) -> SourceError:
    """Return the error for an invalid key, which the caller raises.

    Args:
        key: The key.
        where: The place of the sample in its source, such as 'row 3 of a.parquet', for the message.
    """
    return SourceError(
        f"the key {key!r}, of {where}, cannot be used: a key is '<class>/<file name>' with one "
        "slash, no tab or line break, and neither part '.' or '..'. Rename it."
    )


def _check_valid_keys(table: pa.Table, describe_row: Callable[[pa.Table, int], str]) -> None:
    for start in range(0, len(table), SLICE_ROWS):
        row = bad_key(table["key"].slice(start, SLICE_ROWS))
        if row >= 0:
            raise refused_key(table["key"][start + row].as_py(), describe_row(table, start + row))


def _refuse_duplicate_key(table: pa.Table, describe_row: Callable[[pa.Table, int], str]) -> None:
    keys = _as_one_array(table["key"])
    alike = pc.equal(keys.slice(0, len(keys) - 1), keys.slice(1))
    row = pc.index(alike, True).as_py()
    raise SourceError(
        f"two samples have the key {keys[row].as_py()!r}: {describe_row(table, row)} and "
        f"{describe_row(table, row + 1)}. Rename or remove one of them."
    )


def row_position(table: pa.Table, row: int) -> str:
    """Return the file and offset of the bytes of a row, for a message.

    Args:
        table: A listing; without the column `path`, the key is the path, and without `offset`,
            samples are whole files.
        row: The position of the row in it, from 0.

    Returns:
        A phrase such as "'train.tar' at byte 512", or only the path where samples are whole files.
    """
    columns = table.column_names
    path = table["path" if "path" in columns else "key"][row].as_py()
    at = f" at byte {table['offset'][row].as_py()}" if "offset" in columns else ""
    return f"{path!r}{at}"


def listing_digest(listing: pa.Table) -> str:
    """Return the SHA-256 of a listing, which depends on keys and sizes but on no paths or times.

    It is that of the lines `<key><tab><num_bytes><newline>` in bytewise order of the keys, so that
    `sort | sha256sum` computes it, too. A folder and a tar of it have the same digest.

    Args:
        listing: The samples, sorted by key, with at least the columns `key` (large_string, no other
            type of text) and `num_bytes`; they are not sorted here.

    Returns:
        64 hexadecimal digits.
    """
    digest = sha256()
    tab, newline, nothing = (pa.scalar(text, pa.large_string()) for text in ("\t", "\n", ""))
    for batch in listing.select(["key", "num_bytes"]).to_batches(max_chunksize=SLICE_ROWS):
        sizes = pc.cast(batch["num_bytes"], pa.large_string())
        lines = pc.binary_join_element_wise(batch["key"], tab, sizes, newline, nothing)
        # The lines lie one after the other in Arrow's buffer, so no Python string is created.
        offsets = np.frombuffer(lines.buffers()[1], np.int64)
        digest.update(memoryview(lines.buffers()[2])[offsets[0] : offsets[len(lines)]])
    return digest.hexdigest()
