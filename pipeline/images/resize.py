"""Decoded pixels -> a square of any size.

All sizes of a picture come from the same pixels and the same box of them, so row r shows the same
picture at 72 and at 288 px. Cropping and resizing are one step: only what is kept is computed,
and at its rim the filter sees what lies beyond, instead of a repeated edge.
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
    """Which part of a picture of this size is kept: left, top, right, bottom in pixels.

    Args:
        fit: `crop` keeps the square in the middle; `pad` and `squish` keep everything.
    """
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side
    if fit in FITS:
        return 0, 0, width, height
    raise ValueError(f"fit is {fit!r}: expected one of {', '.join(FITS)}.")


def resize(decoded: Decoded, size: int, *, fit: str, filter: str) -> bytes:
    """Make the square of one size.

    Args:
        size: Side of the square in pixels.
        fit: `crop` cuts a centred square, `squish` gives up the proportions, and `pad` makes the
            longer side `size`, centred on black.
        filter: One of `FILTERS`.

    Returns:
        (size, size, 3) uint8 RGB in C order.
    """
    box: tuple[float, float, float, float] = fit_box(decoded.width, decoded.height, fit)
    if decoded.scale > 1:
        left, top, right, bottom = (edge / decoded.scale for edge in box)
        box = (left, top, right, bottom)
    if fit == "pad":
        square = _padded(decoded, size, FILTERS[filter], box)
    else:
        square = decoded.pixels.resize((size, size), FILTERS[filter], box)
    return square.tobytes("raw", "RGB")


def _padded(
    decoded: Decoded,
    size: int,
    resample: Image.Resampling,
    box: tuple[float, float, float, float],
) -> Image.Image:
    longer = max(decoded.width, decoded.height)
    # The shorter side rounds half up, in integers: the same on every machine.
    width, height = (
        max(1, (2 * side * size + longer) // (2 * longer))
        for side in (decoded.width, decoded.height)
    )
    square = Image.new(decoded.pixels.mode, (size, size))
    picture = decoded.pixels.resize((width, height), resample, box)
    square.paste(picture, ((size - width) // 2, (size - height) // 2))
    return square
