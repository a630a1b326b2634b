"""Files are identified by their first bytes, whatever their name."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from pipeline.errors import DecodeError
from pipeline.images import formats
from pipeline.images.decode import decode
from pipeline.images.formats import (
    DECODED,
    HEAD_BYTES,
    NOT_AN_IMAGE,
    OTHER_IMAGE,
    SMALL_BYTES,
    format_of,
)
from pipeline.images.rejection import UNIDENTIFIED, UNSUPPORTED
from tests.odd_files import grey_tiff, tiff

PADDING = bytes(300)


def box(brand: bytes, *compatible: bytes) -> bytes:
    """Return the first box of an ISO base media file."""
    body = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return (len(body) + 4).to_bytes(4, "big") + body + PADDING


def targa(kind: int = 2, bits: int = 24) -> bytes:
    palette = b"\x01\0\0\0\x01\x18" if kind in (1, 9) else bytes(6)
    head = bytes([0, palette[0], kind]) + palette[1:] + bytes(4)
    return head + b"\x10\0\x10\0" + bytes([bits, 0x20]) + b"abc" * 256


NAMED = [
    (box(b"avif", b"mif1", b"miaf"), OTHER_IMAGE, "an AVIF image"),
    (box(b"mif1", b"mif1", b"avif"), OTHER_IMAGE, "an AVIF image"),
    (box(b"heic", b"mif1"), OTHER_IMAGE, "a HEIC image"),
    (box(b"mif1", b"mif1", b"heic"), OTHER_IMAGE, "a HEIC image"),
    (box(b"msf1"), OTHER_IMAGE, "a HEIF image"),
    (box(b"crx "), OTHER_IMAGE, "a CR3 raw photograph"),
    (box(b"isom", b"mp41"), NOT_AN_IMAGE, "an MP4 video"),
    (box(b"qt  "), NOT_AN_IMAGE, "a QuickTime video"),
    (box(b"M4A "), NOT_AN_IMAGE, "an MPEG-4 sound"),
    (b"\0\0\x12\x34moov" + PADDING, NOT_AN_IMAGE, "a QuickTime video"),
    (b"\0\0\0\x0cjP  \r\n\x87\n" + PADDING, OTHER_IMAGE, "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51" + PADDING, OTHER_IMAGE, "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL \r\n\x87\n" + PADDING, OTHER_IMAGE, "a JPEG XL image"),
    (b"\xff\x0a" + PADDING, OTHER_IMAGE, "a JPEG XL image"),
    (b"II\xbc\x01" + PADDING, OTHER_IMAGE, "a JPEG XR image"),
    (b"8BPS\0\1" + PADDING, OTHER_IMAGE, "a Photoshop (PSD) image"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", OTHER_IMAGE, "a PostScript (EPS) image"),
    (b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + PADDING, OTHER_IMAGE, "an icon (ICO) file"),
    (targa(), OTHER_IMAGE, "a Targa (TGA) image"),
    (targa(1, 8), OTHER_IMAGE, "a Targa (TGA) image"),
    (b"II*\0\x10\0\0\0CR\x02\0" + PADDING, OTHER_IMAGE, "a CR2 raw photograph"),
    (b"FUJIFILMCCD-RAW 0201", OTHER_IMAGE, "an RAF raw photograph"),
    (b"\x76\x2f\x31\x01" + PADDING, OTHER_IMAGE, "an OpenEXR image"),
    (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", OTHER_IMAGE, "a Radiance (HDR) image"),
    (b"SIMPLE  =                    T" + b" " * 50, OTHER_IMAGE, "a FITS image"),
    (bytes(128) + b"DICM" + PADDING, OTHER_IMAGE, "a DICOM image"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", OTHER_IMAGE, "an SVG drawing"),
    (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<svg/>", OTHER_IMAGE, "an SVG drawing"),
    (b"P7\nWIDTH 3\n", OTHER_IMAGE, "a PAM image"),
    (b"\n <!DOCTYPE html><html>", NOT_AN_IMAGE, "an HTML page in the place of the image"),
    (b"<HTML><body>404", NOT_AN_IMAGE, "an HTML page in the place of the image"),
    (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        NOT_AN_IMAGE,
        "an XML document",
    ),
    (b'{"error": "not found"}', NOT_AN_IMAGE, "a JSON document"),
    (b"404: Not Found\n", NOT_AN_IMAGE, "a text file"),
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        NOT_AN_IMAGE,
        "a Git LFS",
    ),
    (b"RIFF\x24\0\0\0WAVEfmt " + PADDING, NOT_AN_IMAGE, "a WAV sound"),
    (b"RIFF\x24\0\0\0AVI LIST" + PADDING, NOT_AN_IMAGE, "an AVI video"),
    (b"RIFF\x24\0\0\0ACON" + PADDING, NOT_AN_IMAGE, "a RIFF file"),
    (b"%PDF-1.7\n", NOT_AN_IMAGE, "a PDF document"),
    (b"\x1f\x8b\x08\0" + PADDING, NOT_AN_IMAGE, "a gzip archive"),
    (b"PK\x03\x04" + PADDING, NOT_AN_IMAGE, "a zip archive"),
    (bytes(257).replace(b"\0", b"x") + b"ustar\0" + PADDING, NOT_AN_IMAGE, "a tar archive"),
    (b"\x93NUMPY\1\0" + PADDING, NOT_AN_IMAGE, "a NumPy array"),
    (b"\0\5\x16\7\0\2\0\0Mac OS X", NOT_AN_IMAGE, "an AppleDouble file"),
    (bytes(5000), NOT_AN_IMAGE, "begins with nothing but zeros"),
]


@pytest.mark.parametrize(("data", "kind", "phrase"), NAMED, ids=map(str, range(len(NAMED))))
def test_formats_that_are_not_decoded_are_named(data: bytes, kind: str, phrase: str) -> None:
    """Other image formats are unsupported, other files are no images; the reason names them."""
    named = format_of(data)
    assert named is not None
    assert (named.kind, named.phrase[: len(phrase)]) == (kind, phrase)
    with pytest.raises(DecodeError) as caught:
        decode(data, fit="crop", serves=8, exif=False)
    assert caught.value.status == (UNSUPPORTED if kind == OTHER_IMAGE else UNIDENTIFIED)
    assert caught.value.reason == named.reason
    assert phrase in named.reason
    assert len(named.reason) <= 200


def test_the_reason_for_an_unsupported_format_contains_advice() -> None:
    """The reason says what to do, which the status alone does not."""
    assert format_of(box(b"avif")).reason == "an AVIF image; convert it to JPEG or PNG"  # type: ignore[union-attr]


def test_random_bytes_have_no_format() -> None:
    """The reason says that the file begins like no known kind of file."""
    assert format_of(b"\x9c\x01\xfe\x00\x80 what") is None
    with pytest.raises(DecodeError, match="like no known kind of file") as caught:
        decode(b"\x9c\x01\xfe\x00\x80 what", fit="crop", serves=8, exif=False)
    assert caught.value.status == UNIDENTIFIED


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_every_decoded_format_is_identified_by_its_first_bytes(format: str, mode: str) -> None:
    """A format that is not identified would never be decoded."""
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow was built without WebP")
    if (format, mode) == ("JPEG", "1"):
        mode = "CMYK"
    buffer = io.BytesIO()
    Image.new(mode, (9, 7)).save(buffer, format)
    named = format_of(buffer.getvalue())
    assert named in formats.DECODED_FORMATS
    assert named.name.upper() == format  # type: ignore[union-attr]


@given(st.binary(max_size=64), st.sampled_from([data[:40] for data, *_ in NAMED] + [b""]))
def test_any_bytes_have_a_known_format_or_none(noise: bytes, beginning: bytes) -> None:
    """Whatever the bytes are, the reason is printable and no error is raised."""
    named = format_of(beginning + noise)
    assert named is None or (
        named.reason.isprintable() and named.kind in (DECODED, OTHER_IMAGE, NOT_AN_IMAGE)
    )


@given(st.binary(max_size=HEAD_BYTES), st.binary(max_size=64))
def test_only_the_first_bytes_decide_the_format(head: bytes, tail: bytes) -> None:
    """A long file need not be read to be identified."""
    head = head.ljust(HEAD_BYTES, b"\x07")
    assert format_of(head + tail) == format_of(head)


@pytest.mark.parametrize(
    ("head", "num_bytes", "worth"),
    [
        (b"\xff\xd8\xff\xe0", 10 * SMALL_BYTES, True),
        (b"\xff\xd8\xff\xe0", 10 * SMALL_BYTES + 1, False),
        (b"RIFF\0\0\0\0AVI ", SMALL_BYTES, True),
        (b"RIFF\0\0\0\0AVI ", SMALL_BYTES + 1, False),
        (b"\x01\x02\x03", SMALL_BYTES + 1, False),
    ],
)
def test_only_short_files_and_possible_images_are_read_completely(
    head: bytes, num_bytes: int, worth: bool
) -> None:
    """The limit of length is lower for files that cannot be images."""
    assert formats.is_worth_reading(head, num_bytes, 10 * SMALL_BYTES) is worth


# --- raw photographs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tags",
    [{254: (4, 1), 330: (4, 8)}, {50706: (1, b"\1\4\0\0")}],
    ids=["preview-and-below", "dng"],
)
def test_the_preview_of_a_raw_photograph_is_not_decoded(tags: dict) -> None:  # type: ignore[type-arg]
    """Most cameras store a preview of 160 x 120 pixels before the photograph."""
    preview = np.zeros((12, 16), np.uint8)
    data = grey_tiff(preview, tags=tags)
    with pytest.raises(DecodeError, match="raw photograph") as caught:
        decode(data, fit="crop", serves=8, exif=False)
    assert caught.value.status == UNSUPPORTED


@pytest.mark.parametrize("tags", [{254: (4, 1)}, {254: (4, 0), 330: (4, 8)}, {}])
def test_a_tiff_with_subdirectories_is_decoded(tags: dict) -> None:  # type: ignore[type-arg]
    """Pyramids have subdirectories, and a page may be marked as reduced."""
    samples = np.arange(192, dtype=np.uint8).reshape(12, 16)
    decoded = decode(grey_tiff(samples, tags=tags), fit="crop", serves=8, exif=False)
    assert np.array_equal(np.asarray(decoded.pixels)[..., 0], samples)


def test_a_tiff_of_an_unknown_compression_is_unsupported() -> None:
    """JPEG 2000 in a TIFF is an example."""
    data = tiff([bytes(64)], 8, 8, {258: (3, 8), 259: (3, 34712), 262: (3, 1), 277: (3, 1)})
    with pytest.raises(DecodeError, match="compression 34712") as caught:
        decode(data, fit="crop", serves=8, exif=False)
    assert caught.value.status == UNSUPPORTED
