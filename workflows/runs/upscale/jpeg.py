"""A JPEG file that is written by strips, each of which Pillow compresses.

The strips have the same tables and a restart marker after each row of blocks, where a decoder
begins anew. Their compressed rows therefore follow each other in one file, under the header of the
first strip with the height of the whole image. A decoder counts the markers modulo 8, so that each
strip but the last has a multiple of 8 rows of blocks.
"""

from __future__ import annotations

import io
import struct
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.encode import MAX_JPEG_SIDE

MAX_SIDE = MAX_JPEG_SIDE
"""The largest side of an image that can be written, in pixels."""
QUALITY = 95
"""The quality of the compression, without subsampling of colours."""
STRIP_ROWS = 64
"""The unit of a strip's height: 8 rows of blocks of 8 pixels."""
_START_OF_FRAME, _START_OF_SCAN = 0xC0, 0xDA
_LAST_RESTART = b"\xff\xd7"
_END = b"\xff\xd9"


class JpegWriter:
    """A writer of one JPEG file, to use in a `with` block, whose end completes the file.

    The file is not completed if an exception ends the block.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: tuple[int, int],
        channels: int,
        *,
        profile: bytes | None = None,
        exif: bytes | None = None,
    ) -> None:
        """Write nothing yet.

        Args:
            file: The empty file, open for writing.
            size: The width and the height in pixels, 1 to `MAX_SIDE`.
            channels: Number of channels: 1 grey, 3 RGB.
            profile: The ICC profile of the colours (default: none).
            exif: EXIF data as a TIFF, without the prefix of JPEG files (default: none).
        """
        self._file = file
        self._height = size[1]
        self._metadata = {
            **({} if profile is None else {"icc_profile": profile}),
            **({} if exif is None else {"exif": b"Exif\0\0" + exif}),
        }
        self._pending = np.empty((0, size[0], channels), np.uint8)
        self._is_first = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            if len(self._pending):
                self._write_rows(self._pending)
            self._file.write(_END)

    def write(self, strip: NDArray[np.uint8]) -> None:
        """Write the next rows.

        Args:
            strip: (rows, width, channels) levels.
        """
        if len(self._pending):
            strip = np.concatenate([self._pending, strip])
        count = len(strip) - len(strip) % STRIP_ROWS
        for start in range(0, count, STRIP_ROWS):
            self._write_rows(strip[start : start + STRIP_ROWS])
        self._pending = strip[count:].copy()

    def _write_rows(self, rows: NDArray[np.uint8]) -> None:
        pixels = rows[:, :, 0] if rows.shape[2] == 1 else rows
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(
            buffer,
            "JPEG",
            quality=QUALITY,
            subsampling=0,
            restart_marker_rows=1,
            **(self._metadata if self._is_first else {}),
        )
        header, scan = _parts(buffer.getvalue(), self._height)
        self._file.write(header if self._is_first else _LAST_RESTART)
        self._file.write(scan)
        self._is_first = False


def _parts(data: bytes, height: int) -> tuple[bytes, bytes]:
    """Return the header of a JPEG, with another height, and its compressed rows without the end."""
    header = bytearray(data)
    at = 2
    while True:
        marker, length = struct.unpack_from(">xBH", data, at)
        if marker == _START_OF_FRAME:
            struct.pack_into(">H", header, at + 5, height)
        at += 2 + length
        if marker == _START_OF_SCAN:
            return bytes(header[:at]), data[at : -len(_END)]
