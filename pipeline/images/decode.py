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

The rules have versions, and a store keeps the version that it was begun with. Rules 2, the newest:

* The first bytes determine the format, also of a file that is not decoded
  (`pipeline.images.formats`).
* A file that Pillow rejects is decoded once more without its metadata
  (`pipeline.images.ancillary`), so that a text that is too long, a broken profile or a broken
  thumbnail index does not quarantine an image.
* Samples are scaled by their range; an image without a range is unsupported.
* A JPEG that lacks nothing but its end marker is distinguished from one that was cut off
  (`pipeline.images.jpeg.with_end_marker`), and is kept if the recipe says so.

Rules 1: Pillow alone decides. Of 16-bit grey the high byte is kept, and other samples of more than
8 bits are clipped by Pillow.
"""

import ctypes
import functools
import hashlib
import io
import logging
import re
import threading
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import (
    BmpImagePlugin,  # noqa: F401 - importing a plugin is what makes `Image.open` know its format
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
    __version__,
    features,
)

from pipeline.errors import DecodeError
from pipeline.images import ancillary, depth, formats, jpeg, tiff
from pipeline.images.formats import Format
from pipeline.images.jpeg import may_be_rotated, plain_jpeg

try:
    import simplejpeg
except ImportError:  # no wheel for this platform: Pillow decodes to the same pixels
    simplejpeg = None

READABLE = 0
EMPTY = 1
UNIDENTIFIED = 2
TRUNCATED = 3
BOMB = 4
CORRUPT = 5
UNSUPPORTED = 6
CRASHED = 7
TIMEOUT = 8
NOT_PREPARED = 255

STATUS_WORDS = MappingProxyType(
    {
        READABLE: "readable",
        EMPTY: "empty",
        UNIDENTIFIED: "not-an-image",
        TRUNCATED: "truncated",
        BOMB: "bomb",
        CORRUPT: "corrupt",
        UNSUPPORTED: "unsupported",
        CRASHED: "crashed",
        TIMEOUT: "timeout",
        NOT_PREPARED: "not-prepared",
    }
)

RULES = 2
"""The newest version of the rules of `decode`; version 1 is the other one."""

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

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
}
_ORIENTATION = 0x0112
_TURNS = {
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
    """Decode the image file *data*.

    Args:
        data: All bytes of the file.
        fit: The way the image will become a square; it determines the side compared with `serves`.
        serves: The side in pixels of the largest square that will be made.
        exif: True to rotate the image according to its EXIF orientation.
        rules: The version of the rules, 1 or 2, from the recipe of the store (default: 2).
        missing_end: One of `MISSING_END` (default: `refuse`). Rules 1 always refuse.

    Raises:
        DecodeError: The bytes are not a readable image.
        MemoryError: There is too little memory, which says nothing about the bytes.
    """
    if not data:
        raise DecodeError(EMPTY, "no bytes")
    request = _Request(fit, serves, exif, rules)
    lacks_end = rules > 1 and data.startswith(b"\xff\xd8") and not jpeg.has_end_marker(data)
    decoded = None if lacks_end else _by_plain_jpeg(data, request)
    if decoded is not None:
        return decoded
    if rules == 1:
        return _by_pillow(data, request)
    named = check_format(data)
    try:
        decoded = _by_pillow(data, request)
    except DecodeError as e:
        if e.status == BOMB:
            raise
        error = e
    else:
        if not lacks_end:
            return decoded
        error = DecodeError(TRUNCATED, "it breaks off, and what follows is no part of it")
    return _second_try(data, named, request, error, keep=missing_end == "keep")


def _by_plain_jpeg(data: bytes, request: _Request) -> Decoded | None:
    """Decode a file with simplejpeg if it is a plain JPEG; return None for any other file."""
    plain = plain_jpeg(data) if simplejpeg is not None else None
    if plain is None or _is_bomb(*plain[:2]) or (request.exif and may_be_rotated(data)):
        return None
    width, height, mode = plain
    scale = reduction_factor(width, height, fit=request.fit, serves=request.serves)
    pixels = _by_simplejpeg(data, width, height, scale)
    return None if pixels is None else Decoded(pixels, width, height, mode, "JPEG", scale)


def reduction_factor(width: int, height: int, *, fit: str, serves: int) -> int:
    """Return the factor by which a JPEG of this size is reduced when decoded: 1, 2, 4 or 8.

    The reduced side must be at least twice `serves`, so that the resizer alone determines the
    smoothing. The longer side counts if the image is padded, the shorter side otherwise. Only these
    factors pay: libjpeg-turbo has SIMD for 1/2 and 1/4, and 1/8 takes one value of each block
    without computation, but 3/8 to 7/8 cost more than they save.

    Args:
        width: The width of the image in pixels.
        height: The height of the image in pixels.
        fit: The way the image will become a square.
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


def _by_simplejpeg(data: bytes, width: int, height: int, scale: int) -> Image.Image | None:
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


# --- everything else ----------------------------------------------------------------------------


def _by_pillow(data: bytes, request: _Request) -> Decoded:
    _hush(data)
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            decoded = _read(image, data, request)
            if decoded.format == "TIFF" and _libtiff.failed:
                raise OSError("libtiff met an error")  # noqa: TRY301
            return decoded
    except (MemoryError, DecodeError):
        raise
    # Invalid bytes make the plugins raise almost any type, from struct.error to KeyError, and none
    # of them is a defect of this program. All become DecodeErrors here.
    except Exception as e:
        if "out of memory" in str(e):  # Pillow raises a codec's lack of memory as an OSError
            raise MemoryError(str(e)) from e
        raise DecodeError(*_why(data, e, request.rules)) from e


def _read(image: Image.Image, data: bytes, request: _Request) -> Decoded:
    mode, format_, (width, height) = image.mode, str(image.format), image.size
    scale = 1
    if format_ == "JPEG" and not (request.exif and _orientation(image) in _TURNS):
        # An image that is rotated is not reduced: its rounded-up edge would change sides.
        scale = reduction_factor(width, height, fit=request.fit, serves=request.serves)
        if scale > 1:
            image.draft(None, (width // scale, height // scale))
    rgb = _clipped(image) if request.rules == 1 else _scaled(image, data)
    if scale == 1:
        turn = _orientation(image) if request.exif else 1
        rgb = rgb.transpose(_TURNS[turn]) if turn in _TURNS else rgb
        width, height = rgb.size
    if not width * height:
        raise ValueError(f"the picture is {width}x{height} pixels")
    return Decoded(rgb, width, height, mode, format_, scale)


def _clipped(image: Image.Image) -> Image.Image:
    """Convert to RGB by rules 1: Pillow clips samples over 8 bits, except 16-bit grey."""
    return _high_byte(image) if image.mode.startswith("I;16") else image.convert("RGB")


def _scaled(image: Image.Image, data: bytes) -> Image.Image:
    """Convert to RGB by rules 2: samples are scaled by the range that the file states."""
    try:
        return depth.to_rgb(image, data)
    except depth.NoRangeError as e:
        raise DecodeError(UNSUPPORTED, str(e)) from e


def _high_byte(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - any error: broken EXIF must not quarantine the image
        return 1


# --- rules 2 ------------------------------------------------------------------------------------


def check_format(data: bytes) -> Format:
    """Return the format of a file if it is one that is decoded.

    Args:
        data: All bytes of the file, or at least the first `pipeline.images.formats.HEAD_BYTES`.

    Raises:
        DecodeError: The format is unknown (`UNIDENTIFIED`) or is not decoded (`UNIDENTIFIED` or
            `UNSUPPORTED`); its status and reason are those of a quarantined row.
    """
    named = formats.format_of(data)
    if named is None:
        raise DecodeError(UNIDENTIFIED, "the bytes begin like no known kind of file")
    if named.kind != formats.DECODED:
        status = UNSUPPORTED if named.kind == formats.OTHER_IMAGE else UNIDENTIFIED
        raise DecodeError(status, named.reason)
    if named is formats.WEBP and not features.check("webp"):
        raise DecodeError(UNSUPPORTED, "this Pillow was built without WebP")
    if named is formats.TIFF and (directory := tiff.read_directory(data)) is not None:
        _check_tiff(directory, data)
    return named


def _check_tiff(directory: tiff.Directory, data: bytes) -> None:
    if tiff.is_raw_photograph(directory, data):
        raise DecodeError(UNSUPPORTED, "a camera's raw photograph; develop it to JPEG or PNG")
    compression = int(directory.number(data, tiff.COMPRESSION, 1))
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        raise DecodeError(UNSUPPORTED, f"a TIFF of compression {compression}; convert it")


def _second_try(
    data: bytes, named: Format, request: _Request, first: DecodeError, *, keep: bool
) -> Decoded:
    """Decode a rejected file without its metadata, and a JPEG with its missing end marker.

    Raises:
        DecodeError: The file is still not a readable image.
    """
    error = first
    slim = _slimmed(data, named)
    turn = ancillary.orientation(data, named) if request.exif else 1
    if slim != data and not (named is formats.JPEG and error.status == TRUNCATED):
        try:
            return _turned(_upright(slim, request, turn), turn)
        except DecodeError as e:
            # If the smaller file cannot even be opened, the first error says more.
            if e.status != UNIDENTIFIED and not isinstance(e.__cause__, UnidentifiedImageError):
                error = e
    if named is not formats.JPEG or error.status != TRUNCATED:
        raise error
    ended = jpeg.with_end_marker(slim, _fingerprint)
    if ended is None:
        raise error
    if not keep:
        cure = "a new store made with --missing-end keep holds it"
        raise DecodeError(TRUNCATED, f"{MISSING_END_REMARK}; {cure}") from error
    return replace(_turned(_upright(ended, request, turn), turn), remark=MISSING_END_REMARK)


def _slimmed(data: bytes, named: Format) -> bytes:
    """Return *data* without metadata, or unchanged if the result would be unreliable."""
    slim = ancillary.without_metadata(data, named)
    if slim is None or named is not formats.TIFF:
        return slim or data
    directory = tiff.read_directory(slim)
    complete = directory is not None and tiff.is_inflated_whole(directory, slim)
    return slim if complete else data


def _upright(data: bytes, request: _Request, turn: int) -> Decoded:
    """Decode a file without metadata, at full size if it will be rotated."""
    request = replace(request, exif=False, serves=_NO_REDUCTION if turn > 1 else request.serves)
    decoded = _by_plain_jpeg(data, request)
    return _by_pillow(data, request) if decoded is None else decoded


_NO_REDUCTION = 1 << 30


def _turned(decoded: Decoded, turn: int) -> Decoded:
    if turn not in _TURNS:
        return decoded
    pixels = decoded.pixels.transpose(_TURNS[turn])
    return replace(decoded, pixels=pixels, width=pixels.width, height=pixels.height)


def _fingerprint(data: bytes) -> bytes | None:
    """Return the SHA-256 of the pixels that Pillow decodes from a JPEG; None if it rejects it."""
    try:
        decoded = _by_pillow(data, _Request("squish", _NO_REDUCTION, exif=False, rules=RULES))
    except DecodeError:
        return None
    return hashlib.sha256(decoded.pixels.tobytes()).digest()


# --- why not ------------------------------------------------------------------------------------

_SIGNS = (
    (TRUNCATED, re.compile(r"truncated|not enough image data|unexpected end", re.IGNORECASE)),
    (
        UNSUPPORTED,
        re.compile(r"^unsupported|^cannot (handle|decode)|not available|not installed", re.I),
    ),
)


def _why(data: bytes, error: Exception, rules: int) -> tuple[int, str]:
    """Return the status and the reason for *error*, a line of at most 200 printable characters."""
    if isinstance(error, Image.DecompressionBombError):
        return BOMB, _line(str(error))
    if rules > 1 and (kind := jpeg.unsupported_kind(data)) is not None:
        return UNSUPPORTED, f"{kind}; convert it to an ordinary one"
    if isinstance(error, UnidentifiedImageError):  # its text holds an address in memory
        return _why_not_opened(data) if rules == 1 else _why_not_opened_2(data)
    reason = _line(str(error)) or "unreadable"
    if not isinstance(error, (OSError, SyntaxError, ValueError)):
        reason = f"{type(error).__name__}: {reason}"  # "list index out of range" says too little
    if isinstance(error, EOFError):
        return TRUNCATED, reason
    if isinstance(error, NotImplementedError):
        return UNSUPPORTED, reason
    return next((status for status, sign in _SIGNS if sign.search(reason)), CORRUPT), reason


def _why_not_opened(data: bytes) -> tuple[int, str]:
    name = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if name is None:
        return UNIDENTIFIED, "the bytes begin like none of the image formats"
    if name == "WebP" and not features.check("webp"):
        return UNSUPPORTED, "this Pillow was built without WebP"
    return CORRUPT, f"begins as a {name} file, but its header cannot be read"


def _why_not_opened_2(data: bytes) -> tuple[int, str]:
    """Return status and reason from the error of the format's plugin, which `Image.open` hides."""
    named = check_format(data)
    text = ""
    try:
        Image.OPEN[named.name.upper()][0](io.BytesIO(data), "")
    except Exception as e:  # noqa: BLE001 - as in `_by_pillow`
        wrapped = e.args and isinstance(e.args[0], Exception)  # an index out of range, say
        text = "" if wrapped else _line(str(e))
    status = UNSUPPORTED if _NO_SUCH_PIXELS.search(text) else CORRUPT
    why = f" ({text})" if text else ""
    return status, f"begins as a {named.name} file, but its header cannot be read{why}"[:200]


_NO_SUCH_PIXELS = re.compile(r"^unsupported|unknown pixel mode|unknown data organization|^cannot h")


def _line(text: str) -> str:
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return "".join(c if c.isprintable() else " " for c in text).strip()[:200]


def _hush(data: bytes) -> None:
    """Suppress Pillow's warnings in this process: the table holds the problems of files.

    The filter is set again for each image, at 2 microseconds, because other code may reset it, and
    a warning turned into an error would quarantine a readable image. `catch_warnings` is not used
    because it replaces the filters of all threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if data[:2] in (b"II", b"MM"):
        _listen_to_libtiff()
        _libtiff.failed = False


_libtiff = threading.local()


def _note_libtiff_error(module: bytes, text: bytes, values: int) -> None:
    _libtiff.failed = True


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_libtiff_handler = _HANDLER(_note_libtiff_error)  # must stay alive: libtiff holds its address


@functools.cache
def _listen_to_libtiff() -> None:
    """Replace libtiff's handlers, which write to standard error without Python.

    Not all versions stop at an error: libtiff 4.5 goes on with uninitialised memory, which would
    give different pixels each time. So an error is noted, and the image is rejected.
    """
    maps = Path("/proc/self/maps")
    loaded = maps.read_text("utf-8", "replace") if maps.exists() else ""
    for path in sorted(set(re.findall(r"/\S*/libtiff[-.\w]*\.so[.\d]*", loaded))):
        # This is the loaded library itself: another copy would have handlers of its own.
        library = ctypes.CDLL(path)
        library.TIFFSetWarningHandler(None)
        library.TIFFSetErrorHandler(_libtiff_handler)
