"""Bicubic resizing of tensors as MATLAB's `imresize` does it, by which the field makes its pairs.

Published figures of super-resolution hold for images that were reduced with this filter: Keys'
cubic with a = -0.5 (Keys: Cubic convolution interpolation for digital image processing, IEEE Trans.
ASSP 29, 1981), stretched by the factor of a reduction so that it is antialiased. Pillow's filter of
the same name agrees with it only inside of an image, and torch's has a = -0.75.

Rows are resized first, then columns. The pixels of an edge are repeated beyond it. With *levels*,
both passes round to whole levels of 8 bits, as MATLAB does with images of that type: the result is
then equal to the published low-resolution images, level for level.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

_Pass = Callable[[Tensor, int], Tensor]


def reduce(images: Tensor, factor: int, *, levels: bool = True) -> Tensor:
    """Return images that are smaller by a whole factor on both sides.

    Args:
        images: (n, c, h, w) floating point, 0 to 255; h and w are multiples of *factor*. They are
            only read.
        factor: The factor, at least 1.
        levels: True to round to whole levels from 0 to 255 after each pass (default); False keeps
            all digits and values beyond the range.

    Returns:
        (n, c, h / factor, w / factor), with the dtype and the device of *images*.

    Raises:
        ValueError: A side is no multiple of the factor.
    """
    height, width = images.shape[2:]
    if height % factor or width % factor:
        raise ValueError(
            f"images are {width}x{height} pixels: expected multiples of {factor} to reduce them"
            f" by {factor}. Cut them first."
        )
    return _both_passes(images, factor, _reduce_columns, levels=levels)


def enlarge(images: Tensor, factor: int, *, levels: bool = True) -> Tensor:
    """Return images that are larger by a whole factor on both sides.

    Args:
        images: (n, c, h, w) floating point, 0 to 255. They are only read.
        factor: The factor, at least 1.
        levels: True to round to whole levels from 0 to 255 after each pass (default); False keeps
            all digits and values beyond the range.

    Returns:
        (n, c, h * factor, w * factor), with the dtype and the device of *images*.
    """
    return _both_passes(images, factor, _enlarge_columns, levels=levels)


def round_to_levels(images: Tensor) -> Tensor:
    """Return the nearest whole levels from 0 to 255, halves upwards, with an unchanged dtype.

    Args:
        images: A tensor of any shape, floating point.
    """
    return (images + 0.5).floor().clamp(0, 255)


def margin(factor: int) -> int:
    """Return by how many pixels of the finer image a reduced pixel reaches beyond its own.

    A patch that is cut out with this margin, reduced and cut back equals the same patch of the
    reduced image.

    Args:
        factor: The factor of the reduction.
    """
    return (len(_reducing_weights(factor)) - factor) // 2


def _both_passes(images: Tensor, factor: int, resize_columns: _Pass, *, levels: bool) -> Tensor:
    if factor == 1:
        return images.clone()
    for _ in range(2):  # rows are the columns of the transposed images
        images = resize_columns(images.transpose(2, 3), factor)
        images = round_to_levels(images) if levels else images
    return images.contiguous()


def _reduce_columns(images: Tensor, factor: int) -> Tensor:
    """Return (n, c, h, w / factor): one filter, at every *factor*-th pixel."""
    weights = images.new_tensor(_reducing_weights(factor))
    before = (len(weights) - factor) // 2
    lines = _extended(images, before, len(weights) - factor - before)
    reduced = functional.conv1d(lines, weights.view(1, 1, -1), stride=factor)
    return reduced.reshape(*images.shape[:3], -1)


def _enlarge_columns(images: Tensor, factor: int) -> Tensor:
    """Return (n, c, h, w * factor): a filter for each position between two pixels."""
    weights = images.new_tensor(_enlarging_weights(factor))
    lines = _extended(images, weights.shape[1] // 2, weights.shape[1] // 2)
    enlarged = functional.conv1d(lines, weights[:, None])  # (lines, factor, w)
    return enlarged.transpose(1, 2).reshape(*images.shape[:3], -1)


def _extended(images: Tensor, before: int, after: int) -> Tensor:
    """Return the lines of images with repeated ends, (n * c * h, 1, before + w + after)."""
    lines = images.reshape(-1, 1, images.shape[3])
    return functional.pad(lines, (before, after), mode="replicate")


def _reducing_weights(factor: int) -> list[float]:
    """Return the weights of the pixels around the centre of *factor* neighbours; they sum to 1."""
    reach = 2 * factor
    distances = [
        k - (factor - 1) / 2
        for k in range(-reach, factor + reach)
        if abs(k - (factor - 1) / 2) < reach
    ]
    return _normalised([_cubic(distance / factor) for distance in distances])


def _enlarging_weights(factor: int) -> list[list[float]]:
    """Return for each of *factor* positions in a pixel the weights of it and 2 pixels each side."""
    positions = [(k + 0.5) / factor - 0.5 for k in range(factor)]
    return [_normalised([_cubic(p - k) for k in range(-2, 3)]) for p in positions]


def _cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def _normalised(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]
