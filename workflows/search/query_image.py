"""The image of a query, which a user uploads or names: its checks, and its pixels.

It is an untrusted file from outside the store: it is decoded in a child process with limits, and
resized as the recipe of the store says.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DecodeError
from pipeline.images import formats
from pipeline.images.rows import SQUARE, RowFormat
from pipeline.images.sandbox import IsolatedDecoder
from pipeline.store.recipe import Recipe
from pipeline.urls import is_url
from workflows.search.query import QueryError

MAX_IMAGE_BYTES = 20 * 2**20
"""The largest size of the image file of a query."""
DECODE_TIMEOUT_SECONDS = 5.0
"""The number of seconds that decoding such a file may take."""
MAX_DECODE_MEMORY_BYTES = 1024 * 2**20
"""The memory that decoding it may take: enough for the 179 million pixels that Pillow accepts."""
FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF")
"""The formats of image files that a search accepts."""


def read_image(name: str) -> bytes:
    """Read an image file; return its bytes.

    Args:
        name: The path of the file, a string, in which a leading `~` is the home folder.

    Raises:
        QueryError: There is no such file, it is a URL, it is larger than 20 MiB, or it is
            unreadable. Whether it is an image is not checked.
    """
    if is_url(name):
        raise QueryError(f"{name} is a URL: expected a file. Save the image, and pass its path.")
    try:
        path = Path(name).expanduser()
    except RuntimeError as e:  # a leading ~ and the name of no user
        raise QueryError(f"there is no file {name}: expected an image.") from e
    try:
        if not path.is_file():
            raise QueryError(f"there is no file {name}: expected an image.")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise QueryError(_too_large(name, path.stat().st_size))
        return path.read_bytes()
    except OSError as e:
        raise QueryError(f"{name} cannot be read: {e.strerror or e}.") from e


def _too_large(name: str, num_bytes: int) -> str:
    return f"{name} has {num_bytes:,} bytes: expected at most {MAX_IMAGE_BYTES:,}."


def unsupported_query_image_message(name: str, data: bytes) -> str:
    """Return the message for a file that is not of a supported format: a sentence with its cure.

    Args:
        name: The name of the file in the message.
        data: The file, or its first bytes, by which its format is detected. It is one for which
            `accepted_format_of` returns None.
    """
    read = ", ".join(FORMATS)
    detected = formats.format_of(data)
    if detected is None or detected.kind == formats.NOT_AN_IMAGE:
        detail = "" if detected is None else f" ({detected.phrase})"
        return f"{name} is not an image{detail}: expected {read}."
    advice = detected.advice or "convert it to JPEG or PNG"
    return f"{name} is {detected.phrase}, which is not supported: {advice}. Expected {read}."


def accepted_format_of(data: bytes) -> str | None:
    """Return the format of an image file, such as `JPEG`; None for any other file.

    The formats are JPEG, PNG, WebP, GIF, BMP and TIFF, spelt like this.

    Args:
        data: The file, or its first bytes, by which the format is detected: the first 4,096 decide.
    """
    detected = formats.format_of(data)
    return detected.name if detected is not None and detected.name in FORMATS else None


class ImagePreprocessor:
    """A preprocessor that decodes and resizes any image in a child process, as a recipe does.

    It is not thread-safe: only the thread that first uses it may use it.
    """

    def __init__(self, recipe: Recipe, size: int, *, crop_share: float | None = None) -> None:
        """Create a preprocessor; its child process starts with the first image.

        Args:
            recipe: The recipe of the store.
            size: The side, in pixels, of the square images.
            crop_share: The side of the centre crop of encoded rows that a model takes, as a
                fraction of the short side; None: it takes squares, whose fit is the recipe's
                (default: None).
        """
        self._recipe = recipe
        self._size = size
        self._decode_arguments = recipe.decode_arguments
        self._resized = size
        """The side in pixels of the square from whose centre the image is cut."""
        if crop_share is not None:
            self._resized = round(size / crop_share)
            serves = max(self._resized, recipe.serves)
            self._decode_arguments = {**self._decode_arguments, "fit": "crop", "serves": serves}
        self._decoder = IsolatedDecoder(
            timeout_seconds=DECODE_TIMEOUT_SECONDS, memory_limit=MAX_DECODE_MEMORY_BYTES
        )

    def preprocess(self, data: bytes) -> NDArray[np.uint8]:
        """Return an image file as a square, (size, size, 3) uint8 RGB, resized as the recipe says.

        The size is that of the preprocessor. The first call starts its child process, and only the
        thread of that call may call it again.

        Args:
            data: The bytes of a JPEG, PNG, WebP, GIF, BMP or TIFF file.

        Raises:
            QueryError: The file is no readable image of one of these formats, or decoding it takes
                more than 5 seconds or 1 GiB of memory.
            TesseraeError: The child process ended at its start.
            OSError: It cannot be started.
        """
        if accepted_format_of(data) is None:
            raise QueryError(unsupported_query_image_message("the file", data))
        recipe = self._recipe
        try:
            _, rows = self._decoder.make_rows(
                data,
                [RowFormat(SQUARE, self._resized)],
                filter=recipe.filter,
                decode_arguments=self._decode_arguments,
            )
        except DecodeError as e:
            raise QueryError(f"the image cannot be read: {e}. Choose another.") from e
        pixels = np.frombuffer(cast("bytes", rows[0]), np.uint8)
        start = (self._resized - self._size) // 2
        centre = slice(start, start + self._size)
        # Copy, because torch warns of read-only arrays.
        return pixels.reshape(self._resized, self._resized, 3)[centre, centre].copy()

    def close(self) -> None:
        """End the child process."""
        self._decoder.close()
