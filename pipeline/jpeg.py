"""Which JPEGs are plain: a walk over the segments before the first scan, at 3 microseconds a file.

Plain is baseline, 8 bit, grey or three colours, with nothing before its first scan that Pillow
might stumble over. Such a file every decoder reads alike.
"""

_SOF0, _SOF1, _SOS = 0xC0, 0xC1, 0xDA
_DHT, _DQT, _DRI, _APP0, _APP2, _APP13, _APP14, _COM = (
    0xC4, 0xDB, 0xDD, 0xE0, 0xE2, 0xED, 0xEE, 0xFE,
)  # fmt: skip
_PASSED_OVER = frozenset([_DHT, _DQT, _DRI, _COM, *range(_APP0, _APP0 + 16)])
_LOOKED_INTO = frozenset([_APP0, _APP2, _APP13, _APP14])


def plain_jpeg(data: bytes) -> tuple[int, int, str] | None:
    """Width, height and mode of a JPEG that simplejpeg may decode, else None.

    Pillow reads the segments before the first scan in Python, and rejects files that libjpeg
    would decode. Whatever it might stumble over is none of simplejpeg's business.
    """
    if data[:2] != b"\xff\xd8":
        return None
    found = None
    at = 2
    end = len(data) - 4
    while at < end and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == _SOS:
            return found
        stop = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if kind in _PASSED_OVER:
            if kind in _LOOKED_INTO and not _is_sound(kind, data[at + 4 : stop]):
                return None
        elif kind in (_SOF0, _SOF1):
            found = _frame(data[at + 4 : stop])
            if found is None:
                return None
        else:
            return None
        at = stop
    return None


def _frame(segment: bytes) -> tuple[int, int, str] | None:
    if len(segment) not in (9, 15) or segment[0] != 8:
        return None
    height, width = segment[1] << 8 | segment[2], segment[3] << 8 | segment[4]
    return width, height, "L" if len(segment) == 9 else "RGB"


def _is_sound(kind: int, segment: bytes) -> bool:
    """Whether Pillow gets past this application segment, and still calls the file a JPEG."""
    if kind == _APP0:
        return len(segment) >= 7 or not segment.startswith(b"JFIF")
    if kind == _APP2:  # MPF: Pillow may call it MPO
        return len(segment) >= 14 and not segment.startswith(b"MPF\0")
    if kind == _APP13:  # Photoshop's blocks, the last of them cut off before its name
        return segment[-6:-2] != b"8BIM"
    return len(segment) >= 12 or not segment.startswith(b"Adobe")


def may_be_turned(data: bytes) -> bool:
    """Whether a JPEG may carry an orientation: in EXIF, or in XMP."""
    return b"Exif\0\0" in data or b"http://ns.adobe.com/xap/" in data
