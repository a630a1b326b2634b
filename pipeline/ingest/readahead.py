"""Reads a shard's images while earlier ones are decoded.

Images are read in groups, one future a group: a local disk gets one thread a task and a little
depth, a remote source many, since each read there waits for a round trip.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from pipeline.errors import ReadError
from pipeline.ingest.rows import Sample
from pipeline.sources.reader import Reader

LOCAL_DEPTH = 2
REMOTE_DEPTH = 16
GROUP = 16


def read_ahead(
    reader: Reader, samples: Sequence[Sample], *, remote: bool, tries: int, pause: float
) -> Generator[bytes, None, None]:
    """Yield the bytes of each sample, in order.

    Args:
        reader: The source.
        samples: What to read.
        remote: Whether a read waits for a network.
        tries: How often an image is read before the error counts.
        pause: Seconds before the second try; each further one waits four times as long.

    Raises:
        ReadError: An image could not be read.
    """

    def read_group(group: Sequence[Sample]) -> list[bytes]:
        return [read_patiently(reader, sample, tries, pause) for sample in group]

    groups = (samples[i : i + GROUP] for i in range(0, len(samples), GROUP))
    depth = REMOTE_DEPTH if remote else LOCAL_DEPTH
    with ThreadPoolExecutor(depth if remote else 1, "read-ahead") as pool:
        waiting: deque[Future[list[bytes]]] = deque()
        try:
            waiting.extend(pool.submit(read_group, group) for group in islice(groups, depth))
            while waiting:
                yield from waiting.popleft().result()
                waiting.extend(pool.submit(read_group, group) for group in islice(groups, 1))
        finally:
            for future in waiting:
                future.cancel()


def read_patiently(reader: Reader, sample: Sample, tries: int, pause: float) -> bytes:
    """Read one image, again after a pause if the source failed.

    Raises:
        ReadError: The last try failed too.
    """
    for tried in range(tries - 1):
        try:
            return reader.read(sample.path, sample.offset, sample.num_bytes)
        except ReadError:
            time.sleep(pause * 4**tried)
    return reader.read(sample.path, sample.offset, sample.num_bytes)
