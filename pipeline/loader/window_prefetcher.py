"""Reads the next window of an epoch's order ahead while rows of the current one are gathered.

Rows of a window come in random order but fill whole chunks. Reading these chunks ahead makes
megabyte requests to a slow disk or a network, instead of one request for each row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.loader.pixel_reader import RowSource

NUM_THREADS = 8
"""The number of threads that read ahead."""


class WindowPrefetcher:
    """A background thread that reads at most one window ahead of the rows being gathered."""

    def __init__(
        self,
        windows: Iterator[tuple[int, NDArray[np.int64]]],
        readers: Sequence[RowSource],
        disk: Executor,
    ) -> None:
        """Start the thread, which begins with the first window.

        Args:
            windows: Windows in order, each as its first position in the epoch and its chunks,
                (n,) int64 (`EpochOrder.windows`).
            readers: The readers whose caches are filled, one for each array.
            disk: Threads that may block on reads from the store.
        """
        self._windows = windows
        self._readers = readers
        self._disk = disk
        self._changed = threading.Condition()
        self._position = 0
        self._stopped = False
        # A daemon: an iterator that nobody closes must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="readahead", daemon=True)
        self._thread.start()

    def reached(self, position: int) -> None:
        """Report that the rows up to *position* of the epoch are being gathered; return at once.

        The background thread then reads the window after the one that contains *position*. No error
        of its reads is raised here: whoever gathers those rows meets it.

        Args:
            position: The position in the epoch, counted in rows over all ranks from 0; it must not
                decrease from call to call.
        """
        with self._changed:
            self._position = position
            self._changed.notify()

    def stop(self) -> None:
        """Stop the thread and wait until it has ended."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        previous = 0
        with ThreadPoolExecutor(NUM_THREADS, "ahead") as pool:
            for position, chunks in self._windows:
                # The second window is read at once; each later one when gathering has reached the
                # window before it.
                self._wait(previous)
                if self._stopped:
                    return
                for reader in self._readers:
                    list(
                        pool.map(
                            self._read, repeat(reader), reader.chunks_to_prefetch(chunks).tolist()
                        )
                    )
                previous = position

    def _wait(self, position: int) -> None:
        # The wait releases the lock, so `reached` and `stop` never block on reads.
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._position >= position)

    def _read(self, reader: RowSource, chunk: int) -> None:
        if not self._stopped:
            # The thread that gathers these rows meets the same error and raises it.
            with suppress(StoreError):
                reader.prefetch(chunk, self._disk)
