"""A PNG that is written by strips is the image, for every reader."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.workflows.runs.upscale.small import PROFILE, noise
from workflows.runs.upscale import png
from workflows.runs.upscale.png import PngWriter

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def written(pixels: np.ndarray, *heights: int, **metadata: bytes) -> bytes:
    """Return the file of an image that is written in strips of some heights."""
    file = io.BytesIO()
    with PngWriter(file, pixels.shape[1::-1], pixels.shape[2], **metadata) as writer:
        for strip in np.split(pixels, np.cumsum(heights)):
            writer.write(strip)
    return file.getvalue()


@pytest.mark.parametrize("channels", MODES)
def test_a_png_holds_the_pixels(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    """Whatever its strips and the pieces that are compressed alone, for all kinds of colours."""
    pixels = noise(37, 23, channels)
    for piece_bytes in (1, 300, 1 << 20):
        monkeypatch.setattr(png, "PIECE_BYTES", piece_bytes)
        data = written(pixels, 5, 1, 20)
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode == MODES[channels]
            assert np.array_equal(np.array(image).reshape(pixels.shape), pixels)


def test_a_png_is_sound_to_the_last_byte() -> None:
    """The compressed stream ends with the right checksum, which Pillow does not look at."""
    pixels = noise(40, 30, 3)
    data = written(pixels, 13)
    stream, at = b"", 8
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == int.from_bytes(data[at + 8 + length : at + 12 + length])
        stream += body if kind == b"IDAT" else b""
        at += 12 + length
    assert kind == b"IEND"
    assert len(zlib.decompress(stream)) == 40 * (1 + 30 * 3)


def test_smooth_images_become_small() -> None:
    """Rows are stored as differences, so that a slope takes a few bytes."""
    slope = np.repeat(np.arange(200, dtype=np.uint8)[:, None, None], 300, 1)
    assert len(written(slope, 100)) < 2_000
    assert np.array_equal(np.array(Image.open(io.BytesIO(written(slope, 100)))), slope[:, :, 0])


def test_a_png_has_the_profile_and_the_exif() -> None:
    """Both are found by Pillow."""
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    data = written(noise(3, 4, 3), profile=PROFILE, exif=exif.tobytes().removeprefix(b"Exif\0\0"))
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["icc_profile"] == PROFILE
        assert dict(image.getexif()) == {0x010F: "Camera"}


def test_an_interrupted_png_has_no_end() -> None:
    """An error ends the threads, and nothing pretends that the file is complete."""
    file = io.BytesIO()

    def interrupted() -> None:
        with PngWriter(file, (4, 9), 3) as writer:
            writer.write(noise(5, 4, 3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert b"IEND" not in file.getvalue()
