"""Scale images of more than 8 bits a sample to 8 bits by the range that their files state.

Pillow itself clips such samples at 255, which turns a dark image white, or does not convert them.
The ranges that files state:

    PNG            16 bits: 0 to 65535. The significant bits (sBIT) are only a note: the writer of
                   the file has scaled the samples to the whole range.
    PBM, PGM, PPM  0 to the maximum in the header
    TIFF           unsigned: 0 to the largest number of so many bits, inverted where white is zero
                   (MaxSampleValue is only a note, by the standard). Signed and floating-point
                   samples and those of 32 bits have a range if SMinSampleValue and SMaxSampleValue
                   give it.

A file that states no range is refused, because its black level is unknown.

Samples of 16 bits keep their high byte, in grey as in colour; samples of any other range become the
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
    """An image file does not state the range of its samples."""


def to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """Return an image in mode RGB, with 8 bits a sample, scaled by the range that its file states.

    Args:
        image: An image that Pillow has opened but not loaded; this may load it.
        data: All bytes of its file.

    Returns:
        A Pillow image of the same size. An alpha channel is dropped.

    Raises:
        NoRangeError: The samples have more than 8 bits or are signed, and the file states no range
            for them, or is a TIFF of more than 8 bits with a separate plane for each channel.
        OSError: The samples of a PGM or PPM are cut off; Pillow raises this and other errors for
            damaged files.
    """
    if image.format == "PPM":
        return _netpbm_to_rgb(image, data)
    if image.format == "TIFF":
        return _tiff_to_rgb(image, data)
    if image.mode.startswith("I;16"):
        return _rgb_of_grey(_samples_array(image) >> 8)
    if image.mode in ("I", "F"):
        raise NoRangeError(f"samples of mode {image.mode} that state no range; {_CONVERT}")
    return image.convert("RGB")


def _samples_array(image: Image.Image) -> NDArray[Any]:
    return np.asarray(image)


def _rgb_of_grey(levels: NDArray[Any]) -> Image.Image:
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def nearest_levels(samples: NDArray[Any], maximum: int) -> NDArray[np.uint8]:
    """Scale unsigned samples from 0..*maximum* to the nearest of 0..255; halves are rounded up.

    Args:
        samples: Unsigned integers of any shape; larger ones count as *maximum*. They are not
            changed.
        maximum: The sample value that becomes 255, 1 to 65,535, which the dtype of *samples* must
            be able to hold.

    Returns:
        uint8 of the same shape.
    """
    clipped = np.minimum(samples, maximum).astype(np.uint32)  # products are at most 65535 * 510
    levels: NDArray[np.uint8] = ((clipped * 510 + maximum) // (2 * maximum)).astype(np.uint8)
    return levels


# --- PBM, PGM, PPM ------------------------------------------------------------------------------


def _netpbm_to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    assert isinstance(image, ImageFile.ImageFile)
    name, _, offset, arguments = image.tile[0]
    maximum = arguments[-1] if isinstance(arguments, tuple) else 255
    if image.mode == "F":
        raise NoRangeError(f"a PFM of floating-point samples, which states no range; {_CONVERT}")
    if name == "ppm" and image.mode in ("L", "I", "RGB"):
        # Pillow decodes these in a Python loop, which takes a minute for a large image.
        return _netpbm_samples_to_rgb(image, data[offset:], int(maximum))
    if image.mode == "I":  # scaled to 65535 by Pillow or by the file
        return _rgb_of_grey(nearest_levels(_samples_array(image), 65535))
    return image.convert("RGB")


def _netpbm_samples_to_rgb(image: Image.Image, body: bytes, maximum: int) -> Image.Image:
    width, height = image.size
    bands = 3 if image.mode == "RGB" else 1
    kind = np.dtype(np.uint8 if maximum < 256 else ">u2")
    count = width * height * bands
    if len(body) < count * kind.itemsize:
        raise OSError(f"image file is truncated ({len(body)} bytes of samples)")
    levels = nearest_levels(np.frombuffer(body, kind, count), maximum)
    shape = (height, width, bands) if bands > 1 else (height, width)
    return Image.fromarray(levels.reshape(shape)).convert("RGB")


# --- TIFF ---------------------------------------------------------------------------------------

_UNSIGNED, _FLOATING = 1, 3


def _tiff_to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    tags = tiff.read_directory(data)
    if tags is None:  # Pillow could read it, although its directory is unusual
        return image.convert("RGB")
    bits = int(max(tags.numbers(data, tiff.BITS_PER_SAMPLE), default=1))
    kind = int(max(tags.numbers(data, tiff.SAMPLE_FORMAT), default=_UNSIGNED))
    if image.mode in ("I", "F") or kind != _UNSIGNED:
        return _scale_by_stated_range(
            image, data, tags, f"{bits}-bit {_KINDS.get(kind, 'odd')} samples"
        )
    if bits > 8 and tags.number(data, tiff.PLANAR_CONFIGURATION, 1) == tiff.SEPARATE:
        # Pillow would decode the planes as if they had 8 bits.
        raise NoRangeError(f"a TIFF of {bits}-bit samples in separate planes; {_CONVERT}")
    if not image.mode.startswith("I;16"):
        return image.convert("RGB")
    samples = _samples_array(image)
    levels = nearest_levels(samples, (1 << bits) - 1) if bits < 16 else samples >> 8
    return _rgb_of_grey(255 - levels if _white_is_zero(data, tags) else levels)


_KINDS = {_UNSIGNED: "unsigned", 2: "signed", _FLOATING: "floating-point"}


def _white_is_zero(data: bytes, tags: tiff.Directory) -> bool:
    return tags.number(data, tiff.PHOTOMETRIC, 0) == 0


def _scale_by_stated_range(
    image: Image.Image, data: bytes, tags: tiff.Directory, noun: str
) -> Image.Image:
    low = min(tags.numbers(data, tiff.SMIN_SAMPLE_VALUE), default=math.nan)
    high = max(tags.numbers(data, tiff.SMAX_SAMPLE_VALUE), default=math.nan)
    if image.mode not in ("I", "F") or not math.isfinite(high - low) or high <= low:
        raise NoRangeError(f"a TIFF of {noun}, which states no range; {_CONVERT}")
    scaled = (_samples_array(image).astype(np.float64) - low) * (255 / (high - low))
    levels = np.floor(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255) + 0.5)
    return _rgb_of_grey(255 - levels if _white_is_zero(data, tags) else levels)
