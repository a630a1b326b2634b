"""Shuffled batches of a split, exact and resumable, for any number of ranks.

    loader = Loader("/fast/imagenet", size=224, batch_size=256)
    for epoch in range(90):
        for images, labels, rows in loader:
            ...

Threads gather batches ahead of the training step; the interpreter is free while they copy.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from pipeline.loader.buffers import Buffers, PinnedBuffers
from pipeline.loader.distributed import Placement, ranks_here
from pipeline.loader.epochs import Batch, Batches, Epochs, whole_number
from pipeline.loader.readahead import ReadAhead
from pipeline.loader.reader import Reader, reader_of
from pipeline.loader.staging import StagedReader, Staging
from pipeline.memory import free_bytes
from pipeline.order import ORDERS, EpochOrder, epoch_order
from pipeline.store.objects import open_objects
from pipeline.store.split import Split, only_labels, open_split

CHECKSUMS: dict[str, bool | None] = {"auto": None, "never": False, "once": True}
"""Whether chunks are compared with their checksums; None for those that memory can hold."""

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


class Loader(Epochs):
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
        checksum: str = "auto",
        staging_dir: str | os.PathLike[str] | None = None,
        staging_bytes: int | None = None,
        only: Sequence[int] | None = None,
        stage: str | os.PathLike[str] | None = None,
        stage_bytes: int | None = None,
    ) -> None:
        """Check what can be checked without opening anything.

        Args:
            store: Folder of the store.
            split: Which split.
            size: Side of the squares in pixels (224).
            sizes: Several of them, in place of *size*: a batch then has one tensor of images for
                each, of the same pictures.
            batch_size: Number of rows of the global batch, of all ranks together.
            order: `random`, `windowed` or `sequential` (`pipeline.order.epoch_order`).
            seed: Seed of the order.
            rank: Which part of each global batch is handed out. None asks when an iteration
                begins: torch's process group, or else what torchrun, mpirun or srun have set
                (`pipeline.loader.distributed`); a process that nobody launched has all of it.
            world: Number of parts of a global batch. None asks as for *rank*.
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
            checksum: `once` compares each chunk of an uncompressed local store with its checksum
                when a row of it is first wanted, for which the whole chunk is read. `never` leaves
                that to `tesserae verify`. `auto` is `once` where memory can hold the pixels, and
                `never` for the part of a larger split that is read past the page cache. Chunks of
                other stores are compared whenever they are read.
            staging_dir: Folder on a disk of this node to which shards are copied once, checked, for
                all ranks and later runs of this user, while the first epoch reads them from the
                store. What else lies in that folder stays as it is.
            staging_bytes: Most bytes of all that is in that folder (nine tenths of what is free).
                Copies of other stores that nobody reads are removed; of a split that does not fit
                a part is copied.
            only: Labels whose rows are handed out (all).
            stage: Deprecated name of *staging_dir*.
            stage_bytes: Deprecated name of *staging_bytes*.

        Raises:
            ValueError: An argument makes no sense.
        """
        staging_dir = _renamed("stage", stage, "staging_dir", staging_dir)
        staging_bytes = _renamed("stage_bytes", stage_bytes, "staging_bytes", staging_bytes)
        self.store = os.fspath(store)
        self.split = split
        self.single = sizes is None
        self.sizes = _sides(size, sizes)
        self._set_placement(rank, world)
        self._set_common(
            batch_size=batch_size, order=order, seed=seed, drop_last=drop_last, orders=ORDERS
        )
        self.partial = bool(partial)
        cores = len(os.sched_getaffinity(0))
        self.threads = min(4, cores) if threads is None else threads
        self.pin = pin
        self.prefetch_bytes = prefetch_bytes
        self.window_bytes = window_bytes
        self.cache_bytes = _cache_bytes(order, window_bytes) if cache_bytes is None else cache_bytes
        self.checksum = checksum
        self.staging_dir = None if staging_dir is None else os.fspath(staging_dir)
        self.staging_bytes = staging_bytes
        self.only = None if only is None else tuple(whole_number("only", n) for n in only)
        self._here: int | None = None
        self.readers: dict[str, int] = {}
        """How many batches each reader has gathered: `mapped`, `preadv`, `direct`, `chunks`."""
        self._check()
        self._opened: _Opened | None = None

    def _check(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"sizes are {self.sizes}: expected one or more, none of them twice.")
        if self.checksum not in CHECKSUMS:
            expected = ", ".join(CHECKSUMS)
            raise ValueError(f"checksum is {self.checksum!r}: expected one of {expected}.")
        for name in ("prefetch_bytes", "window_bytes", "cache_bytes", "staging_bytes", "threads"):
            value = getattr(self, name)
            if value is None:
                continue
            setattr(self, name, whole_number(name, value))
            if value < 1:
                raise ValueError(f"{name} is {value}: expected at least 1.")

    def __getstate__(self) -> dict[str, Any]:
        """Everything but open files."""
        return {**vars(self), "_opened": None}

    @property
    def staged_rows(self) -> int:
        """Number of rows of this process that came from staged copies, counted for each size."""
        staging = None if self._opened is None else self._opened.staging
        return 0 if staging is None else staging.rows_read

    def _forget_opened(self, here: int) -> None:
        self._here = here
        self.readers = {}
        self._opened = None

    def _details(self) -> str:
        return f", size={self.sizes[0]}" if self.single else f", sizes={self.sizes}"

    def _of_split(self) -> Split:
        return self._open().split

    def _identity(self) -> dict[str, Any]:
        windows = {"window_chunks": self._window_chunks()} if self.order == "windowed" else {}
        return {**super()._identity(), **windows}

    def _hand_out(self, epoch: int, first: int, placement: Placement) -> Batches:
        opened = self._open()
        order = self.epoch_order(epoch)
        parts = _Parts(self.batch_size, order, placement)
        memory = opened.memory_for(self, placement.world)
        depth = max(2, self.prefetch_bytes // memory.batch_bytes)
        waiting: deque[Future[Batch]] = deque()
        # On several nodes each needs only some rows of a chunk.
        here = ranks_here(placement.world) if self._here is None else self._here
        windows = order.windows(first * self.batch_size) if here == placement.world else iter(())
        with ExitStack() as at_end:
            disk = ThreadPoolExecutor(DISK_THREADS, "disk")
            at_end.callback(disk.shutdown, cancel_futures=True)
            gathering = ThreadPoolExecutor(self.threads, "gather", _copy_alone)
            at_end.callback(gathering.shutdown, cancel_futures=True)
            ahead = ReadAhead(windows, opened.readers, disk)
            at_end.callback(ahead.stop)
            if opened.staging is not None:
                opened.staging.start(placement.rank, placement.world)
                at_end.callback(opened.staging.stop)
            for batch in range(first, len(self)):
                ahead.reached(batch * self.batch_size)
                while len(waiting) < depth and batch + len(waiting) < len(self):
                    rows, weight = parts.rows(batch + len(waiting))
                    waiting.append(gathering.submit(opened.batch, rows, weight, memory, disk))
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


def _sides(size: Any, sizes: Any) -> tuple[int, ...]:
    """Return the sides of the squares, in pixels, of the arguments *size* and *sizes*."""
    if size is not None and sizes is not None:
        raise ValueError("size and sizes were both given: expected one of them.")
    if sizes is None:
        return (side("size", 224 if size is None else size),)
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        raise ValueError(  # noqa: TRY004 - like every other argument that makes no sense
            f"sizes is {sizes!r}: expected several sides in pixels, as (72, 224)."
        )
    return tuple(side("sizes", each) for each in sizes)


def side(name: str, value: Any) -> int:
    """Return the side of a square in pixels as Python's own int.

    Raises:
        ValueError: It is no whole number.
    """
    try:
        return whole_number(name, value)
    except ValueError:
        raise ValueError(
            f"{name} is {value!r}: expected the side of a square in pixels, a whole number such as"
            " size=224; for several squares of each picture, sizes=(72, 224)."
        ) from None


def _renamed(old: str, old_value: Any, new: str, value: Any) -> Any:
    """Return the value of an argument that has a new name and a deprecated one."""
    if old_value is None:
        return value
    if value is not None:
        raise ValueError(f"{new} and {old} were both given: expected {new} alone.")
    warnings.warn(f"{old}= is now {new}=: please rename it.", DeprecationWarning, stacklevel=3)
    return old_value


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
    """One rank's rows of each global batch, one batch after the other.

    The order is computed in blocks.
    """

    def __init__(self, batch_size: int, order: EpochOrder, placement: Placement) -> None:
        self._batch_size = batch_size
        self._order = order
        self._placement = placement
        self._start = self._stop = 0
        self._block = np.empty(0, np.int64)

    def rows(self, batch: int) -> tuple[NDArray[np.int64], float]:
        """Return the rank's rows of batch number *batch*, (n,) int64, and the weight of each."""
        size = self._batch_size
        start = batch * size
        stop = min(start + size, self._order.num_rows)
        if not self._start <= start <= stop <= self._stop:
            blocks = max(1, ORDER_BLOCK_ROWS // size)
            self._start = start
            self._stop = min(start + blocks * size, self._order.num_rows)
            self._block = self._order.rows(self._start, self._stop)
        rows = self._block[start - self._start : stop - self._start]
        return self._placement.part(rows), self._placement.world / len(rows)


class _Memory:
    """The buffers of one rank's batches, for each size."""

    def __init__(self, loader: Loader, world: int) -> None:
        most = -(-loader.batch_size // world)
        shapes = [(most, size, size, 3) for size in loader.sizes]
        self.batch_bytes = sum(int(np.prod(shape)) for shape in shapes)
        keep = max(2, loader.prefetch_bytes // self.batch_bytes) + loader.threads + 1
        pinned = loader.pin if loader.pin is not None else torch.cuda.is_available()
        self.buffers: list[Buffers | PinnedBuffers] = [
            PinnedBuffers(shape) if pinned else Buffers(shape, keep=keep) for shape in shapes
        ]


class _Opened:
    """What a loader holds open from its first batch on."""

    def __init__(self, loader: Loader) -> None:
        self.process = os.getpid()
        objects = open_objects(loader.store)
        split = open_split(objects, loader.split, loader.sizes, partial=loader.partial)
        self.split: Split = split if loader.only is None else only_labels(split, loader.only)
        self._single = loader.single
        self._how = loader.readers
        self._counting = threading.Lock()
        check = CHECKSUMS[loader.checksum]
        self._memory: dict[int, _Memory] = {}
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
        if loader.staging_dir is not None:
            self.staging = Staging(
                self.split,
                Path(loader.staging_dir).expanduser(),
                limit_bytes=loader.staging_bytes,
            )
            near = self.staging.split
            self.readers = [
                StagedReader(self.staging, self.split, size, reader(near, size), far)
                for size, far in zip(loader.sizes, self.readers, strict=True)
            ]

    def memory_for(self, loader: Loader, world: int) -> _Memory:
        """Return the buffers for one rank's part, which the number of ranks decides."""
        if world not in self._memory:
            self._memory = {world: _Memory(loader, world)}
        return self._memory[world]

    def batch(
        self, rows: NDArray[np.int64], row_weight: float, memory: _Memory, disk: ThreadPoolExecutor
    ) -> Batch:
        """Gather *rows*."""
        images = []
        for reader, buffers in zip(self.readers, memory.buffers, strict=True):
            # A tensor, not an array over its memory: torch must know its storage (`PinnedBuffers`).
            part = buffers.take_tensor()[: len(rows)]
            how = reader.gather(rows, part.numpy(), disk)
            with self._counting:
                self._how[how] = self._how.get(how, 0) + 1
            images.append(part.permute(0, 3, 1, 2))
        batch = Batch(
            images[0] if self._single else tuple(images),
            torch.from_numpy(self.split.labels[rows].astype(np.int64)),
            torch.from_numpy(rows.copy()),
        )
        batch.row_weight = row_weight
        return batch
