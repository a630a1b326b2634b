"""Image bytes -> RGB pixels, and why not where that cannot be.

Two decoders share the work, and which of them decodes is decided by the bytes alone:

* simplejpeg decodes the plain JPEG (baseline, 8 bit, grey or three colours, nothing odd before
  its first scan), without a warning. That is nearly every photograph, and a tenth faster.
* Pillow decodes all else, and whatever simplejpeg hesitates at: so that what is quarantined is
  what Pillow rejects. Without simplejpeg it decodes everything, to the same pixels.

Progressive JPEGs are Pillow's although simplejpeg is faster: where scans are missing (no error),
libjpeg-turbo 2 and 3 smooth the blocks differently, and the two decoders bring one each.

A JPEG far larger than what is made of it is decoded at 1/2, 1/4 or 1/8 (`reduction`).

Pillow's `convert("RGB")` says what red, green and blue are: alpha is dropped, CMYK inverted as
Adobe does, of an animation the first frame counts. One exception: 16-bit grey keeps its high
byte, as Pillow itself does for 16-bit colour; it would clip grey at 255, to white.
"""

import ctypes
import functools
import io
import logging
import re
import threading
import warnings
from dataclasses import dataclass
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
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
    __version__,
    features,
)

from pipeline.errors import DecodeError
from pipeline.jpeg import may_be_turned, plain_jpeg

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

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""What cameras, the web and scanners write; JPEG includes MPO. Pillow knows forty more: some run
other programs (EPS), some take any bytes for a picture (TGA has no magic number), and JPEG 2000
and AVIF are in some builds and not in others. Nobody keeps photographs in the rest."""

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what it logs, the table says

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
    """A picture in memory."""

    pixels: Image.Image
    """Mode RGB, or RGBX whose fourth byte says nothing; 1/`scale` of the size, rounded up."""
    width: int
    """Of the whole picture at full size, after it was turned."""
    height: int
    mode: str
    """As stored, in Pillow's words: "RGB", "L", "CMYK", "P", ..."""
    format: str
    """"JPEG", "PNG", ..."""
    scale: int
    """1, 2, 4 or 8: by how much the decoder reduced it."""


def decode(data: bytes, *, fit: str, serves: int, exif: bool) -> Decoded:
    """Decode the image file *data*.

    Args:
        fit: How the picture will become a square: this decides which side counts for `serves`.
        serves: Side in pixels of the largest square that will be made of it.
        exif: Turn the picture as its EXIF orientation says.

    Raises:
        DecodeError: The bytes are no picture. What the bytes do not decide, a lack of memory,
            is no DecodeError.
    """
    if not data:
        raise DecodeError(EMPTY, "no bytes")
    plain = plain_jpeg(data) if simplejpeg is not None else None
    if plain is not None and not _is_bomb(*plain[:2]) and not (exif and may_be_turned(data)):
        width, height, mode = plain
        scale = reduction(width, height, fit=fit, serves=serves)
        pixels = _by_simplejpeg(data, width, height, scale)
        if pixels is not None:
            return Decoded(pixels, width, height, mode, "JPEG", scale)
    return _by_pillow(data, fit, serves, exif)


def reduction(width: int, height: int, *, fit: str, serves: int) -> int:
    """By how much a JPEG of this size is reduced as it is decoded: 1, 2, 4 or 8.

    What is left must be twice `serves`: measured on the side that becomes the square's, the
    shorter one, or the longer one where the picture is padded. Then the resizer still has the
    whole say over what is smoothed. Only these factors: at 1/2 and 1/4 libjpeg-turbo has SIMD, at
    1/8 there is one value a block and nothing to compute; 3/8 to 7/8 cost more than they save.
    """
    kept = max(width, height) if fit == "pad" else min(width, height)
    # Below 8 pixels two factors give one size, and decoders could choose differently.
    if kept >= 4 * serves and min(width, height) >= 8:
        for scale in (8, 4, 2):
            if kept >= 2 * serves * scale:
                return scale
    return 1


def _is_bomb(width: int, height: int) -> bool:
    limit = Image.MAX_IMAGE_PIXELS
    return limit is not None and width * height > 2 * limit  # Pillow says so, in its words


# Pillow keeps RGB in four bytes: RGBX it takes over as it is, uncopied. Pillow-SIMD resizes four
# channels as fast as three; stock Pillow does not, and loses more there than a copy costs.
_BYTES = "RGBX" if ".post" in __version__ else "RGB"


def _by_simplejpeg(data: bytes, width: int, height: int, scale: int) -> Image.Image | None:
    try:
        if scale == 1:
            pixels = simplejpeg.decode_jpeg(data, _BYTES)
        else:
            # The smallest factor that gives at least this size: exactly 1/scale.
            at_least = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
            pixels = simplejpeg.decode_jpeg(data, _BYTES, **at_least)
    except ValueError:  # an error or a warning of libjpeg's
        return None
    size = (pixels.shape[1], pixels.shape[0])
    return Image.frombuffer(_BYTES, size, pixels, "raw", _BYTES, 0, 1)


# --- everything else ----------------------------------------------------------------------------


def _by_pillow(data: bytes, fit: str, serves: int, exif: bool) -> Decoded:
    _hush(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            decoded = _read(picture, fit, serves, exif)
            if decoded.format == "TIFF" and _libtiff.failed:
                raise OSError("libtiff met an error")  # noqa: TRY301
            return decoded
    except MemoryError:
        raise
    # The one door for what the bytes decide: plugins let almost anything out, from struct.error
    # to KeyError, and none of it is a defect of this program.
    except Exception as e:
        if "out of memory" in str(e):  # a codec's MemoryError, in Pillow's words an OSError
            raise MemoryError(str(e)) from e
        raise DecodeError(*_why(data, e)) from e


def _read(picture: Image.Image, fit: str, serves: int, exif: bool) -> Decoded:
    mode, format_, (width, height) = picture.mode, str(picture.format), picture.size
    scale = 1
    if format_ == "JPEG" and not (exif and _orientation(picture) in _TURNS):
        # A turned picture is decoded whole: the rounded-up edge would change sides.
        scale = reduction(width, height, fit=fit, serves=serves)
        if scale > 1:
            picture.draft(None, (width // scale, height // scale))
    rgb = _high_byte(picture) if mode.startswith("I;16") else picture.convert("RGB")
    if scale == 1:
        turn = _orientation(picture) if exif else 1
        rgb = rgb.transpose(_TURNS[turn]) if turn in _TURNS else rgb
        width, height = rgb.size
    if not width * height:
        raise ValueError(f"the picture is {width}x{height} pixels")
    return Decoded(rgb, width, height, mode, format_, scale)


def _high_byte(picture: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - any error: broken EXIF is no reason to lose the picture
        return 1


# --- why not ------------------------------------------------------------------------------------

_SIGNS = (
    (TRUNCATED, re.compile(r"truncated|not enough image data|unexpected end", re.IGNORECASE)),
    (
        UNSUPPORTED,
        re.compile(r"^unsupported|^cannot (handle|decode)|not available|not installed", re.I),
    ),
)


def _why(data: bytes, error: Exception) -> tuple[int, str]:
    """The status that *error* stands for, and one printable line of at most 200 characters."""
    if isinstance(error, Image.DecompressionBombError):
        return BOMB, _line(str(error))
    if isinstance(error, UnidentifiedImageError):  # its text holds an address in memory
        return _why_not_opened(data)
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


def _line(text: str) -> str:
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return "".join(c if c.isprintable() else " " for c in text).strip()[:200]


def _hush(data: bytes) -> None:
    """Keep Pillow from saying on the screen what belongs in the table, for this whole process.

    The filter is set again for each picture, at 2 microseconds, since others may reset it: a
    warning that is turned into an error would quarantine a picture that can be read. (Not
    `catch_warnings`: it swaps the filters of all threads.)
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if data[:2] in (b"II", b"MM"):
        _listen_to_libtiff()
        _libtiff.failed = False


_libtiff = threading.local()


def _note_libtiff_error(module: bytes, text: bytes, values: int) -> None:
    _libtiff.failed = True


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_libtiff_handler = _HANDLER(_note_libtiff_error)  # kept: libtiff holds its bare address


@functools.cache
def _listen_to_libtiff() -> None:
    """Take libtiff's handlers: it writes to standard error, past Python.

    Nor do all its versions stop at an error: 4.5 goes on with memory that nobody has written,
    which would be other pixels each time.
    """
    maps = Path("/proc/self/maps")
    loaded = maps.read_text("utf-8", "replace") if maps.exists() else ""
    for path in sorted(set(re.findall(r"/\S*/libtiff[-.\w]*\.so[.\d]*", loaded))):
        library = ctypes.CDLL(path)  # the one that is loaded, not another
        library.TIFFSetWarningHandler(None)
        library.TIFFSetErrorHandler(_libtiff_handler)
