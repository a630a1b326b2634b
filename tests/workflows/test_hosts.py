"""A cluster of four hosts with encrypted links: its results, and the faults that it survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cluster import certificates
from tests.cluster.hosts import hosts, why_not
from tests.cluster.network import SILENCE, Network, serving_processes, worker_processes
from tests.commands import Command, committed, run, saboteur, wait_until
from tests.images import contents, linked_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(600),
]

SMALL = ("--sizes", 72, 224, "--shard-rows", 64, "--chunk-rows", 16)
IMAGES = 3_200


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images that take about half a minute."""
    folder = tmp_path_factory.mktemp("source")
    done = run("sample", folder / "few", "--images", 200, scratch=folder)
    assert done.status == 0, done.err
    originals = sorted((folder / "few" / "train").rglob("*.JPEG"))
    return linked_folder(folder / "many", originals, IMAGES)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, bytes]:
    """Return the files of a store that was prepared on one machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run("prepare", source, folder / "store", *SMALL, "--max-bad", 1, scratch=folder)
    assert done.status == 0, done.err
    return contents(folder / "store")


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Create four hosts: a scheduler, two workers and a client."""
    with hosts("s", "w1", "w2", "c") as machines, ExitStack() as stack:
        yield Network(machines, tmp_path, stack)


def prepare(network: Network, source: Path, store: Path) -> Command:
    """Start the client's command."""
    return network.client("prepare", source, store, *SMALL, "--max-bad", 1)


TAKE_TIME = """
import time

def slow(module):
    prepare = module.prepare_shard

    def prepare_shard(*words, **options):
        time.sleep(1.5)
        return prepare(*words, **options)

    prepare_shard.__module__, prepare_shard.__qualname__ = prepare.__module__, "prepare_shard"
    module.prepare_shard = prepare_shard

after_import("pipeline.ingest.shard_task", slow)
"""
"""Code that slows down shards, so that faults happen while a run lasts."""


def say(name: str, seconds: float) -> None:
    """Print a duration for a user who runs the test with -s."""
    sys.stderr.write(f"{name}: {seconds:.1f} s\n")


def test_several_hosts_give_the_same_bytes_as_one(
    network: Network, tmp_path: Path, source: Path, expected: dict[str, bytes]
) -> None:
    """Processes listen only on the addresses of their hosts and on the loopback address."""
    network.scheduler()
    network.worker("w1")
    network.worker("w2")
    say("two workers there", network.wait(2))

    command = prepare(network, source, tmp_path / "store")
    assert wait_until(lambda: committed(tmp_path / "store") > 2)
    for host, address in network.hosts.addresses.items():
        for bound, port in network.hosts.listening(host):
            assert bound in (address, "127.0.0.1"), (host, bound, port)
    assert command.wait(300) == 0, command.err

    assert contents(tmp_path / "store") == expected


def test_a_cut_link_a_killed_worker_and_a_lost_scheduler_change_no_byte(
    network: Network, tmp_path: Path, source: Path, expected: dict[str, bytes]
) -> None:
    """The worker that was cut off reconnects by itself, and the command resumes."""
    store = tmp_path / "store"
    shards = IMAGES // 64
    scheduler = network.scheduler()
    with saboteur(tmp_path / "slow", TAKE_TIME) as slow:
        network.worker("w1", extra_path=slow)
        second = network.worker("w2", extra_path=slow)
    network.wait(2)
    command = prepare(network, source, store)

    assert wait_until(lambda: committed(store) > 3)
    network.hosts.cut("w1")
    cut = time.monotonic()
    before = committed(store)
    assert wait_until(lambda: committed(store) > before + 2), command.err
    workers = worker_processes(second)
    assert workers
    workers[0].send_signal(signal.SIGKILL)
    killed, before = time.monotonic(), committed(store)
    assert wait_until(lambda: committed(store) > before), command.err
    say("first shard after the only other worker was killed", time.monotonic() - killed)
    time.sleep(max(0.0, 3 * float(SILENCE[:-1]) - (time.monotonic() - cut)))
    network.hosts.restore("w1")
    say("both workers there after the link was restored", network.wait(2))

    assert command.running()
    assert committed(store) < shards
    for process in serving_processes(scheduler):
        process.kill()
    killed = time.monotonic()
    assert command.wait(60) == 1
    assert "the scheduler was lost" in command.err
    say("the command ended after the scheduler was killed", time.monotonic() - killed)
    network.wait(2)
    say("both workers there after the scheduler was killed", time.monotonic() - killed)
    command = prepare(network, source, store)
    assert command.wait(300) == 0, command.err

    assert contents(store) == expected


def test_workers_retire_without_disturbing_the_run(
    network: Network, tmp_path: Path, source: Path, expected: dict[str, bytes]
) -> None:
    """Workers end after their lifetime, or on a request of the batch system."""
    store = tmp_path / "store"
    network.scheduler()
    with saboteur(tmp_path / "slow", TAKE_TIME) as slow:
        first = network.worker("w1", "--lifetime", "8s", extra_path=slow)
        second = network.worker("w2", extra_path=slow)
    network.wait(2)
    command = prepare(network, source, store)
    for terminate, worker in ((False, first), (True, second)):
        before = committed(store)
        assert wait_until(lambda before=before: committed(store) > before), command.err
        working = worker_processes(worker)
        if terminate:
            for process in serving_processes(worker):
                process.terminate()
        assert wait_until(lambda processes=working: not any(p.is_running() for p in processes))
        assert wait_until(lambda worker=worker: worker_processes(worker))
    assert command.running()
    assert command.wait(300) == 0
    assert command.err == ""
    assert contents(store) == expected


def test_clients_without_a_certificate_are_refused(network: Network, tmp_path: Path) -> None:
    """Missing and foreign certificates and unencrypted connections are one-line errors."""
    (tmp_path / "source" / "a").mkdir(parents=True)
    network.scheduler()
    network.worker("w1")
    network.wait(1)
    certificates.write_certificates(tmp_path / "foreign", certificates.create_certificates())
    port = network.address.rpartition("://")[2]
    for words, says in [
        (("--certs", tmp_path / "foreign"), "presents a certificate of another authority"),
        (("--certs", tmp_path / "nothing"), "does not exist"),
        (("--insecure",), "does not answer"),
    ]:
        address = f"tcp://{port}" if "--insecure" in words else network.address
        client = network.start("c", "client", "cluster", "wait", address, *words, "--timeout", 5)
        assert client.wait(60) == 1
        assert says in client.err
    code = f"""
from distributed import Client
Client("tcp://{port}", timeout="5s")
"""
    plain = subprocess.run(
        network.hosts.words("c", sys.executable, "-c", code),
        capture_output=True, text=True, timeout=60, env={**os.environ}, check=False,
    )  # fmt: skip
    assert plain.returncode
