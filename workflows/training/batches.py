"""The batches of a loader without end, on the device that trains, and where they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from pipeline.errors import StoreError
from pipeline.features.loader import FeatureLoader
from pipeline.loader import Loader
from pipeline.loader.epochs import Batch
from workflows.training.world import World

AnyLoader = Loader | FeatureLoader

Augmenting = Callable[[Tensor, Tensor, int], Tensor]


def unchanged(images: Tensor, rows: Tensor, epoch: int) -> Tensor:
    """What is done to features."""
    return images


def parts(rows: int, at_once: int | None) -> Iterator[tuple[slice, float]]:
    """What is computed at once, and its share of all: as many parts in every rank.

    Args:
        rows: Of this rank's part of a batch.
        at_once: Most rows of a part (all).
    """
    count = -(-rows // (at_once or rows))
    for part in range(count):
        taken = slice(part * rows // count, (part + 1) * rows // count)
        yield taken, (taken.stop - taken.start) / rows


class Taken(NamedTuple):
    """This rank's part of a batch of n rows."""

    images: Tensor
    """(n, 3, size, size) float32, augmented, channels last in memory; or (n, d) features."""
    labels: Tensor
    """(n,) int64; -1 where there is no class."""
    rows: Tensor
    """(n,) int64: which rows of the split they are."""


class Batches:
    """One batch after the other, epoch after epoch."""

    def __init__(
        self, loader: AnyLoader, augment: Augmenting, world: World, *, here: int = 1
    ) -> None:
        """Open nothing yet.

        Args:
            loader: Of the whole batch, at one size, or of features.
            augment: What is done to it, on the device: (images, rows, epoch) -> images.
            world: Whose rank takes its part.
            here: Ranks that are on its machine.
        """
        self.loader = loader.for_rank(world.rank, world.size, here=here)
        self._augment = augment
        self._device = world.device
        self._iterator: Iterator[Batch] | None = None
        self.waited = 0.0
        """Seconds that `take` has waited for the loader, in all."""
        self.taken = 0
        """Rows, of all ranks, that were taken."""

    def take(self) -> Taken:
        """The next."""
        begun = time.perf_counter()
        batch = self._next()
        self.waited += time.perf_counter() - begun
        self.taken += self.loader.batch_size
        images = batch.images.to(self._device, non_blocking=True)  # type: ignore[union-attr]
        labels = batch.labels.to(self._device, non_blocking=True)
        made = self._augment(images, batch.rows, self.loader.epoch)
        return Taken(made, labels, batch.rows)

    def _next(self) -> Batch:
        while True:
            if self._iterator is None:
                self._check()
                self._iterator = iter(self.loader)
            batch = next(self._iterator, None)
            if batch is not None:
                return batch
            self._iterator = None

    def _check(self) -> None:
        if not len(self.loader):  # there would never be one
            raise StoreError(
                f"split {self.loader.split!r} has {self.loader.num_rows} pictures to take batches"
                f" of {self.loader.batch_size} from: expected at least one batch."
            )

    def state_dict(self) -> dict[str, Any]:
        """Where they are: plain values."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the last that was taken then."""
        self._iterator = None
        self.loader.load_state_dict(state)

    def close(self) -> None:
        """Let go of files and threads."""
        if self._iterator is not None:
            self._iterator.close()  # type: ignore[attr-defined]  # it is a generator
            self._iterator = None
