"""The feeds of a stage, the loader or torch's DataLoader, and a trace of the batches that came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from pipeline.errors import SourceError, TesseraeError
from pipeline.loader import Loader
from pipeline.loader.batch import Batch
from workflows.studies.parity.child_errors import sentence_of_child
from workflows.studies.parity.source_images import SourceImages
from workflows.training.batches import Batches
from workflows.training.world import World


class TracedBatch(NamedTuple):
    """The content of a batch, before it is augmented."""

    rows: NDArray[np.int64]
    """(n,) the rows of the images."""
    labels: NDArray[np.int64]
    """(n,) their labels."""
    digests: tuple[int, ...]
    """A digest of the pixels of each image."""


class TracedBatches(Batches):
    """The batches of a stage, from the same loader, with a trace of their content."""

    def __init__(self, batches: Batches, world: World, *, ranks_on_host: int = 1) -> None:
        """Replace the batches of a stage that has taken none yet.

        Args:
            batches: The batches of the stage.
            world: The rank of the stage.
            ranks_on_host: Number of ranks on this machine (default 1).
        """
        assert isinstance(batches.loader, Loader)
        super().__init__(batches.loader, batches._augment, world, ranks_on_host=ranks_on_host)
        self.trace: list[TracedBatch] | None = None
        """The batches so far; None: they are not traced."""

    def _next(self) -> Batch:
        batch = self._fetch()
        if self.trace is not None:
            assert isinstance(batch.images, torch.Tensor)
            pixels = np.ascontiguousarray(batch.images.permute(0, 2, 3, 1).numpy())
            digests = tuple(xxhash.xxh3_64_intdigest(image.data) for image in pixels)
            self.trace.append(TracedBatch(batch.rows.numpy(), batch.labels.numpy(), digests))
        return batch

    def _fetch(self) -> Batch:
        return super()._next()


class DataLoaderBatches(TracedBatches):
    """The batches of a stage, from a DataLoader in place of the loader.

    The loader of the stage is not iterated: it only counts epochs and their batches.
    """

    def __init__(
        self,
        batches: Batches,
        data_loader: DataLoader[Any],
        images: SourceImages,
        world: World,
        *,
        ranks_on_host: int = 1,
    ) -> None:
        """Replace the batches of a stage that has taken none yet.

        Args:
            batches: The batches of the stage.
            data_loader: The DataLoader of *images*, with as many batches in an epoch.
            images: Its dataset, whose epoch is set.
            world: The rank of the stage.
            ranks_on_host: Number of ranks on this machine (default 1).
        """
        super().__init__(batches, world, ranks_on_host=ranks_on_host)
        self._data_loader: DataLoader[Any] | None = data_loader
        self._images = images
        self._batches_of_epoch: Iterator[Any] | None = None
        self._epochs_begun = 0

    def _fetch(self) -> Batch:
        assert self._data_loader is not None, "the batches are closed"
        while True:
            if self._batches_of_epoch is None:
                self._check()
                self.loader.set_epoch(self._epochs_begun)
                self._images.set_epoch(self._epochs_begun)
                self._epochs_begun += 1
                self._batches_of_epoch = iter(self._data_loader)
            try:
                batch = next(self._batches_of_epoch, None)
            except TesseraeError as e:  # with the traceback of a worker process
                raise SourceError(sentence_of_child(e)) from e
            if batch is not None:
                images, labels, rows = batch
                # The loader's layout in memory: torch may sum in another order for another one.
                return Batch(images.permute(0, 3, 1, 2), labels, rows)
            self._batches_of_epoch = None

    def close(self) -> None:
        """End the worker processes of the DataLoader."""
        super().close()
        self._batches_of_epoch = None
        self._data_loader = None  # it holds the iterator whose workers persist


class LoaderOrder(Sampler[list[int]]):
    """A batch sampler in the order of a loader: each epoch has this rank's part of its batches."""

    def __init__(self, images: SourceImages, loader: Loader, world: World) -> None:
        """Prepare to sample; nothing is read.

        Args:
            images: The dataset whose indices are sampled, and whose epoch counts.
            loader: The loader of whole batches.
            world: The rank.
        """
        self._images = images
        self._loader = loader
        self._world = world

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of this rank's images of each batch."""
        order = self._loader.epoch_order(self._images.epoch)
        size, world = self._loader.batch_size, self._world
        for start in range(0, len(self) * size, size):
            rows = order.rows(start, start + size)
            yield self._images.samples.indices(rows[world.part(len(rows))])


def data_loader_in_order(
    images: SourceImages, loader: Loader, world: World, *, workers: int
) -> DataLoader[Any]:
    """Return a DataLoader with the batches of a loader: the same images in the same order.

    Args:
        images: The dataset, of all rows that the loader yields.
        loader: The loader of whole batches.
        world: The rank, whose part of each batch is read.
        workers: Number of worker processes; 0 reads in this process.
    """
    return DataLoader(
        images,
        batch_sampler=LoaderOrder(images, loader, world),
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(loader.seed),
    )


def shuffling_data_loader(
    images: SourceImages, *, batch_size: int, seed: int, workers: int
) -> DataLoader[Any]:
    """Return a DataLoader with torch's own shuffle, in which incomplete batches are dropped.

    Args:
        images: The dataset.
        batch_size: Number of images in a batch.
        seed: Seed of the shuffle.
        workers: Number of worker processes; 0 reads in this process.
    """
    return DataLoader(
        images,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(seed),
    )
