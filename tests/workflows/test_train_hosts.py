"""One cluster of several hosts prepares and trains, from images to a trained network."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.store import records
from pipeline.store.open import open_objects
from tests.cluster.hosts import Hosts, hosts, why_not
from tests.cluster.network import Network
from tests.commands import Command, run, saboteur, wait_until
from tests.images import jpeg, linked_folder
from tests.workflows.runs.test_train import SMALL, curve, ranks, step_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(600),
]

STEPS = 150
WORDS = (
    "--steps",
    STEPS,
    "--eval-every",
    50,
    "--save-every",
    20,
    "--ranks",
    2,
    "--threads-per-rank",
    1,
    *SMALL,
)

SLOW_VAL = """
import os, time

def slow(module):
    prepare = module.prepare_shard

    def prepare_shard(work, *words, **options):
        until = time.monotonic() + 200
        while work.split == "val" and not os.path.exists({go!r}) and time.monotonic() < until:
            time.sleep(0.2)
        return prepare(work, *words, **options)

    prepare_shard.__module__, prepare_shard.__qualname__ = prepare.__module__, "prepare_shard"
    module.prepare_shard = prepare_shard

after_import("pipeline.ingest.shard_task", slow)
"""
"""Code that holds back the split val, so that it is not finished too early."""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Create four hosts: a scheduler, two workers and a client."""
    with hosts("s", "w1", "w2", "c") as machines, ExitStack() as stack:
        yield Network(machines, tmp_path, stack)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 200 images for training, and 100 others."""
    folder = tmp_path_factory.mktemp("source")
    originals = []
    for seed in range(20):
        file = folder / f"{seed}.JPEG"
        file.write_bytes(jpeg(seed, 40, 30))
        originals.append(file)
    linked_folder(folder / "set" / "train", originals, 200)
    linked_folder(folder / "set" / "val", originals[:10], 100)
    return folder / "set"


def page(machines: Hosts) -> dict[str, Any]:
    """Return the state of the scheduler's Tesserae page, as JSON."""
    code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
    words = machines.words("s", sys.executable, "-c", code, "http://127.0.0.1:8787/tesserae.json")
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    return json.loads(done.stdout) if done.returncode == 0 else {"runs": [], "curves": []}


def test_one_command_prepares_and_trains_on_other_hosts(
    network: Network, tmp_path: Path, source: Path
) -> None:
    """Ranks train on two hosts while these still decode another split; the page shows both.

    Processes listen only on the loopback address and on the address of their host. The same data,
    prepared and trained on one machine, give the same curve.
    """
    network.scheduler()
    with saboteur(tmp_path / "slow", SLOW_VAL.format(go=str(tmp_path / "go"))) as slow:
        for host in ("w1", "w2"):
            network.worker(host, "--workers", 2, extra_path=slow)
    network.wait(4)
    store, folder = tmp_path / "store", tmp_path / "run"
    command = network.client("train", "wgan", store, "--data", source, "--run", folder, *WORDS)

    assert wait_until(lambda: step_of(folder) > 10, 120), command.err
    assert records.load_finish_record(open_objects(str(store)), "val") is None
    assert wait_until(lambda: page(network.hosts)["curves"])
    state = page(network.hosts)
    assert ("val", "running") in {(run["split"], run["state"]) for run in state["runs"]}
    assert {curve["name"] for curve in state["curves"]} >= {"estimate", "generator_loss"}
    (tmp_path / "go").touch()
    for host, address in network.hosts.addresses.items():
        for bound, port in network.hosts.listening(host):
            assert bound in (address, "127.0.0.1"), (host, bound, port)
    assert command.wait(300) == 0, command.err
    assert command.gone()
    assert records.load_finish_record(open_objects(str(store)), "val") is not None

    alone = run(
        *("train", "wgan", store, "--run", tmp_path / "alone", "--held-out", "none", *WORDS),
        scratch=tmp_path,
        seconds=200,
    )
    assert alone.status == 0, alone.err
    assert curve(folder) == curve(tmp_path / "alone")


@pytest.mark.timeout(1800)
def test_twenty_faults_leave_the_same_curve(network: Network, tmp_path: Path, source: Path) -> None:
    """A rank, a worker and the client are killed, a link is cut, at random steps of five runs.

    Ranks that cannot reach each other restart where they can, on one host if necessary. The command
    resumes when it is run again after its client was killed.
    """
    store = tmp_path / "store"
    done = run("prepare", source, store, "--sizes", 16, "--no-dashboard", scratch=tmp_path)
    assert done.status == 0, done.err
    steps = 1_200  # of which hundreds are taken while a host that was cut off notices it
    words = ("train", "wgan", store, "--held-out", "none", *WORDS, "--steps", steps)
    alone = run(*words, "--run", tmp_path / "alone", scratch=tmp_path, seconds=200)
    assert alone.status == 0, alone.err
    expected = curve(tmp_path / "alone")
    assert sorted(expected) == list(range(1, steps + 1))

    network.scheduler()
    workers = {host: network.worker(host, "--workers", 2) for host in ("w1", "w2")}
    network.wait(4)
    rng = random.Random(11)
    for turn in range(5):
        folder = tmp_path / f"run{turn}"
        command = network.client(*words, "--run", folder)
        for target in rng.sample(["rank", "worker", "client", "link"], 4):
            step = step_of(folder) + rng.randrange(2, 15)
            assert passes(folder, step), command.err
            assert wait_until(lambda: len(live_ranks(workers)) == 2, 60), command.err
            host, victim = rng.choice(live_ranks(workers))
            struck = time.monotonic()
            if target == "client":
                command.process.kill()
                assert command.gone()
                assert wait_until(lambda: not live_ranks(workers), 90), "a rank was left behind"
                command = network.client(*words, "--run", folder)
            elif target == "link":
                network.hosts.cut(host)
            else:
                (psutil.Process(victim.ppid()) if target == "worker" else victim).kill()
            before = step_of(folder)
            assert passes(folder, before), command.err
            after = time.monotonic() - struck
            sys.stderr.write(f"run {turn}: {target} at step {before}: on after {after:.1f} s\n")
            network.hosts.restore(host)
        assert command.wait(300) == 0, command.err
        assert curve(folder) == expected
        assert wait_until(lambda: not live_ranks(workers), 90), "a rank was left behind"


def passes(folder: Path, step: int) -> bool:
    """Wait until the run in *folder* is beyond *step*."""
    return wait_until(lambda: step_of(folder) > step, 240)


def live_ranks(workers: dict[str, Command]) -> list[tuple[str, psutil.Process]]:
    """Return the running ranks with their hosts."""
    return [(host, rank) for host, worker in workers.items() for rank in ranks(worker)]
