"""The ranks of a world: they are placed, supervised and restarted, and leave no processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client
from distributed.core import Status

from cluster.errors import ClusterError
from cluster.local import LocalWorkers
from cluster.ranks import world as rank_world
from cluster.ranks.world import TrainingRankError, WorldConfig, run_world
from tests.commands import ROOT, wait_until

WALKING_MODULE = "tests.cluster.walking"
OURS = "TESSERAE_TEST_RANKS"
"""An environment variable that marks the workers of these tests, and their ranks."""


@pytest.fixture(scope="module", autouse=True)
def _ours() -> Iterator[None]:
    # By the nanny: a fork server that was started before knows no newer variables.
    with dask.config.set({"distributed.nanny.environ": {OURS: str(os.getpid())}}):
        yield


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Start three workers with one thread, whose ranks can import these tests; yield a client."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    with LocalWorkers(3, 1, dashboard=False) as cluster, Client(cluster.cluster) as client:
        client.wait_for_workers(3, timeout=60)
        yield client
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


class WorldLog:
    """The events and messages of a world."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.worlds: list[int] = []

    def begin(self, *arguments: object) -> rank_world.Begin:
        """Return a function that claims generations and counts them."""

        def claim(world: int) -> tuple[int, tuple[Any, ...]]:
            self.worlds.append(world)
            return len(self.worlds), arguments

        return claim

    def run(
        self,
        client: Client,
        count: int,
        entry: str,
        *arguments: object,
        save_seconds: float = 50.0,
    ) -> list[Any]:
        """Run a world with *count* ranks."""
        return run_world(
            client,
            WorldConfig(count, worker_timeout_seconds=60, save_seconds=save_seconds),
            f"{WALKING_MODULE}:{entry}",
            self.begin(*arguments),
            on_event=self.events.append,
            report=self.lines.append,
        )


def rank_processes() -> list[psutil.Process]:
    """Return all ranks of these tests; other tests may run ranks on this machine too."""
    processes = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(OURS) == str(os.getpid())
            if ours and process.cmdline()[1:3] == ["-m", "cluster.ranks.rank_process"]:
                processes.append(process)
        except psutil.Error:
            pass
    return [p for p in processes if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert wait_until(lambda: not rank_processes())


def test_each_rank_runs_once_and_emits_events(client: Client, tmp_path: Path) -> None:
    """Each rank has a process and a number of its own."""
    log = WorldLog()
    assert log.run(client, 3, "walk", tmp_path, 4) == ["done"] * 3
    assert log.worlds == [3]
    assert wait_until(lambda: len(log.events) == 12)
    steps = sorted((event["rank"], event["step"]) for event in log.events)
    assert steps == [(rank, step) for rank in range(3) for step in range(1, 5)]
    pids = {int(path.read_text()) for path in tmp_path.glob("pid-*")}
    assert len(pids) == 3
    assert os.getpid() not in pids


@pytest.mark.parametrize("victim_kind", ["rank", pytest.param("worker", marks=pytest.mark.slow)])
def test_ranks_resume_from_their_saved_state_after_a_loss(
    client: Client, tmp_path: Path, victim_kind: str
) -> None:
    """All ranks restart, since none can continue without the others."""
    log = WorldLog()
    seen: list[int] = []

    def lose() -> None:
        assert wait_until(lambda: any(event["step"] > 5 for event in log.events))
        assert wait_until((tmp_path / "pid-1-1").exists)  # ranks of a walk do not wait for others
        seen.append(len(rank_processes()))
        victim = psutil.Process(int((tmp_path / "pid-1-1").read_text()))
        (victim if victim_kind == "rank" else victim.parent()).kill()

    thread = threading.Thread(target=lose)
    thread.start()
    assert log.run(client, 2, "walk", tmp_path, 60) == ["done"] * 2
    thread.join()
    assert seen[0] >= 2  # guards have the command line of their ranks
    assert log.worlds == [2, 2]
    assert len(log.lines) == 1
    for rank in (0, 1):
        steps = [event["step"] for event in log.events if event["rank"] == rank]
        assert steps == sorted(set(steps))  # none was done again
        # What was saved just before the end may not have been said any more.
        unsaid = sorted(set(range(1, 61)) - set(steps))
        assert len(unsaid) < 10
        assert unsaid == list(range(unsaid[0], unsaid[-1] + 1)) if unsaid else True


def test_an_error_of_a_rank_reaches_the_caller(client: Client) -> None:
    """The error has the last lines of output, and the world is not restarted forever."""
    log = WorldLog()
    with pytest.raises(TrainingRankError, match="no more of this") as caught:
        log.run(client, 2, "fail")
    assert "\n" not in str(caught.value)
    assert "it was the third picture" in caught.value.tail
    assert "it was the third picture" in "".join(traceback.format_exception(caught.value))
    assert len(log.worlds) == rank_world.MAX_CONSECUTIVE_FAILURES
    with pytest.raises(TrainingRankError, match="rank 0: ended with -9"):
        log.run(client, 1, "end_by_itself")


def test_a_final_error_of_a_rank_ends_the_world(client: Client) -> None:
    """The message of the final error is raised, not the connection errors of the other ranks."""
    log = WorldLog()
    with pytest.raises(TrainingRankError) as caught:
        log.run(client, 2, "refuse")
    assert str(caught.value) == "no rate is as high as 1e30."
    assert log.worlds == [2]
    assert log.lines == []


def test_a_world_starts_with_fewer_ranks_after_a_timeout(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timeout is an error if no worker has joined at all."""
    log = WorldLog()
    config = WorldConfig(5, worker_timeout_seconds=1)
    assert (
        run_world(client, config, f"{WALKING_MODULE}:walk", log.begin(tmp_path, 1)) == ["done"] * 3
    )
    with pytest.raises(ClusterError, match="no worker with a GPU connected within 1 s"):
        run_world(client, WorldConfig(1, gpu=True, worker_timeout_seconds=1), "x:y", log.begin())


def test_missing_workers_are_reported_at_once(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line contains the workers, the timeout, the option that sets it, and the consequence."""
    monkeypatch.setattr(rank_world, "FIRST_REPORT_SECONDS", 0.0)
    monkeypatch.setattr(rank_world, "POLL_SECONDS", 0.05)
    lines: list[str] = []
    config = WorldConfig(5, batch=4, worker_timeout_seconds=0.5, timeout_option="--rank-timeout")
    log = WorldLog()
    walked = run_world(
        client, config, f"{WALKING_MODULE}:walk", log.begin(tmp_path, 1), report=lines.append
    )
    assert walked == ["done"] * 2
    assert lines == [
        "3 of 5 workers connected; waiting up to 0 s for the others (set by --rank-timeout), then"
        " training starts with 2",
        "notice: a batch of 4 cannot be divided evenly among 3 ranks: using 2. A batch size of 3"
        " or 6 would use all 3.",
    ]
    lines.clear()
    with pytest.raises(ClusterError, match="no worker with a GPU connected within 0 s"):
        run_world(
            client,
            WorldConfig(1, gpu=True, worker_timeout_seconds=0.2),
            "x:y",
            log.begin(),
            report=lines.append,
        )
    assert lines[0].startswith("0 of 1 workers with a GPU connected")
    assert lines[0].endswith("then the run fails")


@pytest.mark.parametrize(
    "victim_kind",
    ["rank", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("worker", "both"))],
)
def test_children_of_a_killed_rank_end(client: Client, tmp_path: Path, victim_kind: str) -> None:
    """The rank, its worker or both may be killed."""
    log = WorldLog()
    monkey_failures = rank_world.MAX_CONSECUTIVE_FAILURES
    rank_world.MAX_CONSECUTIVE_FAILURES = 1
    caught: list[BaseException] = []

    def work() -> None:
        try:
            log.run(client, 1, "start_others", tmp_path, save_seconds=1.0)
        except ClusterError as e:
            caught.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert wait_until((tmp_path / "child-0").exists)
        assert wait_until(lambda: len((tmp_path / "child-0").read_text().split()) == 2)
        pid, child = map(int, (tmp_path / "child-0").read_text().split())
        rank = psutil.Process(pid)
        worker = rank.parent()
        for process in {"rank": [rank], "worker": [worker], "both": [worker, rank]}[victim_kind]:
            process.send_signal(signal.SIGKILL)
        assert wait_until(lambda: not psutil.pid_exists(child))
        assert wait_until(lambda: not rank.is_running() or rank.status() == "zombie")
    finally:
        thread.join()
        rank_world.MAX_CONSECUTIVE_FAILURES = monkey_failures
    assert caught
    client.wait_for_workers(3, timeout=60)


LEAVE = """
import sys
from distributed import Client
from distributed.core import Status
from cluster.ranks.world import WorldConfig, run_world
from tests.cluster.walking import walk
from pathlib import Path
from cluster import certificates
client = Client({address!r}, security=certificates.tls_security(Path({certs!r}), ["client"]))
run_world(client, WorldConfig(2), "tests.cluster.walking:walk",
          lambda world: (1, (Path({folder!r}), 100000)))
"""


def test_ranks_save_and_stop_when_their_client_is_gone(tmp_path: Path) -> None:
    """The ranks stop within a minute, without a request."""
    from distributed import LocalCluster

    from cluster import certificates

    certs, folder = tmp_path / "certs", tmp_path / "run"
    folder.mkdir()
    certificates.write_certificates(certs, certificates.create_certificates())
    os.environ["PYTHONPATH"] = str(ROOT)
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        protocol="tls://",
        security=certificates.tls_security(certs),
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        code = LEAVE.format(address=cluster.scheduler_address, certs=str(certs), folder=str(folder))
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        try:
            assert wait_until(lambda: (folder / "1").exists() and (folder / "0").exists())
            assert len(rank_processes()) >= 2
        finally:
            process.kill()
            process.wait()
        assert wait_until(lambda: not rank_processes())
        saved = [int((folder / str(rank)).read_text()) for rank in (0, 1)]
        assert all(step > 0 for step in saved)


def test_a_paused_worker_does_not_stop_its_rank(client: Client, tmp_path: Path) -> None:
    """A worker without free memory accepts no new tasks, but continues its running ones."""
    log = WorldLog()

    def pause() -> None:
        assert wait_until(lambda: any(event["step"] > 5 for event in log.events))
        client.run(_pause)

    thread = threading.Thread(target=pause)
    thread.start()
    try:
        assert log.run(client, 1, "walk", tmp_path, 40) == ["done"]
    finally:
        thread.join()
        client.run(_resume)


def _pause(dask_worker: Any) -> None:
    dask_worker.status = Status.paused


def _resume(dask_worker: Any) -> None:
    dask_worker.status = Status.running
