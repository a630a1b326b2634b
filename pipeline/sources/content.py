"""The content of a file that may hold images, from its first bytes and never from its name.

Downloads are saved under any name: a plain tar as `.tar.gz`, a login page as `.tar`, the pointer of
Git LFS as `.parquet`. Names only select the files to examine. `pipeline.images.formats` holds the
first bytes of each format; this module says how a source uses them.
"""

import google_crc32c

from pipeline.images.formats import container_of
from pipeline.sources.archives.tar_header import BLOCK, has_tar_checksum

HEAD_BYTES = 1024
"""The number of first bytes that tell every kind of content, even a page behind blank lines."""

TAR, EMPTY, UNKNOWN = "tar", "empty", "unknown"
ZIP, PARQUET = "zip", "Parquet"
GZIP, BZIP2, XZ, ZSTD = "gzip", "bzip2", "xz", "Zstandard"
COMPRESSIONS = frozenset((GZIP, BZIP2, XZ, ZSTD))
"""The contents that `pipeline.sources.archives.compression` reads as streams."""

_TEXTS = {
    TAR: "a plain tar",
    EMPTY: "empty",
    "html": "an HTML page, such as a login or an error that a server sent instead of the file",
    "xml": "an XML document, such as an error that a server sent instead of the file",
    "json": "a JSON document, such as an error that a server sent instead of the file",
}
_ADVICE = {
    "Git LFS pointer": "Download the file itself: git lfs pull.",
    "html": "Open the address in a browser to see what the server says, and download it again.",
    "xml": "Look into it to see what the server says, and download it again.",
    "json": "Look into it to see what the server says, and download it again.",
}
TFRECORD, MDS, LMDB, FFCV = "TFRecord", "MDS", "LMDB", "FFCV"
CONVERTED = {
    TFRECORD: (
        "a TFRecord file",
        "Write each record's image as a file in a class folder, with tensorflow.",
    ),
    MDS: (
        "a shard of MosaicML's MDS",
        "Write each sample's image as a file in a class folder, with mosaicml-streaming.",
    ),
    FFCV: ("a file of FFCV", "Pass the images that it was created from."),
    LMDB: (
        "an LMDB",
        "Where its values are image files, put it into a folder of its own as data.mdb, and pass"
        " that; else write them as files in class folders, with lmdb.",
    ),
    "HDF5": ("an HDF5 file", "Write its images as files in class folders, with h5py."),
    "Arrow": (
        "an Arrow file",
        "Write it as Parquet: datasets.load_from_disk(FOLDER).to_parquet(FILE).",
    ),
    "NumPy": ("a NumPy array", "Write its images as PNG files in class folders."),
    "MATLAB": ("a MATLAB file", "Write its images as PNG files in class folders."),
    "SQLite": ("an SQLite database", "Write its images as files in class folders."),
    "RecordIO": (
        "a RecordIO file",
        "Write its images as files in class folders, with mxnet.recordio.",
    ),
}
"""The data sets of other tools, which are not read -> (what each file is, how to convert it)."""
_TFRECORD_CRC_MASK = 0xA282EAD8
_DOWNLOAD = "Download it again, and compare its size or checksum."


def content_of(head: bytes) -> str:
    """Return what kind of content a file has, by its first bytes.

    Args:
        head: The first 1,024 bytes of the file, or all of a shorter one.

    Returns:
        `tar` (also for a block of zeros), `empty`, `html`, `xml`, `json` (an object, not a list),
        or the name of an archive, table or database with known first bytes, such as `zip`, `gzip`,
        `bzip2`, `xz`, `Zstandard`, `Parquet` and `Git LFS pointer`; `unknown` for anything else,
        such as an image or a text.
    """
    if not head:
        return EMPTY
    if is_tar_header(head[:BLOCK]):
        return TAR
    container = container_of(head)
    if container is not None:
        return container.name
    if head[257:262] == b"ustar":  # a tar with a damaged header
        return TAR
    return _markup_content(head.removeprefix(b"\xef\xbb\xbf").lstrip().lower())


def is_tar_header(block: bytes) -> bool:
    """Return True for a whole header of a tar's member, or a block of zeros that ends a tar.

    The checksum decides: a compressed tar may show its `ustar` at the place where a tar has it.

    Args:
        block: 512 bytes; False for any other length.
    """
    return len(block) == BLOCK and (not block.strip(b"\0") or has_tar_checksum(block))


def is_tfrecord(head: bytes) -> bool:
    """Return True if a file begins with a record's length and the masked checksum of that.

    TFRecord has no magic number, so `content_of` returns `unknown` for it: 4 bytes of a checksum
    identify a file only where nothing else is expected.

    Args:
        head: The first bytes of the file, at least 12; of fewer, False is returned.
    """
    crc = google_crc32c.value(head[:8])
    masked = (((crc >> 15) | (crc << 17)) + _TFRECORD_CRC_MASK) & 0xFFFFFFFF
    return len(head) >= 12 and int.from_bytes(head[8:12], "little") == masked


def _markup_content(text: bytes) -> str:
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in text:
        return "html"
    if text.startswith((b"<?xml", b"<error")):
        return "xml"
    return "json" if text.startswith((b'{"', b"{'")) else UNKNOWN


def description_of(head: bytes) -> str:
    """Return a phrase for the content of a file, such as "a plain tar", to follow the word "is".

    Args:
        head: The first 1,024 bytes of the file, or all of a shorter one. Of a file of no known
            kind, an image among them, the phrase shows the first 16.
    """
    container, content = container_of(head), content_of(head)
    if content in _TEXTS:
        return _TEXTS[content]
    if container is not None:
        return container.phrase
    return f"of no known kind (it begins with {head[:16]!r})"


def advice_on_content(head: bytes) -> str:
    """Return the advice to a user who passed a file where an archive is expected.

    Args:
        head: The first 1,024 bytes of the file, or all of a shorter one.

    Returns:
        One or more sentences, such as "Unpack it, and pass the folder." for a zip or gzip; for an
        empty file, and for one of no known kind, that it should be downloaded again.
    """
    container, content = container_of(head), content_of(head)
    if content in _ADVICE:
        return _ADVICE[content]
    if content in CONVERTED:
        return CONVERTED[content][1]
    unpacks = container is not None and container.advice != ""
    return "Unpack it, and pass the folder." if unpacks else _DOWNLOAD
