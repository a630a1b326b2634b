"""Where a loader is: in which epoch, and behind which of its batches."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from copy import copy
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from pipeline.errors import RankError, StoreError, StoreMismatchError
from pipeline.loader.distributed import (
    Placement,
    current_placement,
    explicit_placement,
    process_group,
)
from pipeline.order import EPOCH_ORDER_VERSION
from pipeline.store.split import Split

STATE_VERSION = 1


class _Tensors(NamedTuple):
    images: torch.Tensor | tuple[torch.Tensor, ...]
    """(n, 3, size, size) uint8 RGB, channels last in memory, one for each of `sizes`; or (n, d)
    float32 features."""
    labels: torch.Tensor
    """(n,) int64; -1 where there is no class."""
    rows: torch.Tensor
    """(n,) int64: which rows of the split they are."""


class Batch(_Tensors):
    """One rank's part of a global batch: images, labels and rows, which it can be unpacked to.

    A part has n rows of the B rows of its global batch. Parts differ by a row where B is no
    multiple of the number of ranks, and some are empty where the last batch of an epoch has fewer
    rows than there are ranks. `row_weight` makes the average over ranks right in all cases:

        loss = (losses * batch.row_weight).sum()    # losses: (n,), one for each row

    The average over ranks of this loss is the mean over the global batch, and that of its
    gradients the gradient of that mean. A rank without rows gets 0; a mean would be NaN there.
    """

    row_weight: float = 1.0
    """W / B, where W ranks share a global batch of B rows."""


Batches = Generator[Batch, None, None]


def whole_number(name: str, value: Any) -> int:
    """Return *value* as Python's own int, whatever library's whole number it is.

    Raises:
        ValueError: It is no whole number.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}: expected a whole number.") from None


class Epochs(ABC):
    """Batches of a split, epoch after epoch: what all loaders have in common.

    Global batch i of an epoch is rows [i * B, (i + 1) * B) of the epoch's order, whatever the
    number of ranks; rank r of W gets rows [r * B // W, (r + 1) * B // W) of it.
    """

    store: str
    split: str
    batch_size: int
    """Rows of a global batch, of all ranks together."""
    order: str
    seed: int
    drop_last: bool

    _explicit_placement: Placement | None = None
    _epoch = 0
    _batch = 0
    _begun = False
    """Whether an iteration has begun since the place was set."""
    _loaded = False
    """Whether the place is that of a state, and nothing was handed out since."""
    _chosen = False
    """Whether `set_epoch` has named the epoch of a state that was loaded."""
    _newest: object = None
    """The iteration that counts: one that was begun earlier may still be running."""

    @abstractmethod
    def _of_split(self) -> Split:
        """Return the split that is handed out."""

    @abstractmethod
    def _hand_out(self, epoch: int, first: int, placement: Placement) -> Batches:
        """Yield the batches of an epoch from number *first* on, for one rank."""

    @abstractmethod
    def _forget_opened(self, here: int) -> None:
        """Drop open files; *here* ranks are on this machine."""

    def _set_common(
        self, *, batch_size: Any, order: str, seed: Any, drop_last: Any, orders: tuple[str, ...]
    ) -> None:
        """Set what all loaders have, as values of Python's own types."""
        self.batch_size = whole_number("batch_size", batch_size)
        self.order = order
        self.seed = whole_number("seed", seed)
        self.drop_last = bool(drop_last)
        if order not in orders:
            raise ValueError(f"order is {order!r}: expected one of {', '.join(orders)}.")
        self._check_world(1 if self._explicit_placement is None else self._explicit_placement.world)

    def _set_placement(self, rank: Any, world: Any) -> None:
        self._explicit_placement = explicit_placement(
            None if rank is None else whole_number("rank", rank),
            None if world is None else whole_number("world", world),
        )

    def _check_world(self, world: int) -> None:
        if self.batch_size < world:
            raise ValueError(
                f"batch_size is {self.batch_size}: expected at least one row for each of"
                f" {world} ranks; it is that of the global batch."
            )

    @property
    def rank(self) -> int:
        """The part of each global batch that is handed out: as given, or as a launcher says now."""
        return self._placement().rank

    @property
    def world(self) -> int:
        """The number of parts of a global batch: as given, or as a launcher says now."""
        return self._placement().world

    def _placement(self) -> Placement:
        return current_placement() if self._explicit_placement is None else self._explicit_placement

    def __repr__(self) -> str:
        """Return what tells this loader from others; opens nothing."""
        placement = self._explicit_placement
        ranks = "" if placement is None else f", rank={placement.rank}, world={placement.world}"
        return (
            f"{type(self).__name__}({self.store!r}, {self.split!r}{self._details()},"
            f" batch_size={self.batch_size}, order={self.order!r}, seed={self.seed},"
            f" drop_last={self.drop_last}{ranks}; epoch {self._epoch}, batch {self._batch})"
        )

    @abstractmethod
    def _details(self) -> str:
        """Return what `repr` shows of this kind of loader alone, after a comma."""

    # --- what there is ------------------------------------------------------------------------

    @property
    def num_rows(self) -> int:
        """Number of rows of an epoch, of all ranks, before the last batch is dropped.

        These are the rows that can be read: quarantined ones, and classes that were not asked
        for, do not count.
        """
        split = self._of_split()
        return split.plan.num_rows - len(split.absent)

    @property
    def labels(self) -> NDArray[np.int32]:
        """The label of every row of the split, (rows of the split,) int32; -1 is no class.

        It is indexed by the rows of a batch. Rows that are never handed out have one too.
        """
        return self._of_split().labels

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """The classes of the store, as (wnid, words), in the order of their labels 0, 1, ..."""
        return self._of_split().recipe.classes

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        whole, rest = divmod(self.num_rows, self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    # --- where we are -------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch that is being handed out, or will be next."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Have the next iteration hand out *epoch*, from its start.

        If *epoch* is that of a state which was just loaded, its place stays: the next iteration
        hands out what is left of the epoch, which is nothing if the state is from its end. So a
        training loop may begin each of its epochs with `set_epoch`.
        """
        epoch = whole_number("epoch", epoch)
        self._newest = None
        if self._loaded and epoch == self._epoch:
            self._chosen = True
            return
        self._epoch, self._batch = epoch, 0
        self._begun = self._loaded = self._chosen = False

    def for_rank(self, rank: int, world: int, *, here: int = 1) -> Self:
        """Return a copy of this loader for one rank of a world, at the start of epoch 0.

        Args:
            rank: Which rank.
            world: Number of ranks.
            here: Number of them on its machine.

        Raises:
            ValueError: *rank* is none of *world*, or a global batch has fewer rows than ranks.
        """
        loader = copy(self)
        loader._set_placement(rank, world)
        loader._check_world(loader.world)
        loader._forget_opened(here)
        loader.restart()
        return loader

    def restart(self) -> None:
        """Have the next iteration begin at the start of epoch 0, whatever was loaded."""
        self._loaded = False
        self.set_epoch(0)

    def state_dict(self) -> dict[str, Any]:
        """Return where we are: batches that were handed out, not those gathered ahead.

        Plain values, which `torch.load(weights_only=True)` and JSON take.
        """
        return {**self._identity(), "epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next iteration go on right behind the last batch of *state*.

        Another world size, rank or number of threads changes nothing. A state from the end of an
        epoch goes on with the next epoch.

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
        self._newest = None
        self._begun = self._chosen = False
        self._loaded = True

    def _identity(self) -> dict[str, Any]:
        """Return what a state must have in common with a loader that goes on from it."""
        return {
            "version": STATE_VERSION,
            "split": self._of_split().digest,
            "order": f"{self.order} {EPOCH_ORDER_VERSION}",
            "seed": self.seed,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
        }

    def __getitem__(self, index: Any) -> NoReturn:
        """Refuse: a loader hands out batches, and only in order."""
        raise self._misused(f"loader[{index!r}]")

    def _misused(self, use: str) -> TypeError:
        """Return the error that says how a loader is used, in place of *use*."""
        return TypeError(
            f"{use} cannot be had: a {type(self).__name__} hands out whole batches and is iterated"
            " itself: `for images, labels, rows in loader`. It needs no torch DataLoader around it;"
            " for a DataLoader there is pipeline.loader.SplitDataset(store, split, size=...)."
        )

    def __iter__(self) -> Iterator[Batch]:
        """Go on behind a loaded state, or hand out the next epoch.

        Epoch, place and rank are settled when the first batch is asked for: a framework may ask
        for an iterator before it loads a state or starts its process group.

        Raises:
            StoreError: An epoch has no batches.
        """
        placement = self._begin()
        this = self._newest = object()
        epoch, first = self._epoch, self._batch
        with closing(self._hand_out(epoch, first, placement)) as batches:
            for number in range(first, len(self)):
                self._check_still(placement)
                ready = [next(batches)]
                if self._newest is this:
                    self._batch = number + 1
                yield ready.pop()  # nobody but the caller holds it then

    def _begin(self) -> Placement:
        """Settle which epoch is handed out, from which batch on, and to which rank."""
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:  # each would hand out every row
            raise self._misused(f"a DataLoader with {worker.num_workers} workers around a loader")
        placement = self._placement()
        self._check_world(placement.world)
        if not len(self):
            raise StoreError(self._no_batches())
        if self._begun or (self._batch >= len(self) and not self._chosen):
            self._epoch, self._batch = self._epoch + 1, 0
        self._begun = True
        self._loaded = self._chosen = False
        return placement

    def _check_still(self, placement: Placement) -> None:
        """Make sure that no process group has come up since the iteration began."""
        group = None if self._explicit_placement is not None else process_group()
        if group is not None and group[:2] != placement[:2]:
            raise RankError(
                f"this is rank {group.rank} of {group.world} by torch.distributed, in the middle of"
                f" an epoch that began as rank {placement.rank} of {placement.world}. Initialise"
                " the process group before you iterate, or pass rank= and world= to the loader."
            )

    def _no_batches(self) -> str:
        rows = f"split {self.split!r} of {self.store} has {self.num_rows:,} rows to hand out"
        if not self.num_rows:
            return f"{rows}: an epoch would have no batch. Choose another split or other classes."
        return (
            f"{rows}, batch_size is {self.batch_size:,} and drop_last is {self.drop_last}: an epoch"
            " would have no batch. Pass drop_last=False or a smaller batch_size."
        )
