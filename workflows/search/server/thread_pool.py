"""Threads for what takes time, so that the loop of a server never waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class BusyError(Exception):
    """There is more to do than can be done soon."""


class Pool:
    """A few threads and a line of limited length before them."""

    def __init__(self, name: str, *, threads: int, line: int, seconds: float) -> None:
        """Start nothing yet.

        Args:
            name: Of its threads.
            threads: How many.
            line: How many may wait for one.
            seconds: How long one waits for an answer, the line included.
        """
        self._threads = ThreadPoolExecutor(threads, name)
        self._most = threads + line
        self._places = threading.Semaphore(self._most)
        self._seconds = seconds

    async def run(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call in a thread. Whoever is cancelled while it stands in line leaves it.

        Raises:
            BusyError: The line is too long, or it took too long.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError("too much is asked at once")
        try:
            job = self._threads.submit(call, *args, **options)
        except RuntimeError as e:  # closed
            self._places.release()
            raise BusyError("the server is stopping") from e
        # not when nobody waits any more: until then a thread is taken
        job.add_done_callback(lambda _: self._places.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job), self._seconds)
        except TimeoutError as e:
            raise BusyError(f"there was no answer within {self._seconds:g} s") from e

    def close(self) -> None:
        """Finish what was begun, forget what waits."""
        self._threads.shutdown(cancel_futures=True)
