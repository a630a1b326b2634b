"""Shuffled, resumable batches of a split for any number of ranks.

    loader = Loader("/fast/imagenet", size=224, batch_size=256)
    for epoch in range(90):
        for images, labels, rows in loader:
            ...

Threads gather batches ahead of the training step, and release the GIL while they copy pixels.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.loader.arguments import positive_number, sides_to_load
from pipeline.loader.base_loader import BaseLoader
from pipeline.loader.batch import Batch, BatchGenerator, make_batch
from pipeline.loader.crops import Crop, as_crop
from pipeline.loader.distributed import Placement, count_ranks_on_host
from pipeline.loader.encoded_reader import open_encoded_reader
from pipeline.loader.framework import Array, Framework, Pool, check_framework, open_framework
from pipeline.loader.image_readers import CropReader, Gathered, ImageReader, SquareReader
from pipeline.loader.pixel_reader import RowSource, UpscaledSource, open_reader
from pipeline.loader.reading_options import CHECKSUMS, Reading, Staging
from pipeline.loader.shard_copies import ShardCopySet, StagedReader
from pipeline.loader.window_prefetcher import WindowPrefetcher
from pipeline.memory import free_bytes
from pipeline.order import EpochOrder
from pipeline.store.encoding import parse_encoding
from pipeline.store.layout import MAX_SIZE
from pipeline.store.open import open_objects
from pipeline.store.split import Split, open_split, restrict_to_pictures
from pipeline.store.upscaled import open_upscaled_split

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


class Loader(BaseLoader[Array]):
    """An iterable of `Batch` objects: each iteration yields the next epoch.

    A loader is a small value that can be pickled: it opens files and threads when it is iterated.

    Examples:
        >>> loader = tesserae.Loader("store", size=72, batch_size=4)
        >>> for images, labels, rows in loader:
        ...     pass
        >>> images.shape, images.dtype
        (torch.Size([4, 3, 72, 72]), torch.uint8)
    """

    @overload
    def __init__(
        self: Loader[NDArray[Any]],
        store: str | os.PathLike[str],
        split: str = "train",
        *,
        framework: Literal["numpy"],
        **arguments: Any,
    ) -> None: ...

    @overload
    def __init__(
        self: Loader,
        store: str | os.PathLike[str],
        split: str = "train",
        *,
        size: int | None = None,
        sizes: Sequence[int] | None = None,
        encoded: str | None = None,
        crop: Crop | str | None = None,
        boxes: bool = False,
        upscaled: str | None = None,
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
        framework: Literal["torch"] = "torch",
    ) -> None: ...

    def __init__(  # type: ignore[misc]  # the first signature has the names of the second
        self,
        store: str | os.PathLike[str],
        split: str = "train",
        *,
        size: int | None = None,
        sizes: Sequence[int] | None = None,
        encoded: str | None = None,
        crop: Crop | str | None = None,
        boxes: bool = False,
        upscaled: str | None = None,
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
        framework: str = "torch",
    ) -> None:
        """Check the arguments without opening the store.

        Args:
            store: Folder or URL of the store.
            split: Name of the split (default: train).
            size: Side of the square images in pixels (default: 224).
            sizes: Several sides, instead of *size*. A batch then has one tensor of the same images
                for each side.
            encoded: Encoding of the rows that are decoded in place of reading stored squares, such
                as `jpeg:256@90` or `original`. *size* or *sizes* are then the sides, up to 4,096,
                to which a crop of each picture is resized, with antialiasing. None reads stored
                squares (default: None).
            crop: Part of each picture that is cut out of encoded rows: a `Crop`, or the name of
                its kind, `resized`, `random`, `centre` or `whole`. Train with `resized`. The
                default, `centre`, is meant for evaluation: it cuts the largest square in the
                centre, the same in each epoch.
            boxes: Add the crops to the batches, as `batch.boxes`, (n, 4) int64: left, top, right
                and bottom in pixels of the stored picture (default: False).
            upscaled: Name of a set of images that `tesserae upscale` has enlarged, to read in place
                of stored squares; *size* is their side (default: None).
            batch_size: Number of rows of the global batch, over all ranks (default: 256).
            order: `random`, `windowed` or `sequential`, as in `pipeline.order.epoch_order`
                (default: random).
            seed: Seed of the order and of random crops (default: 0).
            rank: Rank whose part of each global batch is yielded. None determines it when an
                iteration begins: from torch's process group, or else from the environment that
                torchrun, mpirun or srun set (`pipeline.loader.distributed`); a process without a
                launcher gets whole batches (default: None).
            world: Number of ranks. None determines it in the same way as *rank* (default: None).
            drop_last: Drop the last batch of an epoch if it is smaller than *batch_size*. False
                yields it as it is, without padding or repetition (default: True).
            include_labels: Labels to include; other rows are skipped (default: all).
            allow_partial: Accept an unfinished split and yield its committed rows (default: False).
            window_bytes: Bytes of a window of the windowed order: of squares of the largest size,
                or of encoded rows (default: 1 GiB).
            reading: Threads, memory and checks, which change no batch (default: `Reading()`).
            staging: Folder on a local disk to which shards are copied while the first epoch reads
                from the store, or a `Staging` that also limits its size (default: no copies).
            framework: Library of the arrays of a batch. `torch` yields tensors. `numpy` yields its
                arrays, with images of (n, size, size, 3), for NumPy, JAX and others, and does not
                import torch (default: torch).

        Raises:
            ValueError: An argument is invalid.
            ModuleNotFoundError: *framework* is `torch`, which is not installed.
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
        self.encoded = None if encoded is None else parse_encoding(encoded).array_name
        """The name of the encoded rows that are decoded, such as `jpeg256@90`; None for squares."""
        self.crop = None if self.encoded is None else as_crop(crop)
        """The part of each picture that is cut out of encoded rows; None for squares."""
        self.boxes = bool(boxes)
        self._check_encoded(crop)
        self.upscaled = upscaled
        """The name of the upscaled images that are read; None for stored images."""
        self.allow_partial = bool(allow_partial)
        self.window_bytes = positive_number("window_bytes", window_bytes)
        self.reading = Reading() if reading is None else reading
        self.framework = check_framework(framework, pin_memory=self.reading.pin_memory)
        """The name of the library of the arrays of a batch, `torch` or `numpy`."""
        self.threads = self._count_threads()
        """The number of threads that gather batches, before ranks share the cores of a machine."""
        if isinstance(staging, str | os.PathLike):
            staging = Staging(staging)
        self.staging = staging
        self._check_upscaled()
        self._local_ranks: int | None = None
        self.readers: dict[str, int] = {}
        """The number of gathers by method: `mapped`, `preadv`, `direct`, `chunks`."""
        self._opened: _OpenLoader[Array] | None = None

    def _check_encoded(self, crop: Crop | str | None) -> None:
        if self.encoded is None:
            for name, is_set in (("crop", crop is not None), ("boxes", self.boxes)):
                if is_set:
                    raise ValueError(
                        f"{name} was given without encoded: stored squares are read as they are."
                        " Pass encoded='jpeg:256@90' or another encoding of the store, or crop on"
                        " the device with tesserae.Augment."
                    )
        elif max(self.sizes) > MAX_SIZE:
            raise ValueError(
                f"sizes are {self.sizes}: expected sides of 1 to {MAX_SIZE:,} pixels, to which"
                " crops are resized."
            )

    def _check_upscaled(self) -> None:
        if self.upscaled is None:
            return
        for name, is_set in (
            ("encoded", self.encoded is not None),
            ("sizes", not self.single),
            ("staging", self.staging is not None),
            ("allow_partial", self.allow_partial),
        ):
            if is_set:
                raise ValueError(
                    f"{name} was given with upscaled={self.upscaled!r}: upscaled images have one"
                    f" size and are read from their store once they are complete. Omit {name}."
                )

    def __getstate__(self) -> dict[str, Any]:
        """Return the pickled state, without open files and threads."""
        # Descriptors, mappings and locks mean nothing in another process: it opens its own.
        return {**vars(self), "_opened": None}

    @property
    def staged_rows(self) -> int:
        """The number of rows that this process has read from staged copies, counted per size."""
        copies = None if self._opened is None else self._opened.copies
        return 0 if copies is None else copies.rows_read

    def with_size(self, size: int) -> Loader[Array]:
        """Return a copy of this loader with images of another side, at the same position.

        It yields the same rows in the same order, in windowed order too. This loader is not
        changed, and the copy shares no open files with it.

        Args:
            size: Side of the images in pixels.

        Raises:
            ValueError: *size* is no side.
            StoreError: The order is windowed, and the split cannot be opened.
        """
        loader = copy(self)
        loader.single, loader.sizes = True, sides_to_load(size, None)
        loader._check_encoded(self.crop)
        if self.order == "windowed" and self.encoded is None:
            # As many chunks in a window, since those decide the order.
            chunk_bytes = self._open().split.recipe.chunk_rows * 3 * size**2
            loader.window_bytes = self._window_chunks() * chunk_bytes
        # What is open is dropped, and counts are not shared.
        loader._opened, loader.readers = None, {}
        return loader

    def _count_threads(self) -> int:
        cores = len(os.sched_getaffinity(0))
        # A few threads saturate the memory with copies; decoding occupies every core.
        return self.reading.threads or (min(4, cores) if self.encoded is None else cores)

    def _forget_opened(self, local_ranks: int) -> None:
        self._local_ranks = local_ranks
        # Of the machine of this rank, which may have other cores than the one that sent the loader.
        self.threads = self._count_threads()
        self.readers = {}
        self._opened = None

    def _details(self) -> str:
        sides = f", size={self.sizes[0]}" if self.single else f", sizes={self.sizes}"
        if self.upscaled is not None:
            return f"{sides}, upscaled={self.upscaled!r}"
        if self.encoded is None:
            return sides
        boxes = ", boxes=True" if self.boxes else ""
        return f"{sides}, encoded={parse_encoding(self.encoded).text!r}, crop={self.crop}{boxes}"

    def _of_split(self) -> Split:
        return self._open().split

    def _selected(self, split: Split) -> Split:
        """Return a split with the rows that are yielded, without pictures smaller than a crop."""
        selected = super()._selected(split)
        if self.encoded is None or self.crop is None or self.crop.pixels is None:
            return selected
        return restrict_to_pictures(selected, self.encoded, self.crop.pixels)

    def _identity(self) -> dict[str, Any]:
        identity = super()._identity()
        if self.order == "windowed":
            identity["window_chunks"] = self._window_chunks()
        if self.crop is not None:
            identity |= {"encoded": self.encoded, "crop": self.crop.text}
        return identity

    def _hand_out(
        self, epochs: Iterable[int], first: int, placement: Placement
    ) -> BatchGenerator[Array]:
        opened = self._open()
        requests = self._requests(epochs, first, placement)
        buffers = opened.buffers_for(self, placement.world)
        # At least two, however large they are: one is gathered while the caller uses the other. At
        # most an epoch, however small they are.
        depth = max(2, min(len(self), self.reading.prefetch_bytes // buffers.batch_bytes))
        pending: deque[tuple[int, _PendingBatch[Array]]] = deque()
        # Reading whole chunks ahead pays only if this machine soon needs all their rows: not in
        # random order, and not with ranks on other machines.
        local_ranks = (
            count_ranks_on_host(placement.world) if self._local_ranks is None else self._local_ranks
        )
        reads_ahead = self.order != "random" and local_ranks == placement.world
        windows = self._windows(epochs, first) if reads_ahead else iter(())
        # Callbacks run in reverse: staging and read-ahead stop before the pools that they use.
        with ExitStack() as at_end:
            disk = ThreadPoolExecutor(DISK_THREADS, "disk")
            at_end.callback(disk.shutdown, cancel_futures=True)
            threads = self._threads_of_rank(local_ranks)
            gathering = ThreadPoolExecutor(threads, "gather", opened.framework.prepare_thread)
            at_end.callback(gathering.shutdown, cancel_futures=True)
            ahead = WindowPrefetcher(windows, opened.reader.sources, disk)
            at_end.callback(ahead.stop)
            if opened.copies is not None:
                # Copying ends with the iteration: a loader that is idle must not load the network.
                opened.copies.start(placement.rank, placement.world)
                at_end.callback(opened.copies.stop)

            def gather_ahead(batches: int) -> None:
                for request in islice(requests, batches - len(pending)):
                    batch = _PendingBatch(opened, buffers, request, gathering, disk)
                    pending.append((request.position, batch))

            while True:
                # A thread that begins to gather competes with this one for the interpreter's lock.
                # So a batch that is ready is fetched first.
                if not (pending and pending[0][1].is_ready):
                    gather_ahead(depth)
                if not pending:
                    return
                ahead.reached(pending[0][0])
                ready = [pending.popleft()[1].result()]
                gather_ahead(depth - 1)
                # Popped, so that only the caller holds the batch and its buffer can be reused.
                yield ready.pop()

    def _requests(
        self, epochs: Iterable[int], first: int, placement: Placement
    ) -> Iterator[_Request]:
        """Yield the rows of one rank's batches, from batch number *first* of the first epoch on."""
        epoch_start = 0
        for epoch in epochs:
            order = self.epoch_order(epoch)
            rank_rows = _RankRows(self.batch_size, order, placement)
            for batch in range(first, len(self)):
                position = epoch_start + batch * self.batch_size
                yield _Request(epoch, position, *rank_rows.rows(batch))
            epoch_start += order.num_rows
            first = 0

    def _windows(
        self, epochs: Iterable[int], first: int
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the windows of the orders of epochs, each as its position and its chunks."""
        epoch_start = 0
        for epoch in epochs:
            order = self.epoch_order(epoch)
            for position, chunks in order.windows(first * self.batch_size):
                yield epoch_start + position, chunks
            epoch_start += order.num_rows
            first = 0

    def _threads_of_rank(self, ranks_on_host: int) -> int:
        cores = len(os.sched_getaffinity(0))
        if self.reading.threads or self.encoded is None or cores < (os.cpu_count() or cores):
            return self.threads  # chosen, few, or as many as the cores that this rank is bound to
        return max(1, cores // ranks_on_host)

    def _window_chunks(self) -> int:
        split = self._open().split
        row_bytes: float = max(self.sizes) ** 2 * 3
        if self.encoded is not None:
            row_bytes = split.encoded[self.encoded].num_bytes_of_rows / split.plan.num_rows
        return max(1, int(self.window_bytes / max(1, split.recipe.chunk_rows * row_bytes)))

    def _open(self) -> _OpenLoader[Array]:
        # A forked child has no threads of its parent, and its locks may be held: it opens anew.
        if self._opened is None or self._opened.process != os.getpid():
            self._opened = _OpenLoader(self)
        return self._opened


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


class _BatchBuffers(Generic[Array]):
    """The memory for one rank's part of batches, one pool for each size."""

    def __init__(self, loader: Loader[Array], framework: Framework[Array], world: int) -> None:
        """Create empty pools for one of *world* ranks; memory is allocated on demand."""
        max_rows = -(-loader.batch_size // world)
        shapes = [(max_rows, size, size, 3) for size in loader.sizes]
        self.batch_bytes = sum(math.prod(shape) for shape in shapes)
        """The bytes of one buffer of every size."""
        # Enough for all prefetched batches, those being gathered, and the one that the caller has.
        prefetched = max(2, loader.reading.prefetch_bytes // self.batch_bytes)
        self.pools: list[Pool[Array]] = [
            framework.pool(
                shape,
                max_free=prefetched + loader.threads + 1,
                pin_memory=loader.reading.pin_memory,
            )
            for shape in shapes
        ]
        """The pool of each size, in the order of the loader's sizes."""


class _OpenLoader(Generic[Array]):
    """The open files, readers and buffers of a loader, from its first batch on."""

    def __init__(self, loader: Loader[Array]) -> None:
        self.process = os.getpid()
        """The process that opened the files: a forked child must open its own."""
        encoded = [] if loader.encoded is None else [loader.encoded]
        if loader.upscaled is None:
            opened = open_split(
                open_objects(loader.store),
                loader.split,
                [] if encoded else loader.sizes,
                encoded=encoded,
                allow_partial=loader.allow_partial,
            )
        else:
            opened = _open_upscaled(loader, loader.upscaled)
        self.split: Split = loader._selected(opened)
        self.framework: Framework[Array] = open_framework(loader.framework)
        self.single = loader.single
        self.boxes = loader.boxes
        self._method_counts = loader.readers
        self._counts_lock = threading.Lock()
        self._buffers: dict[int, _BatchBuffers[Array]] = {}
        self.copies: ShardCopySet | None = None
        if loader.staging is not None:
            folder = Path(loader.staging.dir).expanduser()
            self.copies = ShardCopySet(self.split, folder, limit_bytes=loader.staging.max_bytes)
        self.reader: ImageReader
        if loader.encoded is None or loader.crop is None:
            num_bytes = self.split.plan.num_rows * sum(size * size * 3 for size in loader.sizes)
            options = _reader_options(loader, num_bytes)

            def open_squares(split: Split, size: str) -> RowSource:
                copy_rows = self.framework.copy_rows
                source = open_reader(split, int(size), copy_rows=copy_rows, **options)
                return (
                    source if loader.upscaled is None else UpscaledSource(source, loader.upscaled)
                )

            self.reader = SquareReader(
                [self._source(str(size), open_squares) for size in loader.sizes]
            )
        else:
            num_bytes = self.split.encoded[loader.encoded].num_bytes_of_rows
            options = _reader_options(loader, num_bytes)

            def open_encoded(split: Split, name: str) -> RowSource:
                return open_encoded_reader(split, name, **options)

            source = self._source(loader.encoded, open_encoded)
            self.reader = CropReader(self.split, loader.encoded, source, loader.crop, loader.seed)

    def _source(self, array: str, open_source: Callable[[Split, str], RowSource]) -> RowSource:
        """Return the reader of one array, from local copies if there are any."""
        if self.copies is None:
            return open_source(self.split, array)
        # Both readers stay open: rows of shards that are not copied yet come from the store.
        local, store = open_source(self.copies.split, array), open_source(self.split, array)
        return StagedReader(self.copies, self.split, array, local, store)

    def buffers_for(self, loader: Loader[Array], world: int) -> _BatchBuffers[Array]:
        """Return the buffers for one rank's part, whose size depends on the number of ranks."""
        if world not in self._buffers:
            # Pools for another world have other shapes: kept, they would only hold memory.
            self._buffers = {world: _BatchBuffers(loader, self.framework, world)}
        return self._buffers[world]

    def count(self, methods: tuple[str, ...]) -> None:
        """Count a batch that was read by these methods."""
        with self._counts_lock:  # several iterations may run at once
            for method in methods:
                self._method_counts[method] = self._method_counts.get(method, 0) + 1


def _open_upscaled(loader: Loader[Any], name: str) -> Split:
    split = open_upscaled_split(open_objects(loader.store), loader.split, name)
    if loader.sizes != split.sizes:
        raise StoreError(
            f"size is {loader.sizes[0]}: upscaled images {name} have {split.sizes[0]} px. Pass"
            f" size={split.sizes[0]}."
        )
    return split


def _reader_options(loader: Loader[Any], num_bytes: int) -> dict[str, Any]:
    """Return how a loader reads arrays of *num_bytes* together, as `open_reader` takes it."""
    cache_bytes = loader.reading.cache_bytes
    if cache_bytes is None:
        cache_bytes = CACHE_BYTES if loader.order == "random" else 2 * loader.window_bytes
    return {
        "cache_bytes": cache_bytes,
        "check": CHECKSUMS[loader.reading.checksum],
        # Measured once: if shards changed between cached and direct reads, neither would pay.
        "cached": CACHE_SHARE * free_bytes() / max(1, num_bytes),
        "windows": loader.order != "random",
    }


class _Request(NamedTuple):
    """The rows of a batch that one rank gathers."""

    epoch: int
    position: int
    """The position of the global batch, counted in rows from the start of the first epoch."""
    rows: NDArray[np.int64]
    """(n,) int64."""
    row_weight: float


class _PendingBatch(Generic[Array]):
    """A batch whose images other threads are gathering, in one or several parts.

    Parts let all threads work on the batch that is needed next, however few batches there are.
    """

    def __init__(
        self,
        opened: _OpenLoader[Array],
        buffers: _BatchBuffers[Array],
        request: _Request,
        gathering: ThreadPoolExecutor,
        disk: ThreadPoolExecutor,
    ) -> None:
        """Start to gather the rows of *request*."""
        self._opened = opened
        self._request = request
        rows = request.rows
        # Of a pool's own type, not made from arrays here: torch must know the storage to track
        # copies from page-locked memory (`PinnedBuffers`).
        self._memory = [pool.take() for pool in buffers.pools]
        images = [opened.framework.memory(memory) for memory in self._memory]
        step = opened.reader.rows_at_once or len(rows)
        starts = range(0, len(rows), max(1, step)) or [0]
        self._parts: list[Future[Gathered]] = [
            gathering.submit(
                opened.reader.gather,
                rows[start : start + step],
                request.epoch,
                [part[start : min(start + step, len(rows))] for part in images],
                disk,
            )
            for start in starts
        ]

    @property
    def is_ready(self) -> bool:
        """True if `result` returns at once."""
        return all(part.done() for part in self._parts)

    def result(self) -> Batch[Array]:
        """Wait for the parts, and return the batch; raise the error of the first that failed."""
        gathered = [part.result() for part in self._parts]
        self._opened.count(gathered[0].methods)
        count, framework = len(self._request.rows), self._opened.framework
        images = tuple(framework.images(memory, count) for memory in self._memory)
        boxes = [part.boxes for part in gathered if part.boxes is not None]
        return make_batch(
            framework,
            images[0] if self._opened.single else images,
            self._opened.split,
            self._request.rows,
            self._request.row_weight,
            np.concatenate(boxes) if self._opened.boxes else None,
        )
