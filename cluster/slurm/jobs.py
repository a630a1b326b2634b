"""The jobs of a batch system that workers run in: how many there shall be, and which may go."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.errors import ClusterError

BRIEF_SECONDS = 20.0
"""A job that ran no longer did not work."""
BRIEF_JOBS = 3
"""So many of a kind, one after the other, while no other works: it is said, and not tried again."""
MANY_BRIEF_JOBS = 12
HOLD_SECONDS = 30.0
"""After a job that did not work, or was not taken, so long no other of its kind is submitted."""
SPARE_LOOKS = 3
"""So many looks in a row must find a job too many before one is let go."""
CLOSE_SECONDS = 20.0
"""So long the end waits until the batch system has let go of all jobs."""


class Batch(Protocol):
    """What is asked of a batch system."""

    def submit(self, name: str) -> str:
        """Submit a job of a kind; returns its number, or raises ClusterError."""

    def queued(self) -> Mapping[str, bool] | None:
        """Whether each of our jobs runs, by number, of those that wait or run; None = no answer."""

    def cancel(self, numbers: Sequence[str]) -> None:
        """Cancel jobs, if it can be done."""


class Load(Protocol):
    """What is asked of the scheduler."""

    def wanted(self) -> int:
        """How many workers it has work for."""

    def idle(self) -> set[str]:
        """Numbers of jobs of which it is certain that no worker has a task."""


@dataclass(frozen=True)
class Shape:
    """How many jobs of a kind there may be."""

    count: int
    processes: int
    """Workers of each."""
    least: int | None = None
    """So many at least, and up to `count` as there is work; None = always `count`."""


@dataclass
class _Job:
    number: str
    name: str
    started: float | None = None
    leaving: bool = False


class Jobs:
    """The jobs of a run."""

    def __init__(
        self, shapes: Mapping[str, Shape], batch: Batch, say: Callable[[str], None]
    ) -> None:
        self._shapes = shapes
        self._batch = batch
        self._say = say
        self._jobs: list[_Job] = []
        self._brief: Counter[str] = Counter()
        self._hold: dict[str, float] = {}
        self._spare: Counter[str] = Counter()

    @property
    def numbers(self) -> list[str]:
        """Of all that may be there."""
        return [job.number for job in self._jobs]

    def begin(self) -> None:
        """Submit the first.

        Raises:
            ClusterError: One is not taken.
        """
        for name, target in self._targets(None).items():
            for _ in range(target):
                self._jobs.append(_Job(self._batch.submit(name), name))

    def look(self, now: float, load: Load | None) -> None:
        """See what has ended, and have as many as there is work for.

        Args:
            now: Seconds of some clock.
            load: What there is to do; None = not known yet.

        Raises:
            ClusterError: Jobs end as soon as they begin, or none is taken.
        """
        there = self._batch.queued()
        if there is None:
            return
        self._note(there, now)
        for name, target in self._targets(load).items():
            mine = [job for job in self._jobs if job.name == name and not job.leaving]
            if len(mine) < target and now >= self._hold.get(name, now):
                self._add(name, target - len(mine), now)
            self._spare[name] = self._spare[name] + 1 if len(mine) > target else 0
            if load is not None and self._spare[name] >= SPARE_LOOKS:
                self._let_go(mine, len(mine) - target, load)
        if leaving := [job.number for job in self._jobs if job.leaving]:
            self._batch.cancel(leaving)  # again, if it was not heard

    def close(self) -> list[str]:
        """Cancel all; returns those that the batch system has not let go of."""
        until = time.monotonic() + CLOSE_SECONDS
        left = self.numbers
        while left:
            self._batch.cancel(left)
            there = self._batch.queued()
            left = [number for number in left if there is None or number in there]
            if not left or time.monotonic() > until:
                break
            time.sleep(1)
        return left

    def _note(self, there: Mapping[str, bool], now: float) -> None:
        works = False
        for job in list(self._jobs):
            if job.number in there:
                if there[job.number] and job.started is None:
                    job.started = now
                if job.started is not None and now - job.started > BRIEF_SECONDS:
                    self._brief[job.name] = 0
                    works = True
                continue
            self._jobs.remove(job)
            if job.leaving:
                continue
            self._say(f"job {job.number} has ended")
            if job.started is None or now - job.started <= BRIEF_SECONDS:
                self._brief[job.name] += 1
                self._hold[job.name] = now + HOLD_SECONDS
        # One that has just begun may turn out well: then a few more are tried.
        most = MANY_BRIEF_JOBS if any(there.values()) else BRIEF_JOBS
        if not works and any(count >= most for count in self._brief.values()):
            raise ClusterError("jobs end as soon as they begin")

    def _targets(self, load: Load | None) -> dict[str, int]:
        fixed = {name: shape.count for name, shape in self._shapes.items() if shape.least is None}
        scaled = {n: shape for n, shape in self._shapes.items() if shape.least is not None}
        if not scaled:
            return fixed
        left = 0 if load is None else load.wanted()
        left -= sum(count * self._shapes[name].processes for name, count in fixed.items())
        found = dict(fixed)
        for name, shape in scaled.items():
            wanted = -(-max(0, left) // max(1, shape.processes))
            least = max(shape.least or 0, 0 if sum(found.values()) else 1)
            found[name] = min(shape.count, max(least, wanted))
            left -= found[name] * shape.processes
        return found

    def _add(self, name: str, count: int, now: float) -> None:
        for _ in range(count):
            try:
                job = _Job(self._batch.submit(name), name)
            except ClusterError as e:
                if not self._jobs:
                    raise
                self._say(str(e))  # a limit on jobs, say: those that are there go on
                self._hold[name] = now + HOLD_SECONDS
                return
            self._jobs.append(job)
            self._say(f"job {job.number} is submitted")

    def _let_go(self, mine: Sequence[_Job], surplus: int, load: Load) -> None:
        waiting = [job for job in mine if job.started is None]
        free = waiting
        if len(waiting) < surplus:
            idle = load.idle()
            free = waiting + [job for job in mine if job.number in idle and job not in waiting]
        for job in free[:surplus]:
            job.leaving = True
            self._say(f"job {job.number} is let go: nothing is left for it to do")
