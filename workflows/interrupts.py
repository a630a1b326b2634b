"""Ctrl-C and SIGTERM: either stops a command cleanly, however often it comes."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

STOPS = (signal.SIGINT, signal.SIGTERM)

REST_SECONDS = 3.0
"""What comes so soon after the first is the same wish; what comes later is one more."""

_last = float("-inf")


def listen() -> None:
    """Raise KeyboardInterrupt in the main thread for each wish to stop."""
    for stop in STOPS:
        signal.signal(stop, _interrupt)


def ignore() -> None:
    """Pay no attention any more: this process is about to end, and what it cuts off is no news."""
    logging.disable()
    warnings.simplefilter("ignore")
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)


@contextmanager
def held_back() -> Iterator[None]:
    """Let a short block come to its end first, since it tidies up."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    stopping = isinstance(sys.exception(), KeyboardInterrupt)
    held: list[int] = []
    before = {stop: signal.signal(stop, lambda number, _: held.append(number)) for stop in STOPS}
    try:
        yield
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
    if held and not stopping:
        _interrupt()


def _interrupt(*_: object) -> None:
    global _last
    now = time.monotonic()
    if now - _last > REST_SECONDS:
        _last = now
        raise KeyboardInterrupt
