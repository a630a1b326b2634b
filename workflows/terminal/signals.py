"""Handling of SIGINT, SIGTERM and SIGHUP: each stops a command cleanly, even if repeated.

A command that was started under `nohup` keeps ignoring SIGHUP, the end of its terminal.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

DEBOUNCE_SECONDS = 3.0
"""The time after a signal during which further ones count as the same request to stop."""

_last = float("-inf")
"""The monotonic time of the last request to stop."""
_terminals: list[int] = []
"""The descriptors of standard output and error that were a terminal at the start."""


def install_handlers() -> None:
    """Install handlers that raise KeyboardInterrupt in the main thread."""
    _terminals[:] = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
    for stop in _handled_signals():
        signal.signal(stop, _interrupt)


def _handled_signals() -> list[signal.Signals]:
    """Return the signals to handle: `STOP_SIGNALS`, without SIGHUP if `nohup` ignores it."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return [stop for stop in STOP_SIGNALS if stop != signal.SIGHUP]
    return list(STOP_SIGNALS)


def ignore_all() -> None:
    """Ignore signals, log messages and warnings from now on: the process is about to exit."""
    logging.disable()
    warnings.simplefilter("ignore")
    for stop in STOP_SIGNALS:
        signal.signal(stop, signal.SIG_IGN)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Defer SIGINT, SIGTERM and SIGHUP to the end of a short block, such as one that cleans up.

    Raises:
        KeyboardInterrupt: A signal arrived in the block; raised after it, in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs signal handlers in the main thread only
        return
    interrupted = isinstance(sys.exception(), KeyboardInterrupt)
    deferred: list[int] = []
    before = {
        stop: signal.signal(stop, lambda number, _: deferred.append(number))
        for stop in _handled_signals()
    }
    try:
        yield
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
    # Inside the handling of an interrupt a further one would only repeat it. SIGHUP comes first,
    # because its handler must stop writing to the lost terminal.
    if deferred and not interrupted:
        _interrupt(signal.SIGHUP if signal.SIGHUP in deferred else deferred[0])


def _interrupt(number: int = signal.SIGINT, *_: object) -> None:
    global _last
    if number == signal.SIGHUP:
        _leave_terminal()
    now = time.monotonic()
    if now - _last > DEBOUNCE_SECONDS:
        _last = now
        raise KeyboardInterrupt


def _leave_terminal() -> None:
    """Redirect standard output and error to /dev/null if their terminal has closed.

    A write to the closed terminal would raise an error while the command saves and cleans up.
    """
    for descriptor in _terminals:
        if not os.isatty(descriptor):  # it was a terminal at the start, and has closed since
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, descriptor)
            os.close(null)
