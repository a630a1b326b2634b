"""What a cluster of hosts costs: `tesserae prepare` on two hosts with TLS, beside one machine.

    python benchmarks/hosts.py [--data FOLDER] [--images 4000] [--rounds 5]

Hosts are network namespaces of this machine, each with a worker of one process; a third holds the
scheduler, a fourth the command. Both arms have two workers and the same disk, so what differs is
the network, the encryption, and a scheduler of its own. Each round runs both, in turn the one and
the other first, page cache warm. Rates are of the run, without start-up; `cpu` is that of the
scheduler's process. Needs root and iproute2. Without --data the photographs of TESSERAE_DATA are
used.
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
from pictureset import link_images

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cluster import certificates  # noqa: E402
from tests.cluster.hosts import Hosts, hosts, why_not  # noqa: E402

COMMAND = [sys.executable, "-m", "workflows"]


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of photographs")
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", default=["72", "224", "288"])
    parser.add_argument("--scratch", type=Path, help="where stores are written")
    args = parser.parse_args()
    if (why := why_not()) is not None:
        parser.error(why)
    data = args.data or Path(os.environ["TESSERAE_DATA"]) / "imagenet" / "train"
    with (
        tempfile.TemporaryDirectory(dir=args.scratch) as name,
        hosts("s", "w1", "w2", "c") as made,
        ExitStack() as stack,
    ):
        folder = Path(name)
        link_images(data, folder / "train", args.images)
        address, scheduler = start(made, folder, stack)
        rates: dict[str, list[float]] = {"local": [], "hosts": []}
        cpu: list[float] = []
        for turn in range(args.rounds):
            arms = ["local", "hosts"] if turn % 2 else ["hosts", "local"]
            for arm in arms:
                before = sum(scheduler.cpu_times()[:2])
                rate, shards = prepare(
                    made, folder, args.sizes, None if arm == "local" else address
                )
                rates[arm].append(rate)
                if arm == "hosts":
                    cpu.append((sum(scheduler.cpu_times()[:2]) - before) / shards)
                print(f"round {turn + 1}  {arm:<6} {rate:8.1f} images/s", flush=True)
    print(f"\n{'':<6} images/s:  max  median")
    for arm, found in rates.items():
        print(f"{arm:<6} {max(found):14.1f} {statistics.median(found):7.1f}")
    paired = [h / one for h, one in zip(rates["hosts"], rates["local"], strict=True)]
    print(f"hosts / local: {statistics.median(paired):.3f} (median of the rounds)")
    print(f"               {max(rates['hosts']) / max(rates['local']):.3f} (of the best)")
    print(f"scheduler: {statistics.median(cpu) * 1e3:.1f} CPU ms a shard")
    return 0


def start(made: Hosts, folder: Path, stack: ExitStack) -> tuple[str, psutil.Process]:
    """A scheduler and two workers; returns its address and its process."""
    certificates.write_certificates(folder / "certs", certificates.create_certificates())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TESSERAE_CERTS": str(folder / "certs")}
    address = f"tls://{made.addresses['s']}:8786"
    started = []
    for host, words in {
        "s": ["scheduler", "--host", made.addresses["s"]],
        "w1": ["worker", address, "--workers", "1"],
        "w2": ["worker", address, "--workers", "1"],
    }.items():
        with (folder / f"{host}.log").open("wb") as log:
            process = subprocess.Popen(
                made.words(host, *COMMAND, "cluster", *words), env=environment, stdout=log,
                stderr=log,
            )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.terminate)
        started.append(process)
    wait = [*COMMAND, "cluster", "wait", address, "--workers", "2"]
    subprocess.run(made.words("c", *wait), env=environment, check=True, timeout=120)
    serving = psutil.Process(started[0].pid).children()
    return address, serving[0]


def prepare(made: Hosts, folder: Path, sizes: list[str], address: str | None) -> tuple[float, int]:
    """One run; returns images a second and how many shards there were."""
    store = folder / "store"
    words = [*COMMAND, "prepare", str(folder / "train"), str(store), "--sizes", *sizes]
    words += ["--shard-rows", "256", "--workers", "2"]
    if address is not None:
        words = made.words("c", *words, "--cluster", address)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TESSERAE_CERTS": str(folder / "certs")}
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, check=True, cwd=folder
    )
    found = re.search(r"this run .*, ([\d,.]+) images/s", done.stdout)
    assert found, done.stdout
    shards = len(list((store / "commits" / "train").glob("*.json")))
    shutil.rmtree(store)
    os.sync()
    time.sleep(1)
    return float(found[1].replace(",", "")), shards


if __name__ == "__main__":
    sys.exit(main())
