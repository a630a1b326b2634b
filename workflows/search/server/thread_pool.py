"""A thread pool with a bounded queue, so that slow calls never block a server's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class BusyError(Exception):
    """The pool has too many calls to answer this one soon."""


class BoundedThreadPool:
    """A number of threads, and a queue of limited length before them."""

    def __init__(
        self, name: str, *, threads: int, max_waiting: int, timeout_seconds: float
    ) -> None:
        """Create the pool; its threads start with the first calls.

        Args:
            name: The prefix of the names of the threads.
            threads: The number of threads.
            max_waiting: The number of calls that may wait for a thread.
            timeout_seconds: The seconds until a call fails, including the time in the queue.
        """
        self._threads = ThreadPoolExecutor(threads, name)
        self._capacity = threads + max_waiting
        self._slots = threading.Semaphore(self._capacity)
        self._seconds = timeout_seconds

    async def run(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call a function in a thread and return its result.

        Cancelling the coroutine removes a call that is still in the queue.

        Args:
            call: The function. An exception that it raises is raised here, but `BusyError` for a
                TimeoutError.
            args: Its positional arguments.
            options: Its keyword arguments.

        Raises:
            BusyError: The queue is full, the pool is closed, or the call timed out.
        """
        if not self._slots.acquire(blocking=False):
            raise BusyError("too many requests at once")
        try:
            job = self._threads.submit(call, *args, **options)
        except RuntimeError as e:  # the executor was shut down
            self._slots.release()
            raise BusyError("the server is stopping") from e
        # A call that timed out still occupies its thread: release the slot when it really ends.
        job.add_done_callback(lambda _: self._slots.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job), self._seconds)
        except TimeoutError as e:
            raise BusyError(f"there was no answer within {self._seconds:g} s") from e

    def close(self) -> None:
        """Wait for running calls, and cancel those in the queue."""
        self._threads.shutdown(cancel_futures=True)
