"""Shuffled batches of features, with the interface of `pipeline.loader.Loader`.

The features of an image are a thousandth of its pixels: the iterating thread copies them out of
mapped files, since reading ahead would gain nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment import MIRROR, draws
from pipeline.features.reader import Features, open_features
from pipeline.loader.base_loader import BaseLoader
from pipeline.loader.batch import Batch, BatchGenerator, make_batch
from pipeline.loader.distributed import Placement
from pipeline.loader.torch_framework import TorchFramework
from pipeline.store.split import Split


class FeatureLoader(BaseLoader[torch.Tensor]):
    """A loader of features. Each iteration gives one epoch of batches, as with `Loader`.

    The images of a batch are features, (n, d) float32, of the image or of its mirrored copy.
    """

    orders = ("random", "sequential")
    """The orders of rows that the loader offers."""

    def __init__(
        self,
        store: str | os.PathLike[str],
        name: str,
        split: str = "train",
        *,
        batch_size: int = 256,
        order: str = "random",
        seed: int = 0,
        mirrored: bool = False,
        include_labels: Sequence[int] | None = None,
        drop_last: bool = True,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """Check the arguments; files are opened when they are needed.

        Args:
            store: Path or URL of the store.
            name: Name of the features, that of their folder in `features/` of the store; they must
                be finished.
            split: Name of the split (default: train).
            batch_size: Number of rows of the global batch, over all ranks (default: 256).
            order: Order of the rows, `random` (the default) or `sequential`.
            seed: Seed of the order and of the choice of mirrored images (default: 0).
            mirrored: Replace half of the images of an epoch by their mirrored copies.
            include_labels: Labels to include; other rows are skipped (default: all).
            drop_last: Leave out the last batch of an epoch if it is smaller (default).
            rank: Number of the part of each global batch that is returned. None: determined when
                an iteration begins, by `pipeline.loader.distributed`.
            world: Number of parts of a global batch. None: as for *rank*.

        Raises:
            ValueError: An argument is out of its range.
        """
        super().__init__(
            store,
            split,
            batch_size=batch_size,
            order=order,
            seed=seed,
            rank=rank,
            world=world,
            drop_last=drop_last,
            include_labels=include_labels,
        )
        self.name = name
        self.mirrored = bool(mirrored)
        self._opened: tuple[Features, Split] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without open files."""
        return {**vars(self), "_opened": None}

    def _forget_opened(self, local_ranks: int) -> None:
        self._opened = None

    @property
    def features(self) -> Features:
        """The features of the split."""
        return self._open()[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The side in pixels of the images that the features were computed from, the only entry."""
        return (self.features.recipe.stored_size,)

    @property
    def rows(self) -> NDArray[np.int64]:
        """(num_rows,) int64: the rows of an epoch, ascending."""
        return self._open()[1].readable_rows

    def _of_split(self) -> Split:
        return self._open()[1]

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "features": self.name, "mirrored": self.mirrored}

    def _details(self) -> str:
        return f", features={self.name!r}, mirrored={self.mirrored}"

    def _hand_out(self, epochs: Iterable[int], first: int, placement: Placement) -> BatchGenerator:
        for epoch in epochs:
            order = self.epoch_order(epoch)
            for batch in range(first, len(self)):
                start = batch * self.batch_size
                rows = order.rows(start, min(start + self.batch_size, order.num_rows))
                yield self._of(placement.part(rows), epoch, placement.world / len(rows))
            first = 0

    def _of(self, rows: NDArray[np.int64], epoch: int, row_weight: float) -> Batch:
        values = self.features.rows(rows)
        if self.mirrored:
            is_mirrored = draws(self.seed, epoch, torch.from_numpy(rows), MIRROR).numpy() < 0.5
            values[is_mirrored] = self.features.rows(rows[is_mirrored], "mirrored")
        framework = TorchFramework()
        images = framework.from_numpy(values)
        return make_batch(framework, images, self._of_split(), rows, row_weight)

    def _open(self) -> tuple[Features, Split]:
        if self._opened is None:
            opened = open_features(self.store, self.name, self.split)
            self._opened = opened, self._selected(opened.split)
        return self._opened
