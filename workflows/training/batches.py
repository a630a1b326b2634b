"""An endless stream of training batches on the training device, with a resumable position."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from pipeline.errors import StoreError
from pipeline.features.loader import FeatureLoader
from pipeline.loader import Loader
from pipeline.loader.batch import Batch
from workflows.training.world import World

AnyLoader = Loader | FeatureLoader
"""A loader of images, or of stored features."""

Augmentation = Callable[[Tensor, Tensor, int], Tensor]
"""A function (images, rows, epoch) -> images, run on the device: uint8 images (n, 3, h, w), their
row numbers (n,) int64 and the epoch give float32 images (n, 3, size, size)."""


def no_augmentation(images: Tensor, rows: Tensor, epoch: int) -> Tensor:
    """Return *images* itself, unchanged: the augmentation of stored features.

    Args:
        images: (n, d) float32 features; or (n, 3, h, w) uint8 images of an evaluation, which must
            stay as they are stored.
        rows: Row numbers, (n,) int64, which have no effect.
        epoch: Number of the epoch, which has no effect.

    Returns:
        *images* itself, no copy, with its dtype and on its device.
    """
    return images


def micro_batches(num_rows: int, max_rows: int | None) -> Iterator[tuple[slice, float]]:
    """Split a rank's rows into micro-batches of nearly equal length.

    There are as few micro-batches as *max_rows* allows. Every rank has equally many rows and thus
    gets the same number of micro-batches, so that collectives stay matched.

    Args:
        num_rows: Number of rows in this rank's part of a batch, at least 1.
        max_rows: Maximum number of rows in a micro-batch, at least 1; None: all rows, in one
            micro-batch.

    Yields:
        (rows, weight) of each micro-batch: its rows of this rank's part, a slice, in ascending
        order; and its number of rows / *num_rows*, a float. The sum of its mean losses, each times
        its weight, is the mean loss over all rows.
    """
    count = -(-num_rows // (max_rows or num_rows))
    for index in range(count):
        micro_batch = slice(index * num_rows // count, (index + 1) * num_rows // count)
        yield micro_batch, (micro_batch.stop - micro_batch.start) / num_rows


class RankBatch(NamedTuple):
    """This rank's n rows of a batch, on the training device."""

    images: Tensor
    """(n, 3, size, size) float32, augmented, channels last in memory; or (n, d) features."""
    labels: Tensor
    """(n,) int64; -1 where there is no class."""
    rows: Tensor
    """(n,) int64: the row numbers in the split."""


class SizesBatch(NamedTuple):
    """This rank's n rows of a batch at all sizes of the loader, on the training device."""

    images: tuple[Tensor, ...]
    """For each size (n, 3, size, size) uint8, channels last in memory."""
    labels: Tensor
    """(n,) int64; -1 where there is no class."""
    rows: Tensor
    """(n,) int64: the row numbers in the split, on the CPU."""
    epoch: int
    """The number of the epoch."""


class Batches:
    """An endless stream of batches that runs through epoch after epoch."""

    def __init__(
        self,
        loader: AnyLoader,
        augment: Augmentation = no_augmentation,
        world: World | None = None,
        *,
        ranks_on_host: int = 1,
    ) -> None:
        """Create the stream without opening the store.

        Args:
            loader: The loader of the whole batch, of images at one size or of features.
            augment: The augmentation, run on the device: (images, rows, epoch) -> images (default:
                none).
            world: The rank whose part of each batch is read, and its device (default: a single one
                on the CPU).
            ranks_on_host: Number of ranks on this machine (default 1).
        """
        world = world or World()
        self.loader = loader.for_rank(world.rank, world.size, ranks_on_host=ranks_on_host)
        self._augment = augment
        self._device = world.device
        self._iterator: Iterator[Batch] | None = None
        self.wait_seconds = 0.0
        """Total seconds that `take` has waited for the loader."""
        self.rows_taken = 0
        """Total rows read so far, over all ranks."""

    def take(self) -> RankBatch:
        """Return this rank's part of the next batch, augmented, on the device.

        The first call opens the store. After the last batch of an epoch the next one begins.

        Returns:
            `images`, what the augmentation returns, (n, 3, size, size) float32 or (n, d) features;
            `labels`, (n,) int64, -1 for none, both on the device; and `rows`, (n,) int64, on the
            CPU.

        Raises:
            StoreError: The split has fewer readable images than a batch, or cannot be read.
        """
        batch = self.take_sizes()
        return RankBatch(
            self._augment(batch.images[0], batch.rows, batch.epoch), batch.labels, batch.rows
        )

    def take_sizes(self) -> SizesBatch:
        """Return this rank's part of the next batch as the loader has it, on the device.

        The first call opens the store. After the last batch of an epoch the next one begins.

        Returns:
            `images`, one tensor for each size of the loader, (n, 3, size, size) uint8, or one of
            features; `labels`, (n,) int64, -1 for none, both on the device; `rows`, (n,) int64, on
            the CPU; and `epoch`.

        Raises:
            StoreError: The split has fewer readable images than a batch, or cannot be read.
        """
        started = time.perf_counter()
        batch = self._next()
        self.wait_seconds += time.perf_counter() - started
        self.rows_taken += self.loader.batch_size
        sizes = batch.images if isinstance(batch.images, tuple) else (batch.images,)
        images = tuple(each.to(self._device, non_blocking=True) for each in sizes)
        labels = batch.labels.to(self._device, non_blocking=True)
        return SizesBatch(images, labels, batch.rows, self.loader.epoch)

    def _next(self) -> Batch:
        if self._iterator is None:
            self._check()
            self._iterator = self.loader.endless()
        return next(self._iterator)

    def read_from(self, loader: AnyLoader, augment: Augmentation) -> None:
        """Continue with another loader of the same rows, such as one of larger images.

        The next `take` returns the batch that would have been the next one.

        Args:
            loader: A loader of the same rows in the same order, for the same rank.
            augment: The augmentation of its batches.

        Raises:
            StoreMismatchError: Its rows, their order or its batches differ; nothing has changed.
        """
        loader.load_state_dict(self.loader.state_dict())  # first: if refused, nothing changes
        self.close()
        self.loader, self._augment = loader, augment

    def _check(self) -> None:
        if not len(self.loader):  # the loader's own error knows no flag
            raise StoreError(
                f"split {self.loader.split!r} has {self.loader.num_rows} readable images, fewer"
                f" than a batch of {self.loader.batch_size}. Pass a smaller --batch-size."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream as plain values, for a checkpoint."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a position in the stream: the next `take` returns the batch after it.

        Args:
            state: The result of `state_dict`, of this stream or of one whose loader has the same
                store, split, order, seed, batch size over all ranks, `drop_last` and labels. It is
                only read. The number of ranks may differ.

        Raises:
            StoreMismatchError: One of these differs, or the readable rows of the split have
                changed.
            StoreError: The split cannot be opened.
        """
        self._iterator = None
        self.loader.load_state_dict(state)

    def close(self) -> None:
        """Release the loader's files and threads."""
        if self._iterator is not None:
            self._iterator.close()  # type: ignore[attr-defined]  # it is a generator
            self._iterator = None
