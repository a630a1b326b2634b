"""Measure how fast `tesserae features` runs a network over a store, and compare it with a loop.

    python benchmarks/features.py [--data FOLDER] [--trunk FOLDER] [--images 1000] [--rounds 3]

The photographs are prepared at 224 px once. Each round runs every method once, one after the other,
over the same rows, with a warm page cache, on --workers cores:

    whole        `tesserae features`; the CPU time of client, scheduler and workers is counted
    steady       the difference of `whole` and `start`, a run over one image
    processes    a loop in --workers processes of one thread each, over one memory-mapped array of
                 pixels, in batches of --batch; the first batch is not measured
    threads      the same loop in one process, with --workers threads of torch
    processes 8  as `processes`, in batches of 8, like those of `tesserae features`

All loops run the network channels-last and keep its outputs, which are compared with those of
`tesserae features`. Ratios are those of medians.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from image_set import ROOT, link_images, photographs_of_tests, prepare, write_pixels
from prepare import PR_SET_CHILD_SUBREAPER, Measurement, cpu_seconds, reap_orphans, without_start

SMALL_BATCH = 8
"""The number of images that `tesserae features` computes at a time."""


# --- The loop: `features.py --loop PIXELS OUT TRUNK PROCESSES THREADS BATCH` ---------------------


def loop(job: tuple[str, str, str, int, int], part: tuple[int, int], ready: Any) -> dict[str, Any]:
    """Compute the features of some rows, and return the seconds that it takes.

    Args:
        job: The file of pixels, the prefix of the output file, the network, the number of threads
            and the number of rows of a batch.
        part: The first row, and the row after the last.
        ready: A barrier at which all processes wait after a batch that is not measured.
    """
    import numpy as np
    import torch

    from pipeline.backbone.load import open_backbone

    pixels_file, out, trunk, threads, batch = job
    torch.set_num_threads(threads)
    backbone = open_backbone(trunk)
    backbone.model.to(memory_format=torch.channels_last)
    pixels = np.load(pixels_file, mmap_mode="r")
    outputs = np.empty((part[1] - part[0], backbone.dim), np.float32)

    def features(start: int, stop: int) -> Any:
        images = torch.from_numpy(np.array(pixels[start:stop])).permute(0, 3, 1, 2)
        with torch.no_grad():
            return backbone.forward(backbone.normalise(images)).numpy()

    features(part[0], min(part[1], part[0] + batch))
    ready.wait()
    cpu, started = time.process_time(), time.perf_counter()
    for start in range(*part, batch):
        stop = min(part[1], start + batch)
        outputs[start - part[0] : stop - part[0]] = features(start, stop)
    np.save(f"{out}-{part[0]}.npy", outputs)
    return {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu}


def run_loop(arguments: list[str]) -> None:
    """Run the loop in processes of its own, and print its measurement as JSON."""
    import numpy as np

    pixels, out, trunk = arguments[:3]
    processes, threads, batch = map(int, arguments[3:])
    num_rows = len(np.load(pixels, mmap_mode="r"))
    bounds = [num_rows * number // processes for number in range(processes + 1)]
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(processes) as pool:
        ready = manager.Barrier(processes)
        parts = itertools.pairwise(bounds)
        job = (pixels, out, trunk, threads, batch)
        seconds = pool.starmap(loop, [(job, part, ready) for part in parts], chunksize=1)
    wall, cpu = max(part["wall"] for part in seconds), sum(part["cpu"] for part in seconds)
    print(json.dumps({"images": num_rows, "wall": wall, "cpu": cpu}))


# --- Measurement ---------------------------------------------------------------------------------


class FeatureBenchmark:
    """The store and the pixels that all methods share."""

    def __init__(self, data: Path, trunk: str, scratch: Path, args: argparse.Namespace) -> None:
        self.trunk, self.scratch, self.workers = trunk, scratch, args.workers
        self.store, self.one = scratch / "store", scratch / "one"
        for store, images in ((self.store, args.images), (self.one, 1)):
            link_images(data, scratch / f"images-{images}", images)
            prepare(scratch / f"images-{images}", store, ())
        self.pixels = scratch / "pixels.npy"
        write_pixels(self.store, self.pixels)

    def features(self, store: Path) -> Measurement:
        """Run `tesserae features` on a store without features, and measure all its processes."""
        import numpy as np

        shutil.rmtree(store / "features", ignore_errors=True)
        command = [sys.executable, "-m", "workflows", "features", str(store)]
        command += ["--trunk", self.trunk, "--workers", str(self.workers), "--no-dashboard"]
        os.sync()
        before, started = cpu_seconds(), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        wall = time.perf_counter() - started
        reap_orphans()
        images = len(np.load(self.pixels, mmap_mode="r")) if store == self.store else 1
        return Measurement(images, wall, cpu_seconds() - before)

    def loop(self, processes: int, threads: int, batch: int) -> Measurement:
        """Run the loop in a process of its own, and compare its features."""
        arguments = [self.pixels, self.scratch / "loop", self.trunk, processes, threads, batch]
        command = [sys.executable, __file__, "--loop", *map(str, arguments)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        self.compare()
        return Measurement(**json.loads(output.splitlines()[-1]))

    def compare(self) -> None:
        """Assert that the loop has computed the features that the store contains."""
        import numpy as np

        from pipeline.features.reader import open_features

        parts = sorted(self.scratch.glob("loop-*.npy"), key=lambda p: int(p.stem.split("-")[1]))
        outputs = np.concatenate([np.load(part) for part in parts])
        for part in parts:
            part.unlink()
        (name,) = [folder.name for folder in (self.store / "features").iterdir()]
        stored = open_features(self.store, name, "train")
        np.testing.assert_allclose(stored.rows(stored.readable), outputs, rtol=1e-3, atol=1e-4)


def main() -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    photographs = photographs_of_tests()
    trunk = photographs and str(photographs.parents[1] / "mobilenet_v1_0.75_224")
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=photographs,
        help="photographs in class folders (default: those of TESSERAE_DATA)",
    )
    add(
        "--trunk",
        metavar="FOLDER",
        default=trunk,
        help="vision model of transformers (default: the MobileNet of TESSERAE_DATA)",
    )
    add(
        "--scratch",
        type=Path,
        metavar="FOLDER",
        help="folder for stores and other files (default: TMPDIR)",
    )
    add(
        "--images",
        type=int,
        default=1_000,
        metavar="N",
        help="number of images; photographs are repeated (default 1000)",
    )
    add(
        "--rounds",
        type=int,
        default=3,
        metavar="N",
        help="number of runs of each method (default 3)",
    )
    add(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="processes or threads of a method (default 2)",
    )
    add("--batch", type=int, default=64, metavar="ROWS", help="rows of a batch (default 64)")
    add("--loop", nargs=6, help=argparse.SUPPRESS)  # fmt: skip
    args = parser.parse_args()
    if args.loop:
        run_loop(args.loop)
        return 0
    if args.data is None or args.trunk is None:
        parser.error("pass photographs and a network: --data FOLDER --trunk FOLDER")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        benchmark = FeatureBenchmark(args.data, args.trunk, Path(scratch), args)
        print(f"{args.images:,} images, {args.workers} cores, {args.rounds} rounds")
        report(measure(benchmark, args))
    return 0


def measure(benchmark: FeatureBenchmark, args: argparse.Namespace) -> dict[str, list[Measurement]]:
    """Run every method once in each round, and return the measurements by method."""
    runs = {
        "whole": lambda: benchmark.features(benchmark.store),
        "start": lambda: benchmark.features(benchmark.one),
        "processes": lambda: benchmark.loop(args.workers, 1, args.batch),
        "threads": lambda: benchmark.loop(1, args.workers, args.batch),
        f"processes {SMALL_BATCH}": lambda: benchmark.loop(args.workers, 1, SMALL_BATCH),
    }
    measurements: dict[str, list[Measurement]] = {name: [] for name in runs}
    for number in range(args.rounds):
        for name, run in runs.items():
            result = run()
            measurements[name].append(result)
            seconds = f"{result.wall:7.2f} s {result.cpu:7.2f} s CPU"
            print(f"round {number + 1}  {name:<12} {seconds}", flush=True)
    return measurements


def report(measurements: dict[str, list[Measurement]]) -> None:
    """Print rates and CPU times of each method, and ratios of median rates."""
    start_runs = measurements.pop("start")
    steady = without_start(measurements["whole"], start_runs)
    print(f"\nstart-up   {statistics.median(run.wall for run in start_runs):.1f} s")
    print("\n              images/s            CPU ms/image")
    print("              max      median     min    median")
    rates = {}
    for name, runs in {**measurements, "steady": steady}.items():
        speeds = [run.images / run.wall for run in runs]
        costs = [run.cpu / run.images * 1e3 for run in runs]
        rates[name] = statistics.median(speeds)
        speed = f"{max(speeds):7.1f}  {rates[name]:7.1f}"
        print(f"{name:<12} {speed}   {min(costs):7.1f}  {statistics.median(costs):7.1f}")
    print()
    for method in (name for name in measurements if name != "whole"):
        print(f"steady / {method:<12} {rates['steady'] / rates[method]:6.2f}")


if __name__ == "__main__":
    sys.exit(main())
