"""A heartbeat that a process sends at intervals, also while it is busy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress


class Heartbeat:
    """A thread that calls a function at intervals until it is stopped."""

    def __init__(self, beat: Callable[[], None], seconds: float) -> None:
        """Start the thread.

        Args:
            beat: Function that sends the heartbeat. An OSError is ignored until the next call.
            seconds: Interval between two calls.
        """
        self._beat = beat
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait until it has ended."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            with suppress(OSError):  # a file server that is slow, for example
                self._beat()
