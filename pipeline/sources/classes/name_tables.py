"""The tables that people write about classes: names of each, or a list of some of them.

The id of a class may be anything, "n01440764" or "golf ball", and the cells of a line may lie
between tabs, semicolons, commas or spaces. Where the ids are known, the separator is the one by
which the most lines begin with an id; otherwise it is the first that every line has.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable

from pipeline.errors import SourceError
from pipeline.sources.text_tables import decode_table, lines_of, parse_words

SEPARATORS = "\t;, "
"""The separators that may lie between an id and what follows, the surest first."""


def parse_names(text: str, ids: Collection[str] = ()) -> dict[str, str]:
    """Read lines of an id and the names of its class.

    With *ids*, the separator (tab, semicolon, comma or space) is the one by which the most of them
    are found. Without, lines that begin with a wnid are read, if there are any; else the separator
    is the first of these that splits every line into an id of its own and names, or the space.

    Args:
        text: The table. Lines without names, and lines that begin with #, are skipped.
        ids: The ids that may occur (default: any); an id with spaces can only be read if it is one
            of them.

    Returns:
        The names of each id in the table, with a comma and a space between them, from its first
        line; ids that are not in *ids* may be among them. Where lines are read because they begin
        with a wnid, what follows it is returned as it is written, and the last line of a wnid
        counts.
    """
    lines = [line for line in lines_of(text) if line.strip() and not line.startswith("#")]
    known_ids = frozenset(ids)
    tables = {separator: _names_by_id(lines, separator, known_ids) for separator in SEPARATORS}
    if known_ids:
        # max() returns the first of equal tables: a tab is a surer separator than a space.
        return max(tables.values(), key=lambda table: len(known_ids & table.keys()))
    wnids = parse_words(text)
    if wnids:
        return {wnid: names for wnid, names in wnids.items() if names}
    return next((table for table in tables.values() if len(table) == len(lines)), tables[" "])


def _names_by_id(lines: Iterable[str], separator: str, ids: Collection[str]) -> dict[str, str]:
    """Return the names of each id, from lines of an id, the separator, and names."""
    table: dict[str, str] = {}
    for line in lines:
        key, names = _id_and_names(line, separator, ids)
        if key and names:
            table.setdefault(key, names)
    return table


def _id_and_names(line: str, separator: str, ids: Collection[str]) -> tuple[str, str]:
    if separator == " ":
        return _id_and_names_by_spaces(line, ids)
    try:
        key, *names = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    except (csv.Error, StopIteration, ValueError):  # a quote inside a cell, or an empty line
        key, *names = line.split(separator)
    return key.strip(), ", ".join(name.strip() for name in names if name.strip())


def _id_and_names_by_spaces(line: str, ids: Collection[str]) -> tuple[str, str]:
    """Split *line* at the first space, or behind the longest known id at its start."""
    words = line.split()
    for count in range(len(words) - 1, 1, -1):
        if (key := " ".join(words[:count])) in ids:
            return key, " ".join(words[count:])
    return words[0], " ".join(words[1:])


def parse_list(data: bytes, where: str, ids: Collection[str], key: str) -> list[str]:
    """Read a list of classes: one a line, where further cells are ignored, or JSON.

    Blank lines, and lines that begin with #, are skipped.

    Args:
        data: The content of the file.
        where: The name of the file, for messages.
        ids: The ids that are expected.
        key: The key of the list in a JSON object; unused if the document is a list.

    Returns:
        An entry for each line, in the order of the file, also if it repeats: the expected id that
        the line is, or that it begins with before a tab, semicolon, comma or space; of any other
        line its first cell, which ends at a tab, else at a semicolon, a comma or a space, whichever
        of these in this order the line has. Quotes are removed. A file that begins with `{` or `[`
        is JSON: all its entries as texts, expected or not.

    Raises:
        SourceError: The file is no text, or is JSON without a list of texts and integers.
    """
    text = decode_table(data, where).removeprefix("\ufeff")
    if text.lstrip()[:1] in ("{", "["):
        return _list_from_json(text, where, key)
    lines = (line.strip() for line in lines_of(text))
    return [
        _id_in_line(line, frozenset(ids)) for line in lines if line and not line.startswith("#")
    ]


def _list_from_json(text: str, where: str, key: str) -> list[str]:
    try:
        document = json.loads(text)
        names = document[key] if isinstance(document, dict) else document
        if isinstance(names, list) and all(isinstance(name, str | int) for name in names):
            return [str(name) for name in names]
    except (ValueError, KeyError, RecursionError):
        pass
    raise SourceError(f"{where} is not a JSON file with a list {key!r} of class ids.")


def _id_in_line(line: str, ids: Collection[str]) -> str:
    cells = [line, *(_id_and_names(line, separator, ids)[0] for separator in SEPARATORS)]
    matching_id = next(
        (cell for candidate in cells if (cell := candidate.strip("\"' ")) in ids), None
    )
    if matching_id is not None:
        return matching_id
    separator = next((candidate for candidate in "\t;," if candidate in line), " ")
    return _id_and_names(line, separator, ids)[0]
