"""A trial of `prepare`: images are read, decoded, resized and written, for some seconds.

It takes the same steps as a task of `prepare` with the same code, on images of the source, but it
commits nothing: what it writes on the disk of the store is removed. Rates of trials with different
numbers of processes, threads and readers show which of them suit a machine and a source.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from pipeline.errors import DecodeError, ReadError, StoreError
from pipeline.filesystem import advice_for
from pipeline.images.rows import Row, make_rows
from pipeline.ingest.readahead import MIN_DEPTH, Unread, read_ahead
from pipeline.ingest.render import row_format
from pipeline.ingest.source_index import Sample
from pipeline.sources.reader import SourceReader
from pipeline.store.objects import Objects, ObjectWriter
from pipeline.store.shard import ShardComposer
from pipeline.urls import is_url

SHARD_ROWS = 1_024
"""The number of rows after which a trial begins another shard object."""
GROUP = 4
"""The number of images of a group that is read ahead: fewer than in a task, so that a trial on a
slow source has enough groups. The rate of the readers does not depend on it."""
READ_ATTEMPTS = 4
"""The number of times that an image is read before the error counts, as in a task."""
RETRY_DELAY_SECONDS = 0.5
"""The delay of the second attempt, as in a task."""


@dataclass(frozen=True, kw_only=True)
class TrialWork:
    """The work of a trial on each image, a small picklable value."""

    root: str
    """The folder or URL of the source that the paths of its samples are relative to."""
    arrays: tuple[str, ...]
    """The names of the image arrays: sizes in pixels as text, and those of encoded rows."""
    filter: str
    """The resampling filter."""
    decode_arguments: dict[str, Any] = field(default_factory=dict)
    """The keyword arguments of `pipeline.images.decode.decode`."""
    codec: str = "none"
    """The compression of raw pixels."""
    chunk_rows: int = 16
    """The number of rows in a chunk."""
    max_image_bytes: int | None = None
    """The length in bytes of the longest image that is read; None: no limit."""
    is_cold: bool = False
    """True to remove an image from the page cache after it was read, so that it is read from the
    disk again if the trials need more images than there are."""


@dataclass(frozen=True)
class TrialCount:
    """The count of a trial of one thread."""

    images: int
    """The number of images that were decoded within `seconds`."""
    seconds: float
    """The seconds that they took."""
    waited_seconds: float = 0.0
    """The part of these seconds in which the thread waited for an image to be read."""
    num_read: int = 0
    """The number of samples that were used up, those of the first round included."""
    num_unreadable: int = 0
    """The number of these samples that are not readable images."""


def run_trial(
    work: TrialWork,
    samples: Iterator[Sample],
    objects: Objects | None,
    *,
    name: str,
    readers: int,
    seconds: float,
    max_seconds: float,
    stop: Event,
) -> TrialCount:
    """Prepare images in this thread until the time is over.

    Readers of a slow source deliver their groups together, so whole rounds are counted, a group of
    each reader. The first round is not: nothing else is done before it arrives. A source that is
    too slow for two rounds within *max_seconds* has all of its images counted, from the beginning.
    A file that is not a readable image takes its time, and does not count: a source of such files
    would seem to be the fastest of all.

    Args:
        work: The work on each image.
        samples: The samples to read, more than the time suffices for.
        objects: The objects of the store, whose `begin` was called; None: nothing is written.
        name: A name for the written objects, which no other thread uses.
        readers: The number of threads that read ahead.
        seconds: How long to go on after the first round, at least; the last one is completed.
        max_seconds: How long to go on in all, and twice as long for the first round; the image at
            hand is completed.
        stop: An event that ends the trial early.

    Returns:
        The number of decoded images, the seconds that all took and the part of these that was
        waited for readers; no samples if it was stopped early, or if the samples have ended.

    Raises:
        ReadError: An image could not be read.
        StoreError: The disk of the store cannot be written to.
    """
    formats = [row_format(array) for array in work.arrays]
    round_images = max(MIN_DEPTH, readers) * GROUP
    count, readable, first_readable = 0, 0, 0
    started, waited, first_waited = 0.0, 0.0, 0.0
    with ExitStack() as stack:
        reader = _ColdReader(work.root) if work.is_cold else SourceReader(work.root)
        images = stack.enter_context(
            closing(
                read_ahead(
                    reader,
                    samples,
                    limit=work.max_image_bytes,
                    readers=readers,
                    max_attempts=READ_ATTEMPTS,
                    retry_delay_seconds=RETRY_DELAY_SECONDS,
                    group_samples=GROUP,
                )
            )
        )
        sink = stack.enter_context(_Sink(work, objects, name))
        began = free_since = time.perf_counter()
        for data in images:
            waited += time.perf_counter() - free_since
            rows: Sequence[Row] = ()
            if not isinstance(data, Unread):
                with suppress(DecodeError):
                    _, rows = make_rows(
                        data, formats, filter=work.filter, decode_arguments=work.decode_arguments
                    )
            sink.append(rows)
            count += 1
            readable += bool(rows)
            free_since = time.perf_counter()
            if count == round_images:
                started, first_readable = free_since, readable
                waited, first_waited = 0.0, waited
            elif count % round_images == 0:
                elapsed = free_since - started
                if elapsed >= seconds:
                    return TrialCount(
                        readable - first_readable, elapsed, waited, count, count - readable
                    )
            elapsed = free_since - began
            # Half of a round would hide what its readers do together, unless that takes minutes.
            if elapsed >= (max_seconds if count >= round_images else 2 * max_seconds):
                return TrialCount(readable, elapsed, first_waited + waited, count, count - readable)
            if stop.is_set():
                break
    return TrialCount(0, 0.0)


@contextmanager
def explain_write_errors(store: str) -> Iterator[None]:
    """Raise an error of the store's disk inside the block with the advice that suits trials.

    That of `prepare` promises committed shards, which trials do not have.

    Args:
        store: The location of the store.

    Raises:
        StoreError: The disk is full or failing.
    """
    try:
        yield
    except StoreError as e:
        cause = e.__cause__
        if not isinstance(cause, OSError):
            raise
        raise StoreError(
            f"trials of settings cannot write to {store}: {cause.strerror or cause}."
            f" {advice_for(cause)}, then run the same command again. What the trials wrote was"
            " removed."
        ) from cause


def cached_share(root: str, samples: Sequence[Sample]) -> float | None:
    """Return the share of samples whose first bytes are in the page cache, 0 to 1.

    Asking may start reading ahead, so those that were not there may be afterwards.

    Args:
        root: The folder or URL of the source.
        samples: The samples, at least one.

    Returns:
        The share; None for a URL, and where the file system does not tell.

    Raises:
        ReadError: A file cannot be opened.
    """
    if is_url(root) or not hasattr(os, "RWF_NOWAIT"):
        return None
    cached = 0
    for sample in samples:
        try:
            with Path(root, sample.path).open("rb", buffering=0) as file:
                os.preadv(file.fileno(), [bytearray(1)], sample.offset or 0, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        except OSError as e:
            if e.errno == errno.EOPNOTSUPP:
                return None
            raise ReadError(f"cannot read {root}/{sample.path}: {e.strerror or e}") from None
        cached += 1
    return cached / len(samples)


class _ColdReader(SourceReader):
    """A reader that leaves no image in the page cache."""

    def read(self, path: str, offset: int | None, num_bytes: int) -> bytes:
        data = super().read(path, offset, num_bytes)
        with suppress(OSError), Path(self.root, path).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), offset or 0, num_bytes, os.POSIX_FADV_DONTNEED)
        return data


class _Sink:
    """A writer of shard objects on the disk of the store, which are never finished."""

    def __init__(self, work: TrialWork, objects: Objects | None, name: str) -> None:
        self._work = work
        self._objects = objects
        self._name = name
        self._num_rows = 0
        self._writers: list[ObjectWriter] = []
        self._composers: list[ShardComposer | None] = []

    def append(self, rows: Sequence[Row]) -> None:
        """Write the row of an image in each array; none of an image that was not decoded."""
        if self._objects is None or not rows:
            return
        with explain_write_errors(self._objects.url):
            if self._num_rows % SHARD_ROWS == 0:
                self._begin_shard(self._objects)
            self._num_rows += 1
            for writer, composer, row in zip(self._writers, self._composers, rows, strict=True):
                if composer is not None and isinstance(row, bytes):
                    composer.append(row)
                elif not isinstance(row, bytes):
                    writer.write(memoryview(row.data))

    def _begin_shard(self, objects: Objects) -> None:
        self._abort()
        shard = self._num_rows // SHARD_ROWS
        for array in self._work.arrays:
            writer = objects.create(f".tmp/trial-{self._name}-{array}-{shard}")
            self._writers.append(writer)
            self._composers.append(
                ShardComposer(
                    writer,
                    row_bytes=int(array) ** 2 * 3,
                    shard_rows=SHARD_ROWS,
                    chunk_rows=self._work.chunk_rows,
                    codec=self._work.codec,
                )
                if array.isdecimal()
                else None
            )

    def _abort(self) -> None:
        for writer in self._writers:
            writer.abort()
        self._writers, self._composers = [], []

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._abort()
