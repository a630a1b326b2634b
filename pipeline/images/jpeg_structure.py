"""The structure of JPEGs: plain ones, their metadata, and a missing end marker.

A plain JPEG is baseline, 8 bit, grey or three colours, with nothing before its first scan that
Pillow might reject. All decoders read such a file alike. The check walks over the segments before
the first scan and takes 3 microseconds a file.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator

_SOF0, _SOF1, _SOS = 0xC0, 0xC1, 0xDA
_DHT, _DQT, _DRI, _APP0, _APP2, _APP13, _APP14, _COM = (
    0xC4, 0xDB, 0xDD, 0xE0, 0xE2, 0xED, 0xEE, 0xFE,
)  # fmt: skip
_SKIPPED = frozenset([_DHT, _DQT, _DRI, _COM, *range(_APP0, _APP0 + 16)])
_CHECKED = frozenset([_APP0, _APP2, _APP13, _APP14])


def plain_jpeg(data: bytes) -> tuple[int, int, str] | None:
    """Return width, height and mode of a JPEG that simplejpeg may decode, otherwise None.

    Pillow reads the segments before the first scan in Python, and rejects files that libjpeg would
    decode. A file with any segment that Pillow might reject is left to Pillow.

    Args:
        data: All bytes of a file of any kind.

    Returns:
        The width and height in pixels before any rotation, and the mode in Pillow's terms: "L" or
        "RGB".
    """
    if data[:2] != b"\xff\xd8":
        return None
    frame = None
    at = 2
    end = len(data) - 4
    while at < end and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == _SOS:
            return frame
        stop = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if kind in _SKIPPED:
            if kind in _CHECKED and not _is_sound_segment(kind, data[at + 4 : stop]):
                return None
        elif kind in (_SOF0, _SOF1):
            frame = _frame_size_and_mode(data[at + 4 : stop])
            if frame is None:
                return None
        else:
            return None
        at = stop
    return None


def _frame_size_and_mode(segment: bytes) -> tuple[int, int, str] | None:
    if len(segment) not in (9, 15) or segment[0] != 8:
        return None
    height, width = segment[1] << 8 | segment[2], segment[3] << 8 | segment[4]
    return width, height, "L" if len(segment) == 9 else "RGB"


def _is_sound_segment(kind: int, segment: bytes) -> bool:
    """Return True if Pillow accepts this application segment and still identifies a JPEG."""
    if kind == _APP0:
        return len(segment) >= 7 or not segment.startswith(b"JFIF")
    if kind == _APP2:  # MPF: Pillow may identify an MPO
        return len(segment) >= 14 and not segment.startswith(b"MPF\0")
    if kind == _APP13:  # Photoshop's blocks, the last of them cut off before its name
        return segment[-6:-2] != b"8BIM"
    return len(segment) >= 12 or not segment.startswith(b"Adobe")


def may_be_rotated(data: bytes) -> bool:
    """Return False if a JPEG certainly states no orientation, in EXIF or XMP; otherwise True.

    Args:
        data: All bytes of the file.
    """
    return b"Exif\0\0" in data or b"http://ns.adobe.com/xap/" in data


# --- metadata -----------------------------------------------------------------------------------

_JFIF_BYTES, _ADOBE_BYTES = 14, 12
"""The minimum lengths at which libjpeg reads these segments, which identify the channels."""
_APP1 = 0xE1
_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def _segments_before_scan(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield kind, start and stop of each segment before the first scan or an invalid segment."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == 0xFF:  # fill bytes may precede a marker
            at += 1
            continue
        stop = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if kind == _SOS or kind in _BARE or stop < at + 4 or stop > len(data):
            return
        yield kind, at, stop
        at = stop


_BARE = frozenset([0x00, 0x01, *range(0xD0, 0xDA)])
"""The markers without a length."""


def without_app_segments(data: bytes) -> bytes:
    """Return a JPEG without its application segments (EXIF, XMP, profiles) and comments.

    The segments of JFIF and Adobe remain, because they identify the channels. Nothing is decoded,
    so the pixels stay the same. From the first scan, or the first invalid segment, on, all bytes
    remain.

    Args:
        data: All bytes of a JPEG; they are not changed.
    """
    pieces, at = [data[:2]], 2
    for kind, start, stop in _segments_before_scan(data):
        if not _is_application_segment(kind) or _tells_channels(kind, data[start + 4 : stop]):
            pieces.append(data[start:stop])
        at = stop
    return b"".join([*pieces, data[at:]])


def _is_application_segment(kind: int) -> bool:
    return kind == _COM or _APP0 <= kind < _APP0 + 16


def _tells_channels(kind: int, body: bytes) -> bool:
    if kind == _APP0:
        return body.startswith(b"JFIF\0") and len(body) >= _JFIF_BYTES
    return kind == _APP14 and body.startswith(b"Adobe") and len(body) >= _ADOBE_BYTES


def metadata_segments(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the segments of a JPEG that may state an orientation, in the order of the file.

    Args:
        data: All bytes of a JPEG.

    Yields:
        `exif` and the segment's bytes from `Exif` on, or `xmp` and the bytes of its XML, undecoded.
    """
    for kind, start, stop in _segments_before_scan(data):
        body = data[start + 4 : stop]
        if kind == _APP1 and body.startswith(b"Exif\0\0"):
            yield "exif", body
        elif kind == _APP1 and body.startswith(_XMP):
            yield "xmp", body[len(_XMP) :]


# --- the end ------------------------------------------------------------------------------------

_END = b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS = frozenset([0xC3, 0xC7, 0xCB, 0xCF, 0xF7])
_HIERARCHICAL = frozenset([0xC5, 0xC6, 0xCD, 0xCE])
_PROGRESSIVE = frozenset([0xC2, 0xCA])
_ANY_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_NUM_GARBAGES = 16
_GARBAGE_BYTES = 256


def unsupported_kind(data: bytes) -> str | None:
    """Return the name of a kind of JPEG that decoders do not support; None for any other file.

    Args:
        data: All bytes of a file of any kind.

    Returns:
        A phrase such as "a lossless JPEG" or "a JPEG of 12 bits a sample".
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    for kind, start, stop in _segments_before_scan(data):
        if kind in _LOSSLESS:
            return "a lossless JPEG"
        if kind in _HIERARCHICAL:
            return "a hierarchical JPEG"
        if kind in _FRAMES:
            bits = data[start + 4] if stop > start + 4 else 8
            return f"a JPEG of {bits} bits a sample" if bits != 8 else None
    return None


def has_end_marker(data: bytes) -> bool:
    """Return True if a JPEG has an end marker (bytes FF D9) after the segments before its scans.

    A marker inside these segments, such as that of a thumbnail, does not count, unless the file
    ends with it.

    Args:
        data: All bytes of the file.
    """
    if data.endswith(_END):
        return True
    start = max((stop for _, _, stop in _segments_before_scan(data)), default=2)
    return data.rfind(_END) > start  # an earlier one ends a thumbnail


def with_end_marker(data: bytes, pixels: Callable[[bytes], bytes | None]) -> bytes | None:
    """Return the JPEG *data* with an end marker, if it lacks that alone; otherwise None.

    No decoder reports whether more is missing: at the end of the data, libjpeg fills up the image
    without an error. So the file is decoded up to 17 times, with different garbage before the end
    marker. If a scan is incomplete, the decoder reads the garbage as a part of it, and the pixels
    differ; if all scans are complete, it skips the garbage. Zeros at the end of *data* are left
    out: a scan that itself ends in zeros, one in 256, cannot be told from one that was cut off and
    padded, and is taken for incomplete.

    Args:
        data: A JPEG that a decoder reported as cut off.
        pixels: A function that decodes a JPEG at full size and returns a digest of its pixels, or
            None if it cannot be decoded.
    """
    bare = _without_trailing_zeros(data)
    if not _has_every_scan(bare):
        return None
    ended = bare + _END
    expected = pixels(ended)
    if expected is None:
        return None
    if any(pixels(bare + garbage + _END) != expected for garbage in _garbage_scan_data()):
        return None
    return ended


def _without_trailing_zeros(data: bytes) -> bytes:
    """Return *data* without trailing zeros of a disk or camera, and without half a marker."""
    bare = data.rstrip(b"\0")
    if not bare.endswith(b"\xff"):
        return bare
    return bare + b"\0" if len(bare) < len(data) else bare[:-1]  # FF 00 is a value of a scan


@functools.cache
def _garbage_scan_data() -> list[bytes]:
    """Return bytes that a decoder accepts as scan data, also while it waits for a restart marker.

    Their first bits differ, because only a few bits may be missing. Their first restart markers
    differ too, because a decoder that expects the seventh one resynchronises at the eighth.
    """
    pieces = []
    for n in range(_NUM_GARBAGES):
        noise = b"".join(
            hashlib.sha256(bytes([n, k])).digest() for k in range(_GARBAGE_BYTES // 32)
        )
        piece = bytes([(n * 16 + n) & 0xFE]) + noise.replace(b"\xff", b"\xfe")
        markers = [b"\xff" + bytes([0xD0 + (2 * n + k) % 8]) for k in range(8)]
        pieces.append(piece + b"".join(marker + piece for marker in markers))
    return pieces


def _has_every_scan(data: bytes) -> bool:
    """Return True if the scans of the file, complete or not, cover all of every channel."""
    missing: dict[int, set[int]] | None = None
    progressive = False
    for match in _marker_offsets(data):
        kind, body = data[match + 1], _segment_body(data, match)
        if kind == 0xD9:
            return False  # the file has an end marker, so something else is wrong
        if kind in _FRAMES:
            progressive = kind in _PROGRESSIVE
            ids = [body[at] for at in range(6, len(body) - 2, 3)]
            missing = {name: set(range(64 if progressive else 1)) for name in ids}
        elif kind == _SOS and missing is not None:
            _remove_scan(missing, body, progressive)
    return missing is not None and not any(missing.values())


def _remove_scan(missing: dict[int, set[int]], body: bytes, progressive: bool) -> None:
    count = body[0] if body else 0
    if len(body) < 4 + 2 * count:
        return
    first, last, accuracy = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
    if accuracy and progressive:
        return  # later scans refine these coefficients
    for at in range(count):
        missing.get(body[1 + 2 * at], set()).difference_update(
            range(first, last + 1) if progressive else (0,)
        )


def _marker_offsets(data: bytes) -> Iterator[int]:
    """Yield the offset of each marker: before the first scan by lengths, then by search."""
    at = 2
    for _, start, at in _segments_before_scan(data):  # noqa: B007 - the end of the last segment is used below
        yield start
    while (match := _ANY_MARKER.search(data, at)) is not None:
        yield match.start()
        at = match.start() + 2 + len(_segment_body(data, match.start()))


def _segment_body(data: bytes, start: int) -> bytes:
    if data[start + 1] in _BARE:
        return b""
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    return data[start + 4 : start + 2 + length]
