"""Files for Arrow, opened so that no thread of Arrow ever owns a Python object.

Arrow's threads are not joined when the interpreter exits. A thread that then drops the last
reference to a Python object, such as a file or the bytes that a read returned, waits for the GIL,
is ended by the interpreter in the middle of a C++ destructor, and aborts the process ("terminate
called without an active exception"), although all work was done. So Arrow itself opens files on a
disk, the bytes of other files are copied to memory that Arrow owns, and reads stay in the calling
thread.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


def open_for_arrow(file: BinaryIO) -> pa.NativeFile:
    """Return an Arrow file that reads *file* and takes ownership of it.

    Args:
        file: A binary file that is open for reading, at its beginning: a buffered file on a disk,
            which is closed at once, or any other, such as `io.BytesIO`, which the `close` of the
            result closes. The caller must not use it any more.

    Returns:
        A seekable file for Arrow's readers, positioned at its beginning, which the caller closes.

    Raises:
        OSError: The file cannot be opened again.
    """
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
        with file:
            return pa.OSFile(f"/dev/fd/{file.fileno()}")
    return pa.PythonFile(_ArrowMemoryReader(file), mode="r")


def open_parquet(source: BinaryIO | bytes) -> pq.ParquetFile:
    """Open a Parquet file that reads its columns on demand, one after the other.

    Only the footer is read now. Callers must pass `use_threads=False` to the methods that read;
    otherwise Arrow's threads read the file.

    Args:
        source: A binary file that is open for reading, at its beginning, of which the result takes
            ownership: the caller must not use it any more. Or all bytes of a file, which are
            copied. A path is not accepted.

    Returns:
        The open file, such as for `read(use_threads=False)`. A buffered file on a disk is read
        through a descriptor of Arrow's own, which is closed when the result is freed; of another
        file only a reference is kept, which `close(force=True)` closes.

    Raises:
        pyarrow.ArrowInvalid: The source is not a Parquet file.
        OSError: The file cannot be read, or its footer is damaged.
    """
    if isinstance(source, bytes):
        return pq.ParquetFile(pa.BufferReader(_arrow_owned(source)), pre_buffer=False)
    return pq.ParquetFile(open_for_arrow(source), pre_buffer=False)


def _arrow_owned(data: bytes) -> pa.Buffer:
    """Return a copy of *data* in memory that is freed without the GIL."""
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return buffer


class _ArrowMemoryReader:
    """A Python file that is read into memory owned by Arrow."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read_buffer(self, num_bytes: int = -1) -> pa.Buffer:
        """Read like `read`; Arrow calls this method instead if it exists."""
        return _arrow_owned(self._file.read(num_bytes))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
