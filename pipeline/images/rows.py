"""The rows that the arrays of a store hold of an image, all made from the same decoded pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.images.decode import RULES, Decoded, decode, reduction_factor
from pipeline.images.encode import EncodedRow, encode_jpeg_row
from pipeline.images.resize import resize

SQUARE = "square"
JPEG = "jpeg"
ORIGINAL = "original"


class RowFormat(NamedTuple):
    """The form in which an array holds images."""

    kind: str
    """`square` for raw pixels, `jpeg` for a JPEG of kept aspect, `original` for the file's own
    bytes."""
    side: int = 0
    """The side of a square, or the largest short side of a JPEG, in pixels; 0 for `original`."""
    quality: int = 0
    """The quality of a JPEG, 1 to 100; otherwise 0."""


@dataclass(frozen=True)
class ImageProperties:
    """The properties of a decoded image."""

    width: int
    """The width in pixels of the rotated image at full size."""
    height: int
    """The height in pixels of the rotated image at full size."""
    mode: str
    """The mode of the file in Pillow's terms: "RGB", "L", "CMYK", "P", ..."""
    format: str
    """The format of the file in Pillow's terms: "JPEG", "PNG", ..."""
    scale: int
    """The factor by which the decoder reduced the image: 1, 2, 4 or 8."""
    remark: str
    """A defect of the file that did not change its pixels; empty for nearly all files."""


Row = bytes | EncodedRow
"""The row of an image: the pixels of a square, (side, side, 3) uint8 RGB in C order, as bytes; or
its encoded bytes with the size of the picture."""


def make_rows(
    data: bytes,
    formats: Sequence[RowFormat],
    *,
    filter: str,
    decode_arguments: dict[str, Any],
    lap: Callable[[str], None] = lambda step: None,
) -> tuple[ImageProperties, list[Row]]:
    """Decode an image file once, and return its row in each format.

    Only a JPEG that was decoded at a reduced size which is too small for a format, because the
    store was planned for smaller ones, is decoded a second time.

    Args:
        data: All bytes of an image file.
        formats: The formats of the rows.
        filter: The resampling filter, such as `bicubic`.
        decode_arguments: The keyword arguments of `pipeline.images.decode.decode`.
        lap: A function that is called at the end of each step, with its name: `decode`, `resize`,
            `encode`.

    Returns:
        The properties of the image, and its rows in the order of *formats*.

    Raises:
        DecodeError: The bytes are not a readable image.
        MemoryError: There is too little memory.
    """
    decoded = decode(data, **decode_arguments)
    lap("decode")
    fit, rules = decode_arguments["fit"], decode_arguments.get("rules", RULES)
    rows: dict[RowFormat, Row] = {
        each: resize(decoded, each.side, fit=fit, filter=filter, rules=rules)
        for each in formats
        if each.kind == SQUARE
    }
    lap("resize")
    encoded = [each for each in formats if each.kind != SQUARE]
    for each in encoded:
        if each.kind == ORIGINAL:
            rows[each] = EncodedRow(data, decoded.height, decoded.width)
        else:
            rows[each] = encode_jpeg_row(
                data,
                _decode_for_jpeg(data, decoded, each.side, decode_arguments),
                short_side=each.side,
                quality=each.quality,
                filter=filter,
            )
    if encoded:
        lap("encode")
    properties = ImageProperties(
        decoded.width,
        decoded.height,
        decoded.mode,
        decoded.format,
        decoded.scale,
        decoded.remark,
    )
    return properties, [rows[each] for each in formats]


def _decode_for_jpeg(
    data: bytes, decoded: Decoded, short_side: int, decode_arguments: dict[str, Any]
) -> Decoded:
    """Return a decoded image with full detail at *short_side*: *decoded* itself for nearly all."""
    serves = max(short_side, decode_arguments["serves"])
    allowed = reduction_factor(decoded.width, decoded.height, fit="crop", serves=serves)
    if decoded.scale <= allowed:
        return decoded
    return decode(data, **{**decode_arguments, "fit": "crop", "serves": serves})
