"""The class in a key: how names in tables, labels and folders are written there."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from pipeline.errors import SourceError
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions

UNLABELLED = "-"
"""The class part of the key of a sample that has no class."""


MAX_LISTED = 5
"""The maximum number of classes, names or samples in a message; '...' stands for the others."""


_NUMERAL = re.compile(r"[0-9]+", re.ASCII)


_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


def clean_name(name: str) -> str:
    """Return a name in the form that is compared: Unicode NFC, no white space or BOM around it.

    White space is removed before byte order marks (U+FEFF), so that it stays between one and the
    name.

    Args:
        name: A name of a class in a table or label.
    """
    return unicodedata.normalize("NFC", name).strip().strip("\ufeff")


def class_id(name: str) -> str:
    """Return a name as the class in a key: no slash, no control character, not '.' or '..'.

    White space around it is removed, and the text is in Unicode NFC.

    Args:
        name: A name of a class in a table or label; a slash becomes `_`, a control character of
            ASCII a space, and `.` and `..` get a `_` at their end. An empty name stays empty.
    """
    text = _UNSAFE.sub(" ", clean_name(name).replace("/", "_"))
    return f"{text}_" if text in (".", "..") else text


def is_numeral(text: str) -> bool:
    """Return True if a text consists of decimal digits only, such as `07`; not `-1` or `1.0`.

    Args:
        text: Any text; only ASCII digits count, and the empty text is no number.
    """
    return _NUMERAL.fullmatch(text) is not None


def abbreviate(texts: Iterable[str], limit: int = MAX_LISTED) -> str:
    """Return the first of several texts as one text, with commas between them, for a message.

    Args:
        texts: The texts, which are all read; of none, the result is empty.
        limit: The maximum number of texts that are shown; '...' stands for the others (default: 5).
    """
    items = list(texts)
    return ", ".join(items[:limit]) + (", ..." if len(items) > limit else "")


def split_nested_path(folders: Sequence[str], name: str, recursive: str) -> tuple[str, str]:
    """Return the class, and the name in the class, of a file in nested folders.

    Args:
        folders: The folders from the outermost to the innermost, at least one.
        name: The name of the file.
        recursive: The folder that is the class, `first` or `last`; the others become a part of the
            name, so that files of one name in several folders stay apart.

    Returns:
        The class, and the name: of `a/b/x.jpg`, `a` and `b__x.jpg` for `first`, `b` and `a__x.jpg`
        for `last`.

    Raises:
        SourceError: The folder of the class is called `-`.
    """
    first = recursive == "first"
    other_folders = folders[1:] if first else folders[:-1]
    return folder_class(folders[0 if first else -1]), "__".join([*other_folders, name])


def folder_class(folder: str, options: SourceOptions = DEFAULT_OPTIONS) -> str:
    """Return the class of a folder: its name in composed characters (Unicode NFC).

    Args:
        folder: The name of the folder, without its parents.
        options: The options by which the source is read; where its `rules` is 1, any name is
            returned as it is.

    Raises:
        SourceError: The name is the sign for samples without a class, `-`.
    """
    if options.rules == 1:  # their keys are those of the disk, in whatever composition
        return folder
    if folder == UNLABELLED:
        raise SourceError(
            f"a class folder is called {folder!r}, which stands for samples without a class."
            " Rename it."
        )
    return unicodedata.normalize("NFC", folder)


def named_class(name: str) -> str:
    """Return the class that `--class-name` names, in composed characters (Unicode NFC).

    Args:
        name: The name; `-`, which is `UNLABELLED`, stands for no class and is returned as it is.
            White space stays, and a slash is not refused here.
    """
    return name if name == UNLABELLED else folder_class(name)
