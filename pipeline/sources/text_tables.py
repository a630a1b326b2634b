"""The parsing of text tables near the images, with any line end, separator or BOM.

Tables decide classes, so a byte that is no text is refused with its table and line, and never
replaced. Only words of classes, which are optional, are read as Latin-1 if they are no UTF-8.
"""

import codecs
import csv
import re

from pipeline.errors import SourceError
from pipeline.sources.keys import is_wnid

_MAX_SHOWN = 60
_LINE_END = re.compile(r"\r\n|\r|\n")
_WORDS = re.compile(r'[ \t]*"?(n[0-9]{8})"?(?:[ \t,;]+(.*))?', re.ASCII)
_ENCODINGS = (  # UTF-32 before UTF-16, whose byte order mark begins that of UTF-32
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

Rows = list[tuple[int, list[str]]]
"""The (number of the line, counted from 1; its cells) of the lines that are not blank."""


def decode_table(data: bytes, where: str, *, lenient: bool = False) -> str:
    """Decode a table by its byte order mark, which is removed, else as UTF-8.

    The marks of UTF-8, UTF-16 and UTF-32 are known; line ends are kept as they are.

    Args:
        data: The content of the file.
        where: The full name of the file, for a message.
        lenient: True to read text that has no mark and is no UTF-8 as Windows' Latin-1 (cp1252),
            for tables of words only: U+FFFD stands for bytes that it lacks, and zero bytes are
            kept. False refuses it (default).

    Raises:
        SourceError: A line is no text, or has a zero byte; the message has its number.
    """
    encoding = next((name for mark, name in _ENCODINGS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        if lenient and encoding == "utf-8":
            return data.decode("cp1252", "replace")
        line = len(_LINE_END.findall(data[: e.start].decode(encoding, "replace"))) + 1
        raise SourceError(
            f"{where}: line {line} is not {encoding.removesuffix('-sig').upper()} text"
            f" ({data[e.start : e.start + 8]!r}). Save the table as UTF-8."
        ) from None
    if "\0" in text:
        line = len(_LINE_END.findall(text[: text.index("\0")])) + 1
        raise SourceError(
            f"{where}: line {line} has a zero byte: it is not text, or UTF-16 without its byte"
            " order mark. Save the table as UTF-8."
        )
    return text


def lines_of(text: str) -> list[str]:
    """Split a text at the line ends of Unix, Windows and old Macs, and at nothing else.

    Args:
        text: The text, with or without a byte order mark, which is removed.

    Returns:
        The lines without their ends, blank ones included; the end of the last line begins no
        further one. Empty for an empty text.
    """
    lines = _LINE_END.split(text.removeprefix("\ufeff"))
    return lines[:-1] if lines[-1] == "" else lines


def rows_of(text: str, where: str) -> Rows:
    """Split a table into cells by the separator that its first line tells.

    It is the first of tab, semicolon and comma that occurs in the first line that is not blank,
    else the space.

    Args:
        text: The text of the table; cells may be quoted by ".
        where: The full name of the file, for messages.

    Returns:
        A list of pairs in the order of the lines: the number of the line, from 1, and the list of
        its cells as texts, without space around them, such as `(2, ["a.jpg", "n01440764"])`. Lines
        may have different numbers of cells; those without any text in them are left out. Where a
        quoted cell spans several lines, its line ends are lost, and the last line gives the number.

    Raises:
        SourceError: A quote is not closed, or a line cannot be split for another reason.
    """
    lines = lines_of(text)
    first = next((line for line in lines if line.strip()), "")
    separator = next((candidate for candidate in "\t;," if candidate in first), " ")
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    rows = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as e:
        raise SourceError(
            f"{where}: line {reader.line_num} cannot be split into cells ({e}): expected cells"
            f' between {separator!r}, quoted by " or not. Correct the line.'
        ) from e
    return rows


def quote_line(text: str) -> str:
    """Return a line in quotes for a message; of more than 60 characters, the first 57 and '...'.

    Args:
        text: The line, of which special characters are escaped as by `repr`.
    """
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}...")


def unquoted(cell: str) -> str:
    """Return a cell without space around it, and without the quotes that spreadsheets put there.

    Args:
        cell: The text between two separators; `""` inside quotes becomes `"`.
    """
    cell = cell.strip()
    if len(cell) >= 2 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"')
    return cell


def parse_words(text: str) -> dict[str, str]:
    """Read lines of a wnid, a space, tab, comma or semicolon, and words; skip other lines.

    Args:
        text: The text of the table. A wnid may stand in quotes, with spaces or tabs before it.

    Returns:
        The words by wnid, without space or quotes around them, '' for a line without words; of
        several lines of one wnid, the last one counts.
    """
    return dict(filter(None, map(parse_words_line, lines_of(text))))


def parse_words_line(line: str) -> tuple[str, str] | None:
    """Return the wnid and the words of a line; None where it begins with no wnid.

    Args:
        line: The line without its line end: a wnid, in double quotes or not, a space, tab, comma or
            semicolon, and words, which may be missing: then they are ''.
    """
    match = _WORDS.fullmatch(line)
    return (match[1], unquoted(match[2] or "")) if match else None


def parse_annotations(text: str, where: str = "val_annotations.txt") -> dict[str, str]:
    """Read Tiny-ImageNet's `val_annotations.txt`.

    Args:
        text: The text of the table: file name, tab, class, and further cells on each line. A table
            without tabs in its first line may have semicolons, commas or spaces in their place.
            There is no line of headings; blank lines are skipped.
        where: The name of the file, for messages (default: `val_annotations.txt`).

    Returns:
        The class by file name, both as they are written, without space or quotes around them.

    Raises:
        SourceError: A line has no class, or another one than an earlier line of the same file; or
            it cannot be split into cells.
    """
    classes: dict[str, str] = {}
    for number, cells in rows_of(text, where):
        name, wnid = (*cells, "")[:2]
        if not name or not wnid:
            raise SourceError(
                f"{where}: line {number} is {quote_line(' '.join(cells))}: expected a file's name"
                " and its class, with a tab between them. Correct the line."
            )
        if classes.setdefault(name, wnid) != wnid:
            raise SourceError(
                f"{where}: line {number} assigns {name!r} to class {wnid!r}, an earlier line to"
                f" {classes[name]!r}. Remove the wrong line."
            )
    return classes


def parse_solution(text: str, where: str) -> dict[str, str]:
    """Read Kaggle's `LOC_val_solution.csv`.

    Args:
        text: The text of the table, with the columns `ImageId` and `PredictionString`, in any order
            and case.
        where: The name of the file, for messages.

    Returns:
        The wnid, which is the first word of the prediction, by image name up to its first dot.

    Raises:
        SourceError: A column is missing, a line has no name or no wnid, or two lines of one image
            have different ones.
    """
    rows = rows_of(text, where)
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    missing = [name for name in ("ImageId", "PredictionString") if name.lower() not in header]
    if missing:
        first = next((line for line in lines_of(text) if line.strip()), "")
        raise SourceError(
            f"{where} has no column {missing[0]}: its first line is {quote_line(first)}, expected"
            " 'ImageId,PredictionString'. Download the table again."
        )
    image, prediction = header.index("imageid"), header.index("predictionstring")
    classes: dict[str, str] = {}
    for number, cells in rows[1:]:
        name = cells[image] if image < len(cells) else ""
        words = cells[prediction].split() if prediction < len(cells) else []
        if not name or not words or not is_wnid(words[0]):
            raise SourceError(
                f"{where}: line {number} is {quote_line(','.join(cells))}: expected an image's name"
                " and a prediction that begins with its class (n########). Download it again."
            )
        if classes.setdefault(name.partition(".")[0], words[0]) != words[0]:
            raise SourceError(
                f"{where}: line {number} assigns {name!r} to class {words[0]}, an earlier line to"
                " another. Download the table again."
            )
    return classes


def parse_numbers(text: str, where: str) -> list[int]:
    """Read a table of one number on each line.

    Args:
        text: The text of the table; blank lines at its end are ignored.
        where: The name of the file, for messages.

    Returns:
        The numbers, 0 or more, in the order of the lines; an empty list for an empty text.

    Raises:
        SourceError: A line is no number of at most nine digits; a blank line would shift all lines
            behind it.
    """
    lines = [line.strip() for line in lines_of(text)]
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not re.fullmatch(r"[0-9]{1,9}", line, re.ASCII):
            raise SourceError(
                f"{where}: line {number} is {quote_line(line)}: expected one number on each line."
                " Download the table again."
            )
    return [int(line) for line in lines]
