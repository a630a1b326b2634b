"""Encoded rows keep the aspect, are never enlarged, and are the source's bytes where possible."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.decode import Decoded, decode
from pipeline.images.encode import encode_jpeg_row, row_size
from tests.images import jpeg


def decoded(data: bytes, **options: Any) -> Decoded:
    return decode(data, **{"fit": "crop", "serves": 64, "exif": True, **options})


def encoded(data: bytes, short_side: int = 64, **options: Any) -> tuple[bytes, int, int]:
    return encode_jpeg_row(
        data, decoded(data, **options), short_side=short_side, quality=90, filter="bicubic"
    )


@given(width=st.integers(1, 5_000), height=st.integers(1, 5_000), short_side=st.integers(1, 512))
def test_a_picture_keeps_its_aspect_and_is_never_enlarged(
    width: int, height: int, short_side: int
) -> None:
    """The short side is exactly that asked for, the long one within half a pixel."""
    new_height, new_width = row_size(width, height, short_side)
    if min(width, height) <= short_side:
        assert (new_height, new_width) == (height, width)
        return
    assert min(new_height, new_width) == short_side
    exact = max(width, height) * short_side / min(width, height)
    assert abs(max(new_height, new_width) - exact) <= 0.5
    assert (new_height >= new_width) == (height >= width) or new_height == new_width


def test_a_strip_is_no_longer_than_a_jpeg_may_be() -> None:
    """It is shrunk to the longest side that libjpeg writes; its short side is at least 1."""
    assert row_size(100_000, 8, 64) == (5, 65_500)
    assert row_size(3, 1_000_000, 64) == (65_500, 1)
    file = io.BytesIO()
    Image.new("L", (70_000, 3), 90).save(file, "PNG")
    data, height, width = encoded(file.getvalue())
    assert (height, width) == (3, 65_500)
    assert Image.open(io.BytesIO(data)).size == (65_500, 3)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_small_jpeg_is_kept_byte_for_byte(mode: str) -> None:
    """Its short side is at most that asked for."""
    data = jpeg(1, 90, 64, mode)
    assert encoded(data) == (data, 64, 90)
    assert encoded(data, 63)[0] != data


def turned(data: bytes, value: int) -> bytes:
    """Return the JPEG with an EXIF orientation."""
    image, file, exif = Image.open(io.BytesIO(data)), io.BytesIO(), Image.Exif()
    exif[0x0112] = value
    image.save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        jpeg(1, 40, 30, "CMYK"),
        turned(jpeg(1, 40, 30), 6),
        pytest.param(b"", id="png"),
    ],
)
@pytest.mark.parametrize("exif", [False, True])
def test_all_other_images_are_encoded_without_metadata(data: bytes, exif: bool) -> None:
    """A reader that turns images by their orientation must not turn it again."""
    if not data:
        file = io.BytesIO()
        Image.open(io.BytesIO(jpeg(1, 40, 30))).save(file, "PNG")
        data = file.getvalue()
    row, height, width = encoded(data, exif=exif)
    shown = Image.open(io.BytesIO(row))
    assert (shown.format, shown.mode, shown.size) == ("JPEG", "RGB", (width, height))
    assert not shown.getexif()
    expected = decoded(data, exif=exif).pixels.convert("RGB")
    assert expected.size == (width, height)
    error = np.asarray(shown, np.int16) - np.asarray(expected, np.int16)
    assert np.abs(error).mean() < 8


def test_an_upright_orientation_is_no_reason_to_encode_again() -> None:
    """Orientation 1 turns nothing."""
    data = turned(jpeg(1, 40, 30), 1)
    assert encoded(data)[0] == data


def test_a_large_jpeg_is_reduced_while_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row differs little from one of the full pixels; too small pixels are an error."""
    smooth = np.add.outer(np.arange(400), np.arange(600)) % 256
    file = io.BytesIO()
    Image.fromarray(smooth.astype(np.uint8)).convert("RGB").resize((1200, 800)).save(file, "JPEG")
    data = file.getvalue()
    reduced, full = decoded(data), decoded(data, serves=10**6)
    assert (reduced.scale, full.scale) == (4, 1)
    rows = [
        encode_jpeg_row(data, pixels, short_side=64, quality=95, filter="bicubic")
        for pixels in (reduced, full)
    ]
    assert [row[1:] for row in rows] == [(64, 96)] * 2
    first, second = (np.asarray(Image.open(io.BytesIO(row.data)), np.int16) for row in rows)
    assert np.abs(first - second).mean() < 6
    with pytest.raises(ValueError, match=r"decoded to 300 x 200 pixels: .* 384 x 256"):
        encode_jpeg_row(data, reduced, short_side=256, quality=90, filter="bicubic")
