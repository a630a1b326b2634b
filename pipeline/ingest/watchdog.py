"""Ends a worker that a picture has hung.

A decoder that never returns cannot be interrupted: it may hold the interpreter's lock, and a
thread cannot be killed. So the worker dies by SIGALRM, whose default action needs no Python; its
nanny starts another, the scheduler sends the shard there, and a shard that lost two workers is
decoded picture by picture in a child that can be killed (`pipeline.images.sandbox`).

The system has one alarm a process: it is set to the earliest deadline of all threads, and is off
while none of them has a picture in hand, however long they wait for a source. 2 us a picture.
"""

from __future__ import annotations

import signal
import threading
import time


class Watchdog:
    """One a process: `with watchdog:` around each picture.

    A limit of 0 seconds watches nothing: for processes that nobody restarts.
    """

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._deadlines: dict[int, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        """This thread begins a picture."""
        if self._limit:
            with self._lock:
                self._deadlines[threading.get_ident()] = time.monotonic() + self._limit
                self._set_alarm()

    def __exit__(self, *_: object) -> None:
        """It has ended, well or not."""
        if self._limit:
            with self._lock:
                del self._deadlines[threading.get_ident()]
                self._set_alarm()

    def _set_alarm(self) -> None:
        left = 0.0
        if self._deadlines:  # a thousandth of a second at least: zero switches the alarm off
            left = max(min(self._deadlines.values()) - time.monotonic(), 1e-3)
        signal.setitimer(signal.ITIMER_REAL, left)
