"""Decode the crops of encoded rows, resized to squares, into the memory of a batch.

A row is an image file, usually a JPEG. Its crop is a box of the whole picture in pixels. The result
is what cropping the decoded picture and then resizing it with antialiasing gives:

* A JPEG is decoded at 1/2, 1/4 or 1/8 if the crop is much larger than the square, by the rule of
  `pipeline.images.decode.reduction_factor`, applied to the crop.
* The filter is a triangle, as wide as two pixels of the picture or of the square, whichever are
  larger. Pixels outside of the crop do not contribute. Coefficients are multiples of 1/16384 that
  sum to 1. Lines are filtered first, then columns; each result is rounded half up to 8 bits.

Two implementations give the same bytes:

* The extension `_jpeg_crop` decodes only the part of a plain JPEG that its crop needs, and resizes
  it line by line, without the interpreter's lock. It is compiled where libjpeg-turbo's headers and
  a compiler are installed.
* Without it, simplejpeg decodes the whole picture, and numpy resizes.

In both cases, `pipeline.images.decode.decode` decodes the rows that are no plain JPEGs, or that
cause a warning. Pillow is imported for the first of these.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DecodeError
from pipeline.images.jpeg_structure import has_end_marker, may_be_rotated, plain_jpeg

try:
    import simplejpeg
except ImportError:  # no wheel for this platform
    simplejpeg = None

_jpeg_crop: Any
try:
    from pipeline.images import _jpeg_crop  # type: ignore[attr-defined, no-redef]
except ImportError:  # it was not compiled here
    _jpeg_crop = None

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_SIZE = 65535
"""The largest side of a square in pixels."""

_ONE = 1 << 14
"""The sum of the integer coefficients of an output."""

_CORRUPT = 5
"""`pipeline.images.rejection.CORRUPT`, whose module imports Pillow."""

_MAX_PIXELS = 178_956_970
"""The size of a picture that Pillow takes for an attack: twice its `MAX_IMAGE_PIXELS`."""

_NO_REDUCTION = 1 << 30


class RowDecodeError(DecodeError):
    """A row of a batch is not a readable image, or not of the stated size.

    Args:
        index: The index of the row in the call.
        status: The value for the store's `status` array (`pipeline.images.decode`).
        reason: One printable line for people.
    """

    def __init__(self, index: int, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.args = (index, status, reason)  # what pickle passes on
        self.index = index

    def __str__(self) -> str:
        return f"row {self.index} cannot be decoded: {self.reason}"


def decode_crops(
    rows: Sequence[Buffer],
    shapes: NDArray[np.int32],
    boxes: NDArray[np.int32],
    out: NDArray[np.uint8],
    *,
    exif: bool,
    rules: int,
    missing_end: str,
) -> None:
    """Decode one crop of each row, and resize it to the square of *out*.

    The bytes and the other arguments alone determine the pixels, on every machine whose
    `pipeline.images.probe` agrees. Several threads may call this at the same time with arrays of
    their own; the extension releases the interpreter's lock.

    Args:
        rows: The bytes of the image files, n objects with the buffer protocol.
        shapes: Height and width of each whole picture in pixels, (n, 2) int32: after the rotation
            if *exif* is true.
        boxes: The crop of each picture, (n, 4) int32: left, top, right and bottom in pixels of the
            whole picture; right and bottom are exclusive.
        out: The result, (n, size, size, 3) uint8 RGB, C-contiguous and writable. After an error,
            its content is undefined.
        exif: True to rotate pictures by their EXIF orientation.
        rules: The version of the decoding rules, 1 to 3.
        missing_end: `keep` to accept a JPEG that lacks nothing but its end marker, or `refuse`.

    Raises:
        ValueError: An array has another shape or type, or a box is empty or not inside its picture.
        RowDecodeError: A row is not a readable image of the stated size; `index` is its index.
        MemoryError: There is too little memory.
    """
    size = _check_arrays(len(rows), shapes, boxes, out)
    scales = _reduction_factors(boxes, size)
    todo = np.ones(len(rows), np.uint8)
    if _jpeg_crop is not None:
        for i, row in enumerate(rows):
            todo[i] = _is_plain(row, shapes[i], exif=exif, rules=rules)
        is_refused = 1 - todo
        shapes, boxes = np.ascontiguousarray(shapes), np.ascontiguousarray(boxes)
        _jpeg_crop.decode(rows, shapes, boxes, scales, todo, out, size, _jpeg_crop.AVX2)
        todo |= is_refused
    for i in np.flatnonzero(todo).tolist():
        shape, scale = shapes[i], int(scales[i])
        pixels = None
        if _jpeg_crop is None and _is_plain(rows[i], shape, exif=exif, rules=rules):
            pixels = _decode_plain(rows[i], shape, scale)
        if pixels is None:
            arguments = {"exif": exif, "rules": rules, "missing_end": missing_end}
            pixels, scale = _decode_other(i, rows[i], shape, scale, arguments)
        out[i] = resize_crop(pixels, boxes[i].tolist(), scale, size)


def has_extension() -> bool:
    """Return True if the compiled extension is in use."""
    return _jpeg_crop is not None


def crop_decoder() -> str:
    """Return a line that describes the implementation in use, for people."""
    if _jpeg_crop is not None:
        simd = ", AVX2" if _jpeg_crop.AVX2 else ""
        library = f"libjpeg-turbo {_jpeg_crop.LIBJPEG_TURBO}"
        return f"extension with {library}{simd}: decodes only the part that a crop needs"
    name = "simplejpeg" if simplejpeg is not None else "Pillow"
    return f"{name} {importlib.metadata.version(name)}: decodes whole pictures"


def _check_arrays(
    n: int, shapes: NDArray[np.int32], boxes: NDArray[np.int32], out: NDArray[np.uint8]
) -> int:
    """Return the side of the square, after checking everything but the rows.

    Raises:
        ValueError: An argument is invalid; the message has its value.
    """
    for name, array, shape, dtype in (
        ("shapes", shapes, (n, 2), np.int32),
        ("boxes", boxes, (n, 4), np.int32),
        ("out", out, (n, *out.shape[1:2], *out.shape[1:2], 3), np.uint8),
    ):
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(
                f"{name} is {array.dtype} of shape {array.shape}: expected {np.dtype(dtype)} of"
                f" shape {shape}."
            )
    size: int = out.shape[1]
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"the side of the squares is {size}: expected 1 to {MAX_SIZE} pixels.")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out is not a writable C-contiguous array: its pixels are written.")
    height, width = shapes.T
    left, top, right, bottom = boxes.T
    inside = (left >= 0) & (left < right) & (right <= width)
    inside &= (top >= 0) & (top < bottom) & (bottom <= height)
    if not inside.all():
        i = int(np.argmin(inside))
        raise ValueError(
            f"the box of row {i} is {tuple(boxes[i].tolist())}: expected left, top, right and"
            f" bottom of a crop with pixels, inside of its picture, {width[i]} x {height[i]}."
        )
    return size


def _reduction_factors(boxes: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Return `reduction_factor` of each crop, (n,) int32.

    It is written here again because its module imports Pillow.
    """
    side = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    scales = np.ones(len(boxes), np.int32)
    for scale in (2, 4, 8):
        scales[(side >= 2 * size * scale) & (side >= 8)] = scale
    return scales


def _is_plain(row: Buffer, shape: NDArray[np.int32], *, exif: bool, rules: int) -> bool:
    """Return True if simplejpeg may decode the row, as `pipeline.images.decode` decides it."""
    data = row if isinstance(row, bytes) else bytes(row)
    plain = plain_jpeg(data)
    if plain is None or plain[:2] != (shape[1], shape[0]) or plain[0] * plain[1] > _MAX_PIXELS:
        return False
    lacks_end = rules > 1 and not has_end_marker(data)
    return not (lacks_end or (exif and may_be_rotated(data)))


def _decode_plain(row: Buffer, shape: NDArray[np.int32], scale: int) -> NDArray[np.uint8] | None:
    """Return the whole picture at 1/*scale* as RGB; None if simplejpeg is missing or refuses it."""
    if simplejpeg is None:
        return None
    # simplejpeg chooses the largest reduction to at least this size: exactly 1/scale.
    height, width = (-(-int(side) // scale) if scale > 1 else 0 for side in shape)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            row, "RGB", min_height=height, min_width=width
        )
    except ValueError:  # an error or a warning of libjpeg
        return None
    return pixels


def _decode_other(
    index: int, row: Buffer, shape: NDArray[np.int32], scale: int, arguments: dict[str, Any]
) -> tuple[NDArray[np.uint8], int]:
    """Return the pixels of any image file, (height, width, 3 or 4), and their reduction.

    Raises:
        RowDecodeError: It is not a readable image, or not of the stated size.
    """
    from pipeline.images.decode import decode  # imports Pillow, which few rows need

    height, width = shape.tolist()
    # With this size, the reduction of the whole picture is that of the crop.
    serves = min(height, width) // (2 * scale) if scale > 1 else _NO_REDUCTION
    try:
        decoded = decode(bytes(row), fit="squish", serves=serves, **arguments)
    except DecodeError as e:
        raise RowDecodeError(index, e.status, e.reason) from e
    if (decoded.height, decoded.width) != (height, width):
        reason = f"it is {decoded.width} x {decoded.height} pixels, not {width} x {height}"
        raise RowDecodeError(index, _CORRUPT, reason)
    return np.asarray(decoded.pixels), decoded.scale


# --- the filter ---------------------------------------------------------------------------------


def resize_crop(
    pixels: NDArray[np.uint8], box: Sequence[int], scale: int, size: int
) -> NDArray[np.uint8]:
    """Return the crop of a decoded picture, resized to a square.

    Args:
        pixels: The whole picture, reduced by the factor *scale*, (height, width, 3 or more) uint8;
            only the first three channels are used.
        box: The crop in pixels of the picture before the reduction: left, top, right and bottom.
        scale: The reduction: 1, 2, 4 or 8.
        size: The side of the square in pixels, at least 1.

    Returns:
        The square, (size, size, 3) uint8.
    """
    left, top, right, bottom = box
    columns, along_lines = _axis(left, right - left, scale, size)
    lines, along_columns = _axis(top, bottom - top, scale, size)
    crop = pixels[lines, columns, :3].astype(np.int32)
    height, width, _ = crop.shape
    crop = _filter(crop.transpose(1, 0, 2).reshape(width, height * 3), *along_lines)
    crop = crop.reshape(size, height, 3).transpose(1, 0, 2).reshape(height, size * 3)
    return _filter(crop, *along_columns).astype(np.uint8).reshape(size, size, 3)


def _axis(
    offset: int, length: int, scale: int, size: int
) -> tuple[slice, tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Return the reduced pixels that one axis of a crop touches, and their coefficients.

    Everything is measured in units of 1 / (2 * scale * size) of a reduced pixel, in which all
    centres and distances are integers.

    Returns:
        The slice of the pixels, p of them; and a pair: the pixels that each output is made of,
        (taps, size), 0 to p - 1, and their coefficients, (taps, size), which sum to `_ONE` for each
        output.
    """
    touched = slice(offset // scale, -(-(offset + length) // scale))
    support = 2 * max(scale * size, length)
    centres = 2 * offset * size + np.arange(1, 2 * size, 2, dtype=np.int64) * length
    # No more pixels than these are nearer to a centre than the support.
    num_taps = min(-(-support // (scale * size)) + 1, touched.stop - touched.start)
    taps = np.arange(num_taps)[:, None]
    first = (centres - support) // (2 * scale * size)
    first = np.clip(first, touched.start, touched.stop - num_taps)
    pixels = first + taps
    weights = np.maximum(support - np.abs((2 * pixels + 1) * scale * size - centres), 0)
    sums = weights.cumsum(axis=0)
    # Rounding the running sums makes the coefficients sum to _ONE.
    rounded = (2 * _ONE * sums + sums[-1]) // (2 * sums[-1])
    coefficients = np.diff(rounded, axis=0, prepend=0).astype(np.int32)
    return touched, (pixels - touched.start, coefficients)


def _filter(
    lines: NDArray[np.int32], indices: NDArray[np.int64], coefficients: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return sums of lines, (p, m), with the coefficients of each output: (size, m).

    A product of matrices would do the same, but in the threads of a BLAS library, beside those of
    the loader.
    """
    sums = np.full((indices.shape[1], lines.shape[1]), _ONE // 2, np.int32)
    term = np.empty_like(sums)
    for index, coefficient in zip(indices, coefficients, strict=True):
        np.take(lines, index, axis=0, out=term, mode="clip")
        term *= coefficient[:, None]
        sums += term
    sums //= _ONE
    return sums
