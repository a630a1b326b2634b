"""Measure planning and scheduling of data sets that are larger than the disk.

    python benchmarks/scale.py plan --rows 14197122      plan a synthetic listing of the size of
                                                         ImageNet-21k
    python benchmarks/scale.py graph --rows 1281167      run a sleeping task for each shard of
                                                         ImageNet on a real scheduler
    python benchmarks/scale.py encoded --store STORE --rows 1281167
                                                         open a split of as many encoded rows as
                                                         ImageNet has, and load batches of them

`plan` measures the time and the peak memory of the work of `tesserae prepare` between the listing
and the first image. `graph` runs a Dask task for each shard, which returns the report of a real
task, on --workers Dask workers of one thread each in a few processes. It prints the utilisation of
the workers until the last task starts. The duration of a task is drawn from those of the shards of
a store with --store, and otherwise from a log-normal distribution (sigma 0.2) around 2.4 ms per
row. Of that distribution, only the location is measured. `encoded` takes a store with a whole
shard of encoded rows (`tesserae prepare SOURCE STORE --encoded jpeg:256@90`), whose objects are
hard-linked as the shards of a split of --rows rows beside it: reads come from few files, so only
the opening, the first batch and the memory are those of a real store of this size.
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
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client, LocalCluster, Worker
from numpy.typing import NDArray

from cluster.config import applied_settings, silence_client_logs
from pipeline.ingest import planning
from pipeline.ingest.finish import planned_documents, zarr_metadata
from pipeline.ingest.report import ShardReport
from pipeline.ingest.source_index import Origin
from pipeline.jobs import Job, run_jobs
from pipeline.order import row_order
from pipeline.sources.classes.class_order import Classes
from pipeline.sources.listing import sort_listing
from pipeline.store import arrays, layout, records
from pipeline.store.encoded_shard import (
    EncodedShardComposer,
    read_row_table,
    read_rows_of_shard,
)
from pipeline.store.fingerprint import fingerprint
from pipeline.store.open import open_objects
from pipeline.store.options import StoreOptions
from pipeline.store.records import FinishRecord

CLASSES = 21_841
WORKER_PROCESSES = 4
"""The number of processes that share the workers of `graph`."""

SECONDS_PER_ROW = 0.0024
"""The time of one row of a shard on one core, as measured by benchmarks/prepare.py."""


def main() -> int:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = ("plan", "graph", "workers", "encoded", "read")
    add("benchmark", choices=names, metavar="plan|graph|encoded")
    add("--address", help=argparse.SUPPRESS)
    add(
        "--rows",
        type=int,
        default=14_197_122,
        metavar="N",
        help="number of rows (default 14197122)",
    )
    add("--shard-rows", type=int, default=1024, metavar="N", help="rows of a shard (default 1024)")
    add(
        "--workers",
        type=int,
        default=200,
        metavar="N",
        help="number of workers of graph (default 200)",
    )
    add(
        "--store",
        type=Path,
        metavar="STORE",
        help="store from whose shards graph draws the durations of its tasks, or whose encoded"
        " rows are linked",
    )
    add("--encoding", default="jpeg256@90", metavar="NAME", help="encoded rows (jpeg256@90)")
    add("--batches", type=int, default=40, metavar="N", help="number of batches (default 40)")
    add("--speed", type=float, default=1.0, metavar="FACTOR",
        help="divisor of the durations of graph's tasks (default 1)")  # fmt: skip
    args = parser.parse_args()
    run = {
        "plan": plan,
        "graph": graph,
        "workers": run_workers,
        "encoded": encoded,
        "read": read,
    }
    run[args.benchmark](args)
    return 0


def synthetic_listing(num_rows: int) -> pa.Table:
    """Return a listing as class folders give it: the classes in order, each of them sorted."""
    per_class = -(-num_rows // CLASSES)
    pieces = []
    rng = np.random.default_rng(0)
    for number in range(CLASSES):
        count = min(per_class, num_rows - number * per_class)
        if count <= 0:
            break
        wnid = f"n{10_000_000 + number * 4_001:08d}"
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
    """Plan a synthetic listing, and print the time and the peak memory of each step."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        steps = []

        def record(step: str) -> None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            steps.append((step, time.perf_counter() - started, peak))

        pieces = synthetic_listing(args.rows)
        record("the synthetic listing is complete")
        table = sort_listing(pieces)
        del pieces
        listed = planning.read_listing(table)
        del table
        record("the listing is sorted and its digest and classes are known")
        objects = open_objects(f"{folder}/store", "train-scale")
        objects.begin()
        choices = StoreOptions(shard_rows=args.shard_rows)
        wnids = tuple(listed.wnids)
        recipe = planning.resolve_recipe(objects, choices, Classes(wnids, ("",) * len(wnids)))
        origin = Origin("synthetic", "folder", "/nowhere", "", listed.digest, listed.num_bytes)
        written = planning.make_plan(objects, "train", recipe, listed, origin, seed=0)
        planning.write_metadata(objects, recipe, written, choices.sizes, {})
        record("the plan is written")
        size = (Path(folder) / "store/.cache/train.rows.arrow").stat().st_size
    rows, shards = written.num_rows, written.num_shards
    print(f"{rows:,} rows of {len(listed.wnids):,} classes, {shards:,} shards")
    for step, seconds, peak in steps:
        print(f"  after {seconds:6.1f} s, peak memory {peak:4.2f} GiB: {step}")
    print(f"  file of rows: {size / 1e9:.2f} GB")


def encoded(args: argparse.Namespace) -> None:
    """Link the encoded rows of a store as a larger split, and read that in a new process."""
    with tempfile.TemporaryDirectory(dir=args.store.parent) as folder:
        link_rows(args.store, Path(folder) / "store", args.encoding, args.rows)
        command = [sys.executable, __file__, "read", "--store", f"{folder}/store"]
        command += ["--encoding", args.encoding, "--batches", str(args.batches)]
        subprocess.run(command, check=True)


def link_rows(source: Path, target: Path, encoding: str, num_rows: int) -> None:
    """Write a finished split `train` of *num_rows* encoded rows.

    Its shard objects are hard links to whole shards of *source*, which has at least one. Its table
    is missing, which no loader reads.
    """
    objects, new = open_objects(str(source)), open_objects(str(target), "train-scale")
    recipe, old = records.load_recipe(objects), records.load_plan(objects, "train")
    plan = replace(old, num_rows=num_rows)
    planned = records.load_encoded_plan(objects, old, encoding)
    geometry = planned.geometry(plan.shard_rows)
    commits = [c for _, c in sorted(records.load_commits(objects, old).items())]
    whole = [c.encoded[encoding] for c in commits if c.stop - c.start == plan.shard_rows]
    tables = [read_row_table(objects, written, geometry) for written in whole]
    new.begin()
    offset = np.empty((num_rows, 2), np.int64)
    shape = np.empty((num_rows, 2), np.int32)
    for shard in range(plan.num_shards):
        rows, entries = plan.rows(shard), tables[shard % len(tables)]
        name = layout.encoded_shard("train", encoding, shard)
        if len(rows) == plan.shard_rows:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).hardlink_to(source / whole[shard % len(whole)].name)
        else:
            composer = EncodedShardComposer(new.create(name), geometry)
            data, shapes = read_rows_of_shard(objects, whole[0], geometry, 0, len(rows))
            entries = tables[0][: len(rows)]
            for row, (height, width) in zip(data, shapes.tolist(), strict=True):
                composer.append(row, height, width)
            composer.write_index()
            composer.finish()
        entries = entries[: len(rows)]
        first = shard * planned.span_bytes
        offset[rows.start : rows.stop, 1] = first + entries["stop"]
        offset[rows.start : rows.stop, 0] = first + np.append(0, entries["stop"][:-1])
        shape[rows.start : rows.stop, 0] = entries["height"]
        shape[rows.start : rows.stop, 1] = entries["width"]
    plans = {encoding: replace(planned, plan=plan.digest)}
    documents = [
        *planned_documents(recipe, plan, plans),
        *zarr_metadata(recipe, plan, [], plans),
        *arrays.encoded_row_arrays("train", encoding, offset, shape),
        *arrays.label_array("train", np.zeros(num_rows, np.int32)),
        *arrays.status_array("train", np.zeros(num_rows, np.uint8)),
        (layout.table("train"), b""),
    ]
    written = {fingerprint(name, data) for name, data in documents}
    derived = layout.derived("train", num_rows, ())
    derived |= layout.encoded_derived("train", num_rows, encoding)
    done = FinishRecord(
        split="train",
        recipe=recipe.digest,
        plan=plan.digest,
        num_rows=num_rows,
        sizes=(),
        counts={"readable": num_rows},
        parts="0" * 32,
        objects=tuple(record for record in written if record.name in derived),
        format=recipe.format,
        encoded=(encoding,),
    )
    for name, data in (*documents, (layout.done("train"), done.encode())):
        new.put(name, data)
    new.end()


def read(args: argparse.Namespace) -> None:
    """Open a split and load batches, and print times and memory."""
    from pipeline.loader import Loader

    process = psutil.Process()
    before = process.memory_info().rss
    started = time.perf_counter()
    loader = Loader(args.store, encoded=args.encoding, crop="resized", size=224)
    num_batches = len(loader)
    opened = time.perf_counter() - started
    held = process.memory_info().rss - before
    print(f"{loader.num_rows:,} rows opened in {opened:.2f} s, {held / 2**20:,.0f} MiB")
    batches = iter(loader)
    started = time.perf_counter()
    next(batches)
    print(f"first of {num_batches:,} batches after {time.perf_counter() - started:.2f} s")
    started, cpu = time.perf_counter(), time.process_time()
    for _ in range(args.batches):
        next(batches)
    rate = args.batches * 256 / (time.perf_counter() - started)
    cpu = (time.process_time() - cpu) / (args.batches * 256)
    held = process.memory_info().rss - before
    print(f"then {rate:,.0f} images/s, {cpu * 1e3:.3f} CPU ms per image; {held / 2**20:,.0f} MiB")


def sleeping_task(shard: int, seconds: float, num_rows: int) -> ShardReport:
    """Sleep as long as a shard takes, and return a report as large as that of a real task."""
    began = time.monotonic()
    time.sleep(seconds)
    stages = dict.fromkeys(("read", "decode", "resize", "write", "sync"), seconds / 5)
    names = tuple(f"images.zarr/train/{size}/c.{shard}.0.0.0" for size in (72, 224, 288))
    return ShardReport(
        shard=shard,
        num_rows=num_rows,
        counts={"readable": num_rows},
        seconds={**stages, "began": began, "ended": time.monotonic()},
        host="synthetic",
        written_objects=(*names, f"samples/train.parts/{shard:06d}.parquet"),
    )


def graph(args: argparse.Namespace) -> None:
    """Run a task for each shard; print the costs of scheduler and client, and the utilisation."""
    num_shards = -(-args.rows // args.shard_rows)
    durations = draw_seconds(args, num_shards) / args.speed
    jobs = [
        Job(
            f"prepare-train-{shard:06d}",
            sleeping_task,
            (shard, float(durations[shard]), args.shard_rows),
        )
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
        for _ in range(WORKER_PROCESSES):
            count = str(args.workers // WORKER_PROCESSES)
            command = [sys.executable, __file__, "workers", "--workers", count]
            process = subprocess.Popen([*command, "--address", cluster.scheduler_address])
            stack.callback(process.wait)
            stack.callback(process.terminate)
        client.wait_for_workers(args.workers // WORKER_PROCESSES * WORKER_PROCESSES)
        process = psutil.Process()
        before = process.memory_info().rss
        cpu, wall = time.process_time(), time.perf_counter()
        reports = list(run_jobs(client, "scale", jobs))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        growth = process.memory_info().rss - before
    failed = [report for report in reports if not isinstance(report, ShardReport)]
    if failed:
        raise SystemExit(f"{len(failed)} tasks failed: {failed[0]}")
    began = np.array([report.seconds["began"] for report in reports])
    ended = np.array([report.seconds["ended"] for report in reports])
    first, tail = began.min(), began.max()
    utilisation = (np.minimum(ended, tail) - began).sum() / (args.workers * (tail - first))
    rows = sum(report.num_rows for report in reports)
    ideal = float(durations.sum()) / args.workers
    print(f"{num_shards:,} tasks ({rows:,} rows) on {args.workers} workers in {wall:.1f} s")
    print(f"  duration of a task: mean {durations.mean():.2f} s, max {durations.max():.2f} s")
    all_started = np.sort(began)[min(args.workers, num_shards) - 1] - first
    print(f"  all workers are busy after {all_started:.2f} s")
    print(f"  the last task starts after {tail - first:.1f} s")
    print(f"  utilisation until then: {utilisation:.1%}")
    print(f"  the last task ends {ended.max() - tail:.1f} s later")
    print(f"  shortest possible time {ideal:.1f} s: {ideal / wall:.0%} of the elapsed time")
    print(f"  scheduler and client: {cpu:.1f} s CPU, {cpu / num_shards * 1e3:.2f} ms per task")
    print(f"  memory: {before / 2**20:.0f} MiB, and {growth / 2**20:.0f} MiB more at the end")


def run_workers(args: argparse.Namespace) -> None:
    """Run workers of one thread each in this process, until it is ended."""

    async def run() -> None:
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
        asyncio.run(run())


def draw_seconds(args: argparse.Namespace, num_shards: int) -> NDArray[np.float64]:
    """Return the duration of the task of each shard, (num_shards,), in seconds."""
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
