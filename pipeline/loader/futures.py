"""Waiting for several pieces of work on other threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import Any


def finish_all(futures: Sequence[Future[Any]]) -> None:
    """Wait for all of *futures*, then raise the exception of the first that failed.

    All must end first: the remaining ones would write to a buffer that is already reused.

    Args:
        futures: The futures of an executor, possibly none; their results are discarded. The first
            is the first of the sequence, not in time.

    Raises:
        CancelledError: The first that failed was cancelled. Otherwise, its exception is raised as
            it is.
    """
    wait(futures)
    for future in futures:
        future.result()
