"""Shuffled, resumable batches of a split for any number of ranks.

    loader = Loader("/fast/imagenet", size=224, batch_size=256)
    for epoch in range(90):
        for images, labels, rows in loader:
            ...

Threads gather batches ahead of the training step, and release the GIL while they copy pixels.
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
from pipeline.loader.epochs import Batch, BatchGenerator, Epochs, whole_number
from pipeline.loader.readahead import ReadAhead
from pipeline.loader.reader import PixelReader, open_reader
from pipeline.loader.staging import StagedReader, Staging
from pipeline.memory import free_bytes
from pipeline.order import ORDERS, EpochOrder, epoch_order
from pipeline.store.objects import open_objects
from pipeline.store.split import Split, only_labels, open_split

CHECKSUMS: dict[str, bool | None] = {"auto": None, "never": False, "once": True}
"""The values of *checksum*: True compares chunks with their checksums, False does not, None does so
for the chunks that memory can hold."""

PREFETCH_BYTES = 512 * 2**20
"""The default bytes of batches that are gathered ahead of the training step."""

WINDOW_BYTES = 2**30
"""The default bytes of a window of the windowed order, at the largest size."""

CACHE_BYTES = 2**30
"""The default bytes of the cache of whole chunks, for each size, in random order."""

DISK_THREADS = 32
"""The number of threads that block on reads, which is the queue depth that a disk sees."""

CACHE_SHARE = 0.8
"""The share of free memory that the page cache is assumed to use for a split."""

ORDER_BLOCK_ROWS = 16_384
"""The number of rows of the order that are computed in one call, a fifth of the cost of single
rows."""


class Loader(Epochs):
    """An iterable of `Batch` objects: each iteration yields the next epoch.

    A loader is a small value that can be pickled: it opens files and threads when it is iterated.

    Examples:
        >>> loader = tesserae.Loader("store", size=72, batch_size=4)
        >>> for images, labels, rows in loader:
        ...     pass
        >>> images.shape, images.dtype
        (torch.Size([4, 3, 72, 72]), torch.uint8)
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
        """Check the arguments without opening the store.

        Args:
            store: Folder or URL of the store.
            split: Name of the split (default: train).
            size: Side of the square images in pixels (default: 224).
            sizes: Several sides, instead of *size*. A batch then has one tensor of the same images
                for each side.
            batch_size: Number of rows of the global batch, over all ranks (default: 256).
            order: `random`, `windowed` or `sequential`, as in `pipeline.order.epoch_order`
                (default: random).
            seed: Seed of the order (default: 0).
            rank: Rank whose part of each global batch is yielded. None determines it when an
                iteration begins: from torch's process group, or else from the environment that
                torchrun, mpirun or srun set (`pipeline.loader.distributed`); a process without a
                launcher gets whole batches (default: None).
            world: Number of ranks. None determines it in the same way as *rank* (default: None).
            drop_last: Drop the last batch of an epoch if it is smaller than *batch_size*. False
                yields it as it is, without padding or repetition (default: True).
            partial: Accept an unfinished split and yield its committed rows (default: False).
            threads: Number of threads that gather batches (default: one per core, at most 4).
            pin: Place batches in page-locked memory (default: True if CUDA is available).
            prefetch_bytes: Maximum bytes of batches that are gathered ahead (default: 512 MiB).
            window_bytes: Bytes of a window of the windowed order, at the largest size (default:
                1 GiB).
            cache_bytes: Maximum bytes of pixels, for each size, in the cache of a store that is
                read in whole chunks: one that is compressed or remote, or larger than memory and
                read in windows (default: two windows; 1 GiB in random order).
            checksum: When chunks of an uncompressed local store are compared with their checksums.
                `once` reads and compares the whole chunk at the first read of one of its rows.
                `never` leaves verification to `tesserae verify`. `auto` means `once` for what
                memory can hold, and `never` for the part of a larger split that bypasses the page
                cache. Chunks of other stores are compared at every read (default: auto).
            staging_dir: Folder on a local disk to which shards are copied once and verified, for
                all ranks and later runs of this user, while the first epoch reads from the store.
                Other files in the folder are not changed (default: no staging).
            staging_bytes: Maximum bytes of everything in *staging_dir*. Copies of other stores
                that no process uses are removed to make room. If a split does not fit, part of it
                is copied (default: 90 % of the free space).
            only: Labels whose rows are yielded (default: all).
            stage: Deprecated name of *staging_dir*.
            stage_bytes: Deprecated name of *staging_bytes*.

        Raises:
            ValueError: An argument is invalid.
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
        self._local_ranks: int | None = None
        self.readers: dict[str, int] = {}
        """The number of gathers by method: `mapped`, `preadv`, `direct`, `chunks`."""
        self._check()
        self._opened: _OpenSplit | None = None

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
        """Return the pickled state, without open files and threads."""
        return {**vars(self), "_opened": None}

    @property
    def staged_rows(self) -> int:
        """The number of rows that this process has read from staged copies, counted per size."""
        staging = None if self._opened is None else self._opened.staging
        return 0 if staging is None else staging.rows_read

    def _forget_opened(self, local_ranks: int) -> None:
        self._local_ranks = local_ranks
        self.readers = {}
        self._opened = None

    def _details(self) -> str:
        return f", size={self.sizes[0]}" if self.single else f", sizes={self.sizes}"

    def _of_split(self) -> Split:
        return self._open().split

    def _identity(self) -> dict[str, Any]:
        windows = {"window_chunks": self._window_chunks()} if self.order == "windowed" else {}
        return {**super()._identity(), **windows}

    def _hand_out(self, epoch: int, first: int, placement: Placement) -> BatchGenerator:
        opened = self._open()
        order = self.epoch_order(epoch)
        rank_rows = _RankRows(self.batch_size, order, placement)
        buffers = opened.buffers_for(self, placement.world)
        depth = max(2, self.prefetch_bytes // buffers.batch_bytes)
        pending: deque[Future[Batch]] = deque()
        # Reading whole chunks ahead pays only if this machine needs all their rows; with ranks on
        # other machines it does not.
        local_ranks = (
            ranks_here(placement.world) if self._local_ranks is None else self._local_ranks
        )
        windows = (
            order.windows(first * self.batch_size) if local_ranks == placement.world else iter(())
        )
        # Callbacks run in reverse: staging and read-ahead stop before the pools that they use.
        with ExitStack() as at_end:
            disk = ThreadPoolExecutor(DISK_THREADS, "disk")
            at_end.callback(disk.shutdown, cancel_futures=True)
            gathering = ThreadPoolExecutor(self.threads, "gather", _use_one_thread)
            at_end.callback(gathering.shutdown, cancel_futures=True)
            ahead = ReadAhead(windows, opened.readers, disk)
            at_end.callback(ahead.stop)
            if opened.staging is not None:
                opened.staging.start(placement.rank, placement.world)
                at_end.callback(opened.staging.stop)
            for batch in range(first, len(self)):
                ahead.reached(batch * self.batch_size)
                while len(pending) < depth and batch + len(pending) < len(self):
                    rows, weight = rank_rows.rows(batch + len(pending))
                    pending.append(gathering.submit(opened.batch, rows, weight, buffers, disk))
                # Popped, so that only the caller holds the batch and its buffer can be reused.
                yield pending.popleft().result()

    def epoch_order(self, epoch: int) -> EpochOrder:
        """Return the order of the rows of one epoch, over all ranks."""
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

    def _open(self) -> _OpenSplit:
        # A forked child has no threads of its parent, and its locks may be held: it opens anew.
        if self._opened is None or self._opened.process != os.getpid():
            self._opened = _OpenSplit(self)
        return self._opened


def _sides(size: Any, sizes: Any) -> tuple[int, ...]:
    """Return the sides in pixels that the arguments *size* and *sizes* select."""
    if size is not None and sizes is not None:
        raise ValueError("size and sizes were both given: expected one of them.")
    if sizes is None:
        return (side("size", 224 if size is None else size),)
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        raise ValueError(  # noqa: TRY004 - like every other invalid argument
            f"sizes is {sizes!r}: expected several sides in pixels, as (72, 224)."
        )
    return tuple(side("sizes", each) for each in sizes)


def side(name: str, value: Any) -> int:
    """Return the side of a square image in pixels as a Python int.

    Args:
        name: Name of the argument, for the error.
        value: The value to convert.

    Raises:
        ValueError: The value is not a whole number.
    """
    try:
        return whole_number(name, value)
    except ValueError:
        raise ValueError(
            f"{name} is {value!r}: expected the side of a square in pixels, a whole number such as"
            " size=224; for several squares of each image, sizes=(72, 224)."
        ) from None


def _renamed(old: str, old_value: Any, new: str, value: Any) -> Any:
    """Return the value of an argument that has a new and a deprecated name."""
    if old_value is None:
        return value
    if value is not None:
        raise ValueError(f"{new} and {old} were both given: expected {new} alone.")
    warnings.warn(f"{old}= is now {new}=: please rename it.", DeprecationWarning, stacklevel=3)
    return old_value


def _cache_bytes(order: str, window_bytes: int) -> int:
    return CACHE_BYTES if order == "random" else 2 * window_bytes


def _use_one_thread() -> None:
    """Limit OpenMP to one thread for calls from this thread: there is a gather thread per core."""
    torch.get_num_threads()  # torch sets its default at a thread's first call: the limit goes last
    _openmp().limit(limits=1, user_api="openmp")


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController()


class _RankRows:
    """One rank's rows of each global batch, for batches in sequence.

    The order is computed in blocks of many batches.
    """

    def __init__(self, batch_size: int, order: EpochOrder, placement: Placement) -> None:
        self._batch_size = batch_size
        self._order = order
        self._placement = placement
        self._start = self._stop = 0
        self._block = np.empty(0, np.int64)

    def rows(self, batch: int) -> tuple[NDArray[np.int64], float]:
        """Return the rank's rows of batch number *batch*, (n,) int64, and the weight of a row."""
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


class _BatchBuffers:
    """The buffer pools for one rank's part of batches, one pool for each size."""

    def __init__(self, loader: Loader, world: int) -> None:
        max_rows = -(-loader.batch_size // world)
        shapes = [(max_rows, size, size, 3) for size in loader.sizes]
        self.batch_bytes = sum(int(np.prod(shape)) for shape in shapes)
        # Enough for all prefetched batches, those being gathered, and the one that the caller has.
        keep = max(2, loader.prefetch_bytes // self.batch_bytes) + loader.threads + 1
        pinned = loader.pin if loader.pin is not None else torch.cuda.is_available()
        self.buffers: list[Buffers | PinnedBuffers] = [
            PinnedBuffers(shape) if pinned else Buffers(shape, keep=keep) for shape in shapes
        ]


class _OpenSplit:
    """The open files, readers and buffers of a loader, from its first batch on."""

    def __init__(self, loader: Loader) -> None:
        self.process = os.getpid()
        """The process that opened the files: a forked child must open its own."""
        objects = open_objects(loader.store)
        split = open_split(objects, loader.split, loader.sizes, partial=loader.partial)
        self.split: Split = split if loader.only is None else only_labels(split, loader.only)
        self._single = loader.single
        self._method_counts = loader.readers
        self._counts_lock = threading.Lock()
        check = CHECKSUMS[loader.checksum]
        self._buffers: dict[int, _BatchBuffers] = {}
        row_bytes = sum(size * size * 3 for size in loader.sizes)
        cached = CACHE_SHARE * free_bytes() / max(1, self.split.plan.num_rows * row_bytes)

        def reader(split: Split, size: int) -> PixelReader:
            """Return a reader with this loader's arguments."""
            return open_reader(
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
            local = self.staging.split
            self.readers = [
                StagedReader(self.staging, self.split, size, reader(local, size), remote)
                for size, remote in zip(loader.sizes, self.readers, strict=True)
            ]

    def buffers_for(self, loader: Loader, world: int) -> _BatchBuffers:
        """Return the buffers for one rank's part, whose size depends on the number of ranks."""
        if world not in self._buffers:
            self._buffers = {world: _BatchBuffers(loader, world)}
        return self._buffers[world]

    def batch(
        self,
        rows: NDArray[np.int64],
        row_weight: float,
        buffers: _BatchBuffers,
        disk: ThreadPoolExecutor,
    ) -> Batch:
        """Gather *rows*, (n,) int64, into a batch; several threads call this at once."""
        images = []
        for reader, pool in zip(self.readers, buffers.buffers, strict=True):
            # A tensor from the pool, not one made from an array: torch must know the storage to
            # track copies from page-locked memory (`PinnedBuffers`).
            images_of_size = pool.take_tensor()[: len(rows)]
            method = reader.gather(rows, images_of_size.numpy(), disk)
            with self._counts_lock:  # several threads gather
                self._method_counts[method] = self._method_counts.get(method, 0) + 1
            images.append(images_of_size.permute(0, 3, 1, 2))
        batch = Batch(
            images[0] if self._single else tuple(images),
            torch.from_numpy(self.split.labels[rows].astype(np.int64)),
            torch.from_numpy(rows.copy()),
        )
        batch.row_weight = row_weight
        return batch
