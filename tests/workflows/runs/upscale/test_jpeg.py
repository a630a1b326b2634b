"""A JPEG that is written by strips equals the one that is written at once."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.workflows.runs.upscale.small import PROFILE, noise
from workflows.runs.upscale.jpeg import QUALITY, JpegWriter


def written(pixels: np.ndarray, *heights: int, **metadata: bytes) -> bytes:
    """Return the file of an image that is written in strips of some heights."""
    file = io.BytesIO()
    with JpegWriter(file, pixels.shape[1::-1], pixels.shape[2], **metadata) as writer:
        for strip in np.split(pixels, np.cumsum(heights)):
            writer.write(strip)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("height", [1, 63, 64, 65, 128, 1100])
def test_a_jpeg_equals_that_of_pillow(channels: int, height: int) -> None:
    """Every decoded pixel is the same, over more than eight rows of blocks and many strips."""
    pixels = noise(height, 29, channels)
    smooth = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).filter(
        ImageFilter.BoxBlur(2)
    )
    expected = io.BytesIO()
    smooth.save(expected, "JPEG", quality=QUALITY, subsampling=0)
    pixels = np.array(smooth).reshape(pixels.shape)
    for heights in ((), (height // 3, height // 2), (height // 64,) * 63):
        data = written(pixels, *heights)
        with Image.open(io.BytesIO(data)) as image, Image.open(expected) as whole:
            assert image.size == (29, height)
            assert np.array_equal(np.array(image), np.array(whole))


def test_a_jpeg_has_the_profile_and_the_exif() -> None:
    """Both are found by Pillow, once, in the header of the file."""
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    data = written(noise(200, 4, 3), 100, profile=PROFILE, exif=body)
    assert data.count(PROFILE) == data.count(b"Camera") == 1
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["icc_profile"] == PROFILE
        assert dict(image.getexif()) == {0x010F: "Camera"}
