"""Has the disk read the next window of an order while rows of this one are gathered.

Rows of a window come in random order, but they fill whole chunks: who reads those in one go asks a
slow disk or a network for megabytes, and not for a row at a time.
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
from pipeline.loader.reader import Reader

THREADS = 8
"""That read ahead at once."""


class ReadAhead:
    """A thread that stays one window ahead, at most."""

    def __init__(
        self,
        windows: Iterator[tuple[int, NDArray[np.int64]]],
        readers: Sequence[Reader],
        disk: Executor,
    ) -> None:
        """Begin with the first of *windows* (`EpochOrder.windows`)."""
        self._windows = windows
        self._readers = readers
        self._disk = disk
        self._changed = threading.Condition()
        self._place = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="readahead", daemon=True)
        self._thread.start()

    def reached(self, place: int) -> None:
        """Rows up to *place* of the epoch are wanted now."""
        with self._changed:
            self._place = place
            self._changed.notify()

    def stop(self) -> None:
        """End, and wait for the end."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        before = 0
        with ThreadPoolExecutor(THREADS, "ahead") as pool:
            for place, chunks in self._windows:
                self._wait(before)
                if self._stopped:
                    return
                for reader in self._readers:
                    list(pool.map(self._read, repeat(reader), reader.missing(chunks).tolist()))
                before = place

    def _wait(self, place: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._place >= place)

    def _read(self, reader: Reader, chunk: int) -> None:
        if not self._stopped:
            with suppress(StoreError):  # who gathers hears of it
                reader.expect(chunk, self._disk)
