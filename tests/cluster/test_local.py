"""A cluster on this machine: only its user can reach it, and it survives failures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import dask
import psutil
import pytest
from distributed import Client

from cluster import certificates, local
from cluster.broadcast import NoResponseError, broadcast
from cluster.config import allocator_environment
from cluster.dashboard.lazy import add_page
from cluster.local import LocalWorkers
from cluster.slurm.cluster import _SchedulerLoad
from tests.commands import wait_until


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalWorkers]:
    """Start a cluster with two workers, as `tesserae prepare` does."""
    with LocalWorkers(2, 1, dashboard=True) as local_cluster:
        yield local_cluster


@pytest.fixture(scope="module")
def client(cluster: LocalWorkers) -> Iterator[Client]:
    """Connect a client to the cluster."""
    with Client(cluster.cluster) as cluster_client:
        cluster_client.wait_for_workers(2, timeout=60)
        yield cluster_client


def worker_pids(client: Client) -> set[int]:
    """Return the process ids of the current workers."""
    return set(client.run(os.getpid).values())


def test_all_processes_listen_on_the_loopback_address(client: Client) -> None:
    """The scheduler, the dashboard, nannies and workers listen on no other address."""
    pids = {os.getpid(), *worker_pids(client)}
    listening = [
        connection.laddr
        for pid in pids
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 6
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_idle_jobs_are_identified_by_their_workers(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of the workers counts, not that of the caller."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert _SchedulerLoad(client).idle() == set()  # they are in no job
    numbers = dict(zip(sorted(client.run(os.getpid)), ("11", "12"), strict=True))
    for worker, number in numbers.items():
        client.run(lambda n=number: os.environ.update(SLURM_JOB_ID=n), workers=[worker])
    assert _SchedulerLoad(client).idle() == {"11", "12"}
    busy = min(numbers)
    future = client.submit(time.sleep, 5, workers=[busy], pure=False)
    try:
        assert wait_until(lambda: _SchedulerLoad(client).idle() == {"12"})
    finally:
        client.run(lambda: os.environ.pop("SLURM_JOB_ID"))
        client.cancel([future], force=True)


def test_clients_without_the_clusters_certificate_are_refused(cluster: LocalWorkers) -> None:
    """Other users of the machine can reach the loopback address too."""
    address = cluster.cluster.scheduler_address
    assert address.startswith("tls://127.0.0.1:")
    foreign = certificates.tls_security_in_memory(certificates.create_certificates())
    for where, security in [(address, foreign), (address.replace("tls:", "tcp:"), None)]:
        with pytest.raises(OSError, match=r"."):
            Client(where, security=security, timeout="5s")


def test_the_dashboard_is_loaded_on_demand() -> None:
    """The first request loads the dashboard, which serves all pages from then on."""
    code = """
import sys, urllib.request
from cluster.local import LocalWorkers
with LocalWorkers(1, 1) as made:
    assert "bokeh" not in sys.modules
    root = made.dashboard.removesuffix("status")
    for page in ("", "status", "tasks", "individual-task-stream", "static/js/bokeh.min.js"):
        with urllib.request.urlopen(root + page, timeout=30) as answer:
            print(answer.status, answer.url.removeprefix(root), b"Bokeh" in answer.read())
    try:
        urllib.request.urlopen(root + "nothing", timeout=30)
    except urllib.error.HTTPError as e:
        print(e.code)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "200 status True",
        "200 status True",
        "200 tasks True",
        "200 individual-task-stream True",
        "200 static/js/bokeh.min.js True",
        "404",
    ]


def test_workers_have_the_settings_of_the_allocator(client: Client) -> None:
    """The settings are read when a process starts, so the fork server has them."""
    for environment in client.run(lambda: dict(os.environ)).values():
        assert allocator_environment().items() <= environment.items()


def test_garbage_collection_in_workers_skips_imported_modules(client: Client) -> None:
    """Garbage collection was off only while modules were loaded."""

    def collector() -> tuple[bool, bool]:
        import gc

        return gc.isenabled(), gc.get_freeze_count() > 100_000

    assert set(client.run(collector).values()) == {(True, True)}


def test_workers_import_no_dashboard_libraries(client: Client) -> None:
    """Workers load only the libraries that decoding needs."""

    def loaded() -> set[str]:
        import sys

        return {name for name in ("bokeh", "zarr", "torch", "rich") if name in sys.modules}

    assert set().union(*client.run(loaded).values()) == set()


def test_workers_ignore_ctrl_c_and_sigterm(client: Client) -> None:
    """Terminals and batch systems signal all processes, but only the command must react."""
    before = worker_pids(client)
    for pid in before:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert client.submit(sum, [1, 2], pure=False).result(30) == 3
    assert worker_pids(client) == before


def test_a_silent_worker_does_not_delay_the_others(client: Client) -> None:
    """A suspended worker is reported, and answers again when it continues."""
    pids = client.run(os.getpid)
    silent, answering = sorted(pids)
    psutil.Process(pids[silent]).suspend()
    try:
        answers = broadcast(client, os.getpid, timeout_seconds=1)
        assert isinstance(answers[silent], OSError)
        assert answers[answering] == pids[answering]
    finally:
        psutil.Process(pids[silent]).resume()
    assert broadcast(client, os.getpid) == pids
    assert isinstance(broadcast(client, divmod, 1, 0)[answering], ZeroDivisionError)
    assert broadcast(client, os.getpid, nanny=True).keys() == pids.keys()


def test_a_builtin_without_a_signature_runs_on_all_workers(client: Client) -> None:
    """Python does not know the parameters of some builtins, which get the arguments alone."""
    assert set(broadcast(client, time.sleep, 0).values()) == {None}


def test_a_worker_that_has_left_has_no_nanny_to_ask(client: Client) -> None:
    """It may leave between the listing of workers and the call, which must not fail for others."""
    gone = "tls://127.0.0.1:1"
    answers = broadcast(client, os.getpid, workers=[gone, *client.nthreads()], nanny=True)
    assert isinstance(answers.pop(gone), NoResponseError)
    assert set(map(type, answers.values())) == {int}


def test_a_killed_worker_is_replaced(client: Client) -> None:
    """The tasks of a killed worker run again."""
    before = worker_pids(client)
    victim = next(iter(before))
    sums = [client.submit(_slowly, i, pure=False) for i in range(8)]
    os.kill(victim, signal.SIGKILL)
    assert client.gather(sums) == list(range(8))
    assert wait_until(lambda: len(client.nthreads()) == 2)
    assert len(worker_pids(client) - before) == 1


def _slowly(number: int) -> int:
    time.sleep(0.1)
    return number


def test_workers_without_a_nanny_are_replaced(
    cluster: LocalWorkers, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`maintain` replaces a worker whose nanny has ended."""
    monkeypatch.setattr(local, "MAINTENANCE_INTERVAL_SECONDS", 0.0)
    nanny = next(iter(cluster.cluster.workers.values()))

    def is_complete() -> bool:
        cluster.maintain()
        return len(client.nthreads()) == 2

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}):  # not 15 s
        client.sync(nanny.close)
        assert wait_until(lambda: len(client.nthreads()) == 1)
        assert wait_until(is_complete)


def test_no_dashboard_is_served_if_it_is_disabled() -> None:
    """Port 8787, which Dask uses by default, stays free."""
    with LocalWorkers(1, 1, dashboard=False) as quiet:
        port = quiet.cluster.scheduler.http_server.port
        assert port != local.DASHBOARD_PORT
        routes = quiet.cluster.scheduler.http_application.applications
        add_page(quiet.cluster.scheduler, "page", "no.module", None)
        assert not routes, "no bokeh application"


def test_closing_leaves_no_process() -> None:
    """A nanny that is about to start a worker does not start it."""
    before = set(multiprocessing.active_children())
    cluster = LocalWorkers(2, 1, dashboard=False)
    for nanny in cluster.cluster.workers.values():
        os.kill(nanny.process.process.pid, signal.SIGKILL)
    cluster.close()
    assert wait_until(lambda: set(multiprocessing.active_children()) <= before)


def test_a_cluster_that_cannot_be_closed_does_not_delay_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dask cannot close while a nanny starts a worker; its processes end with this one."""
    cluster = LocalWorkers(1, 1, dashboard=False)
    close = cluster.cluster.close

    def refuse(timeout: float) -> None:
        raise AssertionError("Status.starting")

    monkeypatch.setattr(cluster.cluster, "close", refuse)
    cluster.close()
    assert not cluster.cluster.shutdown_on_close, "nor is it tried when Python ends"
    close(timeout=10)


def test_a_gpu_has_a_worker_of_its_own() -> None:
    """Such a worker has the resource `GPU: 1` and sees only its device."""
    with (
        LocalWorkers(1, 1, dashboard=False, gpus=["3", "GPU-abc"]) as cluster,
        Client(cluster.cluster) as client,
    ):
        client.wait_for_workers(3, timeout=60)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        seen = client.run(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
        resources = sorted((seen[worker] or "", of["resources"]) for worker, of in workers.items())
        assert resources == [("", {}), ("3", {"GPU": 1}), ("GPU-abc", {"GPU": 1})]
        cluster._checked = -1e9
        cluster.maintain()
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 3
        assert client.submit(lambda: 7, resources={"GPU": 1}).result(30) == 7
