"""Writing a file of a run's folder whole or not at all, and saying why a disk took none."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from pipeline import confined
from pipeline.errors import TesseraeError
from pipeline.filesystem import sync_folder
from workflows.terminal.formatting import bytes_text
from workflows.training.errors import DiskFullError

NEW = ".new"
"""The ending of a file that is not whole yet."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No room on the disk, none left of a quota, and a file that is longer than files may be."""


class Whole:
    """A file that is being written, which notes the error of the system that a write met.

    Torch answers a failed write with an error of its own, which names neither file nor cause.
    """

    def __init__(self, raw: FileIO) -> None:
        """Write to *raw*."""
        self._raw = raw
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write all of *data*; the system may take a part at a time."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += self._raw.write(view[done:])
        except OSError as e:
            self.error = e
            raise
        return done

    def flush(self) -> None:
        """Do nothing: no byte is held back."""


@contextmanager
def replacing(file: Path, *, num_bytes: int) -> Iterator[Whole]:
    """Give a file to write, and put it in the place of *file*, durably, when the block ends.

    After an error *file* is what it was, and nothing else is left.

    Args:
        file: What is replaced.
        num_bytes: How long it will be, about: for what is said where there is no room.

    Raises:
        DiskFullError: There is no room for it.
    """
    new = file.with_suffix(NEW)
    whole = None
    if new.is_symlink():  # of a folder that somebody else made: what it leads to keeps its bytes
        new.unlink()
    try:
        with FileIO(new, "w", opener=_open_no_link) as raw:
            whole = Whole(raw)
            yield whole
            os.fsync(raw.fileno())
        new.replace(file)
        sync_folder(file.parent)
    except BaseException as e:
        new.unlink(missing_ok=True)
        error = e if whole is None or whole.error is None else whole.error
        if isinstance(error, OSError) and error.errno in FULL:
            raise full(file, error, num_bytes) from e
        raise


def full(file: Path, error: OSError, num_bytes: int) -> DiskFullError:
    """Return the error that says why *file* could not be written, and what to do.

    Args:
        file: The file that was to be written.
        error: The error of the system.
        num_bytes: How long the file would have been.
    """
    free = bytes_text(shutil.disk_usage(file.parent).free)
    why = {
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "files may not be so long here (`ulimit -f`)",
    }.get(error.errno or 0, f"{free} are free on its disk")
    return DiskFullError(
        f"{file} has no room: it needs {bytes_text(num_bytes)}, and {why}. Free some, or move the"
        " run's folder to a larger disk, and give the same command again: it goes on from the last"
        " checkpoint."
    )


def append(file: Path, data: bytes) -> None:
    """Add *data* at the end of *file*.

    Raises:
        TesseraeError: It is a link.
        DiskFullError: There is no room for it.
    """
    if file.is_symlink():
        raise TesseraeError(f"{file} is a link: nothing is written to where it leads. Remove it.")
    with FileIO(file, "a", opener=_open_no_link) as out:
        before = out.seek(0, os.SEEK_END)
        try:
            Whole(out).write(data)
        except OSError as e:
            out.truncate(before)  # half a line would spoil the one that comes next
            if e.errno not in FULL:
                raise
            raise full(file, e, len(data)) from e


def _open_no_link(path: str, flags: int) -> int:
    return confined.open_regular(Path(path), flags | os.O_NOFOLLOW)


def write(file: Path, data: bytes) -> None:
    """Replace *file* by *data*, durably.

    Raises:
        DiskFullError: There is no room for it.
    """
    with replacing(file, num_bytes=len(data)) as out:
        out.write(data)
