"""Resize decoded pixels to a square of any size.

All sizes of an image come from the same pixels and the same box, so a row shows the same region at
72 and at 288 px. Cropping and resizing are one step: only the box is computed, and at its border
the filter uses the pixels outside of it instead of a repeated edge.
"""

from types import MappingProxyType

from PIL import Image

from pipeline.images.decode import Decoded

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


def resize(decoded: Decoded, size: int, *, fit: str, filter: str) -> bytes:
    """Return the square of one size.

    Args:
        decoded: The image as `pipeline.images.decode.decode` returned it for the same *fit*, with a
            `serves` of at least *size*; it is not changed.
        size: The side of the square in pixels.
        fit: `crop` cuts a centred square, `squish` changes the aspect ratio, and `pad` scales the
            longer side to `size` and centres the image on black.
        filter: The resampling filter: `nearest`, `box`, `bilinear`, `hamming`, `bicubic` or
            `lanczos`.

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
    if fit == "pad":
        square = _pad_to_square(decoded, size, FILTERS[filter], box)
    else:
        square = decoded.pixels.resize((size, size), FILTERS[filter], box)
    return square.tobytes("raw", "RGB")


def _pad_to_square(
    decoded: Decoded,
    size: int,
    resample: Image.Resampling,
    box: tuple[float, float, float, float],
) -> Image.Image:
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
