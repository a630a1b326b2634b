"""The implementation of `tesserae loader`: throughput, bottleneck and shuffle quality."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import StoreError
from workflows.loader.options import LoaderOptions
from workflows.terminal.formatting import bytes_text, per_second, seconds_text

if TYPE_CHECKING:
    from pipeline.loader import Loader

CPU_BOUND_SHARE = 0.8
"""The fraction of its threads' CPU time from which on a loader counts as limited by the CPU."""


def run(options: LoaderOptions) -> int:
    """Measure a loader and print the results; return the exit status."""
    from pipeline.loader import Loader, Reading  # imported late: --help must not load torch

    loader = Loader(
        options.store,
        options.split,
        size=options.size,
        batch_size=options.batch_size,
        order=options.order,
        seed=options.seed,
        allow_partial=options.partial,
        reading=Reading(threads=options.threads, checksum=options.checksum),
        staging=options.staging_dir,
        rank=0,
        world=1,
    )
    if options.drop_cache:
        drop_pages(
            Path(options.store).expanduser() / "images.zarr" / options.split / str(options.size)
        )
    print(
        f"{options.store}: {loader.num_rows:,} rows of {options.split} at {options.size} px,"
        f" {len(loader):,} batches of {options.batch_size:,}, {options.order} order,"
        f" {loader.threads} threads"
    )
    if not len(loader):
        raise StoreError(
            f"the split holds not one batch of {options.batch_size:,} rows. Pass a smaller"
            " --batch-size."
        )
    for epoch in range(options.epochs):
        print(measure(loader, epoch), flush=True)
    for line in mixing(loader):
        print(line)
    return 0


def measure(loader: Loader, epoch: int) -> str:
    """Read one epoch, and return a line with its throughput and its bottleneck."""
    loader.set_epoch(epoch)
    loader.readers.clear()
    rows = 0
    first = 0.0
    cpu, started = time.process_time(), time.perf_counter()
    for batch in loader:
        first = first or time.perf_counter() - started
        rows += len(batch.rows)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    num_bytes = rows * sum(size * size * 3 for size in loader.sizes)
    return (
        f"epoch {epoch}: {per_second(rows, wall)} images/s, {bytes_text(num_bytes / wall)}/s,"
        f" {cpu / rows * 1e3:.3f} CPU ms an image, first batch after {seconds_text(first)};"
        f" {_limit(loader, cpu / wall)}"
    )


def _limit(loader: Loader, cores: float) -> str:
    reader = max(loader.readers, key=lambda name: loader.readers[name])
    if cores >= CPU_BOUND_SHARE * min(loader.threads, len(os.sched_getaffinity(0))):
        work = {"mapped": "copying from memory", "chunks": "unpacking chunks"}
        return f"limited by the CPU, {work.get(reader, 'reading')}"
    if reader == "mapped":
        return "limited by memory"
    return "limited by the disk or the network"


def mixing(loader: Loader) -> list[str]:
    """Return lines on how well the order mixes classes, and batches between epochs."""
    from pipeline.loader.shuffle_quality import recurring_pair_ratio, same_class_ratio

    order, after = (loader.epoch_order(epoch) for epoch in (0, 1))
    classes = same_class_ratio(order, loader.labels, loader.batch_size)
    lines = [f"pairs of the same class in a batch: {classes:.2f} x chance"]
    if loader.order != "sequential":
        again = recurring_pair_ratio(order, after, loader.batch_size)
        lines.append(f"pairs that share a batch again in the next epoch: {again:.2f} x chance")
    return lines


def drop_pages(folder: Path) -> None:
    """Drop the files in *folder* from the kernel's page cache, without changing them."""
    if not folder.is_dir():
        raise StoreError(f"--drop-cache needs a store on a local disk: {folder} is not a folder.")
    for path in folder.iterdir():
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)  # the kernel drops only pages that are already on the disk
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
