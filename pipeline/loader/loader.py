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
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from pipeline.loader.arguments import positive_number, sides_to_load
from pipeline.loader.base_loader import BaseLoader
from pipeline.loader.batch import Batch, BatchGenerator, make_batch
from pipeline.loader.buffers import BatchBuffers
from pipeline.loader.distributed import Placement, count_ranks_on_host
from pipeline.loader.pixel_reader import PixelReader, open_reader
from pipeline.loader.reading_options import CHECKSUMS, Reading, Staging
from pipeline.loader.shard_copies import ShardCopySet, StagedReader
from pipeline.loader.window_prefetcher import WindowPrefetcher
from pipeline.memory import free_bytes
from pipeline.order import EpochOrder
from pipeline.store.open import open_objects
from pipeline.store.split import Split, open_split

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


class Loader(BaseLoader):
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
        include_labels: Sequence[int] | None = None,
        allow_partial: bool = False,
        window_bytes: int = WINDOW_BYTES,
        reading: Reading | None = None,
        staging: Staging | str | os.PathLike[str] | None = None,
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
            include_labels: Labels to include; other rows are skipped (default: all).
            allow_partial: Accept an unfinished split and yield its committed rows (default: False).
            window_bytes: Bytes of a window of the windowed order, at the largest size (default:
                1 GiB).
            reading: Threads, memory and checks, which change no batch (default: `Reading()`).
            staging: Folder on a local disk to which shards are copied while the first epoch reads
                from the store, or a `Staging` that also limits its size (default: no copies).

        Raises:
            ValueError: An argument is invalid.
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
        self.single = sizes is None
        """True if a batch has one tensor of images, not a tuple of them."""
        self.sizes = sides_to_load(size, sizes)
        self.allow_partial = bool(allow_partial)
        self.window_bytes = positive_number("window_bytes", window_bytes)
        self.reading = Reading() if reading is None else reading
        self.threads = self.reading.threads or min(4, len(os.sched_getaffinity(0)))
        """The number of threads that gather batches."""
        if isinstance(staging, str | os.PathLike):
            staging = Staging(staging)
        self.staging = staging
        self._local_ranks: int | None = None
        self.readers: dict[str, int] = {}
        """The number of gathers by method: `mapped`, `preadv`, `direct`, `chunks`."""
        self._opened: _OpenLoader | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the pickled state, without open files and threads."""
        # Descriptors, mappings and locks mean nothing in another process: it opens its own.
        return {**vars(self), "_opened": None}

    @property
    def staged_rows(self) -> int:
        """The number of rows that this process has read from staged copies, counted per size."""
        copies = None if self._opened is None else self._opened.copies
        return 0 if copies is None else copies.rows_read

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
        # At least two, however large they are: one is gathered while the caller uses the other.
        depth = max(2, self.reading.prefetch_bytes // buffers.batch_bytes)
        pending: deque[Future[Batch]] = deque()
        # Reading whole chunks ahead pays only if this machine needs all their rows; with ranks on
        # other machines it does not.
        local_ranks = (
            count_ranks_on_host(placement.world) if self._local_ranks is None else self._local_ranks
        )
        windows = (
            order.windows(first * self.batch_size) if local_ranks == placement.world else iter(())
        )
        # Callbacks run in reverse: staging and read-ahead stop before the pools that they use.
        with ExitStack() as at_end:
            disk = ThreadPoolExecutor(DISK_THREADS, "disk")
            at_end.callback(disk.shutdown, cancel_futures=True)
            gathering = ThreadPoolExecutor(self.threads, "gather", _limit_openmp_to_one_thread)
            at_end.callback(gathering.shutdown, cancel_futures=True)
            ahead = WindowPrefetcher(windows, opened.readers, disk)
            at_end.callback(ahead.stop)
            if opened.copies is not None:
                # Copying ends with the iteration: a loader that is idle must not load the network.
                opened.copies.start(placement.rank, placement.world)
                at_end.callback(opened.copies.stop)
            for batch in range(first, len(self)):
                ahead.reached(batch * self.batch_size)
                while len(pending) < depth and batch + len(pending) < len(self):
                    rows, weight = rank_rows.rows(batch + len(pending))
                    pending.append(gathering.submit(opened.batch, rows, weight, buffers, disk))
                # Popped, so that only the caller holds the batch and its buffer can be reused.
                yield pending.popleft().result()

    def _window_chunks(self) -> int:
        chunk_bytes = self._open().split.recipe.chunk_rows * max(self.sizes) ** 2 * 3
        return max(1, self.window_bytes // chunk_bytes)

    def _open(self) -> _OpenLoader:
        # A forked child has no threads of its parent, and its locks may be held: it opens anew.
        if self._opened is None or self._opened.process != os.getpid():
            self._opened = _OpenLoader(self)
        return self._opened


def _limit_openmp_to_one_thread() -> None:
    """Limit OpenMP to one thread for calls from this thread: there is a gather thread per core."""
    torch.get_num_threads()  # torch sets its default at a thread's first call: the limit goes last
    _openmp_controller().limit(limits=1, user_api="openmp")


@cache
def _openmp_controller() -> ThreadpoolController:
    # Cached, because the controller examines every library of the process.
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


class _OpenLoader:
    """The open files, readers and buffers of a loader, from its first batch on."""

    def __init__(self, loader: Loader) -> None:
        self.process = os.getpid()
        """The process that opened the files: a forked child must open its own."""
        objects = open_objects(loader.store)
        self.split: Split = loader._selected(
            open_split(objects, loader.split, loader.sizes, allow_partial=loader.allow_partial)
        )
        self._single = loader.single
        self._method_counts = loader.readers
        self._counts_lock = threading.Lock()
        check = CHECKSUMS[loader.reading.checksum]
        cache_bytes = loader.reading.cache_bytes
        if cache_bytes is None:
            cache_bytes = CACHE_BYTES if loader.order == "random" else 2 * loader.window_bytes
        self._buffers: dict[int, BatchBuffers] = {}
        row_bytes = sum(size * size * 3 for size in loader.sizes)
        # Measured once: if shards changed between cached and direct reads, neither would pay.
        cached = CACHE_SHARE * free_bytes() / max(1, self.split.plan.num_rows * row_bytes)

        def reader(split: Split, size: int) -> PixelReader:
            """Return a reader with this loader's arguments."""
            return open_reader(
                split,
                size,
                cache_bytes=cache_bytes,
                check=check,
                cached=cached,
                windows=loader.order != "random",
            )

        self.copies: ShardCopySet | None = None
        self.readers = [reader(self.split, size) for size in loader.sizes]
        if loader.staging is not None:
            folder = Path(loader.staging.dir).expanduser()
            self.copies = ShardCopySet(self.split, folder, limit_bytes=loader.staging.max_bytes)
            # Both readers stay open: rows of shards that are not copied yet come from the store.
            local = self.copies.split
            self.readers = [
                StagedReader(self.copies, self.split, size, reader(local, size), remote)
                for size, remote in zip(loader.sizes, self.readers, strict=True)
            ]

    def buffers_for(self, loader: Loader, world: int) -> BatchBuffers:
        """Return the buffers for one rank's part, whose size depends on the number of ranks."""
        if world not in self._buffers:
            # Pools for another world have other shapes: kept, they would only hold memory.
            buffers = BatchBuffers(
                loader.sizes,
                max_rows=-(-loader.batch_size // world),
                prefetch_bytes=loader.reading.prefetch_bytes,
                threads=loader.threads,
                pin_memory=loader.reading.pin_memory,
            )
            self._buffers = {world: buffers}
        return self._buffers[world]

    def batch(
        self,
        rows: NDArray[np.int64],
        row_weight: float,
        buffers: BatchBuffers,
        disk: ThreadPoolExecutor,
    ) -> Batch:
        """Gather *rows*, (n,) int64, into a batch; several threads call this at once."""
        images = []
        for reader, pool in zip(self.readers, buffers.pools, strict=True):
            # A tensor from the pool, not one made from an array: torch must know the storage to
            # track copies from page-locked memory (`PinnedBuffers`).
            images_of_size = pool.take_tensor()[: len(rows)]
            method = reader.gather(rows, images_of_size.numpy(), disk)
            with self._counts_lock:  # several threads gather
                self._method_counts[method] = self._method_counts.get(method, 0) + 1
            images.append(images_of_size.permute(0, 3, 1, 2))
        all_images = images[0] if self._single else tuple(images)
        return make_batch(all_images, self.split, rows, row_weight)
