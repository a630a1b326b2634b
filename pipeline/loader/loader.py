"""Shuffled batches of a split, exact and resumable, for any number of ranks.

    loader = Loader("/fast/imagenet", size=224, batch_size=256)
    for epoch in range(90):
        for images, labels, rows in loader:
            ...

Global batch i of an epoch is rows [i * B, (i + 1) * B) of the epoch's order, whatever the number of
ranks; rank r of W gets rows [r * B // W, (r + 1) * B // W) of it. Threads gather batches ahead of
the training step; the interpreter is free while they copy.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from pipeline.errors import StoreMismatchError
from pipeline.loader.buffers import Buffers
from pipeline.loader.ranks import place, ranks_here
from pipeline.loader.readahead import ReadAhead
from pipeline.loader.reader import Reader, reader_of
from pipeline.loader.staging import StagedReader, Staging
from pipeline.memory import free_bytes
from pipeline.order import EPOCH_ORDER_VERSION, ORDERS, EpochOrder, epoch_order
from pipeline.store.objects import open_objects
from pipeline.store.split import Split, only_labels, open_split

STATE_VERSION = 1
CHECKSUMS = ("never", "once")

PREFETCH_BYTES = 512 * 2**20
"""Of batches that are gathered ahead of the one that is handed out."""

WINDOW_BYTES = 2**30
"""Of a window of the windowed order, at the largest size."""

CACHE_BYTES = 2**30
"""Of chunks that were read whole, in random order."""

DISK_THREADS = 32
"""Threads that wait for a disk at once."""

CACHE_SHARE = 0.8
"""Of the memory that is free: what the page cache is taken to hold of a split."""

ORDER_BLOCK_ROWS = 16_384
"""Rows of the order that are computed at once: one by one they would cost five times as much."""


class Batch(NamedTuple):
    """One rank's part of a global batch of n rows."""

    images: torch.Tensor | tuple[torch.Tensor, ...]
    """(n, 3, size, size) uint8 RGB, channels last in memory; one for each of `sizes`."""
    labels: torch.Tensor
    """(n,) int64; -1 where there is no class."""
    rows: torch.Tensor
    """(n,) int64: which rows of the split they are."""


class Loader:
    """Iterating gives one epoch of `Batch`es; iterating again, the next epoch.

    A small value that can be pickled: files and threads are opened when it is iterated.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        split: str = "train",
        *,
        size: int | None = None,
        sizes: Sequence[int] | None = None,
        batch_size: int = 256,
        order: str = "random",
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
        drop_last: bool = True,
        partial: bool = False,
        threads: int | None = None,
        pin: bool | None = None,
        prefetch_bytes: int = PREFETCH_BYTES,
        window_bytes: int = WINDOW_BYTES,
        cache_bytes: int | None = None,
        checksum: str = "never",
        stage: str | os.PathLike[str] | None = None,
        stage_bytes: int | None = None,
        only: Sequence[int] | None = None,
    ) -> None:
        """Check what can be checked without opening anything.

        Args:
            store: Folder of the store.
            split: Which split.
            size: Side of the squares in pixels (224).
            sizes: Several of them, in place of *size*: a batch then has one tensor of images for
                each, of the same pictures.
            batch_size: Of the global batch, of all ranks together.
            order: `random`, `windowed` or `sequential` (`pipeline.order.epoch_order`).
            seed: Of the order.
            rank: Which part of each global batch is ours (what torchrun or Slurm say; 0).
            world: How many parts there are (what they say; 1).
            drop_last: Leave out the last batch of an epoch if it is smaller. Otherwise it is
                handed out as it is: nothing is padded or repeated.
            partial: Hand out what is committed of a split that is not finished.
            threads: That gather batches (one a core, at most 4).
            pin: Whether batches are in page-locked memory (if there is a GPU).
            prefetch_bytes: Most bytes of batches that are gathered ahead.
            window_bytes: Bytes of a window, at the largest size.
            cache_bytes: Most bytes of pixels, for each size, that are kept of a store that is read
                by whole chunks: one that is compressed or remote, or larger than memory and read
                in windows (two windows; 1 GiB in random order).
            checksum: `once`: each chunk of an uncompressed local store is read whole and compared
                with its checksum when a row of it is first wanted. `never`: `tesserae verify` does
                that for all. Chunks of other stores are compared whenever they are read.
            stage: Folder on a disk of this node to which shards are copied once, checked, for all
                ranks and later runs, while the first epoch reads them from the store.
            stage_bytes: Most bytes of all that is in that folder (nine tenths of what is free).
                Copies of other stores that nobody reads are evicted; of a split that does not fit
                a part is copied.
            only: Labels whose rows are handed out (all).

        Raises:
            ValueError: An argument makes no sense.
        """
        if size is not None and sizes is not None:
            raise ValueError("size and sizes were both given: expected one of them.")
        self.store = os.fspath(store)
        self.split = split
        self.single = sizes is None
        self.sizes = tuple(sizes) if sizes is not None else (224 if size is None else size,)
        self.batch_size = batch_size
        self.order = order
        self.seed = seed
        self.rank, self.world = place(rank, world)
        self.drop_last = drop_last
        self.partial = partial
        cores = len(os.sched_getaffinity(0))
        self.threads = min(4, cores) if threads is None else threads
        self.pin = pin
        self.prefetch_bytes = prefetch_bytes
        self.window_bytes = window_bytes
        self.cache_bytes = _cache_bytes(order, window_bytes) if cache_bytes is None else cache_bytes
        self.checksum = checksum
        self.stage = None if stage is None else os.fspath(stage)
        self.stage_bytes = stage_bytes
        self.only = None if only is None else tuple(only)
        # On several nodes each needs only some rows of a chunk.
        self._read_ahead = self.world == ranks_here(self.world)
        self.readers: dict[str, int] = {}
        """How many batches each reader has gathered: `mapped`, `preadv`, `direct`, `chunks`."""
        self._check()
        self._opened: _Opened | None = None
        self._epoch = 0
        self._batch = 0
        self._begun = False

    def _check(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"sizes are {self.sizes}: expected one or more, none of them twice.")
        if self.order not in ORDERS:
            raise ValueError(f"order is {self.order!r}: expected one of {', '.join(ORDERS)}.")
        if self.checksum not in CHECKSUMS:
            expected = " or ".join(CHECKSUMS)
            raise ValueError(f"checksum is {self.checksum!r}: expected {expected}.")
        if self.batch_size < self.world:
            raise ValueError(
                f"batch_size is {self.batch_size}: expected at least one row for each of"
                f" {self.world} ranks; it is that of the global batch."
            )
        for name in ("prefetch_bytes", "window_bytes", "cache_bytes", "stage_bytes", "threads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1.")

    def __getstate__(self) -> dict[str, Any]:
        """Everything but open files."""
        return {**vars(self), "_opened": None}

    def for_rank(self, rank: int, world: int, *, here: int = 1) -> Loader:
        """The same for one of the ranks of a world, at the start.

        Args:
            rank: Which.
            world: How many there are.
            here: How many of them are on its machine.

        Raises:
            ValueError: An argument makes no sense.
        """
        made = copy(self)
        made.rank, made.world = place(rank, world)
        made._read_ahead = here == world
        made.readers = {}
        made._opened = None
        made._check()
        made.set_epoch(0)
        return made

    # --- what there is ------------------------------------------------------------------------

    @property
    def num_rows(self) -> int:
        """Rows of an epoch, of all ranks, before the last batch is dropped."""
        opened = self._open()
        return opened.split.plan.num_rows - len(opened.split.absent)

    @property
    def labels(self) -> NDArray[np.int32]:
        """(num_rows,) int32 of all rows of the split; -1 where there is no class."""
        return self._open().split.labels

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """(wnid, words) of label 0, 1, ..."""
        return self._open().split.recipe.classes

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
        return {
            **self._identity(),
            "version": STATE_VERSION,
            "epoch": self._epoch,
            "batch": self._batch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on right behind the last batch of *state*.

        Another world size, rank or number of threads changes nothing.

        Raises:
            StoreMismatchError: The state is of another store, order, seed or batch size.
        """
        expected = {**self._identity(), "version": STATE_VERSION}
        wrong = [
            f"{name} is {state.get(name)!r} in the state, {value!r} here"
            for name, value in expected.items()
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
        found = {
            "split": self._open().split.digest,
            "order": f"{self.order} {EPOCH_ORDER_VERSION}",
            "seed": self.seed,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
        }
        if self.order == "windowed":
            found["window_chunks"] = self._window_chunks()
        return found

    # --- handing out --------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        """Go on behind a loaded state, or begin the next epoch."""
        if self._begun or (self._batch and self._batch >= len(self)):
            self._epoch, self._batch = self._epoch + 1, 0
        self._begun = True
        return self._hand_out(self._epoch, self._batch)

    def _hand_out(self, epoch: int, first: int) -> Iterator[Batch]:
        opened = self._open()
        order = self.epoch_order(epoch)
        parts = _Parts(self, order)
        depth = max(2, self.prefetch_bytes // opened.batch_bytes)
        waiting: deque[Future[Batch]] = deque()
        windows = order.windows(first * self.batch_size) if self._read_ahead else iter(())
        with ExitStack() as at_end:
            disk = ThreadPoolExecutor(DISK_THREADS, "disk")
            at_end.callback(disk.shutdown, cancel_futures=True)
            gathering = ThreadPoolExecutor(self.threads, "gather", _copy_alone)
            at_end.callback(gathering.shutdown, cancel_futures=True)
            ahead = ReadAhead(windows, opened.readers, disk)
            at_end.callback(ahead.stop)
            if opened.staging is not None:
                opened.staging.start()
                at_end.callback(opened.staging.stop)
            for batch in range(first, len(self)):
                ahead.reached(batch * self.batch_size)
                while len(waiting) < depth and batch + len(waiting) < len(self):
                    rows = parts.rows(batch + len(waiting))
                    waiting.append(gathering.submit(opened.batch, rows, disk))
                waiting[0].result()
                if epoch == self._epoch:
                    self._batch = batch + 1
                yield waiting.popleft().result()  # nobody but the caller holds it then

    def epoch_order(self, epoch: int) -> EpochOrder:
        """The rows of one epoch, of all ranks, in order."""
        split = self._open().split
        return epoch_order(
            self.order,
            num_rows=split.plan.num_rows,
            absent=split.absent,
            seed=self.seed,
            epoch=epoch,
            chunk_rows=split.recipe.chunk_rows,
            window_chunks=self._window_chunks(),
        )

    def _window_chunks(self) -> int:
        chunk_bytes = self._open().split.recipe.chunk_rows * max(self.sizes) ** 2 * 3
        return max(1, self.window_bytes // chunk_bytes)

    def _open(self) -> _Opened:
        if self._opened is None or self._opened.process != os.getpid():
            self._opened = _Opened(self)  # a child that was forked has none of the threads
        return self._opened


def _cache_bytes(order: str, window_bytes: int) -> int:
    return CACHE_BYTES if order == "random" else 2 * window_bytes


def _copy_alone() -> None:
    """Have what torch does in this thread done by this thread: there is one for each core."""
    torch.get_num_threads()  # sets the number for a thread that is new to torch
    _openmp().limit(limits=1, user_api="openmp")


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController()


class _Parts:
    """Our rows of each global batch. The order is computed in blocks; batches come in order."""

    def __init__(self, loader: Loader, order: EpochOrder) -> None:
        self._loader = loader
        self._order = order
        self._start = self._stop = 0
        self._block = np.empty(0, np.int64)

    def rows(self, batch: int) -> NDArray[np.int64]:
        """Our rows of batch number *batch*, (n,) int64."""
        size = self._loader.batch_size
        start = batch * size
        stop = min(start + size, self._order.num_rows)
        if not self._start <= start <= stop <= self._stop:
            blocks = max(1, ORDER_BLOCK_ROWS // size)
            self._start = start
            self._stop = min(start + blocks * size, self._order.num_rows)
            self._block = self._order.rows(self._start, self._stop)
        rows = self._block[start - self._start : stop - self._start]
        rank, world = self._loader.rank, self._loader.world
        return rows[rank * len(rows) // world : (rank + 1) * len(rows) // world]


class _Opened:
    """What a loader holds open from its first batch on."""

    def __init__(self, loader: Loader) -> None:
        self.process = os.getpid()
        objects = open_objects(loader.store)
        split = open_split(objects, loader.split, loader.sizes, partial=loader.partial)
        self.split: Split = split if loader.only is None else only_labels(split, loader.only)
        self._single = loader.single
        self._how = loader.readers
        check = loader.checksum == "once"
        pinned = loader.pin if loader.pin is not None else torch.cuda.is_available()
        most = -(-loader.batch_size // loader.world)
        shapes = [(most, size, size, 3) for size in loader.sizes]
        self.batch_bytes = sum(int(np.prod(shape)) for shape in shapes)
        keep = max(2, loader.prefetch_bytes // self.batch_bytes) + loader.threads + 1
        self._buffers = [Buffers(shape, pinned=pinned, keep=keep) for shape in shapes]
        row_bytes = sum(size * size * 3 for size in loader.sizes)
        cached = CACHE_SHARE * free_bytes() / max(1, self.split.plan.num_rows * row_bytes)

        def reader(split: Split, size: int) -> Reader:
            """Of this loader's words."""
            return reader_of(
                split,
                size,
                cache_bytes=loader.cache_bytes,
                check=check,
                cached=cached,
                windows=loader.order != "random",
            )

        self.staging: Staging | None = None
        self.readers = [reader(self.split, size) for size in loader.sizes]
        if loader.stage is not None:
            self.staging = Staging(
                self.split,
                Path(loader.stage).expanduser(),
                limit_bytes=loader.stage_bytes,
                rank=loader.rank,
                world=loader.world,
            )
            near = self.staging.split
            self.readers = [
                StagedReader(self.staging, self.split, size, reader(near, size), far)
                for size, far in zip(loader.sizes, self.readers, strict=True)
            ]

    def batch(self, rows: NDArray[np.int64], disk: ThreadPoolExecutor) -> Batch:
        """Gather *rows*."""
        images = []
        for reader, buffers in zip(self.readers, self._buffers, strict=True):
            out = buffers.take()
            how = reader.gather(rows, out[: len(rows)], disk)
            self._how[how] = self._how.get(how, 0) + 1
            images.append(torch.from_numpy(out)[: len(rows)].permute(0, 3, 1, 2))
        return Batch(
            images[0] if self._single else tuple(images),
            torch.from_numpy(self.split.labels[rows].astype(np.int64)),
            torch.from_numpy(rows.copy()),
        )
