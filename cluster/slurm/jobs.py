"""The jobs of a batch system in which workers run: their number, and which may be cancelled."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.errors import ClusterError

MIN_JOB_SECONDS = 20.0
"""A job that ran at most this long counts as failed."""
MAX_CONSECUTIVE_FAILURES = 3
"""The number of failed jobs of one kind, in sequence, that ends the run if no other job works."""
MAX_FAILURES_WHILE_RUNNING = 12
"""The limit of failed jobs while other jobs have just started and may still succeed."""
RESUBMIT_DELAY_SECONDS = 30.0
"""The pause before another job of a kind is submitted after one failed or was rejected."""
SURPLUS_CHECKS = 3
"""The number of consecutive updates that must find a surplus before jobs are cancelled."""
CLOSE_SECONDS = 20.0
"""The timeout for the batch system to remove cancelled jobs at the end."""


class BatchSystem(Protocol):
    """The interface of a batch system."""

    def submit(self, name: str) -> str:
        """Submit a job.

        Args:
            name: The kind of job, a key of the `pools` with which `Jobs` was created.

        Returns:
            The number of the job, as text.

        Raises:
            ClusterError: The batch system rejects the job.
        """

    def queued(self) -> Mapping[str, bool] | None:
        """Return this user's queued jobs by number, True if running; None without an answer."""

    def cancel(self, numbers: Sequence[str]) -> None:
        """Cancel jobs; errors are ignored, since the caller repeats it.

        Args:
            numbers: Numbers of the jobs, some of which may have ended.
        """


class Load(Protocol):
    """The interface to the load of a Dask scheduler."""

    def workers_needed(self) -> int:
        """Return the number of workers for which there is work."""

    def idle(self) -> set[str]:
        """Return the numbers of jobs whose workers certainly have no task."""


@dataclass(frozen=True)
class JobPool:
    """The number and size of the jobs of one kind."""

    count: int
    """The number of jobs; the maximum if `minimum` is set."""
    processes: int
    """The number of workers of each job."""
    minimum: int | None = None
    """The minimum number of jobs, which grows to `count` with the load; None for always `count`."""


@dataclass
class _SubmittedJob:
    number: str
    name: str
    started: float | None = None
    leaving: bool = False


class Jobs:
    """The jobs of a run, whose number follows the load."""

    def __init__(
        self, pools: Mapping[str, JobPool], batch: BatchSystem, report: Callable[[str], None]
    ) -> None:
        """Initialise without a job; `submit_initial` submits the first ones.

        Args:
            pools: The number and size of the jobs of each kind, by its name.
            batch: The batch system.
            report: Called with one line when a job is submitted, ends, is rejected or cancelled.
        """
        self._pools = pools
        self._batch = batch
        self._report = report
        self._jobs: list[_SubmittedJob] = []
        self._failures: Counter[str] = Counter()
        self._hold_until: dict[str, float] = {}
        self._surplus_checks: Counter[str] = Counter()

    @property
    def numbers(self) -> list[str]:
        """The numbers of all jobs that may be queued."""
        return [job.number for job in self._jobs]

    def submit_initial(self) -> None:
        """Submit the initial jobs.

        Raises:
            ClusterError: The batch system rejects one.
        """
        for name, target in self._targets(None).items():
            for _ in range(target):
                self._jobs.append(_SubmittedJob(self._batch.submit(name), name))

    def update(self, now: float, load: Load | None) -> None:
        """Replace jobs that have ended, and adapt their number to the load.

        Only kinds of jobs that have a `minimum` follow the load. Nothing happens if the batch
        system does not answer.

        Call it every few seconds. Jobs are cancelled when three successive calls have found too
        many. After a job that ended within 20 seconds, or was rejected, the next one of its kind is
        submitted 30 seconds later.

        Args:
            now: The present time in seconds, of one monotonic clock for all calls.
            load: The load of the scheduler, with `workers_needed()` (the number of workers for
                which there is work) and `idle()` (the set of the numbers, as text, of jobs without
                a task); None if it is not known yet.

        Raises:
            ClusterError: Jobs end as soon as they begin, or all are rejected.
        """
        queued = self._batch.queued()
        if queued is None:
            return
        self._record(queued, now)
        for name, target in self._targets(load).items():
            active = [job for job in self._jobs if job.name == name and not job.leaving]
            if len(active) < target and now >= self._hold_until.get(name, now):
                self._add(name, target - len(active), now)
            self._surplus_checks[name] = (
                self._surplus_checks[name] + 1 if len(active) > target else 0
            )
            if load is not None and self._surplus_checks[name] >= SURPLUS_CHECKS:
                self._release(active, len(active) - target, load)
        if leaving := [job.number for job in self._jobs if job.leaving]:
            self._batch.cancel(leaving)  # repeated until it succeeds

    def close(self) -> list[str]:
        """Cancel all jobs; return the numbers of those that are still queued after a timeout."""
        deadline = time.monotonic() + CLOSE_SECONDS
        remaining = self.numbers
        while remaining:
            self._batch.cancel(remaining)
            queued = self._batch.queued()
            remaining = [number for number in remaining if queued is None or number in queued]
            if not remaining or time.monotonic() > deadline:
                break
            time.sleep(1)
        return remaining

    def _record(self, queued: Mapping[str, bool], now: float) -> None:
        any_working = False
        for job in list(self._jobs):
            if job.number in queued:
                if queued[job.number] and job.started is None:
                    job.started = now
                if job.started is not None and now - job.started > MIN_JOB_SECONDS:
                    self._failures[job.name] = 0
                    any_working = True
                continue
            self._jobs.remove(job)
            if job.leaving:
                continue
            self._report(f"job {job.number} has ended")
            if job.started is None or now - job.started <= MIN_JOB_SECONDS:
                self._failures[job.name] += 1
                self._hold_until[job.name] = now + RESUBMIT_DELAY_SECONDS
        # A job that has just started may succeed: in that case a few more failures are allowed.
        max_failures = (
            MAX_FAILURES_WHILE_RUNNING if any(queued.values()) else MAX_CONSECUTIVE_FAILURES
        )
        if not any_working and any(count >= max_failures for count in self._failures.values()):
            raise ClusterError("jobs end immediately after they start")

    def _targets(self, load: Load | None) -> dict[str, int]:
        fixed = {name: pool.count for name, pool in self._pools.items() if pool.minimum is None}
        scaled = {name: pool for name, pool in self._pools.items() if pool.minimum is not None}
        if not scaled:
            return fixed
        unassigned = 0 if load is None else load.workers_needed()
        unassigned -= sum(count * self._pools[name].processes for name, count in fixed.items())
        targets = dict(fixed)
        for name, pool in scaled.items():
            needed = -(-max(0, unassigned) // max(1, pool.processes))
            minimum_count = max(pool.minimum or 0, 0 if sum(targets.values()) else 1)
            targets[name] = min(pool.count, max(minimum_count, needed))
            unassigned -= targets[name] * pool.processes
        return targets

    def _add(self, name: str, count: int, now: float) -> None:
        for _ in range(count):
            try:
                job = _SubmittedJob(self._batch.submit(name), name)
            except ClusterError as e:
                if not self._jobs:
                    raise
                self._report(str(e))  # for example a limit on jobs: the others continue
                self._hold_until[name] = now + RESUBMIT_DELAY_SECONDS
                return
            self._jobs.append(job)
            self._report(f"submitted job {job.number}")

    def _release(self, active: Sequence[_SubmittedJob], surplus: int, load: Load) -> None:
        waiting = [job for job in active if job.started is None]
        releasable = waiting
        if len(waiting) < surplus:
            idle = load.idle()
            releasable = waiting + [
                job for job in active if job.number in idle and job not in waiting
            ]
        for job in releasable[:surplus]:
            job.leaving = True
            self._report(f"job {job.number} is cancelled: no work is left for it")
