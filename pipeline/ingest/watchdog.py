"""Ends a worker that a picture has hung.

A decoder that never returns cannot be interrupted: it may hold the interpreter's lock, and a
thread cannot be killed. So the worker dies by SIGALRM, whose default action needs no Python; its
nanny starts another, the scheduler sends the shard there, and a shard that lost two workers is
decoded picture by picture in a child that can be killed (`pipeline.isolate`).

The system has one alarm a process. Threads write their own deadlines down and set it to the
earliest, at most every quarter of the limit, so that a picture costs a dictionary write: one that
hangs ends the worker after 3/4 to 1 of the limit.
"""

from __future__ import annotations

import signal
import threading
import time


class Watchdog:
    """One a process. A limit of 0 watches nothing: for processes that nobody restarts."""

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._deadlines: dict[int, float] = {}
        self._lock = threading.Lock()
        self._set = 0.0

    def start(self) -> None:
        """This thread begins a picture."""
        if not self._limit:
            return
        now = time.monotonic()
        self._deadlines[threading.get_ident()] = now + self._limit
        if now - self._set > self._limit / 4:
            self._set_alarm(now)

    def rest(self) -> None:
        """This thread has no picture in hand, for longer than a moment."""
        if self._limit and self._deadlines.pop(threading.get_ident(), None) is not None:
            self._set_alarm(time.monotonic())

    def _set_alarm(self, now: float) -> None:
        with self._lock:
            self._set = now
            earliest = min(list(self._deadlines.values()), default=0.0)
            # A thousandth of a second at least: zero would switch the alarm off.
            signal.setitimer(signal.ITIMER_REAL, max(earliest - now, 1e-3) if earliest else 0.0)
