"""The errors of reading a source, turned into `ReadError` with the name of the file."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ReadError, SourceError
from pipeline.installation import missing_filesystem


@contextmanager
def as_read_error(path: str) -> Iterator[None]:
    """Turn any OSError inside the block into a `ReadError` that names a file.

    A `ReadError`, a `SourceError` and errors of other types pass unchanged.

    Args:
        path: The full name of the file, for the message; nothing is opened.

    Yields:
        None; nothing is done at the end of a block without an error.
    """
    try:
        yield
    except (ReadError, SourceError):  # already final: nested blocks must not wrap it again
        raise
    except OSError as e:
        raise ReadError(f"cannot read {path}: {e.strerror or e}") from e


@contextmanager
def as_remote_read_error(path: str) -> Iterator[None]:
    """Turn any error of fsspec's clients inside the block into a `ReadError` that names a file.

    That is any `Exception`, of whatever type, except a `ReadError` and a `SourceError`, which pass
    unchanged.

    Args:
        path: The URL of the file, for the message; nothing is opened.

    Yields:
        None; nothing is done at the end of a block without an error.
    """
    try:
        yield
    except (ReadError, SourceError):  # already final: nested blocks must not wrap it again
        raise
    except ImportError as e:
        raise ReadError(f"cannot read {path}: {missing_filesystem(e)}") from e
    except Exception as e:
        raise ReadError(f"cannot read {path}: {type(e).__name__}: {e}") from e
