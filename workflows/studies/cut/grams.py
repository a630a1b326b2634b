"""The inner products of the features of images at a cut.

A ridge regression depends on the features only through their inner products, so that a map of
600,000 values costs a matrix of images by images. Maps are never all in memory: their inner
products are summed over parts of the channels, for each of which the network computes the cut
again. Early cuts have the largest maps and are computed the fastest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.backbone.network import Backbone
from pipeline.backbone.truncate import block_output, pool, replace_block_output
from pipeline.errors import TesseraeError
from workflows.studies.cut import EARLY, MAP, POOLED
from workflows.studies.cut.images import ImageSet
from workflows.studies.cut.networks import Cut, Network

MAP_BYTES = 2**31
"""The memory for a part of the channels of the maps of all images."""
COLUMNS = 8_192
"""The number of features whose inner products are computed at once."""


@dataclass(frozen=True)
class Gram:
    """The inner products of features, and their costs."""

    products: NDArray[np.float64]
    """(num_train, n) float64: of the images to train with and of all images. An unknown but common
    vector was subtracted from the features of all images."""
    row_bytes: int
    """The bytes of an image's features: two for each value, as float16; of pixels one."""
    forward_ms: float
    """The CPU time of the network up to the cut for an image in milliseconds, the median over
    batches."""
    gram_seconds: float
    """The CPU seconds that the inner products took."""


class GramSum:
    """A sum of inner products over parts of the features."""

    def __init__(self, num_train: int, num_rows: int) -> None:
        """Begin without features.

        Args:
            num_train: The number of images to train with.
            num_rows: The number of all images, n.
        """
        self._num_train = num_train
        self._products = torch.zeros(num_train, num_rows, dtype=torch.float64)
        self._seconds = 0.0
        self._values = 0

    def add(self, features: Tensor) -> None:
        """Add the inner products of some features.

        Args:
            features: (n, k), of any floating-point dtype.

        Raises:
            TesseraeError: A feature is not finite: it exceeds float16, or the network has diverged.
        """
        started = time.process_time()
        for part in torch.split(features, COLUMNS, dim=1):
            columns = part.float()
            # The mean would cost precision, and ridge regression with an offset does not see it.
            columns = columns - columns.mean(0)
            if not torch.isfinite(columns).all():
                raise TesseraeError(
                    "a feature exceeds the largest number of float16, 65,504, or is NaN: such"
                    " features cannot be stored. Pass another --trunk."
                )
            self._products += (columns[: self._num_train] @ columns.T).double()
        self._values += features.shape[1]
        self._seconds += time.process_time() - started

    def result(self, *, value_bytes: int, forward_ms: float) -> Gram:
        """Return the inner products of all features that were added.

        Args:
            value_bytes: The bytes of a stored feature.
            forward_ms: The CPU time of the network for an image, in milliseconds.
        """
        num_bytes = value_bytes * self._values
        return Gram(self._products.numpy(), num_bytes, forward_ms, self._seconds)


def pixel_gram(images: ImageSet) -> Gram:
    """Return the inner products of the pixels of images.

    Args:
        images: The images.
    """
    gram = GramSum(images.num_train, len(images.images))
    for columns in torch.split(images.images.flatten(1), COLUMNS, dim=1):
        gram.add(columns / 255)  # all of them as floats would take four times their memory
    return gram.result(value_bytes=1, forward_ms=0.0)


@torch.no_grad()
def end_gram(network: Network, images: ImageSet) -> Gram:
    """Return the inner products of the features of a whole network, as it pools them.

    Args:
        network: The network.
        images: The images.
    """
    seconds, rows = [], []
    for pixels in _batches(network.backbone, images):
        started = time.process_time()
        rows.append(network.backbone.forward(pixels).half())
        seconds.append((time.process_time() - started) / len(pixels))
    return _gram_of(torch.cat(rows), images, 1_000 * float(np.median(seconds)))


@torch.no_grad()
def cut_grams(
    network: Network, cut: Cut, images: ImageSet, *, map_bytes: int = MAP_BYTES
) -> dict[str, Gram]:
    """Return the inner products of features at a cut, in each of its forms.

    Args:
        network: The network.
        cut: One of its cuts.
        images: The images.
        map_bytes: The memory for a part of the maps (default: 2 GiB).

    Returns:
        The inner products by form: `Cut.forms`.

    Raises:
        TesseraeError: A feature is not finite, or exceeds float16.
    """
    num_rows, num_channels = len(images.images), cut.shape[0]
    positions = math.prod(cut.shape[1:])
    step = max(1, min(num_channels, map_bytes // (2 * num_rows * positions)))
    maps, pooled, early, seconds = GramSum(images.num_train, num_rows), [], [], []
    for first in range(0, num_channels, step):
        channels = slice(first, first + step)
        width = len(range(num_channels)[channels]) * positions
        part = torch.empty(num_rows, width, dtype=torch.float16)
        start = 0
        for pixels in _batches(network.backbone, images):
            output = _compute(network.backbone, cut, pixels, with_early=first == 0)
            part[start : start + len(pixels)] = output.hidden[:, channels].flatten(1).half()
            start += len(pixels)
            if first == 0:
                seconds.append(output.seconds / len(pixels))
                pooled.append(pool(output.hidden, "mean", network.name).half())
                if output.end is not None:
                    early.append(output.end.half())
        maps.add(part)
    forward_ms = 1_000 * float(np.median(seconds))
    grams = {MAP: maps.result(value_bytes=2, forward_ms=forward_ms)}
    if POOLED in cut.forms:
        grams[POOLED] = _gram_of(torch.cat(pooled), images, forward_ms)
    if cut.early_side is not None:
        gram = _gram_of(torch.cat(early), images, forward_ms)
        # Stored is the small map, from which the remaining blocks compute the features.
        stored = 2 * num_channels * cut.early_side**2
        grams[EARLY] = Gram(gram.products, stored, forward_ms, gram.gram_seconds)
    return grams


@dataclass(frozen=True)
class _Output:
    hidden: Tensor
    seconds: float
    end: Tensor | None
    """The features that the remaining blocks compute from the map that is pooled early."""


def _compute(backbone: Backbone, cut: Cut, pixels: Tensor, *, with_early: bool) -> _Output:
    side = cut.early_side
    started = time.process_time()
    if side is None or not with_early:
        if backbone.transform.channels == "BGR":
            pixels = pixels.flip(1)
        hidden = block_output(backbone.model, cut.block, pixels)
        return _Output(hidden, time.process_time() - started, None)
    reached: list[tuple[Tensor, float]] = []

    def pool_early(hidden: Tensor) -> Tensor:
        reached.append((hidden, time.process_time() - started))
        return functional.adaptive_avg_pool2d(hidden, side)

    with replace_block_output(backbone.model, cut.block, pool_early):
        end = backbone.forward(pixels)
    hidden, seconds = reached[0]
    return _Output(hidden, seconds, end)


def _gram_of(features: Tensor, images: ImageSet, forward_ms: float) -> Gram:
    gram = GramSum(images.num_train, len(images.images))
    gram.add(features)
    return gram.result(value_bytes=2, forward_ms=forward_ms)


def _batches(backbone: Backbone, images: ImageSet) -> Iterator[Tensor]:
    """Yield the normalised images in batches, in their order."""
    for part in torch.split(images.images, backbone.batch_size):
        yield backbone.normalise(part)
