"""Shuffled batches of features, with the face of `pipeline.loader.Loader`.

A picture's features are a thousandth of its pixels: they are copied out of mapped files by whoever
iterates, and what would be gathered ahead is there before it could be asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment import MIRROR, draws
from pipeline.features.reader import Features, open_features
from pipeline.loader.distributed import Placement
from pipeline.loader.epochs import Batch, Batches, Epochs, whole_number
from pipeline.order import EpochOrder, epoch_order
from pipeline.store.split import Split, only_labels

ORDERS = ("random", "sequential")


class FeatureLoader(Epochs):
    """Iterating gives one epoch of batches; iterating again, the next. See `Loader`.

    The images of a batch are features, (n, d) float32, each of the picture or of its mirror image.
    """

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
        only: Sequence[int] | None = None,
        drop_last: bool = True,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            store: The store.
            name: Of the features, which must be finished.
            split: Which split.
            batch_size: Number of rows of the global batch, of all ranks together.
            order: `random` or `sequential`.
            seed: Seed of the order, and of which pictures are mirrored.
            mirrored: Whether half of the pictures of an epoch are mirrored.
            only: Labels whose rows are handed out (all).
            drop_last: Leave out the last batch of an epoch if it is smaller.
            rank: Which part of each global batch is handed out. None asks when an iteration
                begins, as `pipeline.loader.distributed` does.
            world: Number of parts of a global batch. None asks as for *rank*.

        Raises:
            ValueError: An argument makes no sense.
        """
        self.store = os.fspath(store)
        self.name = name
        self.split = split
        self.mirrored = bool(mirrored)
        self.only = None if only is None else tuple(whole_number("only", n) for n in only)
        self._set_placement(rank, world)
        self._set_common(
            batch_size=batch_size, order=order, seed=seed, drop_last=drop_last, orders=ORDERS
        )
        self._opened: tuple[Features, Split] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but open files."""
        return {**vars(self), "_opened": None}

    def _forget_opened(self, here: int) -> None:
        self._opened = None

    @property
    def features(self) -> Features:
        """All of the split."""
        return self._open()[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of the pictures that the features were made of, in pixels."""
        return (self.features.recipe.stored_size,)

    @property
    def rows(self) -> NDArray[np.int64]:
        """(num_rows,) int64: those that are handed out, ascending."""
        split = self._open()[1]
        return np.setdiff1d(np.arange(split.plan.num_rows), split.absent)

    def _of_split(self) -> Split:
        return self._open()[1]

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "features": self.name, "mirrored": self.mirrored}

    def _details(self) -> str:
        return f", features={self.name!r}, mirrored={self.mirrored}"

    def _hand_out(self, epoch: int, first: int, placement: Placement) -> Batches:
        order = self._epoch_order(epoch)
        for batch in range(first, len(self)):
            start = batch * self.batch_size
            rows = order.rows(start, min(start + self.batch_size, order.num_rows))
            yield self._of(placement.part(rows), epoch, placement.world / len(rows))

    def _epoch_order(self, epoch: int) -> EpochOrder:
        split = self._open()[1]
        return epoch_order(
            self.order,
            num_rows=split.plan.num_rows,
            absent=split.absent,
            seed=self.seed,
            epoch=epoch,
        )

    def _of(self, rows: NDArray[np.int64], epoch: int, row_weight: float) -> Batch:
        found = self.features.rows(rows)
        if self.mirrored:
            drawn = draws(self.seed, epoch, torch.from_numpy(rows), MIRROR).numpy() < 0.5
            found[drawn] = self.features.rows(rows[drawn], "mirrored")
        labels = self.labels[rows].astype(np.int64)
        batch = Batch(
            torch.from_numpy(found), torch.from_numpy(labels), torch.from_numpy(rows.copy())
        )
        batch.row_weight = row_weight
        return batch

    def _open(self) -> tuple[Features, Split]:
        if self._opened is None:
            found = open_features(self.store, self.name, self.split)
            split = found.split if self.only is None else only_labels(found.split, self.only)
            self._opened = found, split
        return self._opened
