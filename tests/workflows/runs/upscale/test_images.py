"""Image files as the network sees them: modes, transparency, depth, turning and metadata."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.workflows.runs.upscale.small import GREY_PROFILE, PROFILE, noise
from workflows.runs.upscale.images import ImageFileError, SourceImage, pixel_count, read_image

HOSTILE = Path(os.environ.get("TESSERAE_DATA", ""), "hostile")
COLOURS, GREY, ALPHA = noise(5, 7, 3), noise(5, 7, 1, 1), noise(5, 7, 1, 2)


def saved(folder: Path, image: Image.Image, name: str = "image.png", **options: Any) -> SourceImage:
    """Return an image as it is read from a file."""
    file = folder / name
    image.save(file, **options)
    assert pixel_count(file) == image.width * image.height
    return read_image(file)


def of(*parts: np.ndarray) -> Image.Image:
    """Return a Pillow image of channels."""
    return Image.fromarray(np.concatenate(parts, 2).squeeze())


def test_the_modes_of_pillow(tmp_path: Path) -> None:
    """Colours stay colours and grey stays grey, with the transparency of the file."""
    cases = {
        "RGB": (of(COLOURS), COLOURS, None),
        "RGBA": (of(COLOURS, ALPHA), COLOURS, ALPHA),
        "L": (of(GREY), GREY, None),
        "LA": (of(GREY, ALPHA), GREY, ALPHA),
        "1": (of(GREY).point(lambda level: 255 * (level > 99), "1"), 255 * (GREY > 99), None),
    }
    for mode, (image, colours, alpha) in cases.items():
        assert image.mode == mode
        source = saved(tmp_path, image)
        assert np.array_equal(source.colours, colours), mode
        assert (source.alpha is None) == (alpha is None), mode
        assert alpha is None or np.array_equal(source.alpha, alpha[:, :, 0]), mode
        assert source.size == (7, 5)
        assert source.channels == len(mode.replace("1", "L"))


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    """Its colours count, and the colour that is transparent, if there is one."""
    indices = noise(5, 7, 1)[:, :, 0] % 4
    palette = noise(4, 3, 1)[:, :, 0]
    image = Image.new("P", (7, 5))
    image.putdata(indices.ravel().tolist())
    image.putpalette(palette.ravel().tolist())
    assert np.array_equal(saved(tmp_path, image).colours, palette[indices])
    assert saved(tmp_path, image).alpha is None
    source = saved(tmp_path, image, transparency=2)
    assert np.array_equal(source.colours, palette[indices])
    assert source.alpha is not None
    assert np.array_equal(source.alpha, np.where(indices == 2, 0, 255))


def test_a_transparent_level_of_grey_becomes_alpha(tmp_path: Path) -> None:
    """PNG files may name one level that is transparent."""
    levels = GREY % 3
    source = saved(tmp_path, of(levels), transparency=1)
    assert np.array_equal(source.colours, levels)
    assert source.alpha is not None
    assert np.array_equal(source.alpha, np.where(levels == 1, 0, 255)[:, :, 0])


def test_transparent_pixels_get_the_colour_of_the_nearest_visible_one(tmp_path: Path) -> None:
    """What a file has there is arbitrary, and would be mixed into the edges."""
    colours = np.zeros((3, 6, 3), np.uint8)
    colours[:, :2] = 10, 20, 30
    colours[:, 5:] = 90, 80, 70
    alpha = np.zeros((3, 6, 1), np.uint8)
    alpha[:, :2], alpha[:, 5:] = 1, 255
    source = saved(tmp_path, of(colours, alpha))
    visible = source.visible_colours
    assert visible[1].tolist() == [[10, 20, 30]] * 3 + [visible[1, 3].tolist()] + [[90, 80, 70]] * 2
    assert np.array_equal(source.colours, colours)
    for level in (0, 255):
        whole = saved(tmp_path, of(colours, np.full_like(alpha, level)))
        assert np.array_equal(whole.visible_colours, colours)


@pytest.mark.parametrize(
    ("image", "name", "message"),
    [
        (Image.new("I;16", (3, 2)), "grey.png", "16 bits a sample"),
        (Image.new("I;16", (3, 2)), "grey.tif", "16 bits a sample"),
        (Image.new("I", (3, 2)), "grey.tif", "32 bits a sample"),
        (Image.new("F", (3, 2)), "grey.tif", "floating-point numbers a sample"),
        (Image.new("CMYK", (3, 2)), "print.jpg", "colours are CMYK; convert it to RGB"),
        (Image.new("CMYK", (3, 2)), "print.tif", "colours are CMYK; convert it to RGB"),
        (Image.new("LAB", (3, 2)), "lab.tif", "colours are LAB; convert it to RGB"),
    ],
)
def test_what_would_lose_its_colours_is_refused(
    tmp_path: Path, image: Image.Image, name: str, message: str
) -> None:
    """A sentence names the file, the reason and what to do."""
    with pytest.raises(ImageFileError, match=rf"{name} cannot be enlarged: .*{message}.*\.$"):
        saved(tmp_path, image, name)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_colours_of_16_bits_are_refused(tmp_path: Path) -> None:
    """Pillow itself would drop the low byte of each sample without a word."""
    rows = b"".join(b"\0" + bytes(6 * 4) for _ in range(3))
    header = struct.pack(">IIBBBBB", 4, 3, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    (tmp_path / "deep.png").write_bytes(png + chunk(b"IEND", b""))
    (tmp_path / "deep.ppm").write_bytes(b"P6 4 3 65535\n" + bytes(4 * 3 * 6))
    for name in ("deep.png", "deep.ppm"):
        with pytest.raises(ImageFileError, match="it has 16 bits a sample"):
            read_image(tmp_path / name)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    """Its tag is removed, and the facts of the photograph stay, but for those of the file."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0100] = 6, "Camera", 999
    exif[0x8769] = {0x829A: 0.5, 0xA002: 7, 0x927C: b"maker"}
    source = saved(tmp_path, of(COLOURS), exif=exif)
    assert source.size == (5, 7)
    assert np.array_equal(source.colours, np.rot90(COLOURS, -1))
    assert source.exif is not None
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + source.exif)
    assert kept[0x010F] == "Camera"
    assert 0x0112 not in kept
    assert 0x0100 not in kept
    assert kept.get_ifd(0x8769) == {0x829A: 0.5}


def test_broken_exif_does_not_hide_an_image(tmp_path: Path) -> None:
    """The pixels are there, and the rest is left out."""
    source = saved(tmp_path, of(COLOURS), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(source.colours, COLOURS)
    assert source.exif is None
    assert saved(tmp_path, of(COLOURS)).exif is None


def test_a_profile_is_kept_if_it_is_one_of_such_colours(tmp_path: Path) -> None:
    """A profile of RGB on a grey image would be refused by readers."""
    assert saved(tmp_path, of(COLOURS), icc_profile=PROFILE).profile == PROFILE
    assert saved(tmp_path, of(GREY), icc_profile=GREY_PROFILE).profile == GREY_PROFILE
    assert saved(tmp_path, of(GREY), icc_profile=PROFILE).profile is None
    assert saved(tmp_path, of(COLOURS), icc_profile=b"short").profile is None


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    """The number of frames is told, so that the command can say what is missing."""
    frames = [Image.fromarray(np.full((4, 6, 3), level, np.uint8)) for level in (40, 80, 120)]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        lossless = {"lossless": True} if name == "a.webp" else {}
        source = saved(
            tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **lossless
        )
        assert source.frames == 3, name
        assert (source.colours == 40).all(), name
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.jpg").frames == 1  # previews of a camera


def test_unreadable_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing, an empty, a cut off and a foreign file, and one of too many pixels."""
    buffer = io.BytesIO()
    Image.fromarray(noise(60, 60, 3)).save(buffer, "JPEG")
    files = {
        "empty.jpg": (b"", "is empty"),
        "cut.jpg": (buffer.getvalue()[:2000], "cannot be enlarged: .*truncated"),
        "text.jpg": (b"no image at all", "cannot be enlarged: .*text"),
    }
    for name, (data, message) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageFileError, match=f"{name} {message}"):
            read_image(tmp_path / name)
    with pytest.raises(ImageFileError, match=r"missing\.jpg cannot be read: No such file"):
        read_image(tmp_path / "missing.jpg")
    assert pixel_count(tmp_path / "missing.jpg") == pixel_count(tmp_path / "text.jpg") == 0
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "large.jpg").write_bytes(buffer.getvalue())
    with pytest.raises(ImageFileError, match=r"has more than 2,000 pixels.*: cut it\."):
        read_image(tmp_path / "large.jpg")


@pytest.mark.skipif(not HOSTILE.is_dir(), reason="needs the data of TESSERAE_DATA")
def test_odd_files_are_read_or_named(tmp_path: Path) -> None:
    """Of every file there is an image or a sentence, and turned photographs look alike."""
    readable, messages = 0, []
    for file in sorted(HOSTILE.iterdir()):
        copy = Path(shutil.copy(file, tmp_path))
        try:
            source = read_image(copy)
        except ImageFileError as e:
            messages.append((copy, str(e)))
        else:
            readable += 1
            assert source.colours.dtype == np.uint8
            assert source.colours.shape[2] in (1, 3)
    assert all(text.startswith(str(copy)) and text.endswith(".") for copy, text in messages)
    assert readable > 100
    upright = [read_image(HOSTILE / f"exif_landscape_{n}.jpg").colours for n in range(1, 9)]
    for turned in upright[1:]:
        assert turned.shape == upright[0].shape
        assert np.abs(turned.astype(int) - upright[0]).mean() < 20
