"""The Dask tasks of a run: submitted, watched, retried and isolated.

A shard is one task, of a second or more, with a result of a few hundred bytes. Tasks have no worker
restrictions, because the scheduler does not queue restricted tasks but assigns them all at once.
They are submitted with `pure=False`, because they write.

The failures of a task, and the reactions to them:

    the source cannot be read    retried in the task, then by Dask on any free worker; then the
                                 shard is left uncommitted and the run goes on
    a worker dies                Dask runs its tasks elsewhere; a task that lost more than
                                 MAX_WORKER_LOSSES workers is submitted again, isolated, because one
                                 of its images may kill decoders; other tasks of those workers only
                                 take longer, and of the results that have been yielded at most a
                                 few are computed again
    the memory is exhausted      submitted again, isolated: an image may need more than there is
    the store cannot be written, or the source's bytes have changed
                                 the run ends, because every other task would fail as well
"""

from __future__ import annotations

import asyncio
import time
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

MAX_WORKER_LOSSES = 1
"""The lost workers after which a task still runs as it is (Dask's `allowed-failures`)."""

MAX_ISOLATED_RETRIES = 5
"""The number of resubmissions of isolated tasks: other tasks may have killed their workers."""

READ_RETRIES = 2
"""The number of times that Dask retries a task that could not read its source."""

MAX_TICK_SECONDS = 0.1
"""The maximum time between two calls of `tick`."""

_WORKERS_DIE = (
    "Something kills workers. If it is the system, for lack of memory, use fewer --workers."
)


@dataclass(frozen=True)
class Job:
    """A task to be run."""

    name: str
    """The key of the task without the name of the run."""
    call: Callable[..., Any]
    """The function that a worker calls, which Dask must be able to pickle."""
    arguments: tuple[Any, ...]
    """The positional arguments of `call`."""
    options: dict[str, Any] = field(default_factory=dict)
    """The keyword arguments of `call` and of Dask's `Client.submit`."""
    fallback: Job | None = None
    """The job that replaces this one after it has lost too many workers (default: itself)."""


@dataclass(frozen=True)
class Failed:
    """A task that failed, with its error."""

    job: Job
    """The job that was tried last: the fallback, if it came to that."""
    error: BaseException


def run_jobs(
    client: Client,
    run: str,
    jobs: Sequence[Job],
    *,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Any | Failed]:
    """Run *jobs* as Dask tasks and yield their results in the order in which they end.

    Nothing is submitted before the first item is requested; then all jobs are at once. Dask runs a
    task that raised an exception up to twice again. A job whose task lost more workers than the
    scheduler allows (one, by the setting `allowed-failures` of Tesserae's clusters), or that raised
    MemoryError, is submitted again, up to 5 times, as its `fallback` if it has one. Closing the
    iterator, or an error, cancels the tasks that have not ended.

    Args:
        client: The client of the cluster, which stays open.
        run: The name of the run, unique on the scheduler, which is part of the keys of its tasks.
        jobs: The jobs to run, with different names: `Job(name, call, arguments, options={},
            fallback=None)`, where *arguments* is a tuple and *fallback* another `Job`. Each runs
            `call(*arguments, **options)` on a worker, except that options named like a parameter of
            Dask's `Client.submit`, such as `resources`, go to that method and not to `call`. Of
            these, `key`, `pure` and `retries` may not be given.
        tick: A function without arguments that is called in the iterating thread before each wait,
            so about every 0.1 s while the caller waits for an item (default: none).

    Yields:
        For each job, what its `call` returned, which does not say of which job it is; or a
        `Failed`, with the `job` that was tried last and its `error`: the ReadError that it raised,
        or a StoreError if it went on to lose workers.

    Raises:
        TesseraeError: A task raised such an error other than a ReadError; it is raised as it is.
            For example, it could not write the store (StoreError), or the source differs from the
            plan.
        StoreError: No worker was available in time (Dask's setting
            `distributed.scheduler.no-workers-timeout`), the scheduler was lost, or a task raised
            any other exception, also a MemoryError after all retries.
    """
    tasks = _RunningTasks(client, run)
    try:
        for job in jobs:
            tasks.submit(job)
        while tasks:
            tick()
            tasks.release_lost()
            for job, outcome in tasks.pop_ended(MAX_TICK_SECONDS):
                if not isinstance(outcome, BaseException):
                    yield outcome
                elif (retry := tasks.retry_of(job, outcome)) is not None:
                    tasks.submit(retry)
                else:
                    yield _failed_or_raise(job, outcome)
    finally:
        tasks.cancel()


class _RunningTasks:
    """The tasks of a run that have not ended.

    `as_completed` is not used, because it loses a task whose worker dies before the result was
    collected, if the task then fails: the run would wait for it forever.
    """

    def __init__(self, client: Client, run: str) -> None:
        self._client = client
        self._run = run
        self._jobs: dict[str, tuple[Job, Future[Any]]] = {}
        self._ended: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._losses: Counter[str] = Counter()
        self._succeeded: list[Future[Any]] = []
        """The futures of successful tasks, held so that the dashboard counts these tasks."""
        self._looked_for_lost = time.monotonic()

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Submit a job to the scheduler."""
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
        assert loop is not None  # a client that has started has a loop
        # The result is awaited on the client's event loop, in its own thread; the queue carries it
        # to the thread that iterates.
        loop.add_callback(self._follow, key, future)

    async def _follow(self, key: str, future: Future[Any]) -> None:
        outcomes = await asyncio.gather(future, return_exceptions=True)
        self._ended.put((key, outcomes[0]))

    def pop_ended(self, seconds: float) -> Iterator[tuple[Job, Any]]:
        """Yield ended jobs with their result or error; wait up to *seconds* for the first one."""
        with suppress(Empty):
            while True:
                key, outcome = self._ended.get(timeout=seconds)
                job, future = self._jobs.pop(key)
                if not isinstance(outcome, BaseException):
                    self._succeeded.append(future)
                yield job, outcome
                seconds = 0

    def release_lost(self) -> None:
        """Release the results of successful tasks that were lost with their worker.

        Dask computes a lost result again as long as a future is held, before any task that was
        submitted later: without this, a new worker first repeats all that the lost one had done.
        """
        now = time.monotonic()
        if now - self._looked_for_lost < MAX_TICK_SECONDS:
            return  # a look at ten thousand futures takes 4 ms
        self._looked_for_lost = now
        self._succeeded = [future for future in self._succeeded if future.status != "lost"]

    def retry_of(self, job: Job, error: BaseException) -> Job | None:
        """Return the job to submit after *job* failed with *error*; None to give up."""
        if not isinstance(error, KilledWorker | MemoryError):
            return None
        retry = job.fallback or job
        self._losses[retry.name] += 1
        return retry if self._losses[retry.name] <= MAX_ISOLATED_RETRIES else None

    def cancel(self) -> None:
        """Cancel the tasks that have not ended and release the results of the others."""
        if self._jobs and self._client.status == "running":
            self._client.cancel([future for _, future in self._jobs.values()], force=True)
        self._jobs.clear()
        self._succeeded.clear()


def _failed_or_raise(job: Job, error: BaseException) -> Failed:
    if isinstance(error, KilledWorker):
        losses = (MAX_WORKER_LOSSES + 1) * (MAX_ISOLATED_RETRIES + 1)
        return Failed(job, StoreError(f"its worker died {losses} times. {_WORKERS_DIE}"))
    if isinstance(error, NoValidWorkerError):
        raise StoreError(
            "no worker was available within the time limit (no-workers-timeout). See the logs of"
            " the workers, then run the same command again to continue."
        ) from error
    if isinstance(error, ReadError):
        return Failed(job, error)
    if isinstance(error, TesseraeError):
        raise error
    if isinstance(error, CancelledError | FutureCancelledError):
        raise StoreError(
            "the scheduler was lost. Run the same command again to continue."
        ) from error
    raise StoreError(f"task {job.name} failed: {type(error).__name__}: {error}") from error
