"""The renaming of samples that names do not tell apart: rows that are all called `image.png`.

Where a key repeats, each of its rows gets a name from its file and its number in that file. Rows
with unique keys keep their names. If the rows of each key are equal by checksum or size, a file was
copied: they keep their keys, and the listing is refused.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.sources.classes.evidence import Evidence

NameOf = Callable[[str, int, str], str]
"""A function of (path of the row's file, number of the row in it, its file name).

It returns a unique name, or an empty text where a repeated name is refused.
"""


def rename_duplicates(table: pa.Table, name_of: NameOf) -> pa.Table:
    """Give unique names to the rows of a listing whose keys repeat.

    Args:
        table: The columns `key`, which must be the first, `num_bytes` and `path` (a dictionary),
            and `crc32c` if there is one, in the order in which rows came. It is not changed.
        name_of: The function of the path, the number of the row among the adjacent rows of its
            file, from 0, and the file name, that returns a unique file name; '' refuses it. It is
            called for every row whose key repeats, also the first.

    Returns:
        A table with other keys, `<class>/<unique name>`, in the same order of rows, and a note in
        its metadata. It is *table* itself if no key repeats, if all rows of each such key are equal
        by size and, if there is one, checksum, or if *name_of* refuses a name: then keys still
        repeat.
    """
    counts = pc.value_counts(table["key"])
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if not len(repeated):
        return table
    rows = np.flatnonzero(pc.is_in(table["key"], repeated).to_numpy())
    if _are_identical_samples(table.take(rows)):
        return table
    numbers = _row_numbers_in_file(table)
    keys = table["key"].to_pylist()
    first = keys[rows[0]]
    for row in rows.tolist():
        class_name, _, name = keys[row].partition("/")
        own = name_of(table["path"][row].as_py(), int(numbers[row]), name)
        if not own:
            return table
        keys[row] = f"{class_name}/{own}"
    evidence = Evidence.decode(table.schema.metadata)
    evidence.notes.append(
        f"{len(rows):,} names repeat, such as {first.partition('/')[2]!r}: their images are named"
        f" after file and number, such as {keys[rows[0]].partition('/')[2]!r}"
    )
    table = table.set_column(0, "key", pa.array(keys, pa.large_string()))
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **evidence.encode()})


def _are_identical_samples(table: pa.Table) -> bool:
    """Return True if rows of one key do not differ, by their checksums or else by their sizes."""
    columns = ["key", "num_bytes", *(["crc32c"] if "crc32c" in table.column_names else [])]
    distinct = table.select(columns).group_by(columns).aggregate([])
    return bool(len(distinct) == pc.count_distinct(table["key"]).as_py())


def _row_numbers_in_file(table: pa.Table) -> NDArray[np.int64]:
    """Return (rows,) int64: the number of each row among the adjacent rows of its file."""
    codes = table["path"].combine_chunks()
    codes = codes.chunk(0) if isinstance(codes, pa.ChunkedArray) else codes
    indices = codes.indices.to_numpy()
    starts = np.flatnonzero(np.r_[True, indices[1:] != indices[:-1]])
    lengths = np.diff(np.r_[starts, len(indices)])
    return np.arange(len(indices)) - np.repeat(starts, lengths)
