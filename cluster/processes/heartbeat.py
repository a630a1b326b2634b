"""A sign of life, given again and again, whatever else a process is busy with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress


class Heartbeat:
    """Calls *beat* from a thread of its own until it is stopped."""

    def __init__(self, beat: Callable[[], None], seconds: float) -> None:
        """Start.

        Args:
            beat: May fail with an OSError: then it is tried the next time.
            seconds: Between two calls.
        """
        self._beat = beat
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait until it has."""
        self._stopped.set()
        self._thread.join()

    def _live(self) -> None:
        while not self._stopped.wait(self._seconds):
            with suppress(OSError):
                self._beat()
