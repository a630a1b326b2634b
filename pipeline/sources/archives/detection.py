"""The detection of archives: which files of a source are archives, and of which kind.

The content decides. The name only selects the files to examine: those with the suffix of an
archive, and, where there are none, those of unknown suffix. A file with the suffix of an archive
and other content counts as that archive, so that opening it raises an error that names the content.
"""

from pipeline.sources.archives.compression import BrokenCompressionError, decompressed
from pipeline.sources.archives.tar import is_tar
from pipeline.sources.content import (
    COMPRESSIONS,
    HEAD_BYTES,
    PARQUET,
    TAR,
    ZIP,
    content_of,
)
from pipeline.sources.keys import looks_like_image, may_be_image
from pipeline.sources.location import Location
from pipeline.sources.read_errors import as_read_error

_BARE = (".gz", ".bz2", ".xz", ".zst")
_MAX_UNKNOWN_FILES = 1000
"""The maximum number of files of unknown suffix in a folder for each of them to be examined."""


def container_of_file(location: Location, path: str) -> str:
    """Return which kind of archive or table a file is: by its content, or by its name if remote.

    The content is read of a single file that is the source, and in a local folder of files with the
    suffix of an archive, and of files of unknown suffix where no archive lies beside them. A file
    with the suffix of an archive and other content counts as what its suffix says. In a remote
    folder only the suffix counts, and the file need not exist.

    Args:
        location: The folder of the source.
        path: The path of the file in that folder.

    Returns:
        `tar` (compressed or not), `zip` or `Parquet`; '' for any other file. The result is cached
        in *location*.

    Raises:
        ReadError: The file or its folder cannot be read.
        SourceError: A link in its folder leads back to itself, or a server does not report its
            size.
    """
    return str(location.cached(("container", path), lambda: _detect_container(location, path)))


def _detect_container(location: Location, path: str) -> str:
    kind_of_name = _container_by_name(path)
    if location.remote and not location.only_file:
        return kind_of_name  # to read the content is one request for each of many files
    if not kind_of_name and not location.only_file and not _may_be_archive(location, path):
        return ""
    content = content_of(location.head(path))
    if content in COMPRESSIONS:
        inner = content_of(inner_head(location, path))
        return inner if inner == TAR else kind_of_name
    return content if content in (TAR, ZIP, PARQUET) else kind_of_name


def _container_by_name(path: str) -> str:
    name = path.lower()
    if is_tar(name):
        return TAR
    return PARQUET if name.endswith(".parquet") else ZIP if name.endswith(".zip") else ""


def _may_be_archive(location: Location, path: str) -> bool:
    folder, _, name = path.rpartition("/")
    if name.lower().endswith(_BARE):
        return True
    if looks_like_image(name) or not may_be_image(name):
        return False
    files = location.names(folder).files
    # Beside archives of known suffix, `x.tar.old` or `x.tar.part` is no archive of the source.
    is_candidate = len(files) <= _MAX_UNKNOWN_FILES and not any(map(_container_by_name, files))
    return is_candidate and location.is_file(path)  # a link that leads nowhere or a pipe is none


def inner_head(location: Location, path: str) -> bytes:
    """Return the first decompressed bytes of a compressed file; the result is cached in *location*.

    Args:
        location: The folder of the source.
        path: The path of the file in that folder, one of a compressed kind.

    Returns:
        Up to 1,024 bytes; empty if the compression is broken, or if the file is not compressed.

    Raises:
        ReadError: The file cannot be read.
        SourceError: A server does not report its size.
    """

    def read_inner_head() -> bytes:
        content = content_of(location.head(path))
        with location.open(path) as file, as_read_error(location.full_path(path)):
            try:
                return decompressed(file, content).read(HEAD_BYTES)
            except BrokenCompressionError:
                return b""

    data: bytes = location.cached(("inner head", path), read_inner_head)
    return data
