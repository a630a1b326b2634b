"""The number of jobs, in a simulated batch system with a simulated clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterError
from cluster.slurm import jobs
from cluster.slurm.jobs import JobPool, Jobs

STEP = 10.0


@dataclass
class SimulatedJob:
    """A job whose behaviour is decided when it is submitted."""

    name: str
    submitted: float
    waits: float = 0.0
    runs: float = 1e9
    cancelled: bool = False

    def is_queued(self, now: float) -> bool:
        """Return True if the job waits or runs."""
        return not self.cancelled and now < self.submitted + self.waits + self.runs

    def running(self, now: float) -> bool:
        """Return True if the job runs."""
        return self.is_queued(now) and now >= self.submitted + self.waits


@dataclass
class Site:
    """A batch system, and a scheduler whose workers run in its jobs."""

    make: Callable[[int, str, float], SimulatedJob]
    now: float = 0.0
    work: int = 0
    """The number of workers for which there are tasks."""
    submitted_jobs: list[SimulatedJob] = field(default_factory=list)
    refuses: Callable[[int], bool] = lambda _: False
    deaf: int = 0
    """The number of requests to cancel that are ignored."""
    busy: set[str] = field(default_factory=set)

    def submit(self, name: str) -> str:
        if self.refuses(len(self.submitted_jobs)):
            raise ClusterError("a limit of jobs is reached")
        self.submitted_jobs.append(self.make(len(self.submitted_jobs), name, self.now))
        return str(len(self.submitted_jobs) - 1)

    def queued(self) -> Mapping[str, bool]:
        return {
            str(n): job.running(self.now)
            for n, job in enumerate(self.submitted_jobs)
            if job.is_queued(self.now)
        }

    def cancel(self, numbers: Sequence[str]) -> None:
        if self.deaf:
            self.deaf -= 1
            return
        for number in numbers:
            self.submitted_jobs[int(number)].cancelled = True

    def workers_needed(self) -> int:
        return self.work

    def idle(self) -> set[str]:
        return {number for number, runs in self.queued().items() if runs} - self.busy

    def pass_time(self, pool: Jobs, seconds: float) -> None:
        """Advance the clock in steps, and update the jobs at each."""
        until = self.now + seconds
        while self.now < until:
            self.now += STEP
            pool.update(self.now, self)

    def count(self, name: str = "cpu") -> int:
        """Return the number of jobs of a kind that wait or run."""
        return sum(job.is_queued(self.now) for job in self.submitted_jobs if job.name == name)


def good(_: int, name: str, now: float) -> SimulatedJob:
    """Return a job that starts at once and never ends."""
    return SimulatedJob(name, now)


def start_jobs(site: Site, **shapes: JobPool) -> tuple[Jobs, list[str]]:
    """Submit the initial jobs of a site; return the jobs and the list of their messages."""
    messages: list[str] = []
    pool = Jobs(shapes, site, messages.append)
    pool.submit_initial()
    return pool, messages


def test_jobs_that_end_are_submitted_again() -> None:
    """Jobs are submitted again during the whole run."""
    site = Site(lambda _, name, now: SimulatedJob(name, now, runs=100))
    pool, _ = start_jobs(site, cpu=JobPool(3, 4))
    site.pass_time(pool, 1_000)
    assert site.count() == 3
    assert 24 <= len(site.submitted_jobs) <= 33


@pytest.mark.parametrize("waits", [0.0, 40.0, 4_000.0])
def test_jobs_that_always_fail_end_the_run(waits: float) -> None:
    """Few jobs are submitted, however long each waited before it failed."""
    site = Site(lambda _, name, now: SimulatedJob(name, now, waits=waits, runs=3))
    pool, _ = start_jobs(site, cpu=JobPool(1, 1))
    with pytest.raises(ClusterError, match="immediately after they start"):
        site.pass_time(pool, 100_000)
    assert len(site.submitted_jobs) == jobs.MAX_CONSECUTIVE_FAILURES


def test_overlapping_jobs_that_fail_early_end_the_run() -> None:
    """The run ends even if another job has always just started."""
    site = Site(lambda _, name, now: SimulatedJob(name, now, runs=15))
    pool, _ = start_jobs(site, cpu=JobPool(4, 1))
    with pytest.raises(ClusterError, match="immediately after they start"):
        site.pass_time(pool, 100_000)
    assert len(site.submitted_jobs) <= 4 * jobs.MAX_FAILURES_WHILE_RUNNING


def test_a_few_failed_jobs_do_not_end_a_working_run() -> None:
    """Three of fifty fail at once; later a bad machine is not tried all the time."""
    site = Site(lambda n, name, now: SimulatedJob(name, now, runs=12 if n in (3, 7, 9) else 1e9))
    pool, messages = start_jobs(site, cpu=JobPool(50, 1))
    site.pass_time(pool, 600)
    assert site.count() == 50
    assert len(messages) == 6
    site.make = lambda _, name, now: SimulatedJob(name, now, runs=5)
    site.submitted_jobs[0].cancelled = True
    site.pass_time(pool, 3_600)
    assert site.count() >= 49
    assert len(site.submitted_jobs) < 53 + 3_600 / jobs.RESUBMIT_DELAY_SECONDS + 3


def test_a_rejected_job_does_not_end_a_working_run() -> None:
    """A rejection is reported and retried later; without any other job it is an error."""
    site = Site(good, work=100, refuses=lambda n: n >= 2)
    pool, messages = start_jobs(site, cpu=JobPool(8, 1, minimum=1))
    site.pass_time(pool, 600)
    assert site.count() == 2
    assert messages.count("a limit of jobs is reached") <= 600 / jobs.RESUBMIT_DELAY_SECONDS + 1
    site.refuses = lambda _: False
    site.pass_time(pool, 2 * jobs.RESUBMIT_DELAY_SECONDS)
    assert site.count() == 8
    with pytest.raises(ClusterError, match="a limit"):
        start_jobs(Site(good, refuses=lambda _: True), cpu=JobPool(1, 1))


def test_jobs_with_work_are_not_cancelled() -> None:
    """Waiting and idle jobs are cancelled first, repeatedly until it succeeds."""
    site = Site(
        lambda n, name, now: SimulatedJob(name, now, waits=1e9 if n == 1 else 0), work=4, deaf=3
    )
    pool, _ = start_jobs(site, cpu=JobPool(4, 1, minimum=1))
    site.pass_time(pool, 100)
    assert site.count() == 4
    site.work, site.busy = 1, {"0", "3"}
    site.pass_time(pool, 200)
    assert [job.cancelled for job in site.submitted_jobs] == [False, True, True, False]
    site.busy = {"3"}
    site.pass_time(pool, 200)
    assert site.count() == 1
    assert not site.submitted_jobs[3].cancelled


def test_jobs_that_cannot_be_cancelled_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreported job would run on unnoticed."""
    monkeypatch.setattr(jobs, "CLOSE_SECONDS", 0.5)
    site = Site(good, deaf=1)
    pool, _ = start_jobs(site, cpu=JobPool(2, 1))
    assert pool.close() == []
    site = Site(good, deaf=9)
    pool, _ = start_jobs(site, cpu=JobPool(2, 1))
    assert pool.close() == ["0", "1"]


@given(
    count=st.integers(1, 6),
    least=st.integers(0, 6),
    processes=st.integers(1, 4),
    fixed=st.integers(0, 3),
    work=st.lists(st.integers(0, 40), min_size=1, max_size=5),
)
def test_the_number_of_jobs_follows_the_load(
    count: int, least: int, processes: int, fixed: int, work: list[int]
) -> None:
    """The number stays between its minimum and maximum, and fixed jobs count as capacity."""
    least = min(least, count)
    site = Site(good)
    pool, _ = start_jobs(site, gpu=JobPool(fixed, 2), cpu=JobPool(count, processes, least))
    for workers in work:
        site.work = workers
        site.pass_time(pool, 10 * STEP)
        needed = -(-max(0, workers - 2 * fixed) // processes)
        minimum = max(least, 0 if fixed else 1)
        assert site.count("cpu") == min(count, max(minimum, needed))
        assert site.count("gpu") == fixed
