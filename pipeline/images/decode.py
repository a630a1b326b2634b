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
Adobe does, of an animation the first frame counts. What has more than 8 bits a sample is scaled
by the range that its file states (`pipeline.images.depth`).

The rules have versions, and a store keeps the one that it was begun with. Rules 2, in force now:

* The first bytes name the format, and say what a file is that is not decoded
  (`pipeline.images.formats`).
* What Pillow rejects is tried once more without its metadata (`pipeline.images.ancillary`): a text
  that is too long, a broken profile or thumbnail index refuse no picture.
* Samples are scaled by their range, or the picture is unsupported.
* A JPEG that lacks nothing but its end marker is told from one that was cut
  (`pipeline.images.jpeg.with_end`), and is kept if the recipe says so.

Rules 1: Pillow's verdict alone; of 16-bit grey the high byte, of other deep samples whatever
Pillow clips them to.
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
from pipeline.images.jpeg import may_be_turned, plain_jpeg

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
"""The newest version of the rules that `decode` knows; 1 is the other."""

MISSING_END = ("refuse", "keep")
"""What may be done with a JPEG that lacks nothing but its end marker."""

WITHOUT_END = "a JPEG without its end marker, whose pixels are all there"
"""What is said of such a JPEG, whether it is kept or not."""

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
    remark: str = ""
    """What was wrong with the file that its pixels do not show; empty for nearly all."""


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
        fit: How the picture will become a square: this decides which side counts for `serves`.
        serves: Side in pixels of the largest square that will be made of it.
        exif: Turn the picture as its EXIF orientation says.
        rules: Version of the rules, 1 or 2, as the recipe of the store has it.
        missing_end: One of `MISSING_END`. Rules 1 refuse, whatever is said here.

    Raises:
        DecodeError: The bytes are no picture. What the bytes do not decide, a lack of memory,
            is no DecodeError.
    """
    if not data:
        raise DecodeError(EMPTY, "no bytes")
    request = _Request(fit, serves, exif, rules)
    lacks_end = rules > 1 and data.startswith(b"\xff\xd8") and not jpeg.has_end(data)
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
    """Decode a JPEG that simplejpeg may decode; None for any other file."""
    plain = plain_jpeg(data) if simplejpeg is not None else None
    if plain is None or _is_bomb(*plain[:2]) or (request.exif and may_be_turned(data)):
        return None
    width, height, mode = plain
    scale = reduction(width, height, fit=request.fit, serves=request.serves)
    pixels = _by_simplejpeg(data, width, height, scale)
    return None if pixels is None else Decoded(pixels, width, height, mode, "JPEG", scale)


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


def _by_pillow(data: bytes, request: _Request) -> Decoded:
    _hush(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            decoded = _read(picture, data, request)
            if decoded.format == "TIFF" and _libtiff.failed:
                raise OSError("libtiff met an error")  # noqa: TRY301
            return decoded
    except (MemoryError, DecodeError):
        raise
    # The one door for what the bytes decide: plugins let almost anything out, from struct.error
    # to KeyError, and none of it is a defect of this program.
    except Exception as e:
        if "out of memory" in str(e):  # a codec's MemoryError, in Pillow's words an OSError
            raise MemoryError(str(e)) from e
        raise DecodeError(*_why(data, e, request.rules)) from e


def _read(picture: Image.Image, data: bytes, request: _Request) -> Decoded:
    mode, format_, (width, height) = picture.mode, str(picture.format), picture.size
    scale = 1
    if format_ == "JPEG" and not (request.exif and _orientation(picture) in _TURNS):
        # A turned picture is decoded whole: the rounded-up edge would change sides.
        scale = reduction(width, height, fit=request.fit, serves=request.serves)
        if scale > 1:
            picture.draft(None, (width // scale, height // scale))
    rgb = _clipped(picture) if request.rules == 1 else _scaled(picture, data)
    if scale == 1:
        turn = _orientation(picture) if request.exif else 1
        rgb = rgb.transpose(_TURNS[turn]) if turn in _TURNS else rgb
        width, height = rgb.size
    if not width * height:
        raise ValueError(f"the picture is {width}x{height} pixels")
    return Decoded(rgb, width, height, mode, format_, scale)


def _clipped(picture: Image.Image) -> Image.Image:
    """Make RGB of a picture by rules 1: deep samples as Pillow clips them, but for 16-bit grey."""
    return _high_byte(picture) if picture.mode.startswith("I;16") else picture.convert("RGB")


def _scaled(picture: Image.Image, data: bytes) -> Image.Image:
    """Make RGB of a picture by rules 2: samples scaled by the range that the file states."""
    try:
        return depth.to_rgb(picture, data)
    except depth.NoRangeError as e:
        raise DecodeError(UNSUPPORTED, str(e)) from e


def _high_byte(picture: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - any error: broken EXIF is no reason to lose the picture
        return 1


# --- rules 2 ------------------------------------------------------------------------------------


def check_format(data: bytes) -> Format:
    """Return the format of *data*, one that is decoded; the beginning of a file will do.

    Raises:
        DecodeError: Its format is another, or none that is known.
    """
    named = formats.format_of(data)
    if named is None:
        raise DecodeError(UNIDENTIFIED, "the bytes begin like no known kind of file")
    if named.kind != formats.DECODED:
        status = UNSUPPORTED if named.kind == formats.PICTURE else UNIDENTIFIED
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
    """Decode what was rejected without its metadata, and a JPEG with the end that it lacks.

    Raises:
        DecodeError: It is no picture even so.
    """
    error = first
    slim = _slimmed(data, named)
    turn = ancillary.orientation(data, named) if request.exif else 1
    if slim != data and not (named is formats.JPEG and error.status == TRUNCATED):
        try:
            return _turned(_upright(slim, request, turn), turn)
        except DecodeError as e:
            # One that cannot even be opened now says less than the first error did.
            if e.status != UNIDENTIFIED and not isinstance(e.__cause__, UnidentifiedImageError):
                error = e
    if named is not formats.JPEG or error.status != TRUNCATED:
        raise error
    ended = jpeg.with_end(slim, _fingerprint)
    if ended is None:
        raise error
    if not keep:
        cure = "a new store made with --missing-end keep holds it"
        raise DecodeError(TRUNCATED, f"{WITHOUT_END}; {cure}") from error
    return replace(_turned(_upright(ended, request, turn), turn), remark=WITHOUT_END)


def _slimmed(data: bytes, named: Format) -> bytes:
    """Return *data* without metadata, or as it is where that is not to be relied on."""
    slim = ancillary.without_metadata(data, named)
    if slim is None or named is not formats.TIFF:
        return slim or data
    directory = tiff.read_directory(slim)
    whole = directory is not None and tiff.is_inflated_whole(directory, slim)
    return slim if whole else data


def _upright(data: bytes, request: _Request, turn: int) -> Decoded:
    """Decode a file that holds no metadata, whole if it will be turned."""
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
    """Digest the pixels of a JPEG at full size, as Pillow decodes them; None: it does not."""
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
    """The status that *error* stands for, and one printable line of at most 200 characters."""
    if isinstance(error, Image.DecompressionBombError):
        return BOMB, _line(str(error))
    if rules > 1 and (kind := jpeg.odd_kind(data)) is not None:
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
    """Ask the format's own plugin, whose error `Image.open` keeps to itself."""
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
