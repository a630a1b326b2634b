"""Why a file is no readable image: its status in the store, and the reason in words.

The bytes alone decide both, so that equal stores have equal tables.
"""

import io
import re
from types import MappingProxyType

from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

from pipeline.errors import DecodeError
from pipeline.images import formats, jpeg_structure, tiff
from pipeline.images.formats import Format

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


_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
}


def require_decodable_format(data: bytes) -> Format:
    """Return the format of a file if it is one that is decoded.

    Args:
        data: All bytes of the file, or at least the first `pipeline.images.formats.HEAD_BYTES`
            (4,096); of a TIFF all bytes, because its tags are read.

    Returns:
        One of `pipeline.images.formats.DECODED_FORMATS`.

    Raises:
        DecodeError: The format is unknown or not an image, or an image that is not decoded; its
            `status`, 2 (`UNIDENTIFIED`) or 6 (`UNSUPPORTED`), and its `reason`, a text, are those
            of a quarantined row.
    """
    file_format = formats.format_of(data)
    if file_format is None:
        raise DecodeError(UNIDENTIFIED, "the bytes begin like no known kind of file")
    if file_format.kind != formats.DECODED:
        status = UNSUPPORTED if file_format.kind == formats.OTHER_IMAGE else UNIDENTIFIED
        raise DecodeError(status, file_format.reason)
    if file_format is formats.WEBP and not features.check("webp"):
        raise DecodeError(UNSUPPORTED, "this Pillow was built without WebP")
    if file_format is formats.TIFF and (directory := tiff.read_directory(data)) is not None:
        _reject_unsupported_tiff(directory, data)
    return file_format


def _reject_unsupported_tiff(directory: tiff.Directory, data: bytes) -> None:
    if tiff.is_raw_photograph(directory, data):
        raise DecodeError(UNSUPPORTED, "a camera's raw photograph; develop it to JPEG or PNG")
    compression = int(directory.number(data, tiff.COMPRESSION, 1))
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        raise DecodeError(UNSUPPORTED, f"a TIFF of compression {compression}; convert it")


_STATUS_PATTERNS = (
    (TRUNCATED, re.compile(r"truncated|not enough image data|unexpected end", re.IGNORECASE)),
    (
        UNSUPPORTED,
        re.compile(r"^unsupported|^cannot (handle|decode)|not available|not installed", re.I),
    ),
)


def rejection_of(data: bytes, error: Exception, rules: int) -> tuple[int, str]:
    """Return the status and the reason for a file that Pillow has rejected.

    Args:
        data: All bytes of the file.
        error: The error that Pillow raised.
        rules: The version of the decoding rules, 1 to 3.

    Returns:
        The status: 2 not an image, 3 truncated, 4 too many pixels, 5 corrupt or 6 unsupported; and
        the reason, a line of printable text.

    Raises:
        DecodeError: Pillow did not identify the file, and by rules 2 its format is unknown or is
            not decoded, which says more than *error*.
    """
    if isinstance(error, Image.DecompressionBombError):
        return BOMB, _printable_line(str(error))
    if rules > 1 and (kind := jpeg_structure.unsupported_kind(data)) is not None:
        return UNSUPPORTED, f"{kind}; convert it to an ordinary one"
    if isinstance(error, UnidentifiedImageError):  # its text holds an address in memory
        return _unopened_reason_of_rules_1(data) if rules == 1 else _unopened_reason(data)
    reason = _printable_line(str(error)) or "unreadable"
    if not isinstance(error, (OSError, SyntaxError, ValueError)):
        reason = f"{type(error).__name__}: {reason}"  # "list index out of range" says too little
    if isinstance(error, EOFError):
        return TRUNCATED, reason
    if isinstance(error, NotImplementedError):
        return UNSUPPORTED, reason
    return next(
        (status for status, pattern in _STATUS_PATTERNS if pattern.search(reason)), CORRUPT
    ), reason


def _unopened_reason_of_rules_1(data: bytes) -> tuple[int, str]:
    name = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if name is None:
        return UNIDENTIFIED, "the bytes begin like none of the image formats"
    if name == "WebP" and not features.check("webp"):
        return UNSUPPORTED, "this Pillow was built without WebP"
    return CORRUPT, f"begins as a {name} file, but its header cannot be read"


def _unopened_reason(data: bytes) -> tuple[int, str]:
    """Return status and reason from the error of the format's plugin, which `Image.open` hides."""
    file_format = require_decodable_format(data)
    text = ""
    try:
        Image.OPEN[file_format.name.upper()][0](io.BytesIO(data), "")
    except Exception as e:  # noqa: BLE001 - invalid bytes make plugins raise any type
        wrapped = e.args and isinstance(e.args[0], Exception)  # an index out of range, say
        text = "" if wrapped else _printable_line(str(e))
    status = UNSUPPORTED if _UNSUPPORTED_PIXELS.search(text) else CORRUPT
    why = f" ({text})" if text else ""
    return status, f"begins as a {file_format.name} file, but its header cannot be read{why}"[:200]


_UNSUPPORTED_PIXELS = re.compile(
    r"^unsupported|unknown pixel mode|unknown data organization|^cannot h"
)


def _printable_line(text: str) -> str:
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return "".join(c if c.isprintable() else " " for c in text).strip()[:200]
