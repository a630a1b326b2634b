"""Ctrl-C, SIGTERM and the end of a terminal: each stops a command cleanly, however often it comes.

A command that was started under `nohup` ignores the end of its terminal, as it was asked to.
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

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

REST_SECONDS = 3.0
"""What comes so soon after the first is the same wish; what comes later is one more."""

_last = float("-inf")
_terminals: list[int] = []
"""Descriptors of standard output and error that were a terminal when the command began."""


def listen() -> None:
    """Raise KeyboardInterrupt in the main thread for each wish to stop."""
    _terminals[:] = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
    for stop in _answered():
        signal.signal(stop, _interrupt)


def _answered() -> list[signal.Signals]:
    """All of `STOPS`, without the end of the terminal where `nohup` has it ignored."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return [stop for stop in STOPS if stop != signal.SIGHUP]
    return list(STOPS)


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
    before = {
        stop: signal.signal(stop, lambda number, _: held.append(number)) for stop in _answered()
    }
    try:
        yield
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
    if held and not stopping:
        _interrupt(signal.SIGHUP if signal.SIGHUP in held else held[0])


def _interrupt(number: int = signal.SIGINT, *_: object) -> None:
    global _last
    if number == signal.SIGHUP:
        _leave_terminal()
    now = time.monotonic()
    if now - _last > REST_SECONDS:
        _last = now
        raise KeyboardInterrupt


def _leave_terminal() -> None:
    """Write to nobody where standard output or error was the terminal that has ended.

    A write to it would raise an error in the midst of saving and tidying up.
    """
    for descriptor in _terminals:
        if not os.isatty(descriptor):  # it was one, until now
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, descriptor)
            os.close(null)
