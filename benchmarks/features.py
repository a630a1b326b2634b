"""How fast a network is run over a store, beside a plain loop of the same network.

    python benchmarks/features.py [--data FOLDER] [--trunk FOLDER] [--images 1000] [--rounds 3]

The photographs are prepared at 224 px once. Each round runs every arm once, one after the other,
over the same rows, warm, on --workers processors:

    tesserae     `tesserae features`; `whole` is the command, `steady` that less a run over one
                 picture; the CPU of client, scheduler and workers is counted
    processes    a loop by hand, as many processes as that, one thread each, over pixels that lie
                 in one mapped array; batches of --batch; its clock starts behind the first batch
    threads      the same in one process, with torch's threads
    processes 8  as processes, in batches of 8, which is what `tesserae features` computes at once

All loops have the network channels-last, and keep what it makes; it is compared with ours. Ratios
are of medians within the run. Without --data and --trunk the photographs and the MobileNet of
TESSERAE_DATA are taken, over and over.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictureset import ROOT, link_images, prepare
from prepare import PR_SET_CHILD_SUBREAPER, cpu_seconds, reap_orphans

SIZE = 224
SMALL = 8


@dataclass(frozen=True)
class Took:
    """One run of one arm."""

    images: int
    wall: float
    """Seconds."""
    cpu: float
    """Seconds, user and system, of every process."""


# --- The loop by hand: `features.py --arm PIXELS OUT TRUNK PROCESSES THREADS BATCH` --------------


def loop(job: tuple[str, str, str, int, int], part: tuple[int, int], ready: Any) -> dict[str, Any]:
    """Features of rows *part*, after one batch that is not counted."""
    import numpy as np
    import torch

    from pipeline.backbone.load import open_backbone

    pixels_file, out, trunk, threads, batch = job
    torch.set_num_threads(threads)
    backbone = open_backbone(trunk)
    backbone.model.to(memory_format=torch.channels_last)
    pixels = np.load(pixels_file, mmap_mode="r")
    made = np.empty((part[1] - part[0], backbone.dim), np.float32)

    def features(start: int, stop: int) -> Any:
        images = torch.from_numpy(np.array(pixels[start:stop])).permute(0, 3, 1, 2)
        with torch.no_grad():
            return backbone.forward(backbone.normalise(images)).numpy()

    features(part[0], min(part[1], part[0] + batch))
    ready.wait()
    cpu, began = time.process_time(), time.perf_counter()
    for start in range(*part, batch):
        stop = min(part[1], start + batch)
        made[start - part[0] : stop - part[0]] = features(start, stop)
    np.save(f"{out}-{part[0]}.npy", made)
    return {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def run_loop(words: list[str]) -> None:
    """Run the loop in processes of its own, and print what it took."""
    import numpy as np

    pixels, out, trunk = words[:3]
    processes, threads, batch = map(int, words[3:])
    num_rows = len(np.load(pixels, mmap_mode="r"))
    cuts = [num_rows * place // processes for place in range(processes + 1)]
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(processes) as pool:
        ready = manager.Barrier(processes)
        parts = itertools.pairwise(cuts)
        job = (pixels, out, trunk, threads, batch)
        took = pool.starmap(loop, [(job, part, ready) for part in parts], chunksize=1)
    wall, cpu = max(one["wall"] for one in took), sum(one["cpu"] for one in took)
    print(json.dumps({"images": num_rows, "wall": wall, "cpu": cpu}))


# --- Measuring from outside ---------------------------------------------------------------------


class Bench:
    """The store and the pixels that all arms share."""

    def __init__(self, data: Path, trunk: str, scratch: Path, args: argparse.Namespace) -> None:
        self.trunk, self.scratch, self.workers = trunk, scratch, args.workers
        self.store, self.one = scratch / "store", scratch / "one"
        for store, images in ((self.store, args.images), (self.one, 1)):
            link_images(data, scratch / f"images-{images}", images)
            prepare(scratch / f"images-{images}", store, ())
        self.pixels = scratch / "pixels.npy"
        dump(self.store, self.pixels)

    def ours(self, store: Path) -> Took:
        """Run `tesserae features` from nothing, and count every process it starts."""
        import numpy as np

        shutil.rmtree(store / "features", ignore_errors=True)
        command = [sys.executable, "-m", "workflows", "features", str(store)]
        command += ["--trunk", self.trunk, "--workers", str(self.workers), "--no-dashboard"]
        os.sync()
        before, began = cpu_seconds(), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        wall = time.perf_counter() - began
        reap_orphans()
        images = len(np.load(self.pixels, mmap_mode="r")) if store == self.store else 1
        return Took(images, wall, cpu_seconds() - before)

    def by_hand(self, processes: int, threads: int, batch: int) -> Took:
        """Run the loop."""
        words = [self.pixels, self.scratch / "made", self.trunk, processes, threads, batch]
        command = [sys.executable, __file__, "--arm", *map(str, words)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        self.compare()
        return Took(**json.loads(said.splitlines()[-1]))

    def compare(self) -> None:
        """Make sure that both made the same of the same rows."""
        import numpy as np

        from pipeline.features.reader import open_features

        parts = sorted(self.scratch.glob("made-*.npy"), key=lambda p: int(p.stem.split("-")[1]))
        made = np.concatenate([np.load(part) for part in parts])
        for part in parts:
            part.unlink()
        (name,) = [folder.name for folder in (self.store / "features").iterdir()]
        found = open_features(self.store, name, "train")
        np.testing.assert_allclose(found.rows(found.readable), made, rtol=1e-3, atol=1e-4)


def dump(store: Path, file: Path) -> None:
    """The readable rows of a store as one array."""
    import numpy as np

    from pipeline.loader import Loader

    loader = Loader(
        store, batch_size=64, order="sequential", drop_last=False, rank=0, world=1
    )  # fmt: skip
    shape = (loader.num_rows, SIZE, SIZE, 3)
    pixels = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    done = 0
    for images, labels, _rows in loader:
        pixels[done : done + len(labels)] = images.permute(0, 2, 3, 1).numpy()
        done += len(labels)


def main() -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = os.environ.get("TESSERAE_DATA")
    known = Path(named) if named else None
    parser.add_argument("--data", type=Path, default=known and known / "imagenet/train")
    parser.add_argument("--trunk", default=known and str(known / "mobilenet_v1_0.75_224"))
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to write to")
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--arm", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        run_loop(args.arm)
        return 0
    if args.data is None or args.trunk is None:
        parser.error("say where photographs and a network are: --data FOLDER --trunk FOLDER")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        bench = Bench(args.data, args.trunk, Path(scratch), args)
        print(f"{args.images:,} pictures, {args.workers} processors, {args.rounds} rounds")
        report(measure(bench, args))
    return 0


def measure(bench: Bench, args: argparse.Namespace) -> dict[str, list[Took]]:
    """Every arm once a round."""
    runs = {
        "whole": lambda: bench.ours(bench.store),
        "start": lambda: bench.ours(bench.one),
        "processes": lambda: bench.by_hand(args.workers, 1, args.batch),
        "threads": lambda: bench.by_hand(1, args.workers, args.batch),
        f"processes {SMALL}": lambda: bench.by_hand(args.workers, 1, SMALL),
    }
    found: dict[str, list[Took]] = {name: [] for name in runs}
    for place in range(args.rounds):
        for name, run in runs.items():
            took = run()
            found[name].append(took)
            said = f"{took.wall:7.2f} s wall {took.cpu:7.2f} s CPU"
            print(f"round {place + 1}  {name:<12} {said}", flush=True)
    return found


def report(found: dict[str, list[Took]]) -> None:
    """Print rates, CPU, and the ratios that matter."""
    starts = found.pop("start")
    steady = [
        Took(whole.images, whole.wall - start.wall, whole.cpu - start.cpu)
        for whole, start in zip(found["whole"], starts, strict=True)
    ]
    print(f"\nstart-up   {statistics.median(start.wall for start in starts):.1f} s")
    print("\n              images/s            CPU ms/image")
    print("              max      median     min    median")
    rates = {}
    for name, runs in {**found, "steady": steady}.items():
        speeds = [took.images / took.wall for took in runs]
        costs = [took.cpu / took.images * 1e3 for took in runs]
        rates[name] = statistics.median(speeds)
        said = f"{max(speeds):7.1f}  {rates[name]:7.1f}"
        print(f"{name:<12} {said}   {min(costs):7.1f}  {statistics.median(costs):7.1f}")
    print()
    for other in (name for name in found if name != "whole"):
        print(f"steady / {other:<12} {rates['steady'] / rates[other]:6.2f}")


if __name__ == "__main__":
    sys.exit(main())
