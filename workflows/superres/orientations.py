"""The eight orientations of an image: it is mirrored down, mirrored across, and turned, or not."""

from __future__ import annotations

import torch
from torch import Tensor

ORIENTATIONS = 8
"""The number of orientations."""


def turned(images: Tensor, turn: Tensor) -> Tensor:
    """Return square images, each in an orientation of its own.

    Args:
        images: (n, c, side, side) of any dtype.
        turn: (n,) int64, the orientation of each image, as `change_orientation` takes it.

    Returns:
        A tensor of the same shape and dtype.
    """
    if images.device.type == "cpu":  # touches each pixel once, not three times
        turns = zip(images, turn.tolist(), strict=True)
        return torch.stack([change_orientation(image, to) for image, to in turns])
    return _turned_together(images, turn)


def _turned_together(images: Tensor, turn: Tensor) -> Tensor:
    """Return what `turned` does, without a value that a GPU would have to hand to the CPU."""
    for bit, change in _CHANGES:
        is_changed = ((turn & bit) > 0)[:, None, None, None]
        images = torch.where(is_changed, change(images), images)
    return images


def change_orientation(images: Tensor, orientation: int) -> Tensor:
    """Return images in another orientation.

    Args:
        images: (..., h, w) of any dtype.
        orientation: 0 to 7: the sum of 1 to mirror down, 2 to mirror across, and 4 to exchange
            rows and columns, in this order; 0 leaves images as they are.

    Returns:
        (..., h, w), or (..., w, h) from 4 on.
    """
    for bit, change in _CHANGES:
        if orientation & bit:
            images = change(images)
    return images


def restore_orientation(images: Tensor, orientation: int) -> Tensor:
    """Return images as they were before `change_orientation`.

    Args:
        images: (..., h, w) of any dtype.
        orientation: The orientation that they have, 0 to 7.

    Returns:
        (..., h, w), or (..., w, h) from 4 on.
    """
    for bit, change in reversed(_CHANGES):
        if orientation & bit:
            images = change(images)
    return images


def _mirrored_down(images: Tensor) -> Tensor:
    return images.flip(-2)


def _mirrored_across(images: Tensor) -> Tensor:
    return images.flip(-1)


def _with_exchanged_sides(images: Tensor) -> Tensor:
    return images.transpose(-2, -1)


_CHANGES = ((1, _mirrored_down), (2, _mirrored_across), (4, _with_exchanged_sides))
"""The bits of an orientation with the changes that they stand for, in their order. Each change
undoes itself."""
