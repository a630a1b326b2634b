"""The tables beside the images that say which class a number stands for.

`classes.txt` has a name on each line, or a wnid and its words, or the number and the name;
`LOC_synset_mapping.txt` has a wnid and its words. The first line is number 0.
"""

import re

from pipeline.errors import SourceError
from pipeline.sources.classes.class_table import ClassTable
from pipeline.sources.location import Location
from pipeline.sources.nearby_tables import find_class_names
from pipeline.sources.text_tables import lines_of, parse_words_line, quote_line

CLASSES = "classes.txt"
MAPPING = "LOC_synset_mapping.txt"
_NUMBERED = re.compile(r"([0-9]+)[ \t:,]+(\S.*)", re.ASCII)


def find_class_table(location: Location) -> ClassTable | None:
    """Return the table of numbered classes at *location* or in the folder above it.

    Args:
        location: The folder of the source, with the options by which it is read. Its own tables
            take precedence over those of the folder above, and in each, `classes.txt` over
            `LOC_synset_mapping.txt`.

    Returns:
        A `ClassTable` with the `names` of number 0, 1, ..., and their `words` if the table has
        some; None if there is no such table, or if the first one that exists is empty.

    Raises:
        ReadError: The table cannot be read.
        SourceError: The table is no text, or numbers its classes ambiguously.
    """
    if location.options.rules == 1:
        names = find_class_names(location.root)
        return ClassTable(names, "a table beside the images", strict=False) if names else None
    for folder in (Location(location.root), Location(location.root).parent()):
        if folder.is_file(CLASSES):
            return parse_class_table(folder.read_text(CLASSES), folder.full_path(CLASSES))
        if folder.is_file(MAPPING):
            return parse_mapping(folder.read_text(MAPPING, lenient=True), folder.full_path(MAPPING))
    return None


def table_marks(location: Location) -> list[str]:
    """Return texts that change when the tables that `find_class_table` reads do.

    Args:
        location: The folder of the source, with the options by which it is read.

    Returns:
        For each table there and in the folder above the folder, a tab and `Location.mark` of the
        table: on a disk its name, size and time, on a server what it tells of the file. Empty
        without tables, and where the options' `rules` is 1.

    Raises:
        ReadError: The server of a remote location failed.
    """
    if location.options.rules == 1:
        return []
    folders = (Location(location.root), Location(location.root).parent())
    return [
        f"{folder.root}\t{folder.mark(name)}"
        for folder in folders
        for name in (CLASSES, MAPPING)
        if folder.is_file(name)
    ]


def parse_class_table(text: str, where: str) -> ClassTable | None:
    """Read the text of a `classes.txt`; return None where it is empty.

    Args:
        text: The lines: a name, or a wnid and words; or on every line a number, a space, tab, colon
            or comma, and either of them. In a table of a single line only 0 is such a number. Blank
            lines at the end are ignored.
        where: The name of the file, for messages.

    Returns:
        A `ClassTable`: `names`, whose entry 0, 1, ... is that of line 1, 2, ..., and the `words` of
        each ('' without any), which are empty if no line has some.

    Raises:
        SourceError: A line is blank, or the numbers of the lines are not 0, 1, 2 and so on.
    """
    lines = _table_lines(text, where)
    if not lines:
        return None
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if all(numbered) and (len(lines) > 1 or lines[0].startswith("0")):
        lines = _without_numbers([(int(match[1]), match[2]) for match in numbered if match], where)
    pairs = [_name_and_words(line) for line in lines]
    words = tuple(words for _, words in pairs)
    return ClassTable(tuple(name for name, _ in pairs), where, words if any(words) else ())


def _without_numbers(pairs: list[tuple[int, str]], where: str) -> list[str]:
    """Return the names in lines that begin with their number."""
    for expected, (number, _) in enumerate(pairs):
        if number != expected:
            raise SourceError(
                f"{where} begins each line with a number, and line {expected + 1} with {number}:"
                f" expected {expected}, since numbers count from 0. Write the names alone, the one"
                " of number 0 first."
            )
    return [name for _, name in pairs]


def _name_and_words(line: str) -> tuple[str, str]:
    """Return name and words of a line: the words behind a wnid, none behind another name."""
    return parse_words_line(line) or (line, "")


def parse_mapping(text: str, where: str) -> ClassTable | None:
    """Read the text of a `LOC_synset_mapping.txt`; return None where it is empty.

    Args:
        text: The lines: a wnid, a space or tab, and words. The first one has the number 0.
        where: The name of the file, for messages.

    Returns:
        A `ClassTable` with the wnids as `names` and the `words` of each; labels that are other
        names are not refused by it (`strict` is False).

    Raises:
        SourceError: A line is blank, has no wnid, or one that another line has.
    """
    line_of: dict[str, int] = {}
    words = []
    for number, line in enumerate(_table_lines(text, where), 1):
        pair = parse_words_line(line)
        if pair is None:
            raise SourceError(
                f"{where}: line {number} is {quote_line(line)}: expected a wnid (n########) and"
                " words, as on the other lines, since the numbers of classes count the lines."
            )
        wnid, text_of_class = pair
        if wnid in line_of:
            raise SourceError(
                f"{where}: the lines {line_of[wnid]} and {number} are both {wnid}. Remove the one"
                " that is wrong: the numbers of classes count the lines."
            )
        line_of[wnid] = number
        words.append(text_of_class)
    return ClassTable(tuple(line_of), where, tuple(words), strict=False) if line_of else None


def _table_lines(text: str, where: str) -> list[str]:
    """Return the lines without the blank ones at the end."""
    lines = [line.strip() for line in lines_of(text)]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise SourceError(
            f"{where}: line {lines.index('') + 1} is blank, and the numbers of classes count the"
            " lines. Remove it, or write the missing name."
        )
    return lines
