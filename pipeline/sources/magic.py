"""What a file is, told by its first bytes and never by its name.

Downloads are saved under any name: a plain tar as `.tar.gz`, a login page as `.tar`, the pointer of
Git LFS as `.parquet`. Names only choose which files are worth a look.
"""

from pipeline.sources.tarheader import BLOCK, sum_is_right

HEAD_BYTES = 1024
"""So many first bytes are enough to tell every kind of content, a page behind blank lines too."""

TAR, ZIP, PARQUET, EMPTY, UNKNOWN = "tar", "zip", "parquet", "empty", "unknown"
GZIP, BZIP2, XZ, ZSTD = "gzip", "bzip2", "xz", "zstd"
COMPRESSIONS = frozenset((GZIP, BZIP2, XZ, ZSTD))
"""Contents that `pipeline.sources.compression` reads as streams."""

_ZSTD_MAGICS = (
    b"\x28\xb5\x2f\xfd",
    *(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60)),  # frames to be skipped
)

_MAGICS: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    (GZIP, (b"\x1f\x8b",)),
    (BZIP2, (b"BZh",)),
    (XZ, (b"\xfd7zXZ\x00",)),
    (ZSTD, _ZSTD_MAGICS),
    (ZIP, (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")),
    (PARQUET, (b"PAR1", b"PARE")),
    ("lfs", (b"version https://git-lfs.github.com/",)),
    ("7z", (b"7z\xbc\xaf\x27\x1c",)),
    ("rar", (b"Rar!\x1a\x07",)),
    ("lz4", (b"\x04\x22\x4d\x18",)),
    ("lzip", (b"LZIP",)),
    ("compress", (b"\x1f\x9d",)),
    ("arrow", (b"ARROW1",)),
    ("hdf5", (b"\x89HDF\r\n\x1a\n",)),
    ("pdf", (b"%PDF-",)),
)

_TEXTS = {
    TAR: "a plain tar",
    GZIP: "compressed with gzip",
    BZIP2: "compressed with bzip2",
    XZ: "compressed with xz",
    ZSTD: "compressed with zstd",
    ZIP: "a zip archive",
    PARQUET: "a Parquet file",
    EMPTY: "empty",
    "lfs": "a pointer of Git LFS, not the file that it stands for",
    "html": "an HTML page, such as a login or an error that a server sent instead of the file",
    "xml": "an XML document, such as an error that a server sent instead of the file",
    "json": "a JSON document, such as an error that a server sent instead of the file",
    "7z": "a 7z archive, which is not read",
    "rar": "a RAR archive, which is not read",
    "lz4": "compressed with lz4, which is not read",
    "lzip": "compressed with lzip, which is not read",
    "compress": "compressed with compress (.Z), which is not read",
    "arrow": "an Arrow file, which is not read as a source",
    "hdf5": "an HDF5 file, which is not read as a source",
    "pdf": "a PDF document",
}

_CURES = {
    EMPTY: "Download it again.",
    "lfs": "Fetch the file itself: git lfs pull.",
    "html": "Open the address in a browser to see what the server says, and download it again.",
    "xml": "Look into it to see what the server says, and download it again.",
    "json": "Look into it to see what the server says, and download it again.",
    "arrow": "Write it as Parquet.",
    "hdf5": "Write its images as files in class folders.",
}
_UNPACK = ("7z", "rar", "lz4", "lzip", "compress")


def content_of(head: bytes) -> str:
    """Name the content of a file that begins with *head*, its first `HEAD_BYTES` or all of it."""
    if not head:
        return EMPTY
    for content, magics in _MAGICS:
        if head.startswith(magics):
            return content
    if is_tar_header(head[:BLOCK]):
        return TAR
    return _markup(head.removeprefix(b"\xef\xbb\xbf").lstrip().lower())


def is_tar_header(block: bytes) -> bool:
    """Return True if *block* is the header of a tar's member, or a block of zeros that ends one."""
    if len(block) < BLOCK:
        return False
    return not block.strip(b"\0") or block[257:262] == b"ustar" or sum_is_right(block)


def _markup(text: bytes) -> str:
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in text:
        return "html"
    if text.startswith((b"<?xml", b"<error")):
        return "xml"
    return "json" if text.startswith((b'{"', b"{'")) else UNKNOWN


def description_of(head: bytes) -> str:
    """Say what a file that begins with *head* is, as it follows the word "is"."""
    content = content_of(head)
    return _TEXTS.get(content, f"of no known kind (it begins with {head[:16]!r})")


def cure_for(head: bytes) -> str:
    """Say what helps where a file that begins with *head* lies in the place of an archive."""
    content = content_of(head)
    if content in _UNPACK:
        return "Unpack it, and pass the folder."
    return _CURES.get(content, "Download it again, and compare its size or checksum.")
