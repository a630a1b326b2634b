"""The encodings of images in a store: which encoded arrays it can have, and their names.

jpeg:256@90    JPEG rows of a short side of at most 256 pixels, with quality 90
original       the bytes of the source's files as they are
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.store.layout import MAX_SIZE

ORIGINAL = "original"
MAX_QUALITY = 100
_JPEG = re.compile(r"jpeg:([1-9][0-9]{0,4})@([1-9][0-9]{0,2})")

CHUNK_BYTES = 128 * 2**10
"""The bytes of a chunk of an encoded array: a few images, and one request to a remote store."""


@dataclass(frozen=True)
class Encoding:
    """One kind of encoded rows."""

    short_side: int = 0
    """The largest short side of a picture in pixels; 0 for the source's own bytes."""
    quality: int = 0
    """The JPEG quality, 1 to 100; 0 for the source's own bytes."""

    @property
    def is_original(self) -> bool:
        """True if the rows are the source's own bytes."""
        return not self.short_side

    def suffices_for(self, short_side: int) -> bool:
        """Return True if pictures of *short_side* pixels can be made without enlarging rows."""
        return self.is_original or self.short_side >= short_side

    @property
    def text(self) -> str:
        """The encoding as a user writes it: `jpeg:256@90` or `original`."""
        return ORIGINAL if self.is_original else f"jpeg:{self.short_side}@{self.quality}"

    @property
    def array_name(self) -> str:
        """The name of its group of arrays in a split: `jpeg256@90` or `original`."""
        return self.text.replace(":", "")


def parse_encoding(text: str) -> Encoding:
    """Read an encoding as a user writes it, or as the name of its arrays.

    Args:
        text: `original`, or `jpeg:N@Q` with the short side N in pixels, 1 to 4,096, and the quality
            Q, 1 to 100; the colon may be missing.

    Raises:
        ValueError: It is neither.
    """
    if text == ORIGINAL:
        return Encoding()
    text = str(text)  # of a caller in Python: not a TypeError of the expression
    match = _JPEG.fullmatch(text) or _JPEG.fullmatch(text.replace("jpeg", "jpeg:", 1))
    if match is None or int(match[1]) > MAX_SIZE or int(match[2]) > MAX_QUALITY:
        raise ValueError(
            f"encoding is {text!r}: expected original, or jpeg:N@Q with a short side of 1 to"
            f" {MAX_SIZE} pixels and a quality of 1 to {MAX_QUALITY}, such as jpeg:256@90."
        )
    return Encoding(int(match[1]), int(match[2]))


def is_array_name(text: str) -> bool:
    """Return True if a text is the name of the arrays of an encoding, such as `jpeg256@90`.

    Args:
        text: Any text.
    """
    try:
        return parse_encoding(text).array_name == text
    except ValueError:
        return False


def fitting_encoding(names: Iterable[str], short_side: int) -> Encoding:
    """Return which encoded rows suit pictures of a short side best.

    They are the smallest rows that need not be enlarged, or else the largest, and of two with the
    same short side those of higher quality. The source's own bytes are the largest.

    Args:
        names: The encodings to choose from, as text or as names of their arrays; at least one.
        short_side: The short side of the pictures that are made of the rows, in pixels.

    Raises:
        ValueError: A name is no encoding, or there is none.
    """

    def rank(encoding: Encoding) -> tuple[bool, float, int]:
        is_enough = encoding.suffices_for(short_side)
        side = math.inf if encoding.is_original else encoding.short_side
        return not is_enough, side if is_enough else -side, -encoding.quality

    return min(map(parse_encoding, names), key=rank)
