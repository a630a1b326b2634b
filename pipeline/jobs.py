"""The Dask tasks of a run: submitted, watched, tried again, isolated. The only door to a client.

One task a shard, of a second or more, with a result of a few hundred bytes. Tasks carry no
restrictions: those would leave the scheduler's queue and be dealt out all at once. They say
`pure=False`, since they write.

What may go wrong with a task, and what is done:

    the source cannot be read    tried again in the task, then by Dask on whichever worker is
                                 free; then the shard is left uncommitted and the run goes on
    a worker dies                Dask runs its tasks elsewhere; one that lost ALLOWED_LOSSES + 1
                                 workers is submitted again, isolated, since a picture in it may
                                 kill decoders; its innocent neighbours just take longer so
    the memory does not suffice  a picture may need more than there is: submitted again, isolated
    the store cannot be written, or the source's bytes have changed
                                 the run ends: every other task would meet the same
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker, NoValidWorkerError

from pipeline.errors import ReadError, StoreError, TesseraeError

ALLOWED_LOSSES = 1
"""Workers a task may lose and still be run as it is: `distributed.scheduler.allowed-failures`."""

ISOLATED_TRIES = 5
"""How often an isolated task is submitted again that lost its workers too: others kill them."""

READ_RETRIES = 2
"""How often Dask runs a task again that could not read its source."""

TICK = 0.1
"""Seconds between two calls of `tick`, at most."""

_WORKERS_DIE = (
    "Something kills workers; where it is the system, for want of memory, fewer --workers help."
)


@dataclass(frozen=True)
class Job:
    """One task to be run."""

    name: str
    """Its key, without the run."""
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    isolated: Job | None = None
    """What to submit in its place when it has lost too many workers."""


@dataclass(frozen=True)
class Failed:
    """A task that did not do its work."""

    job: Job
    error: BaseException


def run_jobs(
    client: Client,
    run: str,
    jobs: Sequence[Job],
    *,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Any | Failed]:
    """Run *jobs*, and yield what each returns, or a `Failed`, as they end.

    Stopping to iterate, for whatever reason, cancels what has not ended.

    Args:
        client: The cluster.
        run: Distinguishes this run's tasks from those of another.
        jobs: What to run.
        tick: Called many times a second, to look after other things.

    Raises:
        StoreError: A task could not write the store, or found another source than was planned.
    """
    tasks = _Tasks(client, run)
    try:
        for job in jobs:
            tasks.submit(job)
        while tasks:
            tick()
            for job, outcome in tasks.ended(TICK):
                if not isinstance(outcome, BaseException):
                    yield outcome
                elif (again := tasks.again(job, outcome)) is not None:
                    tasks.submit(again)
                else:
                    yield _failed(job, outcome)
    finally:
        tasks.cancel()


class _Tasks:
    """The tasks of a run that have not ended.

    Not `as_completed`: it loses a task whose worker dies between the end of the task and the
    collecting of its result, if the task then fails, and the run would wait for it for ever.
    """

    def __init__(self, client: Client, run: str) -> None:
        self._client = client
        self._run = run
        self._jobs: dict[str, tuple[Job, Future[Any]]] = {}
        self._ended: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._losses: Counter[str] = Counter()
        self._shown: list[Future[Any]] = []
        """What has ended well: kept, since the dashboard counts only what somebody holds."""

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Hand a job to the scheduler."""
        key = f"{job.name}-{self._losses[job.name]}-{self._run}"
        future = self._client.submit(
            job.call,
            *job.arguments,
            **job.options,
            key=key,
            pure=False,
            retries=READ_RETRIES,
        )
        self._jobs[key] = (job, future)
        loop = self._client.loop
        assert loop is not None  # as in every client that was started
        loop.add_callback(self._follow, key, future)

    async def _follow(self, key: str, future: Future[Any]) -> None:
        outcomes = await asyncio.gather(future, return_exceptions=True)
        self._ended.put((key, outcomes[0]))

    def ended(self, seconds: float) -> Iterator[tuple[Job, Any]]:
        """What has ended, as (job, what it returned or raised); waits *seconds* for the first."""
        with suppress(Empty):
            while True:
                key, outcome = self._ended.get(timeout=seconds)
                job, future = self._jobs.pop(key)
                if not isinstance(outcome, BaseException):
                    self._shown.append(future)
                yield job, outcome
                seconds = 0

    def again(self, job: Job, error: BaseException) -> Job | None:
        """What to submit in place of a job that was lost; None if nothing."""
        if not isinstance(error, KilledWorker | MemoryError):
            return None
        again = job.isolated or job
        self._losses[again.name] += 1
        return again if self._losses[again.name] <= ISOLATED_TRIES else None

    def cancel(self) -> None:
        """Tell the scheduler to forget what has not ended."""
        if self._jobs and self._client.status == "running":
            self._client.cancel([future for _, future in self._jobs.values()], force=True)
        self._jobs.clear()
        self._shown.clear()


def _failed(job: Job, error: BaseException) -> Failed:
    if isinstance(error, KilledWorker):
        losses = (ALLOWED_LOSSES + 1) * (ISOLATED_TRIES + 1)
        return Failed(job, StoreError(f"its worker died {losses} times. {_WORKERS_DIE}"))
    if isinstance(error, NoValidWorkerError):
        raise StoreError(
            "no worker was left to work, for as long as is waited for one (no-workers-timeout). See"
            " their logs; then run the same command again to go on."
        ) from error
    if isinstance(error, ReadError):
        return Failed(job, error)
    if isinstance(error, TesseraeError):
        raise error
    if isinstance(error, CancelledError | FutureCancelledError):
        raise StoreError("the scheduler was lost. Run the same command again to go on.") from error
    raise StoreError(f"task {job.name} failed: {type(error).__name__}: {error}") from error
