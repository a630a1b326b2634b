"""A heartbeat that a process sends at intervals, also while it is busy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

HEARTBEAT_INTERVAL_SECONDS = 15.0
"""The interval between two heartbeats."""
HEARTBEAT_TIMEOUT_SECONDS = 120.0
"""How long a receiver waits for a heartbeat before its workers end."""


class Heartbeat:
    """A thread that calls a function every `HEARTBEAT_INTERVAL_SECONDS` until it is stopped."""

    def __init__(self, send: Callable[[], None]) -> None:
        """Start the thread.

        Args:
            send: Function that sends the heartbeat. An OSError is ignored until the next call.
        """
        self._beat = send
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait until it has ended."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(HEARTBEAT_INTERVAL_SECONDS):
            with suppress(OSError):  # a file server that is slow, for example
                self._beat()
