"""A check that a network computes the same features of the same images each time.

The features of networks that mask or drop inputs at random at inference too, such as a masked
autoencoder, are useless: each run has different ones.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import TesseraeError

if TYPE_CHECKING:
    from pipeline.backbone.network import Backbone

REPEAT_TOLERANCE = 1e-3
"""The largest difference of two passes on one machine, relative to the largest feature."""


def probe_pixels(size: int) -> Tensor:
    """Return two test images that are the same on every machine.

    They are smooth with some noise, like photographs. The noise comes from a hash, since torch's
    generators may change.

    Args:
        size: The side of the images in pixels, at least 1.

    Returns:
        (2, 3, size, size) uint8 RGB, on the CPU.
    """
    ramp = np.arange(size, dtype=np.int64) * 255 // max(1, size - 1)
    across, down = np.broadcast_arrays(ramp[None, :], ramp[:, None])
    smooth = np.stack([[across, down, 255 - across], [255 - down, across // 2, down]])
    noise = np.frombuffer(hashlib.shake_128(b"tesserae").digest(smooth.size), np.uint8)
    mixed = (3 * smooth + noise.reshape(smooth.shape)) // 4
    return torch.from_numpy(mixed.astype(np.uint8))


def check_deterministic(backbone: Backbone) -> None:
    """Check that a network computes the same features of the same images in two passes.

    Args:
        backbone: The network, which computes two test images twice on its device.

    Raises:
        TesseraeError: The features differ by more than a thousandth of the largest, or are not
            finite.
    """
    images = probe_pixels(backbone.size).to(backbone.device)
    first, second = (backbone.extract(images).cpu().numpy().astype(np.float64) for _ in range(2))
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise TesseraeError(
            f"the features of {backbone.name} contain NaN or infinity: its weights are damaged or"
            " have diverged. Choose another network."
        )
    largest = np.abs(first).max()
    difference = np.abs(first - second).max() / largest if largest else 0.0
    if difference > REPEAT_TOLERANCE:
        raise TesseraeError(
            f"{backbone.name} computes different features for the same images each time (they"
            f" differ by {difference:.1%}): it masks or drops out at random at inference. Choose"
            " another network, or one without masking."
        )
