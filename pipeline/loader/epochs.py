"""Where a loader is: in which epoch, and behind which of its batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import StoreMismatchError
from pipeline.order import EPOCH_ORDER_VERSION
from pipeline.store.split import Split

STATE_VERSION = 1


class Batch(NamedTuple):
    """One rank's part of a global batch of n rows."""

    images: torch.Tensor | tuple[torch.Tensor, ...]
    """(n, 3, size, size) uint8 RGB, channels last in memory, one for each of `sizes`; or (n, d)
    float32 features."""
    labels: torch.Tensor
    """(n,) int64; -1 where there is no class."""
    rows: torch.Tensor
    """(n,) int64: which rows of the split they are."""


class Epochs(ABC):
    """Batches of a split, epoch after epoch: what all loaders have in common.

    Global batch i of an epoch is rows [i * B, (i + 1) * B) of the epoch's order, whatever the
    number of ranks; rank r of W gets rows [r * B // W, (r + 1) * B // W) of it.
    """

    split: str
    batch_size: int
    """Rows of a global batch, of all ranks together."""
    order: str
    seed: int
    drop_last: bool
    rank: int
    world: int

    _epoch = 0
    _batch = 0
    _begun = False

    @abstractmethod
    def _of_split(self) -> Split:
        """What is handed out."""

    @abstractmethod
    def _hand_out(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch from number *first* on."""

    def _check_batches(self, orders: tuple[str, ...]) -> None:
        if self.order not in orders:
            raise ValueError(f"order is {self.order!r}: expected one of {', '.join(orders)}.")
        if self.batch_size < self.world:
            raise ValueError(
                f"batch_size is {self.batch_size}: expected at least one row for each of"
                f" {self.world} ranks; it is that of the global batch."
            )

    def _own(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's part of the rows of a global batch."""
        count = len(rows)
        return rows[self.rank * count // self.world : (self.rank + 1) * count // self.world]

    # --- what there is ------------------------------------------------------------------------

    @property
    def num_rows(self) -> int:
        """Rows of an epoch, of all ranks, before the last batch is dropped."""
        split = self._of_split()
        return split.plan.num_rows - len(split.absent)

    @property
    def labels(self) -> NDArray[np.int32]:
        """(num_rows,) int32 of all rows of the split; -1 where there is no class."""
        return self._of_split().labels

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """(wnid, words) of label 0, 1, ..."""
        return self._of_split().recipe.classes

    def __len__(self) -> int:
        """Batches of an epoch."""
        whole, rest = divmod(self.num_rows, self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    # --- where we are -------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch that is being handed out, or will be next."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration begin at the start of *epoch*."""
        self._epoch, self._batch, self._begun = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Where we are: batches that were handed out, not those gathered ahead. Plain values."""
        return {**self._identity(), "epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on right behind the last batch of *state*.

        Another world size, rank or number of threads changes nothing.

        Raises:
            StoreMismatchError: The state is of another store, order, seed or batch size.
        """
        wrong = [
            f"{name} is {state.get(name)!r} in the state, {value!r} here"
            for name, value in self._identity().items()
            if state.get(name) != value
        ]
        if wrong:
            raise StoreMismatchError(
                f"the state belongs to another loader: {'; '.join(wrong)}. Make the loader with"
                " the same store and arguments as then."
            )
        self._epoch, self._batch = int(state["epoch"]), int(state["batch"])
        self._begun = False

    def _identity(self) -> dict[str, Any]:
        """What a state must have in common with a loader that goes on from it."""
        return {
            "version": STATE_VERSION,
            "split": self._of_split().digest,
            "order": f"{self.order} {EPOCH_ORDER_VERSION}",
            "seed": self.seed,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
        }

    def __iter__(self) -> Iterator[Batch]:
        """Go on behind a loaded state, or begin the next epoch."""
        if self._begun or (self._batch and self._batch >= len(self)):
            self._epoch, self._batch = self._epoch + 1, 0
        self._begun = True
        return self._hand_out(self._epoch, self._batch)
