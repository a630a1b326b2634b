"""Compare `tesserae prepare` on two hosts with TLS to a local run of two workers.

    python benchmarks/hosts.py [--data FOLDER] [--images 4000] [--rounds 5]

Hosts are network namespaces of this machine: two with a worker each, a third with the scheduler and
a fourth with the command. Both runs have two workers and the same disk, so they differ in network,
encryption and the process of the scheduler. Each round runs both, in alternating order, with a warm
page cache. Rates are without start-up; the CPU time is that of the scheduler's process. Needs root
and iproute2.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
from image_set import link_images, photographs_of_tests

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cluster import certificates  # noqa: E402
from tests.cluster.hosts import Hosts, hosts, why_not  # noqa: E402

COMMAND = [sys.executable, "-m", "workflows"]


def main() -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=photographs_of_tests(),
        help="photographs in class folders (default: those of TESSERAE_DATA)",
    )
    add(
        "--images",
        type=int,
        default=4_000,
        metavar="N",
        help="number of images; photographs are repeated (default 4000)",
    )
    add("--rounds", type=int, default=5, metavar="N", help="number of rounds (default 5)")
    add(
        "--sizes",
        nargs="+",
        default=["72", "224", "288"],
        metavar="PIXELS",
        help="sizes of the store (default 72 224 288)",
    )
    add("--scratch", type=Path, metavar="FOLDER",
        help="folder for stores, on the disk to be measured (default: TMPDIR)")  # fmt: skip
    args = parser.parse_args()
    if (why := why_not()) is not None:
        parser.error(why)
    if args.data is None:
        parser.error("pass a folder of class folders of photographs: --data FOLDER")
    with (
        tempfile.TemporaryDirectory(dir=args.scratch) as name,
        hosts("s", "w1", "w2", "c") as namespaces,
        ExitStack() as stack,
    ):
        folder = Path(name)
        link_images(args.data, folder / "train", args.images)
        address, scheduler = start(namespaces, folder, stack)
        rates: dict[str, list[float]] = {"local": [], "hosts": []}
        cpu: list[float] = []
        for number in range(args.rounds):
            for kind in ["local", "hosts"] if number % 2 else ["hosts", "local"]:
                before = sum(scheduler.cpu_times()[:2])
                rate, shards = prepare(
                    namespaces, folder, args.sizes, None if kind == "local" else address
                )
                rates[kind].append(rate)
                if kind == "hosts":
                    cpu.append((sum(scheduler.cpu_times()[:2]) - before) / shards)
                print(f"round {number + 1}  {kind:<6} {rate:8.1f} images/s", flush=True)
    print(f"\n{'images/s':<10} {'max':>10} {'median':>10}")
    for kind, values in rates.items():
        print(f"{kind:<10} {max(values):10.1f} {statistics.median(values):10.1f}")
    ratios = [a / b for a, b in zip(rates["hosts"], rates["local"], strict=True)]
    print(f"hosts / local: median of the rounds {statistics.median(ratios):.3f}")
    print(f"hosts / local: ratio of the maxima {max(rates['hosts']) / max(rates['local']):.3f}")
    print(f"scheduler: {statistics.median(cpu) * 1e3:.1f} CPU ms per shard")
    return 0


def start(namespaces: Hosts, folder: Path, stack: ExitStack) -> tuple[str, psutil.Process]:
    """Start a scheduler and two workers, which *stack* ends.

    Returns:
        The address of the scheduler, and its process.
    """
    certificates.write_certificates(folder / "certs", certificates.create_certificates())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TESSERAE_CERTS": str(folder / "certs")}
    address = f"tls://{namespaces.addresses['s']}:8786"
    processes = []
    for host, arguments in {
        "s": ["scheduler", "--host", namespaces.addresses["s"]],
        "w1": ["worker", address, "--workers", "1"],
        "w2": ["worker", address, "--workers", "1"],
    }.items():
        with (folder / f"{host}.log").open("wb") as log:
            process = subprocess.Popen(
                namespaces.words(host, *COMMAND, "cluster", *arguments),
                env=environment,
                stdout=log,
                stderr=log,
            )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        processes.append(process)
    wait = [*COMMAND, "cluster", "wait", address, "--workers", "2"]
    subprocess.run(namespaces.words("c", *wait), env=environment, check=True, timeout=120)
    return address, psutil.Process(processes[0].pid).children()[0]


def prepare(
    namespaces: Hosts, folder: Path, sizes: list[str], address: str | None
) -> tuple[float, int]:
    """Prepare a store, which is then removed.

    Args:
        namespaces: The hosts.
        folder: The folder of the images and the certificates.
        sizes: The sizes of the store.
        address: The address of a scheduler; None starts local workers.

    Returns:
        Images/s, and the number of shards.
    """
    store = folder / "store"
    command = [*COMMAND, "prepare", str(folder / "train"), str(store), "--sizes", *sizes]
    command += ["--shard-rows", "256", "--workers", "2"]
    if address is not None:
        command = namespaces.words("c", *command, "--cluster", address)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TESSERAE_CERTS": str(folder / "certs")}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, cwd=folder
    )
    rate = re.search(r"this run .*, ([\d,.]+) images/s", done.stdout)
    assert rate, done.stdout
    shards = len(list((store / "commits" / "train").glob("*.json")))
    shutil.rmtree(store)
    os.sync()
    time.sleep(1)
    return float(rate[1].replace(",", "")), shards


if __name__ == "__main__":
    sys.exit(main())
