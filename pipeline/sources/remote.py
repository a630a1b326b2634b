"""The files behind fsspec, read by exact byte ranges."""

import io
from typing import Any

from pipeline.errors import ReadError
from pipeline.sources.read_errors import as_remote_read_error

STREAM_BYTES = 8 << 20
"""The number of bytes in one request when a remote file is read from front to back."""


class RangeFile(io.RawIOBase):
    """The bytes [start, stop) of a remote file; each read is exactly one request, nothing ahead."""

    def __init__(self, filesystem: Any, path: str, name: str, start: int, stop: int) -> None:
        self._filesystem = filesystem
        self._path = path
        self._name = name
        self._at = start
        self._stop = stop

    def readable(self) -> bool:
        """Return True: the file is open for reading."""
        return True

    def seekable(self) -> bool:
        """Return True: a seek costs nothing."""
        return True

    def tell(self) -> int:
        """Return the position in the whole file."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another position without a request; return the position in the whole file.

        Args:
            offset: The number of bytes to move. A position outside of the range is not refused
                here; behind its end, a read returns nothing.
            whence: The origin of *offset*: `io.SEEK_SET`, the beginning of the whole file
                (default), `io.SEEK_CUR`, or `io.SEEK_END`, the end of the range.
        """
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._stop}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill memory with the bytes at the position, with one request; return their number.

        The position moves behind them. At the end of the range, 0 is returned without a request.

        Args:
            buffer: Writable memory of bytes, such as a bytearray; it is filled completely unless
                the range ends first.

        Raises:
            ReadError: The request failed, or the server sent another number of bytes.
        """
        num_bytes = max(0, min(len(buffer), self._stop - self._at))
        if not num_bytes:
            return 0
        with as_remote_read_error(self._name):
            piece = self._filesystem.cat_file(self._path, start=self._at, end=self._at + num_bytes)
        # A server without ranges sends the whole file, which would pass for the requested bytes.
        if len(piece) != num_bytes:
            raise ReadError(
                f"cannot read {self._name}: requested {num_bytes} bytes at {self._at}, got"
                f" {len(piece)}. Its server may not serve byte ranges, or the file changed."
            )
        buffer[:num_bytes] = piece
        self._at += num_bytes
        return num_bytes
