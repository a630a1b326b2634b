"""The opening of archives for walking; the first bytes decide the format."""

import io
from typing import BinaryIO, cast

from pipeline.errors import SourceError
from pipeline.sources.archives.compression import decompressed
from pipeline.sources.archives.tar import Tar
from pipeline.sources.archives.zip import Zip
from pipeline.sources.content import (
    COMPRESSIONS,
    HEAD_BYTES,
    TAR,
    UNKNOWN,
    ZIP,
    advice_on_content,
    content_of,
    description_of,
)
from pipeline.sources.location import Location
from pipeline.sources.read_errors import as_read_error
from pipeline.sources.remote import STREAM_BYTES


def is_streamed(location: Location, path: str) -> bool:
    """Return True if an archive must be read as a stream: it is compressed or a zip.

    A plain tar, and any file that is no archive, give False. The first bytes decide, not the name;
    they are cached in *location*.

    Args:
        location: The folder of the archive.
        path: The path of the archive in that folder.

    Raises:
        ReadError: The file cannot be read.
        SourceError: A server does not report its size.
    """
    return content_of(location.head(path)) in (*COMPRESSIONS, ZIP)


def open_tar(location: Location, path: str, *, start: int = 0, stop: int | None = None) -> Tar:
    """Open an archive for walking: at random if it is plain and local, else as a stream.

    Args:
        location: The folder of the archive.
        path: The path in that folder. Its suffix may be wrong: the first bytes decide the format.
        start: The first byte of a plain remote tar that will be read, a header's; its format is
            then not examined (default: 0). A local archive is opened at its start in any case.
        stop: The end of the bytes that are fetched from a remote server; None: all (default).

    Returns:
        The open archive, a `Zip` for a zip. It is a context manager whose end closes the file; the
        caller enters it.

    Raises:
        ReadError: The file is missing or cannot be read.
        SourceError: The file is known to be something else, such as a page of HTML, or is empty; or
            it is a zip that is not whole, or a server does not report its size. A file of unknown
            content, such as an image, is opened: only the walk over its `members` refuses it.
    """
    name = location.full_path(path)
    # Stores of listing rules 1 ended at the first closing zeros; their listing must not change.
    past_end = location.options.rules > 1
    if not location.remote:
        head = location.head(path)
        if content_of(head) == ZIP:
            return Zip(location.open(path), name)
        if content_of(head) not in COMPRESSIONS:
            _check_is_tar(head, name)
            return Tar(
                location.open(path), name, location.size(path), can_seek=True, past_end=past_end
            )
    # A stream is read in large pieces, as the walk reads headers of 512 bytes.
    raw = location.open(path, start=start, stop=stop)
    stream = io.BufferedReader(cast("io.RawIOBase", raw), STREAM_BYTES)
    if start == 0:  # a later start lies inside a plain tar, whose headers were read before
        with as_read_error(name):
            head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
        if content_of(head) in COMPRESSIONS:
            plain = decompressed(cast("BinaryIO", stream), content_of(head))
            return Tar(plain, name, past_end=past_end)
        if content_of(head) == ZIP:
            return Zip(cast("BinaryIO", stream), name)
        _check_is_tar(head, name)
    return Tar(cast("BinaryIO", stream), name, past_end=past_end).at_offset(start)


def check_archive(location: Location, path: str) -> None:
    """Refuse a file whose first bytes are those of no archive, before other archives are read.

    A compressed archive, a zip, a plain tar and a file of unknown content are accepted.

    Args:
        location: The folder of the archive.
        path: The path of the archive in that folder.

    Raises:
        ReadError: The file is missing or cannot be read.
        SourceError: The file is something else, such as a page of HTML, or it is empty; or a server
            does not report its size.
    """
    if not is_streamed(location, path):
        _check_is_tar(location.head(path), location.full_path(path))


def _check_is_tar(head: bytes, name: str) -> None:
    """Refuse a file that begins with *head* and is known to be something else than a tar.

    Raises:
        SourceError: The file is something else; the message says what.
    """
    if content_of(head) not in (TAR, UNKNOWN):
        raise SourceError(
            f"{name} is not a tar: it is {description_of(head)}. {advice_on_content(head)}"
        )
