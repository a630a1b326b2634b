"""How fast a store is made, against what is possible and against what is usual.

    python benchmarks/prepare.py [--data FOLDER] [--repeat 10] [--rounds 5]

Each round runs every arm once, one after the other, on the same images, page cache warm:

    floor      simplejpeg and three Pillow-SIMD resizes (same filter, same box, decoded to RGBX
               without a copy, as Tesserae does) into arrays that are there already; one thread, no
               Dask, nothing written
    tesserae   `tesserae prepare`: three sizes, checksums, durable, on --workers processes; the CPU
               of client, scheduler, fork server and workers is counted. `whole` is the command;
               `steady` is that less a run of one image
    pool       what a user writes today: multiprocessing.Pool, stock Pillow (an environment of its
               own), three resizes, zarr
    opencv     the same on OpenCV
    hand 224   the best loop by hand at 224 px alone: simplejpeg, crop and resize in one, a thread a
               core, nothing written
    ours 224   `tesserae prepare --sizes 224`
    resize     the three resizes alone, by Pillow-SIMD and by stock Pillow, of 200 decoded images

Minimum and median over the rounds; ratios are of medians within the run. CPU is user and system
time of all processes. Without --data the photographs of TESSERAE_DATA are used.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import TYPE_CHECKING

from environments import python_of

if TYPE_CHECKING:
    from PIL import Image

ROOT = Path(__file__).parents[1]
SIZES = (72, 224, 288)
RESIZED = 200
"""Images that the resizers alone are measured on."""
STOCK = ("pillow==12.1.1 opencv-python-headless<5 zarr==3.1.6 numpy<2.3",)
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Figure:
    """One run of one arm."""

    images: int
    wall: float
    """Seconds."""
    cpu: float
    """Seconds, user and system, of every process."""
    rss: float = 0.0
    """MiB, of the largest process."""


# --- The arms that run in a process of their own: `prepare.py --arm NAME FOLDER OUT WORKERS` ------


def files_of(folder: str) -> list[str]:
    """All images, in one order."""
    return sorted(str(file) for file in Path(folder).glob("*/*"))


def square(width: int, height: int) -> tuple[int, int, int, int]:
    """The centred square."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def run_floor(folder: str, out: str, workers: int) -> None:
    """One thread, nothing written."""
    import numpy as np
    from PIL import Image

    arrays = {size: np.empty((16, size, size, 3), np.uint8) for size in SIZES}
    for place, file in enumerate(files_of(folder)):
        image = decode_photograph(file)
        box = square(*image.size)
        for size, array in arrays.items():
            resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
            raw = np.frombuffer(resized.tobytes("raw", "RGB"), np.uint8)
            array[place % 16] = raw.reshape(size, size, 3)


def decode_photograph(file: str) -> Image.Image:
    """Decode as every arm by hand does: RGBX, which Pillow resizes without another copy."""
    import simplejpeg
    from PIL import Image

    with open(file, "rb") as stream:  # noqa: PTH123 - the floor counts microseconds
        data = stream.read()
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGBX")
    except ValueError:
        return Image.open(file).convert("RGB")
    height, width = pixels.shape[:2]
    return Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1)


def run_hand224(folder: str, out: str, workers: int) -> None:
    """As many threads as cores, nothing written."""
    import numpy as np
    from PIL import Image

    files = files_of(folder)
    array = np.empty((16, 224, 224, 3), np.uint8)

    def one(place: int) -> None:
        image = decode_photograph(files[place])
        box = square(*image.size)
        resized = image.resize((224, 224), Image.Resampling.BICUBIC, box=box)
        raw = np.frombuffer(resized.tobytes("raw", "RGB"), np.uint8)
        array[place % 16] = raw.reshape(224, 224, 3)

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(one, range(len(files)), chunksize=16):
            """Nothing is kept."""


def run_resize(folder: str, out: str, workers: int) -> None:
    """Resize what was decoded before the clock starts; prints seconds itself."""
    from PIL import Image

    images = [Image.open(file).convert("RGB") for file in files_of(folder)[:RESIZED]]
    before, started = cpu_seconds(), time.perf_counter()
    for image in images:
        box = square(*image.size)
        for size in SIZES:
            image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    took = {"wall": time.perf_counter() - started, "cpu": cpu_seconds() - before}
    print(json.dumps({**took, "images": len(images)}))


def pool_pillow(file: str) -> list[object]:
    """What a user's worker returns."""
    import numpy as np
    from PIL import Image

    image = Image.open(file).convert("RGB")
    box = square(*image.size)
    return [
        np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box)) for size in SIZES
    ]


def pool_opencv(file: str) -> list[object]:
    """The same on OpenCV, whose area filter is the one without aliasing."""
    import cv2

    cv2.setNumThreads(1)
    image = cv2.cvtColor(cv2.imread(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    left, top, right, bottom = square(image.shape[1], image.shape[0])
    image = image[top:bottom, left:right]
    return [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for size in SIZES]


def run_pool(work: Callable[[str], list[object]]) -> Callable[[str, str, int], None]:
    """A pool whose parent writes zarr, a shard at a time."""

    def run(folder: str, out: str, workers: int) -> None:
        import numpy as np
        import zarr

        files = files_of(folder)
        arrays = [
            zarr.create_array(
                f"{out}/{size}",
                shape=(len(files), size, size, 3),
                chunks=(16, size, size, 3),
                shards=(1024, size, size, 3),
                dtype="uint8",
                compressors=None,
            )
            for size in SIZES
        ]
        with Pool(workers) as pool:
            for start in range(0, len(files), 1024):
                made = pool.map(work, files[start : start + 1024], chunksize=16)
                for array, column in zip(arrays, zip(*made, strict=True), strict=True):
                    array[start : start + len(made)] = np.stack(column)

    return run


ARMS = {
    "resize": run_resize,
    "resize stock": run_resize,
    "floor": run_floor,
    "hand 224": run_hand224,
    "pool": run_pool(pool_pillow),
    "opencv": run_pool(pool_opencv),
}


def run_arm(name: str, folder: str, out: str, workers: int) -> None:
    """Run one arm here and print what it took."""
    if name in ("floor", "hand 224"):  # imports and tables are no part of a loop's floor
        ARMS[name](str(next(Path(folder).parent.glob("one*"))), out, workers)
    before, started = cpu_seconds(), time.perf_counter()
    ARMS[name](folder, out, workers)
    if name.startswith("resize"):  # it has a clock of its own
        return
    print(json.dumps({"wall": time.perf_counter() - started, "cpu": cpu_seconds() - before}))


def cpu_seconds() -> float:
    """CPU of this process and of its children that have ended."""
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


# --- Measuring them from outside ---------------------------------------------------------------


class Bench:
    """The folders and environments that all arms share."""

    def __init__(self, data: Path, scratch: Path, repeat: int, workers: int) -> None:
        self.scratch = scratch
        self.workers = workers
        self.stock = python_of("stock", STOCK)
        self.images = scratch / "images"
        self.one = scratch / "one"
        self.num_images = link_images(data, self.images, repeat)
        link_images(data, self.one, 1, limit=1)

    def arm(self, name: str) -> Figure:
        """Run an arm that is a function of this file."""
        stock = name in ("pool", "opencv", "resize stock")
        python = self.stock if stock else sys.executable
        with self.out() as out:
            command = [python, __file__, "--arm", name, str(self.images), out, str(self.workers)]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        took = json.loads(said)
        return Figure(took.get("images", self.num_images), took["wall"], took["cpu"])

    def ours(self, source: Path, num_images: int, *sizes: int) -> Figure:
        """Run `tesserae prepare`, and count every process it starts."""
        with self.out() as out:
            command = [sys.executable, "-m", "workflows", "prepare", str(source), f"{out}/store"]
            command += ["--workers", str(self.workers), "--sizes", *map(str, sizes)]
            peak = Peak()
            before, started = cpu_seconds(), time.perf_counter()
            with peak:
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            wall = time.perf_counter() - started
            reap_orphans()
            return Figure(num_images, wall, cpu_seconds() - before, peak.rss)

    @contextlib.contextmanager
    def out(self) -> Iterator[str]:
        """A fresh folder to write to, on a disk that has nothing left to do."""
        os.sync()
        folder = tempfile.mkdtemp(dir=self.scratch)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


class Peak:
    """The largest resident size of any process that is started meanwhile."""

    def __init__(self) -> None:
        self.rss = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        while not self._stop.wait(0.5):
            with contextlib.suppress(psutil.Error):
                sizes = [p.memory_info().rss for p in psutil.Process().children(recursive=True)]
                self.rss = max(self.rss, *(size / 2**20 for size in sizes), 0.0)


def link_images(data: Path, folder: Path, repeat: int, limit: int | None = None) -> int:
    """The photographs of *data*, listed *repeat* times over by hard links or copies."""
    count = 0
    for file in sorted(data.glob("*/*"))[:limit]:
        target = folder / file.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for copy in range(repeat):
            name = target / f"{file.stem}_{copy}{file.suffix}"
            try:
                os.link(file, name)
            except OSError:  # another disk
                shutil.copyfile(file, name)
            name.read_bytes()
            count += 1
    return count


def reap_orphans() -> None:
    """Wait for processes whose parents ended before them, so that their CPU is counted."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def main() -> int:
    """Run the rounds and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = os.environ.get("TESSERAE_DATA")
    parser.add_argument(
        "--data", type=Path, default=Path(named) / "imagenet/train" if named else None
    )
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to write to")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--arm", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        name, folder, out, workers = args.arm
        run_arm(name, folder, out, int(workers))
        return 0
    if args.data is None:
        parser.error("say where photographs are: --data FOLDER of class folders")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        bench = Bench(args.data, Path(scratch), args.repeat, args.workers)
        print(
            f"{bench.num_images:,} images, {args.workers} workers, {args.rounds} rounds", flush=True
        )
        report(measure(bench, args.rounds))
    return 0


def measure(bench: Bench, rounds: int) -> dict[str, list[Figure]]:
    """Every arm once a round."""
    runs: dict[str, Callable[[], Figure]] = {
        "floor": lambda: bench.arm("floor"),
        "tesserae": lambda: bench.ours(bench.images, bench.num_images, *SIZES),
        "one image": lambda: bench.ours(bench.one, 1, *SIZES),
        "pool": lambda: bench.arm("pool"),
        "opencv": lambda: bench.arm("opencv"),
        "hand 224": lambda: bench.arm("hand 224"),
        "ours 224": lambda: bench.ours(bench.images, bench.num_images, 224),
        "resize": lambda: bench.arm("resize"),
        "resize stock": lambda: bench.arm("resize stock"),
    }
    figures: dict[str, list[Figure]] = {name: [] for name in runs}
    for place in range(rounds):
        for name, run in runs.items():
            figures[name].append(run())
            took = figures[name][-1]
            print(
                f"round {place + 1}  {name:<10} {took.wall:7.2f} s wall {took.cpu:7.2f} s CPU",
                flush=True,
            )
    return figures


def report(figures: dict[str, list[Figure]]) -> None:
    """Print rates, CPU, and the ratios that matter."""
    steady = [
        Figure(w.images, w.wall - e.wall, w.cpu - e.cpu, w.rss)
        for w, e in zip(figures["tesserae"], figures["one image"], strict=True)
    ]
    steady224 = [
        Figure(w.images, w.wall - e.wall, w.cpu - e.cpu, w.rss)
        for w, e in zip(figures["ours 224"], figures["one image"], strict=True)
    ]
    arms = {**figures, "steady": steady, "steady 224": steady224}
    del arms["one image"]
    print("\n              images/s            CPU ms/image")
    print("              max      median     min    median")
    rate, cpu = {}, {}
    for name, runs in arms.items():
        rates = [run.images / run.wall for run in runs]
        costs = [run.cpu / run.images * 1e3 for run in runs]
        rate[name], cpu[name] = statistics.median(rates), statistics.median(costs)
        speed = f"{max(rates):7,.0f}  {rate[name]:7,.0f}"
        print(f"{name:<12} {speed}   {min(costs):7.3f}  {cpu[name]:7.3f}")
    print(f"\nCPU an image, steady / floor     {cpu['steady'] / cpu['floor']:.2f}")
    print(f"CPU an image, whole / floor      {cpu['tesserae'] / cpu['floor']:.2f}")
    print(f"images/s, whole / floor          {rate['tesserae'] / rate['floor']:.2f}")
    print(f"images/s, steady / floor         {rate['steady'] / rate['floor']:.2f}")
    print(f"images/s, whole / pool           {rate['tesserae'] / rate['pool']:.2f}")
    print(f"images/s, whole / opencv         {rate['tesserae'] / rate['opencv']:.2f}")
    print(f"images/s at 224, whole / hand    {rate['ours 224'] / rate['hand 224']:.2f}")
    print(f"images/s at 224, steady / hand   {rate['steady 224'] / rate['hand 224']:.2f}")
    print(f"CPU of resizing, stock / SIMD    {cpu['resize stock'] / cpu['resize']:.1f}")
    print(
        f"largest process of ours          {max(run.rss for run in figures['tesserae']):,.0f} MiB"
    )


if __name__ == "__main__":
    sys.exit(main())
