"""How far a run scales: listing, planning and scheduling of sets far larger than the disk at hand.

    python benchmarks/scale.py plan --rows 14197122      ImageNet-21k's listing, made up, planned
    python benchmarks/scale.py graph --rows 1281167      its shards through a real scheduler, by
                                                         tasks that sleep as long as shards may take

`plan` says seconds and peak memory of what `tesserae prepare` does between the listing and the
first picture. `graph` runs that many real Dask tasks, with the reports that real tasks return, on
that many real Dask workers of one thread each, in a few processes; it says how busy they were kept
until the tail, which is when the last task has begun. How long a task sleeps is drawn: from the
rates of the shards of a store with --store; without it from a log-normal distribution (sigma 0.2)
around 2.4 ms a row, which is made up but for its mean.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client, LocalCluster, Worker
from numpy.typing import NDArray

from cluster.config import applied_settings, silence_client_logs
from pipeline.ingest import planning
from pipeline.ingest.report import ShardReport
from pipeline.ingest.source_index import Origin
from pipeline.jobs import Job, run_jobs
from pipeline.order import row_order
from pipeline.sources.classes.store_classes import Classes
from pipeline.sources.listing import sort_listing
from pipeline.store import records
from pipeline.store.open import open_objects
from pipeline.store.options import StoreOptions

CLASSES = 21_841
HOMES = 4
"""Processes that the workers of `graph` live in."""

SECONDS_PER_ROW = 0.0024
"""Of a shard, on one core: measured by benchmarks/prepare.py."""


def main() -> int:
    """Run what was named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("plan", "graph", "home"))
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=14_197_122)
    parser.add_argument("--shard-rows", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=200, help="of graph")
    parser.add_argument("--store", type=Path, help="of graph: whose shards say how long one takes")
    parser.add_argument("--speed", type=float, default=1.0, help="of graph: sleep / this")
    args = parser.parse_args()
    {"plan": plan, "graph": graph, "home": home}[args.what](args)
    return 0


def made_up_listing(num_rows: int) -> pa.Table:
    """A listing as a folder of class folders gives it: in pieces, each class sorted."""
    per_class = -(-num_rows // CLASSES)
    pieces = []
    rng = np.random.default_rng(0)
    for place in range(CLASSES):
        count = min(per_class, num_rows - place * per_class)
        if count <= 0:
            break
        wnid = f"n{10_000_000 + place * 4_001:08d}"
        numbers = pc.cast(pa.array(np.arange(count)), pa.large_string())
        prefix, suffix = pa.scalar(f"{wnid}/{wnid}_", pa.large_string()), ".JPEG"
        key = pc.binary_join_element_wise(
            prefix, numbers, pa.scalar(suffix, pa.large_string()), pa.scalar("", pa.large_string())
        )
        key = key.take(pc.sort_indices(key))
        num_bytes = pa.array(rng.integers(5_000, 250_000, count))
        pieces.append(pa.table({"key": key, "num_bytes": num_bytes}))
    return pa.concat_tables(pieces)


def plan(args: argparse.Namespace) -> None:
    """List and plan, and say what it took."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        laps = []

        def lap(what: str) -> None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            laps.append((what, time.perf_counter() - started, peak))

        pieces = made_up_listing(args.rows)
        lap("made up")
        table = sort_listing(pieces)
        del pieces
        listed = planning.read_listing(table)
        del table
        lap("sorted, digested, classes found")
        objects = open_objects(f"{folder}/store", "train-scale")
        objects.begin()
        choices = StoreOptions(shard_rows=args.shard_rows)
        wnids = tuple(listed.wnids)
        recipe = planning.resolve_recipe(objects, choices, Classes(wnids, ("",) * len(wnids)))
        origin = Origin("made up", "folder", "/nowhere", "", listed.digest, listed.num_bytes)
        made = planning.make_plan(objects, "train", recipe, listed, origin, seed=0)
        planning.write_metadata(objects, recipe, made, choices.sizes)
        lap("planned")
        size = (Path(folder) / "store/.cache/train.rows.arrow").stat().st_size
    print(f"{made.num_rows:,} rows of {len(listed.wnids):,} classes, {made.num_shards:,} shards")
    for what, seconds, peak in laps:
        print(f"  {seconds:6.1f} s, {peak:4.2f} GiB at most: {what}")
    print(f"rows file {size / 1e9:.2f} GB")


def pretend(shard: int, seconds: float, num_rows: int) -> ShardReport:
    """A task that takes as long as a shard and says as much."""
    began = time.monotonic()
    time.sleep(seconds)
    spent = dict.fromkeys(("read", "decode", "resize", "write", "sync"), seconds / 5)
    names = tuple(f"images.zarr/train/{size}/c.{shard}.0.0.0" for size in (72, 224, 288))
    return ShardReport(
        shard=shard,
        num_rows=num_rows,
        counts={"readable": num_rows},
        seconds={**spent, "began": began, "ended": time.monotonic()},
        host="somewhere",
        written_objects=(*names, f"samples/train.parts/{shard:06d}.parquet"),
    )


def graph(args: argparse.Namespace) -> None:
    """Run a task a shard, and say what scheduler and client took, and how busy workers were."""
    num_shards = -(-args.rows // args.shard_rows)
    spread = draw_seconds(args, num_shards) / args.speed
    jobs = [
        Job(f"prepare-train-{shard:06d}", pretend, (shard, float(spread[shard]), args.shard_rows))
        for shard in row_order(num_shards, seed=0).tolist()
    ]
    silence_client_logs()
    with (
        applied_settings(),
        LocalCluster(
            n_workers=0,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
        ExitStack() as stack,
    ):
        for _ in range(HOMES):
            words = [sys.executable, __file__, "home", "--workers", str(args.workers // HOMES)]
            home = subprocess.Popen([*words, "--address", cluster.scheduler_address])
            stack.callback(home.wait)
            stack.callback(home.terminate)
        client.wait_for_workers(args.workers // HOMES * HOMES)
        me = psutil.Process()
        before = me.memory_info().rss
        cpu, wall = time.process_time(), time.perf_counter()
        reports = list(run_jobs(client, "scale", jobs))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        grown = me.memory_info().rss - before
    failed = [report for report in reports if not isinstance(report, ShardReport)]
    if failed:
        raise SystemExit(f"{len(failed)} tasks failed: {failed[0]}")
    began = np.array([report.seconds["began"] for report in reports])
    ended = np.array([report.seconds["ended"] for report in reports])
    first, tail = began.min(), began.max()
    busy = (np.minimum(ended, tail) - began).sum() / (args.workers * (tail - first))
    rows = sum(report.num_rows for report in reports)
    ideal = float(spread.sum()) / args.workers
    print(f"{num_shards:,} tasks ({rows:,} rows) on {args.workers} workers in {wall:.1f} s")
    print(f"  tasks last {spread.mean():.2f} s on average, {spread.max():.2f} s at most")
    all_at = np.sort(began)[min(args.workers, num_shards) - 1] - first
    print(f"  busy until the tail, for {tail - first:.1f} s: {busy:.1%}")
    print(f"  all at work after {all_at:.2f} s")
    print(f"  the tail: {ended.max() - tail:.1f} s")
    print(f"  the sleeping alone takes {ideal:.1f} s: {ideal / wall:.0%} of the time was work")
    print(f"  scheduler and client: {cpu:.1f} s CPU, {cpu / num_shards * 1e3:.2f} ms a task")
    print(f"  memory: {before / 2**20:.0f} MiB, grew by {grown / 2**20:.0f} MiB")


def home(args: argparse.Namespace) -> None:
    """Workers of one thread each, all in this process, until it is ended."""

    async def live() -> None:
        for _ in range(args.workers):
            await Worker(
                args.address,
                nthreads=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=0,
            )
        await asyncio.Event().wait()

    silence_client_logs()
    with applied_settings():
        asyncio.run(live())


def draw_seconds(args: argparse.Namespace, num_shards: int) -> NDArray[np.float64]:
    """How long each shard takes: (num_shards,) seconds."""
    rng = np.random.default_rng(0)
    if args.store is None:
        return rng.lognormal(0, 0.2, num_shards) * SECONDS_PER_ROW * args.shard_rows
    objects = open_objects(str(args.store))
    commits = records.load_commits(objects, records.load_plan(objects, "train")).values()
    rates = [
        sum(commit.provenance["seconds"].values()) / (commit.stop - commit.start)
        for commit in commits
    ]
    return rng.choice(np.array(rates), num_shards) * args.shard_rows


if __name__ == "__main__":
    sys.exit(main())
