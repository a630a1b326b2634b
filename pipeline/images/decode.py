"""Decode the bytes of images to RGB pixels, or give the reason why that is impossible.

Two decoders share the work, and the bytes alone determine which of them decodes a file:

* simplejpeg decodes plain JPEGs (baseline, 8 bit, grey or three colours, nothing unusual before
  the first scan) that cause no warning. These are nearly all photographs, and it is a tenth faster.
* Pillow decodes all other files, and those that simplejpeg rejects or warns about, so that exactly
  the files that Pillow rejects are quarantined. Without simplejpeg, Pillow decodes everything, to
  the same pixels.

Pillow decodes progressive JPEGs although simplejpeg is faster: if scans are missing (no error),
libjpeg-turbo 2 and 3 smooth the blocks differently, and the two decoders contain one each.

A JPEG much larger than the largest square is decoded at 1/2, 1/4 or 1/8 (`reduction_factor`).

Colours are those of Pillow's `convert("RGB")`: alpha is dropped, CMYK is inverted as Adobe does,
and an animation is decoded to its first frame. Samples of more than 8 bits are scaled by the range
that their file states (`pipeline.images.depth`).

The rules have versions, and a store keeps the version that it was begun with. Rules 3, the newest,
decode like rules 2, but `pipeline.images.resize` places padded images exactly. Rules 2:

* The first bytes determine the format, also of a file that is not decoded
  (`pipeline.images.formats`).
* A file that Pillow rejects is decoded once more without its metadata
  (`pipeline.images.embedded_metadata`), so that a text that is too long, a broken profile or a
  broken thumbnail index does not quarantine an image.
* Samples are scaled by their range; an image without a range is unsupported.
* A JPEG that lacks nothing but its end marker is distinguished from one that was cut off
  (`pipeline.images.jpeg_structure.with_end_marker`), and is kept if the recipe says so.

Rules 1: Pillow alone decides. Of 16-bit grey the high byte is kept, and other samples of more than
8 bits are clipped by Pillow.
"""

import hashlib
import io
import logging
import warnings
from dataclasses import dataclass, replace

import numpy as np
from PIL import (
    BmpImagePlugin,  # noqa: F401 - importing a plugin is what makes `Image.open` know its format
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
    __version__,
)

from pipeline.errors import DecodeError
from pipeline.images import depth, embedded_metadata, formats, jpeg_structure, libtiff, tiff
from pipeline.images.formats import Format
from pipeline.images.jpeg_structure import may_be_rotated, plain_jpeg
from pipeline.images.rejection import (
    BOMB,
    EMPTY,
    TRUNCATED,
    UNIDENTIFIED,
    UNSUPPORTED,
    rejection_of,
    require_decodable_format,
)

try:
    import simplejpeg
except ImportError:  # no wheel for this platform: Pillow decodes to the same pixels
    simplejpeg = None


RULES = 3
"""The newest version of the rules; `decode` does the same by rules 2 and 3."""

MISSING_END = ("refuse", "keep")
"""The possible treatments of a JPEG that lacks nothing but its end marker."""

MISSING_END_REMARK = "a JPEG without its end marker, whose pixels are all there"
"""The reason or the remark for such a JPEG in the table."""

PILLOW_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""The formats of cameras, the web and scanners that are decoded; JPEG includes MPO.

Pillow reads forty more: some run other programs (EPS), some accept any bytes as an image (TGA has
no magic number), JPEG 2000 and AVIF are missing in some builds, and the others are not used for
photographs.
"""

# Pillow logs the problems of single files, which are recorded in the table.
logging.getLogger("PIL").setLevel(logging.CRITICAL)

_ORIENTATION = 0x0112
_ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image in memory."""

    pixels: Image.Image
    """The pixels in mode RGB, or RGBX with an unused byte; 1/`scale` of the size, rounded up."""
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
    remark: str = ""
    """A defect of the file that did not change its pixels; empty for nearly all files."""


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of `decode` that decide the pixels."""

    fit: str
    serves: int
    exif: bool
    rules: int


def decode(
    data: bytes,
    *,
    fit: str,
    serves: int,
    exif: bool,
    rules: int = RULES,
    missing_end: str = "refuse",
) -> Decoded:
    """Decode the image file *data* to RGB pixels.

    The bytes and the arguments alone determine the result. Pillow's warnings are suppressed in this
    process.

    Args:
        data: All bytes of the file.
        fit: The way the image will become a square, `crop`, `pad` or `squish`. Nothing is cut here;
            it only decides which side of the image is compared with *serves*: the longer one for
            `pad`, otherwise the shorter one.
        serves: The side in pixels of the largest square that will be made. A JPEG that is much
            larger is decoded at 1/2, 1/4 or 1/8 of its size.
        exif: True to rotate the image according to its EXIF orientation; False to leave it as it is
            stored, except a TIFF, which Pillow rotates by its tag in any case.
        rules: The version of the rules, 1 to 3, from the recipe of the store (default: 3). By rules
            1, Pillow alone decides what is readable; by rules 2 and 3, broken metadata do not
            matter, and samples of more than 8 bits are scaled by the range that the file states.
        missing_end: `keep` to accept a JPEG that lacks nothing but its end marker, `refuse` to
            reject it (default: `refuse`). Rules 1 always refuse.

    Returns:
        The image: `pixels` is the whole picture as a Pillow image in mode RGB, or RGBX with an
        unused byte, reduced by the factor `scale` (1, 2, 4 or 8). `width` and `height` are those at
        full size, after the rotation; `mode` and `format` those of the file in Pillow's terms.
        `remark` names a defect that did not change the pixels, and is nearly always empty.

    Raises:
        DecodeError: The bytes are not a readable image. Its `status` is the number that the store
            keeps: 1 for no bytes, 2 not an image, 3 truncated, 4 too many pixels, 5 corrupt, or 6
            unsupported. Its `reason` is a line of text.
        MemoryError: There is too little memory, which says nothing about the bytes.
    """
    if not data:
        raise DecodeError(EMPTY, "no bytes")
    request = _Request(fit, serves, exif, rules)
    lacks_end = (
        rules > 1 and data.startswith(b"\xff\xd8") and not jpeg_structure.has_end_marker(data)
    )
    decoded = None if lacks_end else _decode_plain_jpeg(data, request)
    if decoded is not None:
        return decoded
    if rules == 1:
        return _decode_by_pillow(data, request)
    file_format = require_decodable_format(data)
    try:
        decoded = _decode_by_pillow(data, request)
    except DecodeError as e:
        if e.status == BOMB:
            raise
        error = e
    else:
        if not lacks_end:
            return decoded
        error = DecodeError(TRUNCATED, "it breaks off, and what follows is no part of it")
    return _decode_rejected_file(data, file_format, request, error, keep=missing_end == "keep")


def _decode_plain_jpeg(data: bytes, request: _Request) -> Decoded | None:
    """Decode a file with simplejpeg if it is a plain JPEG; return None for any other file."""
    plain = plain_jpeg(data) if simplejpeg is not None else None
    if plain is None or _is_bomb(*plain[:2]) or (request.exif and may_be_rotated(data)):
        return None
    width, height, mode = plain
    scale = reduction_factor(width, height, fit=request.fit, serves=request.serves)
    pixels = _decode_by_simplejpeg(data, width, height, scale)
    return None if pixels is None else Decoded(pixels, width, height, mode, "JPEG", scale)


def reduction_factor(width: int, height: int, *, fit: str, serves: int) -> int:
    """Return the factor by which a JPEG of this size is reduced when decoded: 1, 2, 4 or 8.

    It is the largest one with which the side is still at least twice *serves*, so that the resizer
    alone determines the smoothing; 1 if there is none, or for an image with a side below 8 pixels.
    The longer side counts if the image is padded, the shorter side otherwise. Only these
    factors pay: libjpeg-turbo has SIMD for 1/2 and 1/4, and 1/8 takes one value of each block
    without computation, but 3/8 to 7/8 cost more than they save.

    Args:
        width: The width of the image in pixels.
        height: The height of the image in pixels.
        fit: The way the image will become a square, `crop`, `pad` or `squish`.
        serves: The side in pixels of the largest square that will be made.
    """
    side = max(width, height) if fit == "pad" else min(width, height)
    # Below 8 pixels, two factors give the same size, and decoders could choose differently.
    if side >= 4 * serves and min(width, height) >= 8:
        for scale in (8, 4, 2):
            if side >= 2 * serves * scale:
                return scale
    return 1


def _is_bomb(width: int, height: int) -> bool:
    limit = Image.MAX_IMAGE_PIXELS
    return limit is not None and width * height > 2 * limit  # Pillow then raises the error


# Pillow stores RGB in four bytes, so it uses RGBX pixels without a copy. Pillow-SIMD resizes four
# channels as fast as three; stock Pillow does not, which costs more than the copy.
_BYTES = "RGBX" if ".post" in __version__ else "RGB"


def _decode_by_simplejpeg(data: bytes, width: int, height: int, scale: int) -> Image.Image | None:
    try:
        if scale == 1:
            pixels = simplejpeg.decode_jpeg(data, _BYTES)
        else:
            # simplejpeg chooses the largest reduction to at least this size: exactly 1/scale.
            at_least = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
            pixels = simplejpeg.decode_jpeg(data, _BYTES, **at_least)
    except ValueError:  # an error or a warning of libjpeg: Pillow decides
        return None
    size = (pixels.shape[1], pixels.shape[0])
    return Image.frombuffer(_BYTES, size, pixels, "raw", _BYTES, 0, 1)


# --- Pillow ------------------------------------------------------------------------------------


def _decode_by_pillow(data: bytes, request: _Request) -> Decoded:
    _silence_pillow(data)
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            decoded = _decode_opened(image, data, request)
            if decoded.format == "TIFF" and libtiff.has_met_error():
                raise OSError("libtiff met an error")  # noqa: TRY301
            return decoded
    except (MemoryError, DecodeError):
        raise
    # Invalid bytes make the plugins raise almost any type, from struct.error to KeyError, and none
    # of them is a defect of this program. All become DecodeErrors here.
    except Exception as e:
        if "out of memory" in str(e):  # Pillow raises a codec's lack of memory as an OSError
            raise MemoryError(str(e)) from e
        raise DecodeError(*rejection_of(data, e, request.rules)) from e


def _decode_opened(image: Image.Image, data: bytes, request: _Request) -> Decoded:
    mode, format_, (width, height) = image.mode, str(image.format), image.size
    scale = 1
    if format_ == "JPEG" and not (request.exif and _exif_orientation(image) in _ROTATIONS):
        # An image that is rotated is not reduced: its rounded-up edge would change sides.
        scale = reduction_factor(width, height, fit=request.fit, serves=request.serves)
        if scale > 1:
            image.draft(None, (width // scale, height // scale))
    rgb = _rgb_by_rules_1(image) if request.rules == 1 else _rgb_by_rules_2(image, data)
    if scale == 1:
        orientation = _exif_orientation(image) if request.exif else 1
        rgb = rgb.transpose(_ROTATIONS[orientation]) if orientation in _ROTATIONS else rgb
        width, height = rgb.size
    if not width * height:
        raise ValueError(f"the picture is {width}x{height} pixels")
    return Decoded(rgb, width, height, mode, format_, scale)


def _rgb_by_rules_1(image: Image.Image) -> Image.Image:
    """Convert to RGB by rules 1: Pillow clips samples over 8 bits, except 16-bit grey."""
    return _high_byte(image) if image.mode.startswith("I;16") else image.convert("RGB")


def _rgb_by_rules_2(image: Image.Image, data: bytes) -> Image.Image:
    """Convert to RGB by rules 2: samples are scaled by the range that the file states."""
    try:
        return depth.to_rgb(image, data)
    except depth.NoRangeError as e:
        raise DecodeError(UNSUPPORTED, str(e)) from e


def _high_byte(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")


def _exif_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - any error: broken EXIF must not quarantine the image
        return 1


# --- rules 2 ------------------------------------------------------------------------------------


def _decode_rejected_file(
    data: bytes, file_format: Format, request: _Request, first: DecodeError, *, keep: bool
) -> Decoded:
    """Decode a rejected file without its metadata, and a JPEG with its missing end marker.

    Raises:
        DecodeError: The file is still not a readable image.
    """
    error = first
    stripped = _without_metadata(data, file_format)
    orientation = embedded_metadata.orientation(data, file_format) if request.exif else 1
    if stripped != data and not (file_format is formats.JPEG and error.status == TRUNCATED):
        try:
            return _rotated(_decode_without_rotation(stripped, request, orientation), orientation)
        except DecodeError as e:
            # If the smaller file cannot even be opened, the first error says more.
            if e.status != UNIDENTIFIED and not isinstance(e.__cause__, UnidentifiedImageError):
                error = e
    if file_format is not formats.JPEG or error.status != TRUNCATED:
        raise error
    ended = jpeg_structure.with_end_marker(stripped, _digest_of_jpeg_pixels)
    if ended is None:
        raise error
    if not keep:
        cure = "a new store made with --missing-end keep holds it"
        raise DecodeError(TRUNCATED, f"{MISSING_END_REMARK}; {cure}") from error
    return replace(
        _rotated(_decode_without_rotation(ended, request, orientation), orientation),
        remark=MISSING_END_REMARK,
    )


def _without_metadata(data: bytes, file_format: Format) -> bytes:
    """Return *data* without metadata, or unchanged if the result would be unreliable."""
    stripped = embedded_metadata.without_metadata(data, file_format)
    if stripped is None or file_format is not formats.TIFF:
        return stripped or data
    directory = tiff.read_directory(stripped)
    complete = directory is not None and tiff.is_inflated_whole(directory, stripped)
    return stripped if complete else data


def _decode_without_rotation(data: bytes, request: _Request, orientation: int) -> Decoded:
    """Decode a file without metadata, at full size if it will be rotated."""
    request = replace(
        request, exif=False, serves=_NO_REDUCTION if orientation > 1 else request.serves
    )
    decoded = _decode_plain_jpeg(data, request)
    return _decode_by_pillow(data, request) if decoded is None else decoded


_NO_REDUCTION = 1 << 30


def _rotated(decoded: Decoded, orientation: int) -> Decoded:
    if orientation not in _ROTATIONS:
        return decoded
    pixels = decoded.pixels.transpose(_ROTATIONS[orientation])
    return replace(decoded, pixels=pixels, width=pixels.width, height=pixels.height)


def _digest_of_jpeg_pixels(data: bytes) -> bytes | None:
    """Return the SHA-256 of the pixels that Pillow decodes from a JPEG; None if it rejects it."""
    try:
        decoded = _decode_by_pillow(
            data, _Request("squish", _NO_REDUCTION, exif=False, rules=RULES)
        )
    except DecodeError:
        return None
    return hashlib.sha256(decoded.pixels.tobytes()).digest()


def _silence_pillow(data: bytes) -> None:
    """Suppress Pillow's warnings in this process: the table holds the problems of files.

    The filter is set again for each image, at 2 microseconds, because other code may reset it, and
    a warning turned into an error would quarantine a readable image. `catch_warnings` is not used
    because it replaces the filters of all threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if data[:2] in (b"II", b"MM"):
        libtiff.watch_errors()
