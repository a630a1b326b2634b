"""The data sets of other tools, which are not read, but named where no images are found.

Their suffix tells them, else their first bytes. `docs/sources.md` says how their images become
what is read.
"""

import re
from collections.abc import Iterator
from itertools import islice

from pipeline.errors import ReadError, SourceError
from pipeline.sources.content import CONVERTED, FFCV, LMDB, MDS, TFRECORD, content_of, is_tfrecord
from pipeline.sources.location import Location

_MAX_FILES = 200
"""The maximum number of files that are examined; one of a kind is enough to name it."""
_MAX_FOLDERS = 20
_SUFFIXES = (
    (TFRECORD, re.compile(r"\.(tfrecords?|tfrec)\b", re.IGNORECASE)),
    (MDS, re.compile(r"\.mds(\.|$)", re.IGNORECASE)),
    (FFCV, re.compile(r"\.beton$", re.IGNORECASE)),
    (LMDB, re.compile(r"\.(lmdb|mdb)$", re.IGNORECASE)),
    ("HDF5", re.compile(r"\.(h5|hdf5?|he5)$", re.IGNORECASE)),
    ("Arrow", re.compile(r"\.(arrow|feather)$", re.IGNORECASE)),
    ("NumPy", re.compile(r"\.np[yz]$", re.IGNORECASE)),
    ("RecordIO", re.compile(r"\.rec$", re.IGNORECASE)),
)


def other_tool_format(location: Location, path: str) -> str:
    """Return which data set of another tool a file is; '' for any other file.

    The suffix decides, else the first bytes.

    Args:
        location: The folder of the file.
        path: The path of the file in that folder, which is read only if its suffix tells no format;
            '' is returned if that fails.

    Returns:
        `TFRecord`, `MDS`, `FFCV`, `LMDB`, `HDF5`, `Arrow`, `NumPy`, `MATLAB`, `SQLite` or
        `RecordIO`; or ''.
    """
    name = path.rpartition("/")[2]
    kind_of_name = next((kind for kind, suffix in _SUFFIXES if suffix.search(name)), "")
    if kind_of_name:
        return kind_of_name
    try:
        # A read of a pipe would wait forever, and a broken link cannot be read.
        if not location.remote and not location.is_file(path):
            return ""
        head = location.head(path)
    except (ReadError, SourceError):
        return ""  # this file only adds to a message about another error
    content = content_of(head)
    if content in CONVERTED:
        return content
    return TFRECORD if is_tfrecord(head) else ""


def other_tool_text(location: Location) -> str:
    """Return a text for the user on data sets of other tools, and on how to convert them.

    Args:
        location: The folder that the user named. The first 200 files in it and in the first folders
            one and two levels down, about 20 in all, are examined. Folders that cannot be read are
            skipped.

    Returns:
        Two or more sentences for each such format; empty if no such data set is seen.
    """
    paths_of_kind: dict[str, list[str]] = {}
    for path in islice(_files_to_examine(location), _MAX_FILES):
        if kind := other_tool_format(location, path):
            paths_of_kind.setdefault(kind, []).append(path)
    return " ".join(_unsupported_text(kind, paths) for kind, paths in paths_of_kind.items())


def _unsupported_text(kind: str, paths: list[str]) -> str:
    phrase, advice = CONVERTED[kind]
    # The number of files is unknown, since not all were examined.
    more_text = ", and there are more" if len(paths) > 1 else ""
    return f"{paths[0]!r} is {phrase}, which is not supported{more_text}. {advice}"


def _files_to_examine(location: Location) -> Iterator[str]:
    """Yield the files at *location*, and in folders one and two levels down."""
    waiting = [""]
    for folder in waiting:  # grows
        prefix = f"{folder}/" if folder else ""
        try:
            names = location.names(folder)
        except (ReadError, SourceError):
            continue
        yield from (prefix + name for name in names.files)
        if folder.count("/") < 1:
            waiting += [prefix + name for name in names.folders[: _MAX_FOLDERS - len(waiting)]]
