"""The batches that loaders yield."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.loader.framework import Array, Framework
from pipeline.store.split import Split

if TYPE_CHECKING:
    import torch


class _BatchArrays(NamedTuple, Generic[Array]):
    images: Array | tuple[Array, ...]
    """The images: tensors of (n, 3, size, size) uint8 RGB, channels last in memory, or arrays of
    numpy of (n, size, size, 3); a tuple of them for several sizes; or features, (n, d) float32."""
    labels: Array
    """The labels, (n,) int64; -1 where a row has no class."""
    rows: Array
    """The rows of the split, (n,) int64."""


class Batch(_BatchArrays[Array]):
    """One rank's part of a global batch, which unpacks to images, labels and rows.

    The type of its arrays is that of the loader: `torch.Tensor`, or numpy's.

    A part has n of the B rows of its global batch. Parts differ by one row if B is not a multiple
    of the number of ranks, and some are empty if the last batch of an epoch has fewer rows than
    there are ranks. `row_weight` makes the average over ranks exact in all cases:

        loss = (losses * batch.row_weight).sum()    # losses: (n,), one for each row

    The average over ranks of this loss is the mean over the global batch, and that of its
    gradients the gradient of that mean. A rank without rows contributes 0, where a mean over its
    rows would be NaN.

    A tuple of the same arrays that is made from a batch, as by `_replace` or by a library that
    moves the elements of a tuple, has neither `row_weight` nor `boxes`; `to` keeps them.
    """

    row_weight: float
    """The weight of each row: W / B for W ranks that share a global batch of B rows."""
    boxes: Array | None
    """The left, top, right and bottom edge of the crop of each image, in pixels of its stored
    picture, (n, 4) int64, if the loader was created with `boxes=True`; otherwise None."""

    def to(
        self, device: torch.device | str | int, *, non_blocking: bool = False
    ) -> Batch[torch.Tensor]:
        """Return this batch of tensors on another device; Lightning and Accelerate call it, too.

        Args:
            device: The device to which images, labels, rows and boxes are moved.
            non_blocking: True to copy from page-locked memory while the program goes on (default:
                False).
        """

        def move(tensor: Any) -> torch.Tensor:
            moved: torch.Tensor = tensor.to(device, non_blocking=non_blocking)
            return moved

        images = self.images
        moved = tuple(map(move, images)) if isinstance(images, tuple) else move(images)
        batch: Batch[torch.Tensor] = Batch(moved, move(self.labels), move(self.rows))
        batch.row_weight = self.row_weight
        batch.boxes = None if self.boxes is None else move(self.boxes)
        return batch

    if not TYPE_CHECKING:  # type checkers would accept any name

        def __getattr__(self, name: str) -> object:
            if name in Batch.__annotations__:
                raise AttributeError(
                    f"this batch has lost its {name}: it was made from the arrays of another one."
                    " Move a batch with its method `to`, and read attributes before others rebuild"
                    " it."
                )
            raise AttributeError(f"a batch has no attribute {name!r}")


BatchGenerator = Generator[Batch[Array], None, None]


def make_batch(
    framework: Framework[Array],
    images: Array | tuple[Array, ...],
    split: Split,
    rows: NDArray[np.int64],
    row_weight: float,
    boxes: NDArray[np.int32] | None = None,
) -> Batch[Array]:
    """Return the batch of some rows of a split, with their labels; *images* are not copied.

    Args:
        framework: The library of the arrays of the batch.
        images: The rows' images, uint8 with the axes of the library, or a tuple of such arrays, one
            for each size; or their features, (n, d) float32.
        split: The split, as `pipeline.store.split.open_split` returns it, from which the labels are
            read.
        rows: The rows of the split, (n,) int64, in the order of *images*; they are copied. Their
            number is not compared with that of *images*.
        row_weight: The weight of each row in a loss: W / B for W ranks that share B rows.
        boxes: The crops of the images, (n, 4) int32, which are copied; None for images that were
            not cut out of larger ones (default: None).

    Returns:
        The batch, which unpacks to *images*, labels and rows. Labels, -1 for no class, and rows are
        (n,) int64 arrays on the CPU; *row_weight* and *boxes* are its attributes of these names.

    Raises:
        IndexError: A row is not less than the number of rows of the split.
    """
    # The losses of torch require int64 labels.
    labels = framework.from_numpy(split.labels[rows].astype(np.int64))
    # A view of *rows* would keep the whole block of the order alive, and let a caller change it.
    batch = Batch(images, labels, framework.from_numpy(rows.copy()))
    batch.row_weight = row_weight
    batch.boxes = None if boxes is None else framework.from_numpy(boxes.astype(np.int64))
    return batch
