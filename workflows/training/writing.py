"""Atomic and durable writes in a run folder, with an explanation when the disk is full."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from pipeline import confined, filesystem
from pipeline.errors import TesseraeError
from workflows.terminal.formatting import bytes_text
from workflows.training.errors import DiskFullError

TEMPORARY_SUFFIX = ".new"
"""The suffix of a file that is still being written."""
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a full disk, an exhausted quota and a file above the size limit."""


class RecordingFile:
    """A file opened for writing that records the system's error when a write fails.

    Torch replaces such an error with its own, which names neither the file nor the cause.
    """

    def __init__(self, raw: BinaryIO) -> None:
        """Wrap *raw*, which may write a part of what it is passed."""
        self._raw = raw
        self.error: OSError | None = None
        """The system's error of a write that failed; None if none did."""

    def write(self, data: bytes | memoryview) -> int:
        """Write all of *data*, in as many system calls as that takes.

        Args:
            data: Bytes, or a C-contiguous view of at least one item, of any type.

        Returns:
            The length of *data* in bytes.

        Raises:
            OSError: A call has failed; the error is recorded in `error` too. A part may have been
                written.
        """
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
        """Do nothing: the file is flushed when it is complete."""


@contextmanager
def replacing_run_file(file: Path, *, num_bytes: int) -> Iterator[RecordingFile]:
    """Open a new file inside the block, which replaces *file*, durably, when the block ends.

    After an error *file* is unchanged and the new file is removed. Until then the new file has the
    name of *file* with the suffix `.new` in place of its own, so that there must be one writer at a
    time.

    Args:
        file: Path of the file to replace, which need not exist, in a folder that does.
        num_bytes: Approximate length of the new file, for the error message of a full disk.

    Yields:
        The new file, open for writing. It has the methods `write` and `flush` only, and is closed
        when the block ends.

    Raises:
        DiskFullError: The disk has no room for it.
        OSError: It cannot be written for another reason.
    """
    recording = None
    try:
        # A name that the run folder knows, so that it can remove what a killed command left.
        with filesystem.replacing(
            file, durable=True, temporary=file.with_suffix(TEMPORARY_SUFFIX)
        ) as raw:
            recording = RecordingFile(raw)
            yield recording
    except BaseException as e:
        # Torch's own error hides the system's, which alone tells a full disk from other faults.
        error = e if recording is None or recording.error is None else recording.error
        if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
            raise run_disk_full_error(file, error, num_bytes) from e
        raise


def run_disk_full_error(file: Path, error: OSError, num_bytes: int) -> DiskFullError:
    """Return the error for a write of *file* that failed for lack of room, with how to recover.

    The caller raises it.

    Args:
        file: The file that was to be written, in a folder that exists.
        error: The system's error; a full disk, an exhausted quota and the limit of a file's size
            are told apart by its `errno`.
        num_bytes: Length in bytes that the file would have had.
    """
    free = bytes_text(shutil.disk_usage(file.parent).free)
    cause = {
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file size limit is reached (`ulimit -f`)",
    }.get(error.errno or 0, f"{free} are free on the disk")
    return DiskFullError(
        f"cannot write {file}: it needs {bytes_text(num_bytes)}, and {cause}. Free some space, or"
        " move the run folder to a larger disk, and run the same command again: it continues"
        " from what is saved."
    )


def append(file: Path, data: bytes) -> None:
    """Append *data* to *file*, which is created if it is missing, in a folder that exists.

    After an error the file has its former length. Unlike `write` it does not wait until the data
    are on the disk.

    Args:
        file: Path of the file.
        data: The bytes to append, such as a line with its newline.

    Raises:
        TesseraeError: It is a symbolic link or a device, or a pipe that a process reads.
        DiskFullError: The disk has no room for it.
        OSError: It cannot be written for another reason.
    """
    if file.is_symlink():
        raise TesseraeError(
            f"{file} is a symbolic link, which is not followed for writing. Remove it."
        )
    with FileIO(file, "a", opener=_open_run_file) as out:
        before = out.seek(0, os.SEEK_END)
        try:
            RecordingFile(out).write(data)
        except OSError as e:
            out.truncate(before)  # half a line would corrupt the next one
            if e.errno not in DISK_FULL_ERRNOS:
                raise
            raise run_disk_full_error(file, e, len(data)) from e


def _open_run_file(path: str, flags: int) -> int:
    return confined.open_regular(Path(path), flags | os.O_NOFOLLOW)


def write(file: Path, data: bytes) -> None:
    """Replace the content of *file* by *data*, atomically and durably.

    Until it is complete the new file has the name of *file* with the suffix `.new` in place of its
    own, so that there must be one writer at a time. After an error *file* is unchanged. A symbolic
    link is replaced itself, not the file that it leads to.

    Args:
        file: Path of the file, which need not exist, in a folder that does.
        data: The whole new content.

    Raises:
        DiskFullError: The disk has no room for it.
        OSError: It cannot be written for another reason.
    """
    with replacing_run_file(file, num_bytes=len(data)) as out:
        out.write(data)
