"""Reads a shard's images while earlier ones are decoded.

Images are read in groups, one future for each group. By default a local disk gets one thread for
each task, and a remote source many, since each read there waits for a round trip. Groups are
limited in bytes, too, so that large images do not pile up in memory.

A file whose first bytes are of no image, or that is longer than the recipe allows, is not read as a
whole: a video in a class folder would fill the memory before its format could be reported.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from pipeline.errors import DecodeError, ReadError
from pipeline.images.formats import HEAD_BYTES, SMALL_BYTES, format_of
from pipeline.images.rejection import UNSUPPORTED, require_decodable_format
from pipeline.ingest.source_index import Sample
from pipeline.sources.reader import SourceReader

LOCAL_READERS, REMOTE_READERS = 1, 16
"""The number of threads of a task that read, unless the run sets it."""
MIN_DEPTH = 2
"""The least number of groups in flight, so that one is read while another is decoded."""
GROUP = 16
"""The number of samples in a group."""
GROUP_BYTES = 32 * 2**20
"""A group ends with the sample that takes it beyond this number of bytes."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A sample of which only the beginning was read, since it cannot be a readable image."""

    status: int
    """The quarantine status, as in `pipeline.images.decode`."""
    reason: str


def read_ahead(
    reader: SourceReader,
    samples: Iterable[Sample],
    *,
    limit: int | None,
    readers: int,
    max_attempts: int,
    retry_delay_seconds: float,
    group_samples: int = GROUP,
) -> Generator[bytes | Unread, None, None]:
    """Yield the bytes of each sample, in order, or why they were not read.

    Groups of samples are read by threads, ahead of the consumer. They begin with the first sample
    that is asked for, and end with the generator, which a consumer that stops early closes.

    Args:
        reader: The `pipeline.sources.reader.SourceReader` of the source, which the caller closes
            after the generator.
        samples: The samples to read, as `SourceIndex.shard` returns them.
        limit: The length in bytes of the longest sample that is read; None: no limit, and every
            sample is read as a whole.
        readers: The number of threads that read, at least 1; as many groups, and at least two, are
            in flight.
        max_attempts: The number of times that an image is read before the error counts, at least 1.
        retry_delay_seconds: The seconds before the second attempt; each further one waits four
            times as long.
        group_samples: The largest number of samples of a group, which a thread reads one after the
            other (default 16).

    Yields:
        All bytes of the sample; or, for one that is longer than *limit*, or that is longer than 1
        MiB and begins like no image that is decoded, an `Unread` with its quarantine `status`, 2
        (not an image) or 6 (unsupported), and the `reason` in words.

    Raises:
        ReadError: An image could not be read at any attempt. It is raised before the other images
            of its group are yielded.
    """

    def read_group(group: Sequence[Sample]) -> list[bytes | Unread]:
        return [
            read_with_retries(reader, sample, limit, max_attempts, retry_delay_seconds)
            for sample in group
        ]

    groups = _groups_of_samples(samples, limit, group_samples)
    depth = max(MIN_DEPTH, readers)
    with ThreadPoolExecutor(readers, "read-ahead") as pool:
        pending: deque[Future[list[bytes | Unread]]] = deque()
        try:
            # At most *depth* groups are in flight: each result makes room for one more.
            pending.extend(pool.submit(read_group, group) for group in islice(groups, depth))
            while pending:
                yield from pending.popleft().result()
                pending.extend(pool.submit(read_group, group) for group in islice(groups, 1))
        finally:
            # The consumer may stop early, or fail: reads that have not begun are not needed then.
            for future in pending:
                future.cancel()


def _groups_of_samples(
    samples: Iterable[Sample], limit: int | None, group_samples: int
) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    num_bytes = 0
    for sample in samples:
        group.append(sample)
        num_bytes += sample.num_bytes if limit is None or sample.num_bytes <= limit else HEAD_BYTES
        if len(group) == group_samples or num_bytes >= GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def read_with_retries(
    reader: SourceReader,
    sample: Sample,
    limit: int | None,
    max_attempts: int,
    retry_delay_seconds: float,
) -> bytes | Unread:
    """Read one image, and retry after a pause if it raises ReadError.

    Args:
        reader: The `pipeline.sources.reader.SourceReader` of the source.
        sample: The sample to read, as `SourceIndex.shard` returns it.
        limit: The length in bytes of the longest image that is read; None: no limit.
        max_attempts: The number of attempts, at least 1.
        retry_delay_seconds: The seconds before the second attempt; each further one waits four
            times as long.

    Returns:
        All bytes of the image; or, if it is longer than *limit*, or is longer than 1 MiB and begins
        like no image that is decoded, an `Unread` with its quarantine `status`, 2 (not an image) or
        6 (unsupported), and the `reason` in words. Without a limit, every image is read.

    Raises:
        ReadError: The last attempt failed, too.
    """
    for attempt in range(max_attempts - 1):
        try:
            return read_or_skip(reader, sample, limit)
        except ReadError:
            time.sleep(retry_delay_seconds * 4**attempt)
    return read_or_skip(reader, sample, limit)


def read_or_skip(reader: SourceReader, sample: Sample, limit: int | None) -> bytes | Unread:
    """Read one image, or only its beginning where that says enough.

    Args:
        reader: The `pipeline.sources.reader.SourceReader` of the source.
        sample: The sample to read, as `SourceIndex.shard` returns it.
        limit: The length in bytes of the longest image that is read; None: no limit, and the image
            is read as a whole.

    Returns:
        All bytes of the image; or, if it is longer than *limit*, or is longer than `SMALL_BYTES` (1
        MiB) and begins like no image that is decoded, an `Unread` with its quarantine `status`, 2
        (not an image) or 6 (unsupported), and the `reason` in words.

    Raises:
        ReadError: The image cannot be read, or is not what was listed.
    """
    if limit is not None and sample.num_bytes > min(limit, SMALL_BYTES):
        head = reader.read_head(sample.path, sample.offset, sample.num_bytes, HEAD_BYTES)
        verdict = reason_not_to_read(head, sample.num_bytes, limit)
        if verdict is not None:
            return verdict
    return reader.read(sample.path, sample.offset, sample.num_bytes)


def reason_not_to_read(head: bytes, num_bytes: int, limit: int) -> Unread | None:
    """Return why a long sample need not be read as a whole; None: it must be read.

    Args:
        head: The first `HEAD_BYTES` (4,096) of the sample, or all of a shorter one.
        num_bytes: The length of the whole sample in bytes, more than `SMALL_BYTES` or than *limit*.
        limit: The length in bytes of the longest image that is read.

    Returns:
        An `Unread` with the quarantine `status`, 2 (not an image) or 6 (unsupported), and the
        `reason` in words: the sample begins like no image that is decoded, or is longer than
        *limit*.
    """
    error = _format_error(head)
    if num_bytes <= limit:
        return None if error is None else Unread(error.status, error.reason)
    detected = format_of(head)
    beginning = "" if detected is None else f"; it begins as {detected.phrase}"
    return Unread(
        UNSUPPORTED if error is None else error.status,
        f"{num_bytes:,} bytes, more than are read for an image ({limit:,}, --max-image-bytes)"
        f"{beginning}",
    )


def _format_error(head: bytes) -> DecodeError | None:
    try:
        require_decodable_format(head)
    except DecodeError as e:
        return e
    return None
