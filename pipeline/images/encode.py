"""Encode decoded pixels as a JPEG row of kept aspect, or keep the source's own JPEG.

A source that is a JPEG of 8-bit grey or RGB, no larger than asked, upright and complete is kept
byte for byte: encoding it again would only lose detail. Every other image is resized, if its short
side is longer than asked, and encoded without any metadata, so that no reader turns it twice.
Images are never enlarged. The colours are those of every other row: the same decoded pixels.

Pillow encodes, with its own Huffman tables and chroma at half of both sides (4:2:0), as most
photographs have it.
"""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image

from pipeline.images.decode import Decoded
from pipeline.images.embedded_metadata import orientation
from pipeline.images.formats import JPEG
from pipeline.images.resize import FILTERS

MAX_JPEG_SIDE = 65_500
"""The largest side of a JPEG in pixels, by libjpeg."""

_CHROMA_420 = 2
"""Pillow's number for chroma at half of both sides."""

_KEPT_MODES = ("L", "RGB")


class EncodedRow(NamedTuple):
    """An encoded image, and the size of its picture."""

    data: bytes
    """The bytes of a JPEG file."""
    height: int
    """The height of the picture in pixels."""
    width: int
    """The width of the picture in pixels."""


def encode_jpeg_row(
    data: bytes, decoded: Decoded, *, short_side: int, quality: int, filter: str
) -> EncodedRow:
    """Return an image as the bytes of a JPEG whose short side is at most that asked for.

    Args:
        data: All bytes of the image file.
        decoded: The image, as `pipeline.images.decode.decode` returned it for these bytes with a
            `serves` of at least *short_side*; it is not changed.
        short_side: The largest short side in pixels.
        quality: The quality on Pillow's scale, 1 to 100.
        filter: The resampling filter, such as `bicubic`.

    Returns:
        *data* itself if it may be kept; otherwise a new baseline JPEG without metadata. The long
        side is rounded half up.

    Raises:
        ValueError: *decoded* is smaller than the picture must be.
    """
    height, width = row_size(decoded.width, decoded.height, short_side)
    if (width, height) == (decoded.width, decoded.height) and _may_be_kept(data, decoded):
        return EncodedRow(data, height, width)
    return encode_resized(decoded, short_side=short_side, quality=quality, filter=filter)


def encode_resized(decoded: Decoded, *, short_side: int, quality: int, filter: str) -> EncodedRow:
    """Return an image as the bytes of a new JPEG without metadata.

    Args:
        decoded: The image, decoded with a `serves` of at least *short_side*; it is not changed.
        short_side: The largest short side in pixels.
        quality: The quality on Pillow's scale, 1 to 100.
        filter: The resampling filter, such as `bicubic`.

    Raises:
        ValueError: *decoded* is smaller than the picture must be.
    """
    height, width = row_size(decoded.width, decoded.height, short_side)
    pixels = decoded.pixels
    if min(pixels.size) < min(width, height):
        raise ValueError(
            f"the image was decoded to {pixels.size[0]} x {pixels.size[1]} pixels: expected at"
            f" least {width} x {height}."
        )
    if pixels.size != (width, height):
        box = (0.0, 0.0, decoded.width / decoded.scale, decoded.height / decoded.scale)
        pixels = pixels.resize((width, height), FILTERS[filter], box)
    return EncodedRow(encode_pixels(pixels, quality), height, width)


def encode_pixels(pixels: Image.Image, quality: int) -> bytes:
    """Return pixels as the bytes of a baseline JPEG without metadata.

    Args:
        pixels: The pixels in mode RGB, or RGBX with an unused byte.
        quality: The quality on Pillow's scale, 1 to 100.
    """
    file = io.BytesIO()
    pixels.convert("RGB").save(file, "JPEG", quality=quality, subsampling=_CHROMA_420)
    return file.getvalue()


def row_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return the height and width of a picture whose short side is at most *short_side*.

    The long side is at most `MAX_JPEG_SIDE`, which a strip of a shorter short side may exceed.

    Args:
        width: The width of the whole image in pixels, at least 1.
        height: The height of the whole image in pixels, at least 1.
        short_side: The largest short side in pixels.
    """
    shorter, longer = sorted((width, height))
    # The numerator and denominator of the scale.
    to, of = (short_side, shorter) if shorter > short_side else (1, 1)
    if longer * to > MAX_JPEG_SIDE * of:
        to, of = MAX_JPEG_SIDE, longer
    # In integers, to be the same on every machine.
    height, width = (max(1, (2 * side * to + of) // (2 * of)) for side in (height, width))
    return height, width


def _may_be_kept(data: bytes, decoded: Decoded) -> bool:
    return (
        decoded.format == JPEG.name
        and decoded.mode in _KEPT_MODES
        and not decoded.remark
        and orientation(data, JPEG) == 1
    )
