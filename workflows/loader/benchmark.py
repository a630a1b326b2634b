"""The implementation of `tesserae loader`: throughput, bottleneck and shuffle quality."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import StoreError
from pipeline.store import layout, records
from pipeline.store.encoding import Encoding, fitting_encoding, parse_encoding
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from workflows.loader.emulation import most_fed
from workflows.loader.options import LoaderOptions
from workflows.loader.profiles import AcceleratorProfile, load_profiles
from workflows.terminal.formatting import bytes_text, counted, per_second, seconds_text

if TYPE_CHECKING:
    from pipeline.loader import Loader
    from pipeline.store.encoded_rows import EncodedRows

BATCH_SIZE = 256
"""The default number of rows in a batch."""

CPU_BOUND_SHARE = 0.8
"""The fraction of its threads' CPU time above which a loader counts as limited by the CPU."""


def run_loader_benchmark(options: LoaderOptions) -> int:
    """Measure a loader, and print its throughput, its bottleneck and its shuffle quality.

    Args:
        options: The parsed options of `tesserae loader`, such as `LoaderOptions(store="store",
            size=72)`, with `split`, `batch_size`, `order`, `epochs` and others. With `drop_cache`
            the files of the array are dropped from the kernel's page cache first.

    Returns:
        The exit status, 0; errors are raised.

    Raises:
        StoreError: There is no such store, split or size, the split is not finished and not
            `partial`, it has no full batch, or `drop_cache` is set for a store that is not on a
            local disk.
        TesseraeError: The profiles cannot be read.
    """
    from pipeline.loader import Loader, Reading  # imported late: --help must not load torch

    profile = _profile(options)
    encoding = _encoding(options)
    if encoding is None and options.crop is not None:
        raise ValueError(
            f"--crop is {options.crop!r}: stored images are read as they are. Pass --encoded with"
            " an encoding of the store."
        )
    batch_size = options.batch_size or (BATCH_SIZE if profile is None else profile.batch_size)
    loader = Loader(
        options.store,
        options.split,
        size=options.size,
        encoded=None if encoding is None else encoding.text,
        crop=options.crop,
        batch_size=batch_size,
        order=options.order,
        seed=options.seed,
        allow_partial=options.partial,
        reading=Reading(threads=options.threads, checksum=options.checksum),
        staging=options.staging_dir,
        rank=0,
        world=1,
    )
    if options.drop_cache:
        array = layout.array(options.split, loader.encoded or str(options.size))
        drop_page_cache(Path(options.store).expanduser() / array)
    print(
        f"{options.store}: {loader.num_rows:,} rows of {options.split} at {options.size} px,"
        f"{_decoding_text(loader)} {len(loader):,} batches of {batch_size:,}, {options.order}"
        f" order, {loader.threads} threads"
    )
    if not len(loader):
        raise StoreError(
            f"the split has no full batch of {batch_size:,} rows. Pass a smaller --batch-size."
        )
    encoded_rows = _encoded_rows(loader)
    for epoch in range(options.epochs):
        print(measure_epoch(loader, epoch, encoded_rows), flush=True)
    for line in shuffle_quality_lines(loader):
        print(line)
    if profile is not None:
        profile = replace(profile, batch_size=batch_size)
        for line in emulation_lines(loader, profile, str(options.emulate), options.emulate_seconds):
            print(line, flush=True)
    return 0


def _encoding(options: LoaderOptions) -> Encoding | None:
    """Return the encoding of the rows to decode; None reads stored images, if there are any."""
    if options.encoded is not None:
        return parse_encoding(options.encoded)
    objects = open_objects(options.store)
    done = records.load_finish_record(objects, options.split)
    sizes: set[int] = set()
    names: set[str] = set()
    if done is not None:
        sizes, names = {*done.sizes}, {*done.encoded}
    elif options.partial:
        for commit in records.load_commits(
            objects, records.load_plan(objects, options.split)
        ).values():
            sizes |= commit.sizes
            names |= commit.encoded.keys()
    if sizes or not names:
        return None
    return fitting_encoding(names, options.size)


def _decoding_text(loader: Loader) -> str:
    if loader.encoded is None or loader.crop is None:
        return ""
    from pipeline.images.crop_decode import crop_decoder

    return (
        f" {loader.crop.kind} crops of the encoded rows {parse_encoding(loader.encoded).text}"
        f" ({crop_decoder()}),"
    )


def _encoded_rows(loader: Loader) -> EncodedRows | None:
    """Return the places of the encoded rows that a loader decodes; None if it decodes none."""
    if loader.encoded is None:
        return None
    split = open_split(
        open_objects(loader.store),
        loader.split,
        (),
        encoded=[loader.encoded],
        allow_partial=loader.allow_partial,
    )
    return split.encoded[loader.encoded]


def _profile(options: LoaderOptions) -> AcceleratorProfile | None:
    if options.emulate is None:
        return None
    profiles = load_profiles(options.profiles)
    if options.emulate not in profiles:
        raise StoreError(
            f"--emulate is {options.emulate!r}: expected one of {', '.join(profiles)}. --profiles"
            " FILE adds others."
        )
    return profiles[options.emulate]


def emulation_lines(
    loader: Loader, profile: AcceleratorProfile, name: str, seconds: float
) -> Iterator[str]:
    """Yield lines on how many accelerators a loader feeds, while they are emulated.

    Args:
        loader: The loader, whose batches are those of one accelerator; it has at least one.
        profile: The accelerators.
        name: The name of the profile.
        seconds: The duration of each emulation in seconds.

    Yields:
        A line for each emulation, as it ends, and one with the result.
    """
    fed = 0
    rate = 0.0
    for emulation in most_fed(loader, profile, seconds):
        rate = max(rate, emulation.images_per_second)
        if emulation.utilisation >= profile.utilisation:
            fed = max(fed, emulation.accelerators)
        yield (
            f"{emulation.accelerators} x {name}: utilisation {emulation.utilisation:.1%},"
            f" {emulation.images_per_second:,.0f} images/s in {counted(emulation.steps, 'step')},"
            f" longest wait {seconds_text(emulation.longest_wait)}"
        )
    demand = f"{profile.images_per_second:,.0f} images/s each"
    if fed:
        yield f"feeds {fed} x {name} at {profile.utilisation:.0%} or more ({demand})"
    else:
        yield (
            f"feeds no {name} at {profile.utilisation:.0%}: {rate:,.0f} images/s are"
            f" {rate / profile.images_per_second:.0%} of what it takes ({demand})"
        )


def measure_epoch(loader: Loader, epoch: int, encoded_rows: EncodedRows | None = None) -> str:
    """Read one epoch as fast as possible, and return its rates and its bottleneck as text.

    Args:
        loader: The loader, which has at least one batch. This sets it to the start of the epoch,
            reads it to its end, and starts its counts of `readers` again.
        epoch: The number of the epoch, from 0.
        encoded_rows: The places of the encoded rows that the loader decodes (default: it reads
            stored images).

    Returns:
        One line for the terminal, with images/s, bytes of pixels or of encoded rows read per
        second, CPU milliseconds per image, the time to the first batch, and whether the CPU, the
        memory, or the disk or network limits it.
    """
    loader.set_epoch(epoch)
    loader.readers.clear()
    row_numbers = []
    first = 0.0
    cpu, started = time.process_time(), time.perf_counter()
    for batch in loader:
        first = first or time.perf_counter() - started
        row_numbers.append(batch.rows.numpy())
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    rows = sum(map(len, row_numbers))
    num_bytes = rows * sum(size * size * 3 for size in loader.sizes)
    if encoded_rows is not None:
        _, starts, stops = encoded_rows.locate(np.concatenate(row_numbers))
        num_bytes = int((stops - starts).sum())
    noun = "" if encoded_rows is None else " of encoded rows"
    return (
        f"epoch {epoch}: {per_second(rows, wall)} images/s, {bytes_text(num_bytes / wall)}/s{noun},"
        f" {cpu / rows * 1e3:.3f} CPU ms per image, first batch after {seconds_text(first)};"
        f" {_bottleneck(loader, cpu / wall)}"
    )


def _bottleneck(loader: Loader, cores: float) -> str:
    reader = max(loader.readers, key=lambda name: loader.readers[name])
    if cores >= CPU_BOUND_SHARE * min(loader.threads, len(os.sched_getaffinity(0))):
        if loader.encoded is not None:
            return "limited by the CPU, decoding"
        work = {"mapped": "copying from memory", "chunks": "unpacking chunks"}
        return f"limited by the CPU, {work.get(reader, 'reading')}"
    if reader == "mapped":
        return "limited by memory"
    if loader.encoded is not None:  # decoding that waits for a core looks like reading
        return "limited by the disk, the network or other processes on these cores"
    return "limited by the disk or the network"


def shuffle_quality_lines(loader: Loader) -> list[str]:
    """Return lines on how well the order mixes classes, and batches between epochs.

    Each figure is relative to a uniform shuffle, which scores 1.

    Args:
        loader: The loader, whose orders of epochs 0 and 1 are compared; no pixels are read. The
            figures are nan if it has no full batch.

    Returns:
        A line about pairs of one class within a batch, and, unless the order is `sequential`, one
        about pairs of rows that share a batch in both epochs. Empty for batches of one row, in
        which there are no pairs.
    """
    if loader.batch_size < 2:
        return []
    from pipeline.loader.shuffle_quality import recurring_pair_ratio, same_class_ratio

    order, after = (loader.epoch_order(epoch) for epoch in (0, 1))
    classes = same_class_ratio(order, loader.labels, loader.batch_size)
    lines = [f"same-class pairs within a batch: {classes:.2f} times a uniform shuffle"]
    if loader.order != "sequential":
        again = recurring_pair_ratio(order, after, loader.batch_size)
        lines.append(
            f"pairs that share a batch in both of two epochs: {again:.2f} times a uniform shuffle"
        )
    return lines


def drop_page_cache(folder: Path) -> None:
    """Drop files from the kernel's page cache, without changing them.

    Args:
        folder: A folder with files, such as that of an array or a group of arrays of a store; pages
            that are not on the disk yet are written first.

    Raises:
        StoreError: *folder* is not a local folder.
    """
    if not folder.is_dir():
        raise StoreError(f"--drop-cache needs a store on a local disk: {folder} is not a folder.")
    for path in filter(Path.is_file, folder.rglob("*")):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)  # the kernel drops only pages that are already on the disk
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
