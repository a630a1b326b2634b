"""A row shows the same box of its image at 72 and at 288 px, to a twentieth of a pixel.

Super-resolution trains on such pairs. Their shift is measured by phase correlation: a shift is the
slope of the phase of the cross-power spectrum, fitted to the low frequencies of both images, which
resolves hundredths of a pixel.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.crop_decode import decode_crops
from pipeline.images.decode import Decoded, decode
from pipeline.images.resize import FITS, resize
from pipeline.store.recipe import decode_rules_for

SMALL, LARGE = 72, 288
MAX_SHIFT_PIXELS = 0.05
"""The largest shift between the two sizes of a row, in pixels of the larger one."""

SIDES = [(500, 375), (371, 754), (853, 298), (289, 287), (150, 601)]


@functools.cache
def textured(seed: int, width: int, height: int) -> Image.Image:
    """Return an image of grain at all scales, like a photograph, without a period."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    spectrum = np.fft.rfft2(rng.standard_normal((height, width, 3)), axes=(0, 1))
    spectrum /= np.maximum(frequency, 1 / 200)[:, :, None] ** 1.2
    grain = np.fft.irfft2(spectrum, (height, width), axes=(0, 1))
    return Image.fromarray((grain / grain.std() * 45 + 128).clip(0, 255).astype(np.uint8))


def shift(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return how far *second* is moved down and to the right of *first*, (2,), in pixels."""
    side = len(first)
    window = np.outer(np.hanning(side + 2)[1:-1], np.hanning(side + 2)[1:-1])
    spectra = []
    for image in (first, second):
        grey = image.mean(axis=2)
        # A level that differs from 0 would show the shape of the window.
        spectra.append(np.fft.fft2((grey - (grey * window).sum() / window.sum()) * window))
    cross = np.conj(spectra[0]) * spectra[1]
    frequencies = np.stack(np.meshgrid(*[np.fft.fftfreq(side)] * 2, indexing="ij"), axis=-1)
    distance = np.hypot(*np.moveaxis(frequencies, -1, 0))
    low = (distance > 0) & (distance < 0.25)
    weights = np.sqrt(abs(cross[low]))
    slopes = -2 * np.pi * frequencies[low] * weights[:, None]
    solution: NDArray[np.float64] = np.linalg.lstsq(slopes, np.angle(cross[low]) * weights)[0]
    return solution


def pair_shift(small: NDArray[np.uint8], large: NDArray[np.uint8]) -> float:
    """Return the shift between two sizes of an image, in pixels of the larger one."""
    # With the filter that made both, fine patterns become the same coarse ones.
    reduced = Image.fromarray(large).resize((len(small),) * 2, Image.Resampling.BICUBIC)
    return float(abs(shift(small, np.asarray(reduced))).max() * len(large) / len(small))


def shift_of_row(decoded: Decoded, fit: str, rules: int) -> float:
    """Return the shift between the two sizes of a row that a store holds of an image."""
    small, large = (
        np.frombuffer(
            resize(decoded, size, fit=fit, filter="bicubic", rules=rules), np.uint8
        ).reshape(size, size, 3)
        for size in (SMALL, LARGE)
    )
    return pair_shift(small, large)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


@pytest.mark.parametrize("moved", [0.0, 0.1, 1.0])
def test_the_measurement_resolves_a_twentieth_of_a_pixel(moved: float) -> None:
    """A box that is moved by a known fraction of a pixel is measured as moved by as much."""
    image = textured(1, 700, 700)
    pixel = 600 / LARGE
    small = image.resize((SMALL, SMALL), Image.Resampling.BICUBIC, (50, 50, 650, 650))
    for across, down in ((moved, 0), (0, moved)):
        left, top = 50 + across * pixel, 50 + down * pixel
        box = (left, top, left + 600, top + 600)
        large = image.resize((LARGE, LARGE), Image.Resampling.BICUBIC, box)
        measured = pair_shift(np.asarray(small), np.asarray(large))
        assert measured == pytest.approx(moved, abs=0.02)


@pytest.mark.parametrize("fit", FITS)
def test_both_sizes_of_a_row_show_the_same_box(fit: str) -> None:
    """Odd sides and all proportions are placed alike at every size."""
    for seed, (width, height) in enumerate(SIDES):
        image = Decoded(textured(seed, width, height), width, height, "RGB", "PNG", 1)
        assert shift_of_row(image, fit, decode_rules_for(fit)) < MAX_SHIFT_PIXELS, (width, height)


def test_by_rules_2_the_sizes_of_a_padded_row_differ_by_up_to_two_pixels() -> None:
    """This is why the rules were changed; the stores of that time keep them."""
    image = Decoded(textured(2, 371, 754), 371, 754, "RGB", "PNG", 1)
    assert shift_of_row(image, "pad", 2) == pytest.approx(2, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_decoding_at_a_reduced_scale_moves_nothing(fit: str, scale: int) -> None:
    """The last pixel of a reduced image shows a part of the image, and the rest is no part."""
    sides = (577 * scale + 1, 601 * scale + 3)
    data = jpeg(textured(scale, 577, 601).resize(sides, Image.Resampling.BICUBIC))
    reduced = decode(data, fit=fit, serves=LARGE, exif=False)
    assert reduced.scale == scale
    rules = decode_rules_for(fit)
    assert shift_of_row(reduced, fit, rules) < MAX_SHIFT_PIXELS
    squares = (
        np.frombuffer(
            resize(each, LARGE, fit=fit, filter="bicubic", rules=rules), np.uint8
        ).reshape(LARGE, LARGE, 3)
        for each in (reduced, decode(data, fit=fit, serves=10**6, exif=False))
    )
    assert abs(shift(*squares)).max() < MAX_SHIFT_PIXELS


@pytest.mark.slow
def test_both_sizes_of_a_crop_of_an_encoded_row_show_the_same_box() -> None:
    """The smaller one is decoded at another scale than the larger one."""
    data = jpeg(textured(3, 961, 683))
    shapes, boxes = np.array([[683, 961]], np.int32), np.array([[137, 3, 811, 677]], np.int32)
    small, large = (np.empty((1, size, size, 3), np.uint8) for size in (SMALL, LARGE))
    for out in (small, large):
        decode_crops([data], shapes, boxes, out, exif=False, rules=2, missing_end="refuse")
    assert pair_shift(small[0], large[0]) < MAX_SHIFT_PIXELS


def photographs(folder: Path, fit: str) -> Iterator[Decoded]:
    for path in sorted((folder / "imagenet" / "train").rglob("*.JPEG")):
        yield decode(path.read_bytes(), fit=fit, serves=LARGE, exif=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fit", FITS)
def test_both_sizes_of_all_real_photographs_show_the_same_box(real_data: Path, fit: str) -> None:
    """No photograph is moved by a twentieth of a pixel."""
    shifts = [
        shift_of_row(image, fit, decode_rules_for(fit)) for image in photographs(real_data, fit)
    ]
    assert len(shifts) == 400
    assert max(shifts) < MAX_SHIFT_PIXELS
