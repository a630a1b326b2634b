"""Metadata never quarantines an image: its pixels are those of the file without metadata."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from pipeline.errors import DecodeError
from pipeline.images import decode as module
from pipeline.images import embedded_metadata, formats
from pipeline.images import tiff as tiff_module
from pipeline.images.decode import Decoded, decode
from pipeline.images.rejection import CORRUPT, TRUNCATED
from tests.images import jpeg
from tests.odd_files import grey_tiff, long_text, phone_jpeg, png, png_chunk, tiff, with_chunks

GREY = np.arange(20 * 24, dtype=np.uint8).reshape(20, 24)


def decode_full(data: bytes, **options: Any) -> Decoded:
    return decode(data, **{"fit": "crop", "serves": 10**6, "exif": False, **options})


def visible(data: bytes, **options: Any) -> tuple[int, int, bytes]:
    """Return width, height and pixels."""
    decoded = decode_full(data, **options)
    return decoded.width, decoded.height, decoded.pixels.tobytes("raw", "RGB")


READS_WRONG_MPO_INDEX = int(PIL.__version__.partition(".")[0]) >= 13
"""True if Pillow itself ignores an MPO index with a wrong count, and rules 1 accept such a file."""


def refused(data: bytes, rules: int) -> bool:
    try:
        decode_full(data, rules=rules)
    except DecodeError:
        return True
    return False


def exif(orientation: int, order: str = "<") -> bytes:
    """Return a directory that contains an orientation only."""
    magic = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return magic + struct.pack(f"{order}H", 1) + entry + bytes(4)


def segment(kind: int, body: bytes) -> bytes:
    return bytes([0xFF, kind]) + (len(body) + 2).to_bytes(2, "big") + body


def with_segments(data: bytes, *segments: bytes) -> bytes:
    return data[:2] + b"".join(segments) + data[2:]


# --- PNG ------------------------------------------------------------------------------------------

PLAIN_PNG = png(GREY[..., None], 0)

CHUNKS = {
    "long-text": long_text(),
    "long-profile": png_chunk(b"iCCP", b"printer\0\0" + zlib.compress(bytes(1_200_000))),
    "long-international-text": png_chunk(
        b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"x" * 1_200_000)
    ),
    "broken-profile": png_chunk(b"iCCP", b"printer\0\0not deflated"),
    "profile-without-end": png_chunk(b"iCCP", b"printer"),
    "odd-compression": png_chunk(b"zTXt", b"a\0\7b"),
    "wrong-checksum": png_chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "empty-physical-size": png_chunk(b"pHYs", b""),
    "short-chromaticities": png_chunk(b"cHRM", bytes(5)),
    "empty-intent": png_chunk(b"sRGB", b""),
    "short-gamma": png_chunk(b"gAMA", b"\0"),
    "short-transparency": png_chunk(b"tRNS", b"\0"),
    "broken-exif": png_chunk(b"eXIf", b"nonsense"),
    "short-animation": png_chunk(b"acTL", b"\0\0"),
    "animation-out-of-order": png_chunk(b"fcTL", bytes([0, 0, 0, 9]) + bytes(22)),
    "private": png_chunk(b"prVt", bytes(100)),
}


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
def test_broken_ancillary_chunks_do_not_quarantine_a_png(name: str, behind: bool) -> None:
    """A broken chunk before or after the pixels changes nothing."""
    position = {"after" if behind else "before": [CHUNKS[name]]}
    assert visible(png(GREY[..., None], 0, **position)) == visible(PLAIN_PNG)


def test_rules_1_quarantine_a_png_with_such_chunks() -> None:
    """By rules 1 these chunks quarantine the file, so the tests of rules 2 are meaningful."""
    refused_names = [
        name for name, chunk in CHUNKS.items() if refused(with_chunks(PLAIN_PNG, chunk), 1)
    ]
    assert {"long-text", "long-profile", "wrong-checksum", "short-animation"} <= set(refused_names)
    assert len(refused_names) >= 10


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"pHYs", b"tIME", b"sBIT"]
            ),
            st.binary(max_size=40),
            st.booleans(),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_metadata_never_changes_the_pixels_of_a_png(chunks: list[Any], behind: bool) -> None:
    """A chunk with any bytes and a right or wrong checksum changes no pixel."""
    made_up = [
        png_chunk(name, body) if sound else png_chunk(name, body)[:-2] + b"??"
        for name, body, sound in chunks
    ]
    position: dict[str, Any] = {"after" if behind else "before": made_up}
    assert visible(png(GREY[..., None], 0, **position)) == visible(PLAIN_PNG)


def test_a_text_that_would_inflate_to_a_gigabyte_takes_no_memory() -> None:
    """A compressed text is skipped without being inflated."""
    bomb = png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2**26), 9) * 16)
    data = with_chunks(PLAIN_PNG, *[bomb] * 3)
    tracemalloc.start()
    try:
        assert visible(data, exif=True) == visible(PLAIN_PNG)
        assert tracemalloc.get_traced_memory()[1] < 6 * len(data) + 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [30, 60, 200])
def test_a_truncated_png_is_quarantined(cut: int) -> None:
    """A truncated PNG is detected with and without metadata."""
    for data in (PLAIN_PNG, with_chunks(PLAIN_PNG, CHUNKS["long-text"])):
        with pytest.raises(DecodeError) as caught:
            decode_full(data[:-cut])
        assert caught.value.status == TRUNCATED


def test_broken_pixel_data_is_quarantined() -> None:
    """Only metadata is skipped, never pixels."""
    at = PLAIN_PNG.index(b"IDAT") + 6
    broken = PLAIN_PNG[:at] + b"\xff\xff\xff" + PLAIN_PNG[at + 3 :]
    for data in (broken, with_chunks(broken, CHUNKS["long-text"])):
        with pytest.raises(DecodeError) as caught:
            decode_full(data)
        assert caught.value.status in (CORRUPT, TRUNCATED)


# --- JPEG -----------------------------------------------------------------------------------------

SEGMENTS = {
    "short-jfif": segment(0xE0, b"JFIF\0"),
    "short-adobe": segment(0xEE, b"Adobe"),
    "short-profile": segment(0xE2, b"ICC_PROFILE\0"),
    "broken-photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed"),
    "broken-exif": segment(0xE1, b"Exif\0\0nonsense"),
    "endless-exif": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x01" * 90),
    "broken-index": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\2\0" + b"\x7f" * 40),
    "comment": segment(0xFE, bytes(range(256))),
}


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("turned", [False, True], ids=["as-stored", "turned"])
def test_broken_application_segments_do_not_quarantine_a_jpeg(
    name: str, progressive: bool, turned: bool
) -> None:
    """A broken segment changes nothing, by either decoder."""
    data = jpeg(1, progressive=progressive)
    assert visible(with_segments(data, SEGMENTS[name]), exif=turned) == visible(data)


@pytest.mark.parametrize("claimed", [0, 1, 3, 70_000])
def test_an_mpo_index_with_a_wrong_count_is_ignored(claimed: int) -> None:
    """Phones write such files, and their first image is intact."""
    decoded = decode_full(phone_jpeg(1, claimed=claimed))
    assert (decoded.width, decoded.height) == (60, 45)
    assert visible(phone_jpeg(1, claimed=claimed)) == visible(phone_jpeg(1, claimed=2))


@pytest.mark.skipif(READS_WRONG_MPO_INDEX, reason="this Pillow reads such files itself")
def test_rules_1_quarantine_a_jpeg_with_a_wrong_mpo_index() -> None:
    """By rules 1 the index quarantines the file, so the test of rules 2 is meaningful."""
    assert refused(phone_jpeg(1, claimed=3), rules=1)
    assert not refused(phone_jpeg(1, claimed=2), rules=1)


def test_pillow_alone_decodes_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without simplejpeg decodes files with broken metadata to the same pixels."""
    files = [with_segments(jpeg(2), body) for body in SEGMENTS.values()] + [phone_jpeg(3)]
    expected = [visible(data) for data in files]
    monkeypatch.setattr(module, "simplejpeg", None)
    assert [visible(data) for data in files] == expected


@pytest.mark.parametrize("mode", ["CMYK", "RGB", "L"])
def test_adobe_colour_segments_are_kept(mode: str) -> None:
    """Without Adobe's segment, CMYK and RGB would be decoded with wrong colours."""
    data = with_segments(jpeg(4, mode=mode, **({"keep_rgb": True} if mode == "RGB" else {})))
    slim = embedded_metadata.without_metadata(with_segments(data, *SEGMENTS.values()), formats.JPEG)
    assert slim is not None
    assert len(slim) <= len(data)
    assert visible(slim) == visible(data)


# --- orientation ----------------------------------------------------------------------------------


def xmp(orientation: int) -> bytes:
    return b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


def hexadecimal(data: bytes) -> bytes:
    return b"\nexif\n%8d\n" % len(data) + data.hex().encode() + b"\n"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_although_metadata_is_skipped(orientation: int, order: str) -> None:
    """An image with a broken index or a long text is rotated as others are."""
    directory = exif(orientation, order)
    intact = with_segments(jpeg(1), segment(0xE1, b"Exif\0\0" + directory))
    metadata = segment(0xE1, b"Exif\0\0" + directory)
    broken = with_segments(jpeg(1), metadata, SEGMENTS["broken-index"])
    assert visible(broken, exif=True) == visible(intact, exif=True)
    sound = with_chunks(PLAIN_PNG, png_chunk(b"eXIf", directory))
    long = with_chunks(PLAIN_PNG, png_chunk(b"eXIf", directory), CHUNKS["long-text"])
    assert visible(long, exif=True) == visible(sound, exif=True)
    assert visible(long, exif=False) == visible(PLAIN_PNG)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6)),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(6))),
        png_chunk(b"tEXt", b"Raw profile type exif\0" + hexadecimal(exif(6))),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal(exif(6)))),
        png_chunk(b"eXIf", exif(6)),
    ],
    ids=["xmp", "compressed-xmp", "text", "compressed-text", "exif"],
)
def test_orientation_is_read_from_every_png_chunk_type(chunk: bytes) -> None:
    """An orientation is found beside broken metadata, too."""
    broken = png_chunk(b"zTXt", b"Raw profile type exif\0\0no deflate")
    for data in (
        with_chunks(PLAIN_PNG, chunk),
        with_chunks(PLAIN_PNG, broken, chunk, CHUNKS["long-text"]),
    ):
        assert embedded_metadata.orientation(data, formats.PNG) == 6
    width, height, _ = visible(with_chunks(PLAIN_PNG, chunk, CHUNKS["long-text"]), exif=True)
    assert (width, height) == (20, 24)


def test_a_rotated_image_is_not_decoded_at_reduced_scale() -> None:
    """The rounded-up edge of a reduced image would change sides by the rotation."""
    metadata = segment(0xE1, b"Exif\0\0" + exif(6))
    sound = with_segments(jpeg(1, 403, 301), metadata)
    odd = with_segments(phone_jpeg(1, (403, 301)), metadata)
    assert refused(odd, rules=1) or READS_WRONG_MPO_INDEX
    for data in (sound, odd):
        decoded = decode_full(data, exif=True, serves=20)
        assert (decoded.width, decoded.height, decoded.scale) == (301, 403, 1)
        assert decode_full(data, exif=False, serves=20).scale == 4


@pytest.mark.parametrize("value", [0, 9, 77, 65535])
def test_invalid_orientation_values_are_ignored(value: int) -> None:
    """Only the values 1 to 8 are orientations."""
    data = with_segments(jpeg(1), segment(0xE1, b"Exif\0\0" + exif(value)))
    assert visible(data, exif=True) == visible(jpeg(1))
    assert embedded_metadata.orientation(data, formats.JPEG) == 1


@given(st.binary(max_size=200), st.sampled_from([formats.JPEG, formats.PNG, formats.WEBP]))
def test_orientation_defaults_to_1_for_any_bytes(noise: bytes, format: formats.Format) -> None:
    """The orientation is 1 if no other one can be read."""
    beginnings = {formats.JPEG: b"\xff\xd8\xff\xe1\0\x40Exif\0\0", formats.PNG: PLAIN_PNG[:33]}
    data = beginnings.get(format, b"RIFF\x40\0\0\0WEBP") + noise
    assert 1 <= embedded_metadata.orientation(data, format) <= 8


# --- TIFF -----------------------------------------------------------------------------------------

TAGS = {
    "long-text": {270: (2, b"x" * 2_000_000)},
    "exif-nowhere": {34665: (4, 2**31)},
    "position-nowhere": {34853: (4, 2**31)},
    "resolution-nowhere": {282: (5, struct.pack("<II", 0, 0))},
    "broken-xmp": {700: (1, b"\xff" * 50)},
    "broken-profile": {34675: (7, b"nonsense")},
    "odd-kind": {65000: (200, 7)},
}


@pytest.mark.parametrize("name", TAGS)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_broken_metadata_tags_do_not_quarantine_a_tiff(
    name: str, compressed: bool, turned: bool
) -> None:
    """The file is decoded whether libtiff or Pillow reads its strips."""
    if compressed and not features.check("libtiff"):
        pytest.skip("needs a Pillow with libtiff")
    body = zlib.compress(GREY.tobytes()) if compressed else GREY.tobytes()
    common: dict[int, tuple[int, Any]] = {258: (3, 8), 262: (3, 1), 277: (3, 1)}
    common |= {259: (3, 8 if compressed else 1)}
    plain = tiff([body], 24, 20, common)
    assert visible(tiff([body], 24, 20, {**common, **TAGS[name]}), exif=turned) == visible(plain)
    assert np.array_equal(np.asarray(decode_full(plain).pixels)[..., 0], GREY)


def test_a_cycle_of_tiff_pages_is_read_as_its_first_page() -> None:
    """Only the first page of a TIFF counts."""
    data = bytearray(grey_tiff(GREY))
    data[-4:] = data[4:8]
    assert visible(bytes(data)) == visible(grey_tiff(GREY))


@pytest.mark.parametrize("claimed", [b"\xff\xff\xff\xff", b"\x07\0\0\0"])
def test_a_tiff_without_a_directory_is_quarantined(claimed: bytes) -> None:
    """Without a directory nothing is known of the image."""
    with pytest.raises(DecodeError):
        decode_full(b"II*\0" + claimed + grey_tiff(GREY)[8:])


@pytest.mark.parametrize("cut", [1, 30])
def test_a_tiff_with_short_strips_is_quarantined(cut: int) -> None:
    """Libtiff accepts some short strips and returns uninitialised memory."""
    body = zlib.compress(GREY.tobytes()[:-cut])
    data = tiff([body], 24, 20, {258: (3, 8), 259: (3, 8), 262: (3, 1), 65000: (200, 7)})
    with pytest.raises(DecodeError):
        decode_full(data)


def test_a_deflate_block_beyond_its_strip_is_quarantined() -> None:
    """Libtiff reports nothing and writes nothing for such a block."""
    body = zlib.compress(bytes(5000), 0)[:300]
    tags = {258: (3, 8), 259: (3, 8), 262: (3, 1), 277: (3, 1)}
    data = tiff([body], 24, 20, {**tags, 65000: (200, 7)})
    with pytest.raises(DecodeError):
        decode_full(data)
    directory = tiff_module.read_directory(data)
    assert directory is not None
    assert not tiff_module.is_inflated_whole(directory, data)
    intact = tiff([zlib.compress(GREY.tobytes())], 24, 20, tags)
    directory = tiff_module.read_directory(intact)
    assert directory is not None
    assert tiff_module.is_inflated_whole(directory, intact)


# --- WebP and GIF ---------------------------------------------------------------------------------


def webp(*chunks: tuple[bytes, bytes], flags: int = 0, claimed: int | None = None) -> bytes:
    """Return a WebP of one image, followed by further chunks."""
    buffer = io.BytesIO()
    Image.fromarray(GREY).convert("RGB").save(buffer, "WEBP", lossless=True)
    body = b"VP8X" + struct.pack("<II", 10, flags) + struct.pack("<I", 23)[:3]
    body += struct.pack("<I", 19)[:3] + buffer.getvalue()[12:]
    for name, text in chunks:
        body += name + struct.pack("<I", len(text) if claimed is None else claimed) + text
        body += bytes(len(text) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.skipif(not features.check("webp"), reason="this Pillow was built without WebP")
@pytest.mark.parametrize("claimed", [None, 10**6])
@pytest.mark.parametrize("name", [b"EXIF", b"XMP ", b"ICCP"])
def test_broken_chunks_do_not_quarantine_a_webp(name: bytes, claimed: int | None) -> None:
    """A chunk that is broken or longer than the file changes nothing."""
    flag = {b"EXIF": 8, b"XMP ": 4, b"ICCP": 32}[name]
    data = webp((name, b"nonsense!"), flags=flag, claimed=claimed)
    assert visible(data, exif=True) == visible(webp())


@pytest.mark.skipif(not features.check("webp"), reason="this Pillow was built without WebP")
def test_a_webp_with_a_broken_chunk_is_still_rotated() -> None:
    """The EXIF before a broken chunk still counts."""
    data = webp((b"EXIF", exif(6)), (b"XMP ", b"x"), flags=8)
    broken = data[:-2] + struct.pack("<I", 7)
    assert visible(broken, exif=True)[:2] == (20, 24)


GIF_BEHIND = {
    "comment": b"\x21\xfe\x05hello\x00",
    "long-comment": b"\x21\xfe" + b"\xff".join([b"", *[b"c" * 255] * 400]) + b"\0",
    "xmp": b"\x21\xff\x0bXMP DataXMP" + b"<x/>" + b"\x01\xff" + bytes(range(253, -1, -1)) + b"\0\0",
    "short-control": b"\x21\xf9\x01\x00\x00",
    "unknown": b"\x21\x77\x03abc\x00",
}


@pytest.mark.parametrize("name", GIF_BEHIND)
def test_extensions_do_not_quarantine_a_gif(name: str) -> None:
    """An odd extension before the image changes nothing."""
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "GIF")
    data = buffer.getvalue()
    at = data.index(b",", 13 + (3 << (data[10] & 7) + 1))
    assert visible(data[:at] + GIF_BEHIND[name] + data[at:]) == visible(data)
