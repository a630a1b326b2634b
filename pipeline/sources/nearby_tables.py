"""The tables beside the images: the order of classes, and the label of each image."""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache

from pipeline.errors import SourceError
from pipeline.sources.keys import LABEL_WORDS
from pipeline.sources.location import Location
from pipeline.sources.read_errors import as_read_error
from pipeline.sources.text_tables import (
    decode_table,
    lines_of,
    parse_words,
    rows_of,
)

LEVELS_ABOVE = 4
"""The number of folders above the images that are searched for tables: Kaggle needs four."""

ANNOTATIONS = "val_annotations.txt"
"""Tiny-ImageNet's table of the classes of its val images."""
_HEAD_BYTES = 1 << 16


def folder_and_parents(location: Location) -> Iterator[Location]:
    """Yield a folder and the four folders above it, nearest first; nothing is read.

    Args:
        location: The folder of the images.

    Yields:
        Up to five locations; fewer where the root of the disk or of the bucket is reached.
    """
    for _ in range(LEVELS_ABOVE + 1):
        yield location
        parent = location.parent()
        if parent.root in (location.root, "/", "") or parent.root.endswith((":", ":/")):
            return
        location = parent


def find_nearest_table(location: Location, *names: str) -> tuple[Location, str] | None:
    """Return the nearest file of one of these names, at the images or up to four folders above.

    Args:
        location: The folder of the images; for a single file, the folder that holds it.
        names: The names of the file; of two in one folder, the first one of *names* is taken.

    Returns:
        The folder that holds it and its name; None if there is none.

    Raises:
        ReadError: A folder cannot be read now.
    """
    for folder in folder_and_parents(Location(location.root)):
        for name in names:
            if folder.is_file(name):
                return folder, name
    return None


@lru_cache(maxsize=8)
def find_class_names(root: str) -> tuple[str, ...]:
    """Return class names in the order of their numbers in listings of rules 1; () without any.

    Version 1 of the listing rules (`SourceOptions.rules`) is that of older stores. `classes.txt`
    has a name on each line, `LOC_synset_mapping.txt` begins each line with one. The result is
    cached for the life of the process, also if a table changes.

    Args:
        root: The folder of the source, a local path or URL; the folder above is searched, too.

    Returns:
        The name of number 0, 1, ...; blank lines do not count.

    Raises:
        ReadError: The table cannot be read now.
        SourceError: The table cannot be read as text.
    """
    location = Location(root)
    for folder in (location, location.parent()):
        if folder.is_file("classes.txt"):
            lines = lines_of(folder.read_text("classes.txt"))
            return tuple(line.strip() for line in lines if line.strip())
        if folder.is_file("LOC_synset_mapping.txt"):
            return tuple(parse_words(folder.read_text("LOC_synset_mapping.txt")))
    return ()


_TABLES = (".csv", ".tsv", ".jsonl")
_IMAGE_WORDS = frozenset(
    (
        "file_name",
        "filename",
        "file",
        "path",
        "image",
        "image_path",
        "image_id",
        "img",
        "id",
        "name",
    )
)


def label_table(location: Location, names: Iterable[str]) -> tuple[str, str]:
    """Find a table with the classes of the images beside it.

    It ends in `.csv`, `.tsv` or `.jsonl`, and its first line names a column of labels, such as
    `label`, `class` or `wnid`, and one of the images' names, such as `file_name`, `image` or `id`,
    in any case. In `.jsonl` they are the keys of the first object.

    Args:
        location: The folder of the images.
        names: The names of the files directly in it, without folders; the first of them that is
            such a table counts.

    Returns:
        The name of the table and of its column of labels, as the table spells it; two empty texts
        without a table. Of several such columns, the surest is named: `label` before `target`.

    Raises:
        ReadError: A table is missing or cannot be read now.
        SourceError: A server does not report the size of a table.
    """
    for name in names:
        if name.lower().endswith(_TABLES):
            words = _table_columns(location, name)
            plain = {word.strip().lower(): word for word in words}
            label = next((plain[word] for word in LABEL_WORDS if word in plain), "")
            if label and _IMAGE_WORDS & plain.keys():
                return name, label
    return "", ""


def _table_columns(location: Location, name: str) -> list[str]:
    """Return the names of the columns of a table, from its first line; none without such a line."""
    stop = min(_HEAD_BYTES, location.size(name))
    with location.open(name, stop=stop) as file, as_read_error(location.full_path(name)):
        data = file.read(stop)
    try:
        line = next(iter(lines_of(decode_table(data, location.full_path(name), lenient=True))), "")
        if not name.lower().endswith(".jsonl"):
            return rows_of(line, location.full_path(name))[0][1]
        first = json.loads(line)
        return list(first) if isinstance(first, dict) else []
    except (SourceError, ValueError, IndexError, RecursionError):
        return []
