"""Identify the format of a file, image or not, by its first bytes.

This module decodes nothing and imports no decoder, so that a source or the search page can identify
files at little cost. The name of the file is ignored, because suffixes may be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

HEAD_BYTES = 4096
"""The number of bytes at the beginning of a file that `format_of` examines."""

SMALL_BYTES = 2**20
"""The size in bytes up to which a file is read at once: reading its head first costs more."""

DECODED = "decoded"
"""An image of a format that `pipeline.images.decode` decodes."""
OTHER_IMAGE = "picture"
"""An image of a format that is identified but not decoded."""
NOT_AN_IMAGE = "other"
"""A file that is not an image."""

_CONVERT = "convert it to JPEG or PNG"


@dataclass(frozen=True, slots=True)
class Format:
    """A file format that is identified by the first bytes of a file."""

    name: str
    """The usual name of the format: "JPEG", "AVIF", "HTML", ..."""
    phrase: str
    """The name with its article and noun, as part of a sentence: "an AVIF image"."""
    kind: str
    """The kind of the format: `DECODED`, `OTHER_IMAGE` or `NOT_AN_IMAGE`."""
    advice: str = ""
    """The advice to the owner of such a file, as an imperative without a full stop."""

    @property
    def reason(self) -> str:
        """The reason why a row whose bytes have this format is quarantined."""
        return f"{self.phrase}; {self.advice}" if self.advice else f"{self.phrase}, not an image"


def _decoded_format(name: str) -> Format:
    article = "an" if name[0] in "AEIOUHLMRSX" else "a"
    return Format(name, f"{article} {name} image", DECODED)


def _other_image_format(name: str, article: str = "a", noun: str = "image") -> Format:
    return Format(name, f"{article} {name} {noun}", OTHER_IMAGE, _CONVERT)


def _nonimage_format(name: str, phrase: str, advice: str = "") -> Format:
    return Format(name, phrase, NOT_AN_IMAGE, advice)


JPEG, PNG, GIF, BMP, TIFF, WEBP, PPM = map(
    _decoded_format, ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP", "PPM")
)
DECODED_FORMATS = (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)
"""All formats that are decoded. JPEG includes MPO, and PPM includes PBM and PGM."""

_AVIF = _other_image_format("AVIF", "an")
_HEIC = _other_image_format("HEIC")
_RAW = {
    name: Format(name, f"{article} {name} raw photograph", OTHER_IMAGE, "develop it to JPEG or PNG")
    for name, article in {
        "CR2": "a", "CR3": "a", "DNG": "a", "NEF": "an", "ARW": "an", "ORF": "an", "RW2": "an",
        "RAF": "an", "X3F": "an", "MRW": "an",
    }.items()
}  # fmt: skip
_UNPACK = "unpack it"
_VIDEO = _nonimage_format("MP4", "an MP4 video")

_CONTAINERS: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"%PDF-", _nonimage_format("PDF", "a PDF document")),
    (0, b"version https://git-lfs.github.com/", _nonimage_format(
        "Git LFS pointer", "a Git LFS pointer in the place of the file", "run `git lfs pull`")),
    (0, b"\x93NUMPY", _nonimage_format("NumPy", "a NumPy array")),
    (0, b"\x89HDF\r\n\x1a\n", _nonimage_format("HDF5", "an HDF5 file")),
    (0, b"MATLAB 5.0", _nonimage_format("MATLAB", "a MATLAB file")),
    (0, b"PAR1", _nonimage_format("Parquet", "a Parquet table")),
    (0, b"PARE", _nonimage_format("Parquet", "an encrypted Parquet table")),
    (0, b"ARROW1", _nonimage_format("Arrow", "an Arrow table")),
    (0, b"SQLite format 3\0", _nonimage_format("SQLite", "an SQLite database")),
    (0, b"\x1f\x8b", _nonimage_format("gzip", "a gzip archive", _UNPACK)),
    (0, b"PK\x03\x04", _nonimage_format("zip", "a zip archive", _UNPACK)),
    (0, b"PK\x05\x06", _nonimage_format("zip", "an empty zip archive")),
    (0, b"PK\x07\x08", _nonimage_format("zip", "a part of a zip archive")),
    (0, b"BZh", _nonimage_format("bzip2", "a bzip2 archive", _UNPACK)),
    (0, b"\xfd7zXZ\0", _nonimage_format("xz", "an xz archive", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", _nonimage_format("Zstandard", "a Zstandard archive", _UNPACK)),
    *(
        (0, bytes([low]) + b"\x2a\x4d\x18",
            _nonimage_format("Zstandard", "a Zstandard archive", _UNPACK))
        for low in range(0x50, 0x60)  # skippable frames
    ),
    (0, b"7z\xbc\xaf\x27\x1c", _nonimage_format("7z", "a 7z archive", _UNPACK)),
    (0, b"Rar!\x1a\x07", _nonimage_format("RAR", "a RAR archive", _UNPACK)),
    (0, b"\x04\x22\x4d\x18", _nonimage_format("lz4", "an lz4 archive", _UNPACK)),
    (0, b"LZIP\x01", _nonimage_format("lzip", "an lzip archive", _UNPACK)),
    (0, b"\x1f\x9d", _nonimage_format("compress", "an archive of compress (.Z)", _UNPACK)),
    (16, b"\xde\xc0\xef\xbe", _nonimage_format("LMDB", "an LMDB")),
    (0, b"\x0a\x23\xd7\xce", _nonimage_format("RecordIO", "a RecordIO file")),
)  # fmt: skip
"""The formats of archives, tables and databases, which may contain many images."""

_MAGIC: tuple[tuple[int, bytes, Format], ...] = (
    # --- decoded
    (0, b"\xff\xd8\xff", JPEG),
    (0, b"\x89PNG\r\n\x1a\n", PNG),
    (0, b"GIF87a", GIF),
    (0, b"GIF89a", GIF),
    (8, b"CR\x02\0", _RAW["CR2"]),  # before TIFF, because every CR2 is also a TIFF
    (0, b"II*\0", TIFF),
    (0, b"MM\0*", TIFF),
    (0, b"MM*\0", TIFF),
    (0, b"II\0*", TIFF),
    (0, b"MM\0+", TIFF),
    (0, b"II+\0", TIFF),
    # --- images of other formats
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", _other_image_format("JPEG 2000")),
    (0, b"\xff\x4f\xff\x51", _other_image_format("JPEG 2000")),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", _other_image_format("JPEG XL")),
    (0, b"\xff\x0a", _other_image_format("JPEG XL")),
    (0, b"II\xbc\x01", _other_image_format("JPEG XR")),
    (0, b"8BPS", _other_image_format("Photoshop (PSD)")),
    (0, b"gimp xcf", _other_image_format("GIMP (XCF)")),
    (0, b"%!PS", _other_image_format("PostScript (EPS)")),
    (0, b"\xc5\xd0\xd3\xc6", _other_image_format("PostScript (EPS)")),
    (0, b"\x76\x2f\x31\x01", _other_image_format("OpenEXR", "an")),
    (0, b"#?RADIANCE", _other_image_format("Radiance (HDR)")),
    (0, b"#?RGBE", _other_image_format("Radiance (HDR)")),
    (0, b"SIMPLE  =", _other_image_format("FITS")),
    (128, b"DICM", _other_image_format("DICOM")),
    (0, b"qoif", _other_image_format("QOI")),
    (0, b"DDS ", _other_image_format("DirectDraw (DDS)")),
    (0, b"\x8aMNG\r\n\x1a\n", _other_image_format("MNG", "an")),
    (0, b"\x8bJNG\r\n\x1a\n", _other_image_format("JNG")),
    (0, b"BPG\xfb", _other_image_format("BPG")),
    (0, b"FLIF", _other_image_format("FLIF")),
    (0, b"AT&TFORM", _other_image_format("DjVu")),
    (0, b"icns", _other_image_format("ICNS", "an")),
    (0, b"\x01\xda", _other_image_format("SGI", "an")),
    (0, b"\x59\xa6\x6a\x95", _other_image_format("Sun raster")),
    (0, b"\xab\x4b\x54\x58", _other_image_format("KTX", noun="texture")),
    (0, b"\xd7\xcd\xc6\x9a", _other_image_format("Windows metafile (WMF)")),
    (40, b" EMF", _other_image_format("Windows metafile (EMF)")),
    (0, b"/* XPM */", _other_image_format("XPM", "an")),
    (0, b"\x0a\x05\x01\x08", _other_image_format("PCX")),
    (0, b"P7\n", _other_image_format("PAM")),
    (0, b"PF\n", _other_image_format("PFM")),
    (0, b"IIRO", _RAW["ORF"]),
    (0, b"IIRS", _RAW["ORF"]),
    (0, b"MMOR", _RAW["ORF"]),
    (0, b"IIU\0", _RAW["RW2"]),
    (0, b"FUJIFILMCCD-RAW", _RAW["RAF"]),
    (0, b"FOVb", _RAW["X3F"]),
    (0, b"\0MRM", _RAW["MRW"]),
    # --- no images
    *_CONTAINERS,
    (257, b"ustar", _nonimage_format("tar", "a tar archive", _UNPACK)),
    (0, b"OggS", _nonimage_format("Ogg", "an Ogg sound or video")),
    (0, b"fLaC", _nonimage_format("FLAC", "a FLAC sound")),
    (0, b"ID3", _nonimage_format("MP3", "an MP3 sound")),
    (0, b"\xff\xfb", _nonimage_format("MP3", "an MP3 sound")),
    (0, b"MThd", _nonimage_format("MIDI", "a MIDI sound")),
    (0, b"\x1a\x45\xdf\xa3", _nonimage_format("Matroska", "a Matroska or WebM video")),
    (0, b"FLV\x01", _nonimage_format("FLV", "a Flash video")),
    (0, b"\0\0\x01\xba", _nonimage_format("MPEG", "an MPEG video")),
    (0, b"\0\0\x01\xb3", _nonimage_format("MPEG", "an MPEG video")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _nonimage_format("ASF", "a Windows Media (ASF) file")),
    (0, b"\0\x05\x16\x07",
        _nonimage_format("AppleDouble", "an AppleDouble file, which macOS leaves")),
    (0, b"\0\0\0\x01Bud1", _nonimage_format(".DS_Store", "a .DS_Store file, which macOS leaves")),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        _nonimage_format("OLE", "a Microsoft Office file or Thumbs.db")),
    (0, b"\x7fELF", _nonimage_format("ELF", "a program")),
    (0, b"MZ", _nonimage_format("EXE", "a Windows program")),
)  # fmt: skip

_BRANDS = {
    b"avif": _AVIF,
    b"avis": _AVIF,
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), _HEIC
    ),
    b"mif1": _other_image_format("HEIF"),
    b"msf1": _other_image_format("HEIF"),
    b"jxl ": _other_image_format("JPEG XL"),
    b"jp2 ": _other_image_format("JPEG 2000"),
    b"crx ": _RAW["CR3"],
    b"qt  ": _nonimage_format("QuickTime", "a QuickTime video"),
    b"M4A ": _nonimage_format("M4A", "an MPEG-4 sound"),
    b"M4B ": _nonimage_format("M4A", "an MPEG-4 sound"),
}
"""The format for each brand of an ISO base media file; any other brand counts as a video."""

_BOXES = (b"moov", b"mdat", b"wide", b"pnot", b"skip", b"free")
"""The first boxes of QuickTime files that are older than brands."""

_RIFF = {
    b"WEBP": WEBP,
    b"WAVE": _nonimage_format("WAV", "a WAV sound"),
    b"AVI ": _nonimage_format("AVI", "an AVI video"),
}

_ALL_ZERO_FILE = _nonimage_format(
    "zeros", "begins with nothing but zeros", "the file was never written whole: fetch it again"
)
_TEXTS: tuple[tuple[bytes, Format], ...] = (
    (rb"<svg\b|<\?xml[^>]*>.*<svg\b|<!DOCTYPE svg", _other_image_format("SVG", "an", "drawing")),
    (
        rb"<!doctype html|<html\b|<head\b|<body\b|<script\b|<title\b",
        _nonimage_format("HTML", "an HTML page in the place of the image", "fetch the image again"),
    ),
    (rb"<\?xml\b", _nonimage_format("XML", "an XML document")),
    (rb"#define\s+\S+_width\b", _other_image_format("XBM", "an")),
    (rb"[{\[]\s*[\"{\[\]}\d-]", _nonimage_format("JSON", "a JSON document")),
)
_TEXT = _nonimage_format("text", "a text file")


def format_of(data: bytes) -> Format | None:
    """Return the format of a file, whatever its name; nothing is decoded.

    Args:
        data: The bytes of the file, or at least the first `HEAD_BYTES` (4,096) of them.

    Returns:
        The format, of an image or of another kind of file, with its `name`, such as "JPEG", and its
        `kind`: `decoded`, `picture` (an image that is not decoded) or `other` (no image). None if
        it is unknown.
    """
    head = bytes(data[:HEAD_BYTES])
    for offset, magic, file_format in _MAGIC:
        if head.startswith(magic, offset):
            return file_format
    for detect in _DETECTORS:
        if (detected := detect(head)) is not None:
            return detected
    return None


def container_of(head: bytes) -> Format | None:
    """Return the format of a file that may hold many images or stands for another file; else None.

    Archives, compressed files, tables, databases, arrays, PDFs and Git LFS pointers are such files.
    A plain tar is not among them, because its mark lies further behind.

    Args:
        head: The first bytes of the file, 64 or more unless the file is shorter.

    Returns:
        The format, with its `name`, such as "Parquet", and a `phrase` for a message, such as "a
        Parquet table"; or None.
    """
    rows = (
        file_format for offset, magic, file_format in _CONTAINERS if head.startswith(magic, offset)
    )
    return next(rows, None)


def is_decoded(head: bytes) -> bool:
    """Return True if a file has a format that is decoded: JPEG, PNG, WebP, GIF, BMP, TIFF or PPM.

    PPM includes PBM and PGM. Only the first bytes are compared; nothing is decoded.

    Args:
        head: All bytes of the file, or at least the first `HEAD_BYTES` (4,096).
    """
    file_format = format_of(head)
    return file_format is not None and file_format.kind == DECODED


def is_worth_reading(head: bytes, num_bytes: int, limit: int) -> bool:
    """Return False if a file cannot be a readable image, so that the rest need not be read.

    It is False for a file longer than *limit*, and for one of more than `SMALL_BYTES` (1 MiB) whose
    format is not decoded (`is_decoded`). It is True for any other file, so for a small one that is
    no image, too.

    Args:
        head: The first `HEAD_BYTES` (4,096) of the file, or all of a shorter one.
        num_bytes: The length of the whole file in bytes.
        limit: The maximum length of an image file in bytes, which is allowed itself.
    """
    return num_bytes <= limit and (num_bytes <= SMALL_BYTES or is_decoded(head))


def _detect_riff(head: bytes) -> Format | None:
    if not head.startswith(b"RIFF"):
        return None
    return _RIFF.get(head[8:12], _nonimage_format("RIFF", "a RIFF file"))


def _detect_iso_media(head: bytes) -> Format | None:
    """Identify an ISO base media file by its major brand, or by a compatible brand for HEIF."""
    if head[4:8] in _BOXES:
        return _BRANDS[b"qt  "]
    if head[4:8] != b"ftyp":
        return None
    major, stop = head[8:12], min(int.from_bytes(head[:4], "big"), 256)
    if major in (b"mif1", b"msf1"):  # HEIF: another brand tells AVIF from HEIC
        compatible = [head[at : at + 4] for at in range(16, stop, 4)]
        brand = next((_BRANDS[brand] for brand in compatible if brand in _CODED), None)
        return brand or _BRANDS[major]
    return _BRANDS.get(major, _VIDEO)


_CODED = {brand for brand, file_format in _BRANDS.items() if file_format in (_AVIF, _HEIC)}


_NETPBM = re.compile(rb"P([1-6f]|yP)[ \t-\r]|P0CMYK|PyRGBA|PyCMYK")


def _detect_netpbm(head: bytes) -> Format | None:
    return PPM if _NETPBM.match(head) else None  # everything that Pillow identifies as PPM


def _detect_bitmap(head: bytes) -> Format | None:
    return BMP if head.startswith(b"BM") else None


def _detect_icon(head: bytes) -> Format | None:
    if head[:4] not in (b"\0\0\x01\0", b"\0\0\x02\0") or len(head) < 22 or head[9]:
        return None
    return _other_image_format("icon (ICO)", "an", "file")


def _detect_zeros(head: bytes) -> Format | None:
    return _ALL_ZERO_FILE if head and not head.strip(b"\0") else None


def _detect_targa(head: bytes) -> Format | None:
    """Identify a TGA by a consistent header, because the format has no magic number."""
    if len(head) < 18 or head[1] > 1 or head[2] not in (1, 2, 3, 9, 10, 11):
        return None
    has_palette, sides = head[1] == 1, (head[12:14], head[14:16])
    fits = (
        (head[7] in (15, 16, 24, 32)) if has_palette else not any(head[3:8]),
        has_palette or head[2] not in (1, 9),
        b"\0\0" not in sides,
        head[16] in (8, 15, 16, 24, 32),
        head[17] & 0xC7 in (0, 1) or head[17] & 0x0F == 8,
    )
    return _other_image_format("Targa (TGA)") if all(fits) else None


def _detect_text(head: bytes) -> Format | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, file_format in _TEXTS:
        if re.match(pattern, text, re.IGNORECASE | re.DOTALL):
            return file_format
    try:  # the last character may be cut off at the end of the head
        words = text.decode("utf-8", "strict" if len(head) < HEAD_BYTES - 4 else "ignore")
    except UnicodeDecodeError:
        return None
    plain = len(words) > 3 and all(c.isprintable() or c in "\t\r\n" for c in words)
    return _TEXT if plain else None


_DETECTORS: tuple[Callable[[bytes], Format | None], ...] = (
    _detect_riff,
    _detect_iso_media,
    _detect_bitmap,
    _detect_netpbm,
    _detect_targa,
    _detect_icon,
    _detect_zeros,
    _detect_text,
)
