"""Remove the metadata of image files: texts, profiles, EXIF and thumbnails.

A decoder reads metadata before the pixels, and may reject a file whose metadata is too long or
broken although its pixels are intact. The results contain only the parts that determine the pixels,
in their original order. Nothing is decoded or inflated, so a text that would inflate to a gigabyte
costs nothing.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from PIL import Image

from pipeline.images import formats, tiff
from pipeline.images.formats import Format
from pipeline.images.jpeg_structure import metadata_segments, without_app_segments

ORIENTATION = 0x0112
_MAX_TEXT_BYTES = 1 << 20
"""The maximum number of bytes that are inflated of a text when searching an orientation."""
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def without_metadata(data: bytes, format: Format) -> bytes | None:
    """Return *data* without texts, EXIF, profiles and thumbnails; nothing is decoded.

    The parts that determine the pixels are copied as they are. The further frames of a GIF or an
    animated PNG and the further pages of a TIFF are left out, too; a WebP keeps its frames.

    Args:
        data: All bytes of an image file; they are not changed.
        format: The format of the file, one of `pipeline.images.formats.DECODED_FORMATS`.

    Returns:
        The bytes of a file of the same format; those of a JPEG are equal to *data* if there is
        nothing to remove. None for a GIF or TIFF whose structure is invalid, and for BMP and PPM,
        which have no metadata. A JPEG, PNG or WebP gives bytes even if it is damaged.
    """
    if format is formats.JPEG:
        return without_app_segments(data)
    if format is formats.PNG:
        return _png_without_metadata(data)
    if format is formats.TIFF:
        return tiff.tiff_without_metadata(data)
    if format is formats.WEBP:
        return _webp_without_metadata(data)
    if format is formats.GIF:
        return _gif_without_metadata(data)
    return None


# --- PNG ----------------------------------------------------------------------------------------

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_PALETTE = 3


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each chunk of a PNG, with its checksum."""
    at = len(_SIGNATURE)
    while at + 8 <= len(data):
        stop = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at, stop
        at = stop


def _png_without_metadata(data: bytes) -> bytes:
    pieces = [data[:8]]
    shows = {b"IHDR", b"IDAT"} | ({b"PLTE"} if data[25:26] == bytes([_PALETTE]) else set())
    seen = False
    for name, at, stop in _png_chunks(data):
        if seen and name != b"IDAT":
            break  # the chunks of pixels are consecutive
        seen = seen or name == b"IDAT"
        if name in shows:
            pieces.append(data[at:stop])
        if stop > len(data):  # an end chunk would hide that the file is cut off
            return b"".join(pieces)
    return b"".join([*pieces, _END])


def _png_metadata(data: bytes) -> Iterator[tuple[str, bytes]]:
    for name, at, stop in _png_chunks(data):
        body = data[at + 8 : stop - 4]
        keyword, _, value = body.partition(b"\0")
        if name == b"eXIf":
            yield "exif", body
        elif name == b"iTXt" and keyword == b"XML:com.adobe.xmp":
            yield "iTXt", value
        elif name in (b"zTXt", b"tEXt") and keyword == b"Raw profile type exif":
            yield name.decode(), value


def _itxt_text(value: bytes) -> bytes:
    """Return the text of an iTXt chunk from *value*, the bytes after its keyword."""
    _, _, text = value[2:].split(b"\0", 2)
    return _inflate_text(text) if value[0] else text


def _inflate_text(packed: bytes) -> bytes:
    return zlib.decompressobj().decompress(packed, _MAX_TEXT_BYTES)


def _exif_in_raw_profile(text: bytes) -> bytes:
    """Return the EXIF in a text of ImageMagick: three lines, then hexadecimal digits."""
    return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))


# --- WebP ---------------------------------------------------------------------------------------

_WEBP_SHOWS = frozenset([b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"])
_WEBP_HAS_METADATA = 0x20 | 0x08 | 0x04
"""The flags of VP8X for a profile, EXIF and XMP."""


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        stop = at + 8 + length + (length & 1)
        yield data[at : at + 4], at, stop
        at = stop


def _webp_without_metadata(data: bytes) -> bytes:
    pieces = []
    for name, at, stop in _riff_chunks(data):
        if name in _WEBP_SHOWS:
            chunk = bytearray(data[at:stop])
            if name == b"VP8X" and len(chunk) > 8:
                chunk[8] &= ~_WEBP_HAS_METADATA
            pieces.append(bytes(chunk))
    body = b"".join(pieces)
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body


# --- GIF ----------------------------------------------------------------------------------------

_IMAGE, _EXTENSION, _GRAPHIC_CONTROL = 0x2C, 0x21, 0xF9


def _gif_without_metadata(data: bytes) -> bytes | None:
    """Return the first frame and its graphic control, without comments and further frames."""
    if len(data) < 13:
        return None
    at = 13 + _gif_colour_table_bytes(data[10])
    head, control = data[:at], b""
    while at + 1 < len(data):
        if data[at] == _EXTENSION:
            stop = _end_of_gif_blocks(data, at + 2)
            if data[at + 1] == _GRAPHIC_CONTROL and stop - at == 8:
                control = data[at:stop]
            at = stop
        elif data[at] == _IMAGE and at + 10 < len(data):
            stop = _end_of_gif_blocks(data, at + 11 + _gif_colour_table_bytes(data[at + 9]))
            return head + control + data[at:stop] + b";"
        else:
            return None
    return None


def _gif_colour_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _end_of_gif_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


# --- orientation --------------------------------------------------------------------------------


def orientation(data: bytes, format: Format) -> int:
    """Return the orientation that an image file states in its EXIF, or else in its XMP.

    Broken metadata is ignored, and no pixels are decoded.

    Args:
        data: All bytes of the file.
        format: The format of the file, as `pipeline.images.formats.format_of` returns it. Only
            JPEG, PNG and WebP are searched.

    Returns:
        1 to 8, as in EXIF: 1 is upright; also 1 if the file has no readable orientation.
    """
    values: dict[bool, int] = {}
    for kind, body in _metadata_of(data, format):
        try:
            is_exif, value = _orientation_of(kind, body)
        except Exception:  # noqa: BLE001 - any error: broken EXIF must not quarantine the image
            continue
        if 1 <= value <= 8:
            values.setdefault(is_exif, value)
    return values.get(True, values.get(False, 1))


def _metadata_of(data: bytes, format: Format) -> Iterator[tuple[str, bytes]]:
    if format is formats.JPEG:
        yield from metadata_segments(data)
    elif format is formats.PNG:
        yield from _png_metadata(data)
    elif format is formats.WEBP:
        names = {b"EXIF": "exif", b"XMP ": "xmp"}
        for name, at, stop in _riff_chunks(data):
            if name in names:
                yield names[name], data[at + 8 : stop]


def _orientation_of(kind: str, body: bytes) -> tuple[bool, int]:
    """Return True if *body* is EXIF, and the orientation that it states (0 for none)."""
    if kind in ("xmp", "iTXt"):
        match = _XMP_ORIENTATION.search(body if kind == "xmp" else _itxt_text(body))
        return False, int(match[1]) if match else 0
    if kind != "exif":
        body = _exif_in_raw_profile(_inflate_text(body[1:]) if kind == "zTXt" else body)
    exif = Image.Exif()
    exif.load(body)
    return True, int(exif.get(ORIENTATION, 0))
