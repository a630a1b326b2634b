"""The batches that loaders yield."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.store.split import Split


class _BatchTensors(NamedTuple):
    images: torch.Tensor | tuple[torch.Tensor, ...]
    """The images, (n, 3, size, size) uint8 RGB, channels last in memory; a tuple of such tensors
    for several sizes; or features, (n, d) float32."""
    labels: torch.Tensor
    """The labels, (n,) int64; -1 where a row has no class."""
    rows: torch.Tensor
    """The rows of the split, (n,) int64."""


class Batch(_BatchTensors):
    """One rank's part of a global batch, which unpacks to images, labels and rows.

    A part has n of the B rows of its global batch. Parts differ by one row if B is not a multiple
    of the number of ranks, and some are empty if the last batch of an epoch has fewer rows than
    there are ranks. `row_weight` makes the average over ranks exact in all cases:

        loss = (losses * batch.row_weight).sum()    # losses: (n,), one for each row

    The average over ranks of this loss is the mean over the global batch, and that of its
    gradients the gradient of that mean. A rank without rows contributes 0, where a mean over its
    rows would be NaN.
    """

    row_weight: float = 1.0
    """The weight of each row: W / B for W ranks that share a global batch of B rows."""
    boxes: torch.Tensor | None = None
    """The left, top, right and bottom edge of the crop of each image, in pixels of its stored
    picture, (n, 4) int64, if the loader was created with `boxes=True`; otherwise None."""


BatchGenerator = Generator[Batch, None, None]


def make_batch(
    images: torch.Tensor | tuple[torch.Tensor, ...],
    split: Split,
    rows: NDArray[np.int64],
    row_weight: float,
    boxes: NDArray[np.int32] | None = None,
) -> Batch:
    """Return the batch of some rows of a split, with their labels; *images* are not copied.

    Args:
        images: The rows' images, (n, 3, size, size) uint8, or a tuple of such tensors, one for each
            size; or their features, (n, d) float32.
        split: The split, as `pipeline.store.split.open_split` returns it, from which the labels are
            read.
        rows: The rows of the split, (n,) int64, in the order of *images*; they are copied. Their
            number is not compared with that of *images*.
        row_weight: The weight of each row in a loss: W / B for W ranks that share B rows.
        boxes: The crops of the images, (n, 4) int32, which are copied; None for images that were
            not cut out of larger ones (default: None).

    Returns:
        The batch, which unpacks to *images*, labels and rows. Labels, -1 for no class, and rows are
        (n,) int64 tensors on the CPU; *row_weight* and *boxes* are its attributes of these names.

    Raises:
        IndexError: A row is not less than the number of rows of the split.
    """
    # The losses of torch require int64 labels.
    labels = torch.from_numpy(split.labels[rows].astype(np.int64))
    # A view of *rows* would keep the whole block of the order alive, and let a caller change it.
    batch = Batch(images, labels, torch.from_numpy(rows.copy()))
    batch.row_weight = row_weight
    if boxes is not None:
        batch.boxes = torch.from_numpy(boxes.astype(np.int64))
    return batch
