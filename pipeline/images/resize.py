"""Resize decoded pixels to a square of any size.

All sizes of an image come from the same pixels and the same box, so a row shows the same region at
72 and at 288 px. Cropping and resizing are one step: only the box is computed, and at its border
the filter uses the pixels outside of it instead of a repeated edge.

A padded image is scaled by the same factor in both directions and lies exactly in the centre, to
fractions of a pixel. So the lines of the square at its two edges may show both the image and black:
they get the colours of their part of the image, dimmed by the share of the line that it covers. By
the decoding rules 1 and 2, which older stores keep, an image was instead moved and stretched to
whole pixels of each square, by which the sizes of a row differ by up to half a pixel of the
smallest one.
"""

import itertools
from collections.abc import Iterator
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.images.decode import RULES, Decoded

FITS = ("crop", "pad", "squish")

FILTERS = MappingProxyType(
    {
        "nearest": Image.Resampling.NEAREST,
        "box": Image.Resampling.BOX,
        "bilinear": Image.Resampling.BILINEAR,
        "hamming": Image.Resampling.HAMMING,
        "bicubic": Image.Resampling.BICUBIC,
        "lanczos": Image.Resampling.LANCZOS,
    }
)


EXACT_PAD_RULES = 3
"""The first version of the decoding rules by which padded images are not rounded to pixels."""


def fit_box(width: int, height: int, fit: str) -> tuple[int, int, int, int]:
    """Return the box of an image that is kept: left, top, right, bottom in pixels.

    Args:
        width: The width of the image in pixels.
        height: The height of the image in pixels.
        fit: `crop` keeps the centred square; `pad` and `squish` keep the whole image.

    Returns:
        Four whole numbers, from the left and the upper edge; right and bottom are exclusive.

    Raises:
        ValueError: *fit* is none of these.
    """
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side
    if fit in FITS:
        return 0, 0, width, height
    raise ValueError(f"fit is {fit!r}: expected one of {', '.join(FITS)}.")


def resize(decoded: Decoded, size: int, *, fit: str, filter: str, rules: int = RULES) -> bytes:
    """Return the square of one size.

    Args:
        decoded: The image as `pipeline.images.decode.decode` returned it for the same *fit*, with a
            `serves` of at least *size*; it is not changed.
        size: The side of the square in pixels.
        fit: `crop` cuts a centred square, `squish` changes the aspect ratio, and `pad` scales the
            longer side to *size* and centres the image on black.
        filter: The resampling filter: `nearest`, `box`, `bilinear`, `hamming`, `bicubic` or
            `lanczos`.
        rules: The version of the decoding rules, 1 to 3, from the recipe of the store (default: 3).
            By rules 1 and 2, `pad` rounds the place and the shorter side of the image to whole
            pixels of the square.

    Returns:
        size * size * 3 bytes: the pixels, (size, size, 3) uint8 RGB in C order.

    Raises:
        ValueError: *fit* is none of these.
        KeyError: *filter* is none of these.
    """
    box: tuple[float, float, float, float] = fit_box(decoded.width, decoded.height, fit)
    if decoded.scale > 1:
        left, top, right, bottom = (edge / decoded.scale for edge in box)
        box = (left, top, right, bottom)
    if fit != "pad":
        square = decoded.pixels.resize((size, size), FILTERS[filter], box)
    elif rules < EXACT_PAD_RULES:
        square = _pad_to_whole_pixels(decoded, size, FILTERS[filter], box)
    else:
        square = _pad(decoded, size, FILTERS[filter])
    return square.tobytes("raw", "RGB")


def resize_squares(
    squares: NDArray[np.uint8], size: int, *, filter: str, crop_share: float = 1.0
) -> NDArray[np.uint8]:
    """Return squares of another size that are made of stored ones, such as 224 px of 288 px.

    They differ a little from squares of that size that were made of the image itself.

    Args:
        squares: The stored squares, (n, side, side, 3) uint8 RGB; n may be 0.
        size: The side of the squares to return, in pixels.
        filter: The resampling filter, one of `FILTERS`.
        crop_share: The side of the part in the centre that is kept, as a fraction of the side
            (default: 1, the whole square).

    Returns:
        (n, size, size, 3) uint8 RGB; *squares* themselves, not a copy, if nothing changes.

    Raises:
        KeyError: *filter* is none of these.
    """
    side = squares.shape[1]
    if side == size and crop_share == 1:
        return squares
    edge = side * (1 - crop_share) / 2
    box = (edge, edge, side - edge, side - edge)
    resized = np.empty((len(squares), size, size, 3), np.uint8)
    for square, out in zip(squares, resized, strict=True):
        out[:] = np.asarray(Image.fromarray(square).resize((size, size), FILTERS[filter], box))
    return resized


class _Band(NamedTuple):
    """Adjacent lines of a square that a padded image covers by the same share."""

    first: int
    """The first of the lines, from 0."""
    num_lines: int
    """The number of lines, at least 1."""
    start: float
    """The start of their part of the image, in pixels of the image at full size."""
    stop: float
    """The end of their part of the image, in pixels of the image at full size."""
    coverage: tuple[int, int]
    """The share of each line that the image covers: numerator and denominator."""


def _pad(decoded: Decoded, size: int, resample: Image.Resampling) -> Image.Image:
    square = Image.new(decoded.pixels.mode, (size, size))
    width, height = decoded.width, decoded.height
    for band in _bands(min(width, height), max(width, height), size):
        start, stop = band.start / decoded.scale, band.stop / decoded.scale
        if width >= height:
            shape, box = (size, band.num_lines), (0.0, start, width / decoded.scale, stop)
            corner = (0, band.first)
        else:
            shape, box = (band.num_lines, size), (start, 0.0, stop, height / decoded.scale)
            corner = (band.first, 0)
        lines = decoded.pixels.resize(shape, resample, box)
        square.paste(_dimmed(lines, *band.coverage), corner)
    return square


def _bands(shorter: int, longer: int, size: int) -> Iterator[_Band]:
    """Yield the bands of an image's shorter side in the square.

    These are the lines that the image covers completely, and a line at each edge that it covers in
    part; or a single line, if the image is narrower and lies within it.
    """
    # Edges are in units of 1 / (2 * longer) of a line, in which all of them are integers.
    line = 2 * longer
    start, stop = size * (longer - shorter), size * (longer + shorter)
    first_whole, last_whole = -(-start // line) * line, stop // line * line
    edges = [start, first_whole, last_whole, stop] if first_whole <= last_whole else [start, stop]
    for upper, lower in itertools.pairwise(edges):
        if upper < lower:
            first = upper // line
            num_lines = -(-lower // line) - first
            yield _Band(
                first,
                num_lines,
                # A pixel of the image is size / longer lines.
                (upper - start) / (2 * size),
                (lower - start) / (2 * size),
                (lower - upper, num_lines * line),
            )


def _dimmed(image: Image.Image, part: int, whole: int) -> Image.Image:
    """Return an image blended with black, with its own share of *part* / *whole*."""
    if part == whole:
        return image
    # Levels are rounded half up in integers, to be the same on every machine.
    levels = (2 * part * np.asarray(image).astype(np.int64) + whole) // (2 * whole)
    return Image.frombytes(image.mode, image.size, levels.astype(np.uint8).tobytes())


def _pad_to_whole_pixels(
    decoded: Decoded,
    size: int,
    resample: Image.Resampling,
    box: tuple[float, float, float, float],
) -> Image.Image:
    """Return the square by the decoding rules 1 and 2."""
    longer = max(decoded.width, decoded.height)
    # The shorter side is rounded half up in integers, to be the same on every machine.
    width, height = (
        max(1, (2 * side * size + longer) // (2 * longer))
        for side in (decoded.width, decoded.height)
    )
    square = Image.new(decoded.pixels.mode, (size, size))
    resized = decoded.pixels.resize((width, height), resample, box)
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    return square
