"""Files for Arrow to read, such that no thread of Arrow's ever holds an object of Python's.

Arrow's threads are not joined when the interpreter ends. One that then drops the last reference to
a Python object, be it a file or the bytes that a read returned, waits for the GIL, is ended by the
interpreter in the middle of a C++ destructor, and aborts the process ("terminate called without an
active exception"), though all work was done. So files on a disk are opened by Arrow itself; what
others deliver is copied to memory that Arrow owns; and reads stay in the thread that asks for them.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


def open_for_arrow(file: BinaryIO) -> pa.NativeFile:
    """Hand *file* over to Arrow.

    Args:
        file: A file that is open for reading; it is closed with what is returned, or before.
    """
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
        with file:
            return pa.OSFile(f"/dev/fd/{file.fileno()}")
    return pa.PythonFile(_ArrowMemoryReader(file), mode="r")


def open_parquet(source: BinaryIO | bytes) -> pq.ParquetFile:
    """Open a Parquet file whose columns are read when they are asked for, one after the other.

    Callers pass `use_threads=False` to the methods that read: otherwise threads of Arrow's call
    the file.

    Args:
        source: A file that is open for reading, or all of its bytes.
    """
    if isinstance(source, bytes):
        return pq.ParquetFile(pa.BufferReader(_arrow_owned(source)), pre_buffer=False)
    return pq.ParquetFile(open_for_arrow(source), pre_buffer=False)


def _arrow_owned(data: bytes) -> pa.Buffer:
    """Copy *data* to memory that is freed without the GIL."""
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return buffer


class _ArrowMemoryReader:
    """A file of Python's, read into memory that Arrow owns."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read_buffer(self, num_bytes: int = -1) -> pa.Buffer:
        """Read as `read` does; Arrow calls this instead of it wherever there is one."""
        return _arrow_owned(self._file.read(num_bytes))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
