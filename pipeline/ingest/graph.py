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
    the store cannot be written, or the source's bytes have changed
                                 the run ends: every other task would meet the same
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask.utils import parse_timedelta
from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker

from pipeline.errors import ReadError, StoreError, TesseraeError
from pipeline.ingest.shard import Work, prepare_shard

ALLOWED_LOSSES = 1
"""Workers a task may lose and still be run as it is: `distributed.scheduler.allowed-failures`."""

ISOLATED_TRIES = 5
"""How often an isolated task is submitted again that lost its workers too: others kill them."""

READ_RETRIES = 2
"""How often Dask runs a task again that could not read its source."""

TICK = 0.1
"""Seconds between two looks at what has finished."""


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


def shard_jobs(work: Work, shards: Iterable[int]) -> list[Job]:
    """The tasks that make *shards*."""

    def job(shard: int) -> Job:
        name = f"prepare-{work.split}-{shard:06d}"
        isolated = Job(f"{name}-isolated", prepare_shard, (work, shard), {"isolated": True})
        return Job(name, prepare_shard, (work, shard), isolated=isolated)

    return [job(shard) for shard in shards]


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
    pending = {f"{job.name}-{run}": job for job in jobs}
    ended = as_completed(_submit(client, pending), with_results=True, raise_errors=False)
    losses: dict[str, int] = {}
    try:
        while pending:
            tick()
            if not ended.has_ready():
                time.sleep(TICK)
                continue
            for future, result in ended.next_batch(block=False):
                job = pending.pop(future.key)
                if future.status == "finished":
                    yield result
                    continue
                error = _error(future, result)
                again = _again(job, error, losses)
                if again is None:
                    yield _failed(job, error)
                    continue
                key = f"{again.name}-{losses[again.name]}-{run}"
                pending[key] = again
                ended.update(_submit(client, {key: again}))
    finally:
        _cancel(client, ended, pending)


def _submit(client: Client, jobs: dict[str, Job]) -> list[Future[Any]]:
    return [
        client.submit(
            job.call,
            *job.arguments,
            **job.options,
            key=key,
            pure=False,
            retries=READ_RETRIES,
        )
        for key, job in jobs.items()
    ]


def _error(future: Future[Any], result: Any) -> BaseException:
    if future.status == "cancelled" or not isinstance(result, tuple):
        return StoreError(
            "the scheduler was lost. What is committed stays: run the same command again to go on."
        )
    error = result[1]
    return error if isinstance(error, BaseException) else RuntimeError(str(error))


def _again(job: Job, error: BaseException, losses: dict[str, int]) -> Job | None:
    if not isinstance(error, KilledWorker):
        return None
    again = job.isolated or job
    losses[again.name] = losses.get(again.name, 0) + 1
    return again if losses[again.name] <= ISOLATED_TRIES else None


def _failed(job: Job, error: BaseException) -> Failed:
    if isinstance(error, ReadError | KilledWorker):
        return Failed(job, error)
    if isinstance(error, TesseraeError):
        raise error
    raise StoreError(f"task {job.name} failed: {type(error).__name__}: {error}") from error


def _cancel(client: Client, ended: as_completed, pending: dict[str, Job]) -> None:
    if not pending or client.status != "running":
        return
    left = [future for future in ended.futures if not future.done()]
    client.cancel(left, force=True)
    ended.clear()


def wait_for_workers(client: Client, seconds: str = "60s") -> int:
    """Wait until there is a worker.

    Returns:
        How many threads the workers have, all together.

    Raises:
        StoreError: None came.
    """
    until = time.monotonic() + parse_timedelta(seconds)
    while time.monotonic() < until:
        threads = sum(client.nthreads().values())
        if threads:
            return int(threads)
        time.sleep(TICK)
    raise StoreError(
        f"no Dask worker came within {seconds}. Look at the scheduler's dashboard and at the"
        " workers' logs."
    )
