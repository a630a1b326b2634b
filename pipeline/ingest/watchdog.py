"""Ends a worker whose image decoder hangs.

A decoder that never returns cannot be interrupted: it may hold the interpreter's lock, and a
thread cannot be killed. So the worker dies by SIGALRM, whose default action needs no Python; its
nanny starts another, the scheduler sends the shard there, and a shard that lost two workers is
decoded image by image in a child that can be killed (`pipeline.images.sandbox`).

A process has a single alarm: it is set to the earliest deadline of all threads, and is off while
none of them decodes an image, however long they wait for a source. The cost is 2 us per image.
"""

from __future__ import annotations

import signal
import threading
import time


class Watchdog:
    """A time limit on each image: `with watchdog:` around its decoding. Use one per process.

    A limit of 0 seconds disables it, for processes that nothing restarts.
    """

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._deadlines: dict[int, float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        """Start the time limit of this thread's image."""
        if self._limit:
            with self._lock:
                self._deadlines[threading.get_ident()] = time.monotonic() + self._limit
                self._set_alarm()

    def __exit__(self, *_: object) -> None:
        """Stop the time limit of this thread's image."""
        if self._limit:
            with self._lock:
                del self._deadlines[threading.get_ident()]
                self._set_alarm()

    def _set_alarm(self) -> None:
        left = 0.0
        # At least a millisecond, since zero would switch the alarm off. Called under the lock.
        if self._deadlines:
            left = max(min(self._deadlines.values()) - time.monotonic(), 1e-3)
        signal.setitimer(signal.ITIMER_REAL, left)
