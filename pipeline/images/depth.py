"""Pictures of more than 8 bits a sample, scaled to 8 by the range that their files state.

Pillow itself clips such samples at 255, which makes a white picture of a dark one, or hands them
out as they are. What the files state:

    PNG            16 bits: 0 to 65535. The significant bits (sBIT) are a remark: samples are
                   scaled to the whole range by whoever writes the file.
    PBM, PGM, PPM  0 to the maximum in the header
    TIFF           unsigned: 0 to the largest number of so many bits, inverted where white is zero
                   (MaxSampleValue is a remark, by the standard). Signed and floating-point samples
                   and those of 32 bits have a range if SMinSampleValue and SMaxSampleValue give it.

A file that states none has no picture: what would be black in it is anybody's guess.

Of 16 bits the high byte is kept, in grey as in colour; a sample of any other range becomes the
nearest level.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from pipeline.images import tiff

_CONVERT = "convert it to 8 or 16 bits a sample"


class NoRangeError(Exception):
    """A picture's file does not say between which values its samples lie."""


def to_rgb(picture: Image.Image, data: bytes) -> Image.Image:
    """Return *picture* in mode RGB, with 8 bits a sample.

    Args:
        picture: As Pillow opened it, not loaded.
        data: The whole file.

    Raises:
        NoRangeError: The file states no range for its samples.
    """
    if picture.format == "PPM":
        return _netpbm(picture, data)
    if picture.format == "TIFF":
        return _tiff(picture, data)
    if picture.mode.startswith("I;16"):
        return _grey(_samples(picture) >> 8)
    if picture.mode in ("I", "F"):
        raise NoRangeError(f"samples of mode {picture.mode} that state no range; {_CONVERT}")
    return picture.convert("RGB")


def _samples(picture: Image.Image) -> NDArray[Any]:
    return np.asarray(picture)


def _grey(levels: NDArray[Any]) -> Image.Image:
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def nearest_levels(samples: NDArray[Any], maximum: int) -> NDArray[np.uint8]:
    """Scale unsigned *samples* of 0 to *maximum* to 0 to 255; halves are rounded up."""
    clipped = np.minimum(samples, maximum).astype(np.uint32)  # at most 65535 * 510
    levels: NDArray[np.uint8] = ((clipped * 510 + maximum) // (2 * maximum)).astype(np.uint8)
    return levels


# --- PBM, PGM, PPM ------------------------------------------------------------------------------


def _netpbm(picture: Image.Image, data: bytes) -> Image.Image:
    assert isinstance(picture, ImageFile.ImageFile)
    name, _, offset, arguments = picture.tile[0]
    maximum = arguments[-1] if isinstance(arguments, tuple) else 255
    if picture.mode == "F":
        raise NoRangeError(f"a PFM of floating-point samples, which states no range; {_CONVERT}")
    if name == "ppm" and picture.mode in ("L", "I", "RGB"):
        # Pillow's own loop over these is written in Python: a minute for a large picture.
        return _netpbm_samples(picture, data[offset:], int(maximum))
    if picture.mode == "I":  # Pillow has scaled them to 65535, or the file has
        return _grey(nearest_levels(_samples(picture), 65535))
    return picture.convert("RGB")


def _netpbm_samples(picture: Image.Image, body: bytes, maximum: int) -> Image.Image:
    width, height = picture.size
    bands = 3 if picture.mode == "RGB" else 1
    kind = np.dtype(np.uint8 if maximum < 256 else ">u2")
    count = width * height * bands
    if len(body) < count * kind.itemsize:
        raise OSError(f"image file is truncated ({len(body)} bytes of samples)")
    levels = nearest_levels(np.frombuffer(body, kind, count), maximum)
    shape = (height, width, bands) if bands > 1 else (height, width)
    return Image.fromarray(levels.reshape(shape)).convert("RGB")


# --- TIFF ---------------------------------------------------------------------------------------

_UNSIGNED, _FLOATING = 1, 3


def _tiff(picture: Image.Image, data: bytes) -> Image.Image:
    tags = tiff.read_directory(data)
    if tags is None:  # Pillow has read it somehow
        return picture.convert("RGB")
    bits = int(max(tags.numbers(data, tiff.BITS_PER_SAMPLE), default=1))
    kind = int(max(tags.numbers(data, tiff.SAMPLE_FORMAT), default=_UNSIGNED))
    if picture.mode in ("I", "F") or kind != _UNSIGNED:
        return _ranged(picture, data, tags, f"{bits}-bit {_KINDS.get(kind, 'odd')} samples")
    if bits > 8 and tags.number(data, tiff.PLANAR_CONFIGURATION, 1) == tiff.SEPARATE:
        # Pillow takes the planes for such of 8 bits.
        raise NoRangeError(f"a TIFF of {bits}-bit samples in separate planes; {_CONVERT}")
    if not picture.mode.startswith("I;16"):
        return picture.convert("RGB")
    samples = _samples(picture)
    levels = nearest_levels(samples, (1 << bits) - 1) if bits < 16 else samples >> 8
    return _grey(255 - levels if _white_is_zero(data, tags) else levels)


_KINDS = {_UNSIGNED: "unsigned", 2: "signed", _FLOATING: "floating-point"}


def _white_is_zero(data: bytes, tags: tiff.Directory) -> bool:
    return tags.number(data, tiff.PHOTOMETRIC, 0) == 0


def _ranged(picture: Image.Image, data: bytes, tags: tiff.Directory, noun: str) -> Image.Image:
    low = min(tags.numbers(data, tiff.SMIN_SAMPLE_VALUE), default=math.nan)
    high = max(tags.numbers(data, tiff.SMAX_SAMPLE_VALUE), default=math.nan)
    if picture.mode not in ("I", "F") or not math.isfinite(high - low) or high <= low:
        raise NoRangeError(f"a TIFF of {noun}, which states no range; {_CONVERT}")
    scaled = (_samples(picture).astype(np.float64) - low) * (255 / (high - low))
    levels = np.floor(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255) + 0.5)
    return _grey(255 - levels if _white_is_zero(data, tags) else levels)
