"""The epochs of a loader: iteration, position, saved state and part for one rank."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from copy import copy
from typing import Any, ClassVar, Generic, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RankError, StoreError, StoreMismatchError
from pipeline.loader.arguments import whole_number
from pipeline.loader.batch import Batch, BatchGenerator
from pipeline.loader.distributed import (
    Placement,
    current_placement,
    explicit_placement,
    process_group,
)
from pipeline.loader.framework import Array
from pipeline.order import EPOCH_ORDER_VERSION, ORDERS, EpochOrder, epoch_order
from pipeline.store.split import Split, restrict_to_labels

STATE_VERSION = 1
MAX_EPOCHS = 2**64
"""The number of epochs that have an order."""

_POSITION = ("epoch", "batch")
"""The names in a state that may differ between the loaders that save and restore it."""


class BaseLoader(ABC, Generic[Array]):
    """The base class of loaders: it yields the batches of a split, epoch after epoch.

    Global batch i of an epoch is rows [i * B, (i + 1) * B) of the epoch's order for any number of
    ranks; rank r of W gets rows [r * B // W, (r + 1) * B // W) of it.
    """

    orders: ClassVar[tuple[str, ...]] = ORDERS
    """The orders that this kind of loader has."""

    batch_size: int
    """The number of rows of a global batch, over all ranks."""

    _explicit_placement: Placement | None = None
    _epoch = 0
    _batch = 0
    _started = False
    """True once an iteration has started since the position was last set."""
    _restored = False
    """True if the position comes from a saved state and no iteration has started since."""
    _epoch_confirmed = False
    """True if `set_epoch` has named the same epoch as the saved state."""
    _newest: object = None
    """The token of the newest iteration, the only one that advances the position; older iterators
    may still be running."""

    @abstractmethod
    def _of_split(self) -> Split:
        """Return the split, opening it at the first call."""

    @abstractmethod
    def _hand_out(
        self, epochs: Iterable[int], first: int, placement: Placement
    ) -> BatchGenerator[Array]:
        """Yield one rank's batches of *epochs*, of the first one from batch number *first* on.

        Those of the next epoch are prefetched as if there were no boundary. *epochs* may be
        iterated several times.
        """

    @abstractmethod
    def _forget_opened(self, local_ranks: int) -> None:
        """Drop open files, and record that *local_ranks* ranks share this machine."""

    def __init__(
        self,
        store: str | os.PathLike[str],
        split: str,
        *,
        batch_size: Any,
        order: str,
        seed: Any,
        rank: Any,
        world: Any,
        drop_last: Any,
        include_labels: Sequence[Any] | None,
    ) -> None:
        """Set and check the arguments that all loaders share, as values of Python types.

        `Loader` describes them.
        """
        self.store = os.fspath(store)
        self.split = split
        self.batch_size = whole_number("batch_size", batch_size)
        self.order = order
        self.seed = whole_number("seed", seed)
        self.drop_last = bool(drop_last)
        self.include_labels = (
            None
            if include_labels is None
            else tuple(whole_number("include_labels", n) for n in include_labels)
        )
        if order not in self.orders:
            raise ValueError(f"order is {order!r}: expected one of {', '.join(self.orders)}.")
        self._set_placement(rank, world)
        self._check_world(1 if self._explicit_placement is None else self._explicit_placement.world)

    def _set_placement(self, rank: Any, world: Any) -> None:
        self._explicit_placement = explicit_placement(
            None if rank is None else whole_number("rank", rank),
            None if world is None else whole_number("world", world),
        )

    def _check_world(self, world: int) -> None:
        if self.batch_size < world:
            raise ValueError(
                f"batch_size is {self.batch_size}: expected at least one row for each of {world}"
                " ranks; it is the size of the global batch."
            )

    @property
    def rank(self) -> int:
        """The rank of this process: the explicit one, or the one that a launcher has set now."""
        return self._placement().rank

    @property
    def world(self) -> int:
        """The number of ranks: the explicit one, or the one that a launcher has set now."""
        return self._placement().world

    def _placement(self) -> Placement:
        return current_placement() if self._explicit_placement is None else self._explicit_placement

    def __repr__(self) -> str:
        """Return arguments and position of this loader, without opening the store."""
        placement = self._explicit_placement
        ranks = "" if placement is None else f", rank={placement.rank}, world={placement.world}"
        return (
            f"{type(self).__name__}({self.store!r}, {self.split!r}{self._details()},"
            f" batch_size={self.batch_size}, order={self.order!r}, seed={self.seed},"
            f" drop_last={self.drop_last}{ranks}; epoch {self._epoch}, batch {self._batch})"
        )

    @abstractmethod
    def _details(self) -> str:
        """Return the arguments that `repr` shows for this kind of loader only, after a comma."""

    def _selected(self, split: Split) -> Split:
        """Return a split with the rows that are yielded: those of `include_labels`."""
        return (
            split if self.include_labels is None else restrict_to_labels(split, self.include_labels)
        )

    def epoch_order(self, epoch: int) -> EpochOrder:
        """Return the order of the rows of one epoch, over all ranks.

        The store is opened if it is not open yet. The position of the loader does not change.

        Args:
            epoch: The number of the epoch, 0 to 2^64 - 1.

        Returns:
            An object whose `rows(start, stop)` gives the rows of the split at the positions start
            to stop - 1 of the epoch, (stop - start,) int64; that 0 <= start <= stop <= `num_rows`
            is not checked. Its `num_rows` is the number of rows of the epoch: those in quarantine,
            and those of labels that are not included, do not occur. Global batch i begins at
            position i * batch_size.

        Raises:
            ValueError: *epoch* is no whole number, or it, the loader's seed or one of its labels
                (of `include_labels`, where -1 is no label) is out of range.
            StoreError: The split cannot be opened.
        """
        split = self._of_split()
        return epoch_order(
            self.order,
            num_rows=split.plan.num_rows,
            excluded=split.excluded,
            seed=self.seed,
            epoch=whole_number("epoch", epoch),
            chunk_rows=split.recipe.chunk_rows,
            window_chunks=self._window_chunks(),
        )

    def _window_chunks(self) -> int:
        """Return the number of chunks of a window of the order."""
        return 1

    # --- contents -----------------------------------------------------------------------------

    @property
    def num_rows(self) -> int:
        """The number of rows of an epoch, over all ranks, before the last batch is dropped.

        Quarantined rows and rows of classes that were not selected do not count.
        """
        split = self._of_split()
        return split.plan.num_rows - len(split.excluded)

    @property
    def labels(self) -> NDArray[np.int32]:
        """The label of every row of the split, (rows of the split,) int32; -1 means no class.

        Index it with the rows of a batch. It also has the rows that no batch contains.
        """
        return self._of_split().labels

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """The classes of the store as (wnid, words), in label order: 0, 1, ..."""
        return self._of_split().recipe.classes

    def __len__(self) -> int:
        """Return the number of batches in an epoch; it is the same for every rank."""
        full_batches, remainder = divmod(self.num_rows, self.batch_size)
        return full_batches if self.drop_last or not remainder else full_batches + 1

    # --- position -----------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The number of the current epoch: that of the newest batch, loaded state or `set_epoch`.

        It equals `state_dict()["epoch"]`, so it does not change between the end of an epoch and the
        first batch of the next one; a new loader has 0. To resume exactly, also from a state that
        was saved at the end of an epoch, name each epoch from this one on:

            for epoch in range(loader.epoch, num_epochs):
                loader.set_epoch(epoch)
                for images, labels, rows in loader:
                    ...
        """
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration yield *epoch* from its start.

        If *epoch* is that of a state that was loaded since the last iteration and `set_epoch` named
        no other meanwhile, the position in it is kept: the next iteration yields the remaining
        batches of the epoch, and none if the state is from its end. So a training loop may begin
        each of its epochs with `set_epoch`. Iterators that have yielded a batch before go on with
        their epoch, but no longer advance the position.

        Args:
            epoch: The number of the epoch, 0 to 2^64 - 1.

        Raises:
            ValueError: *epoch* is not a whole number. A number out of range raises it in the
                iteration.
        """
        epoch = whole_number("epoch", epoch)
        # An iterator that still runs must not move the position that is set here.
        self._newest = None
        if self._restored and epoch == self._epoch:
            self._epoch_confirmed = True
            return
        self._epoch, self._batch = epoch, 0
        self._started = self._restored = self._epoch_confirmed = False

    def for_rank(self, rank: int, world: int, *, ranks_on_host: int = 1) -> Self:
        """Return a copy of this loader for one rank, positioned at the start of epoch 0.

        This loader is not changed. The copy shares no open files with it, and opens its own.

        Args:
            rank: The rank, from 0 to world - 1.
            world: The number of ranks.
            ranks_on_host: The number of ranks on the machine of this rank (default: 1). Chunks are
                read ahead, in any order but the random one, only if it equals *world*. It changes
                no batch.

        Raises:
            ValueError: *rank* is out of range, it or *world* is no integer, or a global batch has
                fewer rows than ranks.
        """
        # A shallow copy: what is open is dropped below, since the two would share counters and
        # buffers, and may run in different processes.
        loader = copy(self)
        loader._set_placement(rank, world)
        loader._check_world(loader.world)
        loader._forget_opened(ranks_on_host)
        loader.restart()
        return loader

    def restart(self) -> None:
        """Move to the start of epoch 0, also if a state was loaded."""
        self._restored = False
        self.set_epoch(0)

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain values for `torch.load(weights_only=True)` or JSON.

        The position counts batches that were yielded, not those that were prefetched. The store is
        opened if it is not open yet.

        Returns:
            A new dictionary for `load_state_dict`: `epoch`, `batch`, the number of batches of it
            that were yielded, and what must be equal in the loader that restores it.
        """
        return {**self._identity(), "epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the position of *state*: the next iteration continues after its last batch.

        A state from the end of an epoch continues with the next epoch, unless `set_epoch` names the
        epoch of the state again. The world size, the rank and the number of threads may differ from
        those of the loader that saved the state. The store is opened if it is not open yet.
        Iterators that have yielded a batch before no longer advance the position.

        Args:
            state: The result of `state_dict`, of this loader or of one with the same store, split,
                order, seed, batch size, `drop_last` and labels; in windowed order also with the
                same number of chunks in a window, for encoded rows with the same encoding and crop,
                and for features with the same name and `mirrored`. It is only read.

        Raises:
            StoreMismatchError: One of these differs, the readable rows of the split have changed,
                or the state lacks its position; the position of this loader is unchanged.
            StoreError: The split cannot be opened.
            ValueError: A label of this loader's `include_labels` does not exist.
        """
        identity = self._identity()
        # The names of both: the state of another kind of loader may have more.
        names = [name for name in {**identity, **state} if name not in _POSITION]
        mismatches = [
            f"{name} is {state.get(name)!r} in the state, {identity.get(name)!r} here"
            for name in names
            if state.get(name) != identity.get(name)
        ]
        if mismatches:
            raise StoreMismatchError(
                f"the state belongs to another loader: {'; '.join(mismatches)}. Create the"
                " loader with the store and arguments of the state."
            )
        missing = [name for name in _POSITION if name not in state]
        if missing:
            raise StoreMismatchError(
                f"the state has no {missing[0]!r}. Pass the result of state_dict(), unchanged."
            )
        self._epoch, self._batch = int(state["epoch"]), int(state["batch"])
        self._newest = None
        self._started = self._epoch_confirmed = False
        self._restored = True

    def _identity(self) -> dict[str, Any]:
        """Return the values that a state and the loader that restores it must share."""
        return {
            "version": STATE_VERSION,
            "split": self._of_split().digest,
            "order": f"{self.order} {EPOCH_ORDER_VERSION}",
            "seed": self.seed,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
        }

    def __getitem__(self, index: Any) -> NoReturn:
        """Raise TypeError: a loader yields batches, and only in order."""
        raise self._misused(f"loader[{index!r}]")

    def _misused(self, use: str) -> TypeError:
        """Return the error that explains how to use a loader instead of *use*."""
        return TypeError(
            f"{use} is not supported: a {type(self).__name__} yields whole batches. Iterate it"
            " directly: `for images, labels, rows in loader`. For a torch DataLoader use"
            " tesserae.SplitDataset(store, split, size=...)."
        )

    def __iter__(self) -> Iterator[Batch[Array]]:
        """Continue after a restored state, or yield the next epoch.

        Epoch, position and rank are determined at the first batch, not before: a framework may
        create an iterator before it restores a state or initialises its process group.

        Raises:
            StoreError: An epoch has no batches.
        """
        return self._iterate(None)

    def remaining(self, num_epochs: int) -> Iterator[Batch[Array]]:
        """Continue after a restored state, or yield the next epoch, and stop after *num_epochs*.

        So a training of several epochs is one loop, which a saved state continues from anywhere:

            for images, labels, rows in loader.remaining(90):
                ...

        Batches, position and prefetching are those of `endless`. If no epoch is left, nothing is
        yielded and the position does not change.

        Args:
            num_epochs: The number of epochs from epoch 0 on: the last one is *num_epochs* - 1.

        Raises:
            StoreError: An epoch has no batches.
            ValueError: *num_epochs* is not a whole number.
        """
        return self._iterate(whole_number("num_epochs", num_epochs))

    def endless(self) -> Iterator[Batch[Array]]:
        """Continue after a restored state, or yield the next epoch, and then all later epochs.

        The batches are those of one iteration after the other, and so is the position. But the
        first batches of an epoch are prefetched while the last ones of the epoch before are used,
        so that a training loop does not wait for them. Close the iterator to end its threads.

        Raises:
            StoreError: An epoch has no batches.
        """
        return self._iterate(MAX_EPOCHS)

    def _iterate(self, stop: int | None) -> Iterator[Batch[Array]]:
        """Yield batches up to the end of epoch number *stop* - 1; None: of a single epoch."""
        placement = self._placement_to_begin()
        epoch, number = self._next_position()
        epochs = range(epoch, epoch + 1 if stop is None else stop)
        if not epochs:
            return
        iteration = self._newest = object()
        self._epoch, self._batch = epoch, number
        self._started = True
        self._restored = self._epoch_confirmed = False
        # Closed as soon as the caller breaks off, so that threads stop then, not at some later
        # garbage collection.
        with closing(self._hand_out(epochs, number, placement)) as batches:
            while number < len(self) or epoch + 1 in epochs:
                if number == len(self):
                    epoch, number = epoch + 1, 0
                self._check_still(placement)
                # The state counts the batch before the caller gets it, so a checkpoint that is
                # written while the batch is processed continues after it.
                ready = [next(batches)]
                number += 1
                if self._newest is iteration:
                    self._epoch, self._batch = epoch, number
                # Popped, so that only the caller holds the batch and its buffer can be reused.
                yield ready.pop()

    def _placement_to_begin(self) -> Placement:
        """Return the rank of a new iteration, if it may begin."""
        # Looked up, not imported: a process that has not loaded it is no worker of a DataLoader.
        data = sys.modules.get("torch.utils.data")
        worker = None if data is None else data.get_worker_info()
        if worker is not None and worker.num_workers > 1:  # each worker would yield every row
            raise self._misused(f"a DataLoader with {worker.num_workers} workers around a loader")
        placement = self._placement()
        self._check_world(placement.world)
        if not len(self):
            raise StoreError(self._no_batches())
        return placement

    def _next_position(self) -> tuple[int, int]:
        """Return the epoch and the batch with which a new iteration begins."""
        # A finished epoch leads to the next one, unless `set_epoch` has named it after a restore.
        if self._started or (self._batch >= len(self) and not self._epoch_confirmed):
            return self._epoch + 1, 0
        return self._epoch, self._batch

    def _check_still(self, placement: Placement) -> None:
        """Raise RankError if a process group was initialised since the iteration began."""
        # Checked at each batch: the ranks of a group that was initialised late would all go on
        # with the rows of a single process, and train on the same ones without notice.
        group = None if self._explicit_placement is not None else process_group()
        if group is not None and group[:2] != placement[:2]:
            raise RankError(
                f"this is rank {group.rank} of {group.world} by torch.distributed, in the middle of"
                f" an epoch that began as rank {placement.rank} of {placement.world}. Initialise"
                " the process group before you iterate, or pass rank= and world= to the loader."
            )

    def _no_batches(self) -> str:
        rows = f"split {self.split!r} of {self.store} has {self.num_rows:,} usable rows"
        if not self.num_rows:
            return f"{rows}: an epoch would have no batch. Choose another split or other classes."
        return (
            f"{rows}, batch_size is {self.batch_size:,} and drop_last is {self.drop_last}: an epoch"
            " would have no batch. Pass drop_last=False or a smaller batch_size."
        )
