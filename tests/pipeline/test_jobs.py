"""Every job ends once: with its result, with a `Failed`, or with the run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster
from distributed.scheduler import KilledWorker

from cluster.config import applied_settings
from cluster.local import LocalWorkers
from pipeline import jobs
from pipeline.errors import ReadError, StoreError, StoreMismatchError, TesseraeError
from pipeline.ingest.shard_jobs import shard_jobs
from pipeline.jobs import Failed, Job, run_jobs
from pipeline.store import records
from pipeline.store.open import open_objects
from tests.commands import wait_until
from tests.images import make_folder, plan_inline


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Connect to a cluster of two threads in this process."""
    with (
        applied_settings(),
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster) as connected,
    ):
        yield connected


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[LocalWorkers, Client]]:
    """Connect to a cluster of two processes that can be killed."""
    with (
        LocalWorkers(2, 1, dashboard=False) as cluster,
        Client(cluster.cluster) as connected,
    ):
        connected.wait_for_workers(1, timeout=60)
        yield cluster, connected


def square(number: int) -> int:
    return number * number


def fail(error: BaseException, folder: Path | None = None) -> None:
    if folder is not None:
        (folder / f"{time.monotonic_ns()}").touch()
    raise error


RELEASES: list[threading.Event] = []
"""Each ends the jobs of one test that wait for it, which run in threads of this process."""


@pytest.fixture
def waiting_jobs() -> Iterator[list[Job]]:
    """Yield many more jobs than threads, which end when the test has.

    A worker may start a job after its cancellation, even in the next test: it must not wait then.
    """
    number = len(RELEASES)
    RELEASES.append(threading.Event())
    yield [Job(f"wait-{n}", wait_for_release, (number,)) for n in range(30)]
    RELEASES[number].set()


def wait_for_release(number: int) -> None:
    RELEASES[number].wait(100)


class Lost(KilledWorker):
    """The error of Dask for a task that has lost too many workers."""

    def __init__(self) -> None:
        Exception.__init__(self)

    def __str__(self) -> str:
        return "Inspecting worker logs is often a good next step."


def idle(client: Client) -> bool:
    """Return True if no task waits or runs."""
    return {task.state for task in list(client.cluster.scheduler.tasks.values())} <= {"erred"}


def jobs_of(numbers: range) -> list[Job]:
    return [Job(f"square-{n:06d}", square, (n,)) for n in numbers]


def test_every_result_is_returned_once(client: Client) -> None:
    """There are many more jobs than threads, and `tick` is called in between."""
    ticks: list[int] = []
    results = list(run_jobs(client, "many", jobs_of(range(100)), tick=lambda: ticks.append(1)))
    assert sorted(results) == [n * n for n in range(100)]
    assert ticks


def test_an_empty_job_list_submits_nothing(client: Client) -> None:
    """The iterator is empty and waits for nothing."""
    assert list(run_jobs(client, "none", [])) == []


def test_the_same_job_in_another_run_runs_again(client: Client, tmp_path: Path) -> None:
    """Tasks write, so no result of another run may be reused."""

    def touch() -> None:
        (tmp_path / f"{time.monotonic_ns()}").touch()

    for run in ("first", "second"):
        list(run_jobs(client, run, [Job("touch", touch, ())]))
    assert len(list(tmp_path.iterdir())) == 2


def test_an_unreadable_source_fails_its_job_alone(client: Client, tmp_path: Path) -> None:
    """The job fails after Dask's retries, and all other jobs succeed."""
    bad = Job("bad", fail, (ReadError("cannot read x: Input/output error"), tmp_path))
    results = list(run_jobs(client, "read", [bad, *jobs_of(range(5))]))
    (failed,) = [result for result in results if isinstance(result, Failed)]
    assert failed.job is bad
    assert isinstance(failed.error, ReadError)
    assert len(results) == 6
    assert len(list(tmp_path.iterdir())) == 1 + jobs.READ_RETRIES


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (StoreError("cannot write: No space left"), StoreError, "No space left"),
        (StoreMismatchError("other bytes"), StoreMismatchError, "other bytes"),
        (ZeroDivisionError("oh"), StoreError, "task bad failed: ZeroDivisionError: oh"),
    ],
)
def test_an_error_common_to_all_jobs_ends_the_run(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    waiting_jobs: list[Job],
    error: Exception,
    kind: type[TesseraeError],
    words: str,
) -> None:
    """The run ends with one sentence, and pending tasks are cancelled."""
    monkeypatch.setattr(jobs, "READ_RETRIES", 0)  # a retry would be behind the jobs that wait
    with pytest.raises(kind, match=words):
        list(run_jobs(client, f"end-{words[:3]}", [Job("bad", fail, (error,)), *waiting_jobs]))
    assert wait_until(lambda: idle(client))


def test_closing_the_iterator_cancels_pending_jobs(client: Client, waiting_jobs: list[Job]) -> None:
    """Ctrl-C has the same effect."""
    results = run_jobs(client, "stop", [Job("square", square, (3,)), *waiting_jobs])
    assert next(results) == 9
    results.close()  # type: ignore[attr-defined]
    assert wait_until(lambda: idle(client))


def test_a_job_that_lost_its_workers_is_isolated(client: Client) -> None:
    """No other job is submitted again."""
    job = Job("bad", fail, (Lost(),), fallback=Job("bad-isolated", square, (7,)))
    assert list(run_jobs(client, "isolate", [job])) == [49]


def hungry() -> None:
    raise MemoryError


def test_a_job_that_runs_out_of_memory_is_isolated(client: Client) -> None:
    """One image may need more memory than there is, so images are then decoded one by one."""
    isolated = Job("hungry-isolated", square, (3,))
    jobs = [Job("hungry", hungry, (), fallback=isolated), Job("square", square, (2,))]
    assert sorted(run_jobs(client, "hungry", jobs)) == [4, 9]


def test_a_job_that_always_loses_its_worker_fails(client: Client, tmp_path: Path) -> None:
    """The message does not refer to worker logs that do not exist."""
    again = Job("bad-isolated", fail, (Lost(), tmp_path))
    job = Job("bad", fail, (Lost(),), fallback=again)
    (failed,) = run_jobs(client, "forever", [job])
    assert isinstance(failed, Failed)
    assert "its worker died 12 times. Something kills workers" in str(failed.error)
    tries = len(list(tmp_path.iterdir()))
    assert tries == jobs.MAX_ISOLATED_RETRIES * (1 + jobs.READ_RETRIES)


# --- with workers that die ------------------------------------------------------------------------


def die_soon(folder: str, number: int, seconds: float) -> int:
    """End this worker a moment after the task has ended, the first time."""
    mark = Path(folder) / str(number)
    if not mark.exists():
        mark.touch()
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return number


def die_at_once(folder: str, number: int, times: int) -> int:
    """End this worker in the middle of the task, the first *times* times."""
    for tried in range(times):
        mark = Path(folder) / f"{number}-{tried}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
def test_results_lost_with_their_worker_are_computed_again(
    workers: tuple[LocalWorkers, Client], tmp_path: Path
) -> None:
    """A worker may die between the end of a task and the collection of its result."""
    cluster, client = workers
    jobs = [Job(f"soon-{n:03d}", die_soon, (str(tmp_path), n, n % 7 * 0.003)) for n in range(24)]
    results = list(run_jobs(client, "soon", jobs, tick=cluster.maintain))
    assert sorted(results) == list(range(24))


def record_call(folder: str, number: int, *, wait: bool) -> int:
    """Record the worker that runs this task; if *wait*, return only once a file permits it."""
    (Path(folder) / "calls" / f"{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
    assert wait_until(lambda: not wait or (Path(folder) / "permission").exists())
    return number


@pytest.mark.slow
def test_results_that_were_yielded_are_not_computed_again(
    workers: tuple[LocalWorkers, Client], tmp_path: Path
) -> None:
    """A worker that has finished many tasks dies, and its successor goes on with the others."""
    cluster, client = workers
    (calls := tmp_path / "calls").mkdir()
    finished = 60
    jobs = [
        Job(f"recorded-{n:03d}", record_call, (str(tmp_path), n), {"wait": n >= finished})
        for n in range(finished + 8)
    ]
    yielded = run_jobs(client, "recorded", jobs, tick=cluster.maintain)
    results = [next(yielded) for _ in range(finished)]
    # Both workers wait in a later task. The one that dies has finished about half of the first 60.
    assert wait_until(lambda: len(list(calls.iterdir())) == finished + 2)
    workers_of = Counter(int(call.name.split("-")[1]) for call in calls.iterdir())
    process, lost = workers_of.most_common(1)[0]
    threading.Timer(0.3, os.kill, (process, signal.SIGKILL)).start()
    # The successor has started when a third process has been recorded.
    threading.Thread(target=_permit_after_third_process, args=(tmp_path,)).start()
    results += yielded
    assert sorted(results) == list(range(len(jobs)))
    repeated = len(list(calls.iterdir())) - len(jobs)
    assert 1 <= repeated <= 5 < lost  # the task that was cut off, and a few before the release


def _permit_after_third_process(folder: Path) -> None:
    calls = folder / "calls"
    wait_until(lambda: len({call.name.split("-")[1] for call in calls.iterdir()}) > 2)
    (folder / "permission").touch()


def test_a_job_that_kills_workers_is_isolated_and_succeeds(
    workers: tuple[LocalWorkers, Client], tmp_path: Path
) -> None:
    """The isolated job succeeds, and so do the other jobs of its workers."""
    cluster, client = workers
    deadly = Job(
        "deadly",
        die_at_once,
        (str(tmp_path), 0, 99),
        fallback=Job("deadly-isolated", square, (3,)),
    )
    results = list(run_jobs(client, "deadly", [deadly, *jobs_of(range(12))], tick=cluster.maintain))
    assert sorted(results) == sorted([9, *(n * n for n in range(12))])
    assert len(list(tmp_path.iterdir())) == jobs.MAX_WORKER_LOSSES + 1


# --- what the scheduler holds ---------------------------------------------------------------------


def test_tasks_of_a_run_stay_queued_and_small(
    workers: tuple[LocalWorkers, Client], tmp_path: Path
) -> None:
    """At most two tasks per thread are assigned, and no pixels are in Dask's memory."""
    cluster, client = workers
    store = tmp_path / "store"
    _, plan, work = plan_inline(make_folder(tmp_path / "source", 160), str(store))
    scheduler = cluster.cluster.scheduler
    seen: list[tuple[int, int]] = []
    largest = done = 0

    def look() -> None:
        nonlocal largest, done
        done = max(done, sum(task.state == "memory" for task in scheduler.tasks.values()))
        processing = sum(len(worker.processing) for worker in scheduler.workers.values())
        seen.append((processing, len(scheduler.queued)))
        largest = max([largest, *(task.nbytes for task in scheduler.tasks.values())])

    jobs = shard_jobs(work, range(plan.num_shards))
    reports = list(run_jobs(client, work.run, jobs, tick=look))
    assert {report.shard for report in reports} == set(range(plan.num_shards))
    assert max(processing for processing, _ in seen) <= 2 * 2
    assert max(queued for _, queued in seen) >= plan.num_shards // 2
    assert largest < 10_000
    assert done >= plan.num_shards - 3, "the dashboard counts what has been done"
    assert len(records.load_commits(open_objects(str(store)), plan)) == plan.num_shards


def test_keys_name_the_stage(tmp_path: Path) -> None:
    """The dashboard groups tasks by the key before the first dash and number."""
    _, _, work = plan_inline(make_folder(tmp_path / "source", 20), str(tmp_path / "store"))
    assert [job.name for job in shard_jobs(work, range(3))] == [
        "prepare-train-000000",
        "prepare-train-000001",
        "prepare-train-000002",
    ]
