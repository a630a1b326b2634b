"""How far a run scales: listing, planning and scheduling of sets far larger than the disk at hand.

    python benchmarks/scale.py plan --rows 14197122      ImageNet-21k's listing, made up, planned
    python benchmarks/scale.py graph --rows 14197122     its shards through a real scheduler, by
                                                         tasks that sleep as long as measured shards

`plan` says seconds and peak memory of what `tesserae prepare` does between the listing and the
first picture. `graph` runs that many real Dask tasks with the reports that real tasks return.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest import planning
from pipeline.ingest.graph import Job, run_jobs, wait_for_workers
from pipeline.ingest.planning import Choices
from pipeline.ingest.rows import Origin
from pipeline.ingest.shard import Report
from pipeline.order import row_order
from pipeline.sources.listing import sort_listing
from pipeline.store.objects import open_objects
from workflows.clusters import Cluster

CLASSES = 21_841
SECONDS_PER_ROW = 0.0024
"""Of a shard, on one core: measured by benchmarks/prepare.py."""


def main() -> int:
    """Run what was named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("plan", "graph"))
    parser.add_argument("--rows", type=int, default=14_197_122)
    parser.add_argument("--shard-rows", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=256, help="of graph: threads that sleep")
    parser.add_argument("--speed", type=float, default=1.0, help="of graph: sleep / this")
    args = parser.parse_args()
    (plan if args.what == "plan" else graph)(args)
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
        choices = Choices(shard_rows=args.shard_rows)
        recipe = planning.settle_recipe(objects, choices, listed.wnids, {})
        origin = Origin("made up", "folder", "/nowhere", "", listed.digest, listed.num_bytes)
        made = planning.make_plan(objects, "train", recipe, listed, origin, seed=0)
        planning.write_metadata(objects, recipe, made, choices.sizes)
        lap("planned")
        size = (Path(folder) / "store/.cache/train.rows.arrow").stat().st_size
    print(f"{made.num_rows:,} rows of {len(listed.wnids):,} classes, {made.num_shards:,} shards")
    for what, seconds, peak in laps:
        print(f"  {seconds:6.1f} s, {peak:4.2f} GiB at most: {what}")
    print(f"rows file {size / 1e9:.2f} GB")


def pretend(shard: int, seconds: float, num_rows: int) -> Report:
    """A task that takes as long as a shard and says as much."""
    time.sleep(seconds)
    names = tuple(f"images.zarr/train/{size}/c.{shard}.0.0.0" for size in (72, 224, 288))
    return Report(
        shard=shard,
        num_rows=num_rows,
        counts={"readable": num_rows},
        seconds=dict.fromkeys(("read", "decode", "resize", "write", "sync"), seconds / 5),
        host="somewhere",
        made=(*names, f"samples/train.parts/{shard:06d}.parquet"),
    )


def graph(args: argparse.Namespace) -> None:
    """Run a task a shard, and say what scheduler and client took."""
    num_shards = -(-args.rows // args.shard_rows)
    seconds = SECONDS_PER_ROW * args.shard_rows / args.speed
    spread = np.random.default_rng(0).lognormal(0, 0.2, num_shards) * seconds
    jobs = [
        Job(f"prepare-train-{shard:06d}", pretend, (shard, float(spread[shard]), args.shard_rows))
        for shard in row_order(num_shards, seed=0).tolist()
    ]
    with Cluster(workers=2, threads=args.workers // 2, dashboard=True) as cluster:
        client = cluster.client
        wait_for_workers(client)
        me = psutil.Process()
        before = me.memory_info().rss
        cpu, wall = time.process_time(), time.perf_counter()
        rows = sum(r.num_rows for r in run_jobs(client, "scale", jobs, tick=cluster.keep))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        grown = me.memory_info().rss - before
    ideal = float(spread.sum()) / args.workers
    print(f"{num_shards:,} tasks ({rows:,} rows) on {args.workers} threads in {wall:.1f} s")
    print(f"  the sleeping alone takes {ideal:.1f} s: {ideal / wall:.0%} of the time was work")
    print(f"  scheduler and client: {cpu:.1f} s CPU, {cpu / num_shards * 1e3:.2f} ms a task")
    print(f"  scheduler and client: {before / 2**20:.0f} MiB, grew by {grown / 2**20:.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
