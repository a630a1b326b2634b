"""Measure how fast `tesserae prepare` is, and compare it with a lower bound and with usual scripts.

    python benchmarks/prepare.py [--data FOLDER] [--repeat 10] [--rounds 5] [--methods METHOD ...]

Each round runs every method once, one after the other, on the same images, with a warm page cache:

    floor          a loop of one thread that decodes with simplejpeg and resizes three times with
                   Pillow-SIMD into existing arrays, with the filter, the box, the RGBX buffers and
                   the scale of decoding of Tesserae; no Dask, and nothing is written
    tesserae       `tesserae prepare` with three sizes on --workers processes; `steady` is the
                   difference to a run of one image, which is the start-up (also for other options)
    pool           a usual script: multiprocessing.Pool, stock Pillow (in an environment of its
                   own), three resizes, zarr
    opencv         the same with OpenCV
    loop 224       the fastest loop at 224 px alone: simplejpeg, crop and resize in one call, a
                   thread per core; nothing is written
    tesserae 224   `tesserae prepare --sizes 224`
    floor encoded  the floor without squares: each photograph is resized to a short side of 256 px,
                   encoded by Pillow with a quality of 90, and written to one file; a JPEG that is
                   no larger is written as it is
    floor both     the three sizes and the encoded images from one decoding, all of them written
    tesserae encoded, tesserae both
                   `tesserae prepare --encoded jpeg:256@90`, alone and with the three sizes
    resize         the three resizes alone, of 200 decoded images, with Pillow-SIMD
    resize stock   the same with stock Pillow

Rates and CPU times are shown with their median over the rounds; ratios are those of medians. CPU
time is the user and system time of all processes, those of Dask too.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
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
from image_set import ROOT, link_images, photographs_of_tests

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

SIZES = (72, 224, 288)
SHORT_SIDE, QUALITY = 256, 90
"""The largest short side in pixels, and the quality, of encoded images."""
THREE_SIZES = ("--sizes", *map(str, SIZES))
ENCODED = ("--encoded", f"jpeg:{SHORT_SIDE}@{QUALITY}")
COMMANDS = {
    "tesserae": THREE_SIZES,
    "tesserae 224": ("--sizes", "224"),
    "tesserae encoded": ENCODED,
    "tesserae both": (*THREE_SIZES, *ENCODED),
}
"""The options of `tesserae prepare` by the name of the method."""
METHODS = (
    "floor",
    "tesserae",
    "pool",
    "opencv",
    "loop 224",
    "tesserae 224",
    "resize",
    "resize stock",
    "floor encoded",
    "tesserae encoded",
    "floor both",
    "tesserae both",
)
RATIOS = (
    ("CPU", "steady", "floor"),
    ("CPU", "tesserae", "floor"),
    ("images/s", "tesserae", "floor"),
    ("images/s", "steady", "floor"),
    ("images/s", "tesserae", "pool"),
    ("images/s", "tesserae", "opencv"),
    ("images/s", "tesserae 224", "loop 224"),
    ("images/s", "steady 224", "loop 224"),
    ("CPU", "resize stock", "resize"),
    ("CPU", "steady encoded", "floor encoded"),
    ("CPU", "steady both", "floor both"),
    ("CPU", "steady both", "steady"),
)
"""The pairs of methods whose ratio of rates, or of CPU time per image, is printed."""
RESIZED_IMAGES = 200
"""The number of images that the methods `resize` decode and resize."""
STOCK_REQUIREMENTS = ("pillow==12.1.1 opencv-python-headless<5 zarr==3.1.6 numpy<2.3",)
PR_SET_CHILD_SUBREAPER = 36
"""The option of prctl(2) by which orphaned descendants become children of this process."""


Method = Callable[[str, str, int], None]
"""A method takes the folder of images, an empty folder, and the number of workers."""


@dataclass(frozen=True)
class Measurement:
    """The measurement of one run of a method."""

    images: int
    """The number of images."""
    wall: float
    """The elapsed time in seconds."""
    cpu: float
    """The user and system time of all processes, in seconds."""
    rss: float = 0.0
    """The memory of the largest process in MiB; 0 if it was not measured."""


# --- Methods that run in a process of their own: `prepare.py --method NAME FOLDER OUT WORKERS` ----


def files_of(folder: str) -> list[str]:
    """Return the paths of all images, sorted."""
    return sorted(str(file) for file in Path(folder).glob("*/*"))


def square(width: int, height: int) -> tuple[int, int, int, int]:
    """Return the box of the centred square: left, top, right, bottom."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def run_floor(sizes: tuple[int, ...], *, encoded: bool = False) -> Method:
    """Return a method that decodes and resizes in one thread.

    Args:
        sizes: The sides of the squares in pixels.
        encoded: True to encode each photograph too, and to write the encoded images and the squares
            to one file each; False to write nothing.
    """

    def run(folder: str, out: str, workers: int) -> None:
        import numpy as np

        serves = max((*sizes, SHORT_SIDE) if encoded else sizes)
        arrays = {size: np.empty((16, size, size, 3), np.uint8) for size in sizes}
        with contextlib.ExitStack() as stack:
            files = {
                size: stack.enter_context(Path(out, str(size)).open("wb", buffering=0))
                for size in ((*sizes, "encoded") if encoded else ())
            }
            for index, file in enumerate(files_of(folder)):
                data = read(file)
                image = decode_photograph(data, serves)
                for size, array in arrays.items():
                    row = array[index % 16]
                    resize_square(image, row)
                    if encoded:
                        files[size].write(row)
                if encoded:
                    files["encoded"].write(encode(data, image))

    return run


def read(file: str) -> bytes:
    """Return the bytes of a file."""
    with open(file, "rb") as stream:  # noqa: PTH123 - the floor counts microseconds
        return stream.read()


def decode_photograph(data: bytes, serves: int) -> Image.Image:
    """Decode to RGBX, which Pillow resizes without another copy, as Tesserae does."""
    import simplejpeg
    from PIL import Image

    from pipeline.images.decode import reduction_factor

    try:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        scale = reduction_factor(width, height, fit="crop", serves=serves)
        pixels = simplejpeg.decode_jpeg(
            data, "RGBX", min_height=-(-height // scale), min_width=-(-width // scale)
        )
    except ValueError:
        return Image.open(io.BytesIO(data)).convert("RGB")
    height, width = pixels.shape[:2]
    return Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1)


def resize_square(image: Image.Image, row: NDArray[np.uint8]) -> None:
    """Resize the centred square of an image into a row, (size, size, 3) uint8."""
    import numpy as np
    from PIL import Image

    box = square(*image.size)
    resized = image.resize(row.shape[:2], Image.Resampling.BICUBIC, box=box)
    row[:] = np.frombuffer(resized.tobytes("raw", "RGB"), np.uint8).reshape(row.shape)


def encode(data: bytes, image: Image.Image) -> bytes:
    """Return a JPEG of kept aspect, with a short side of at most 256 px, as Tesserae encodes it."""
    from PIL import Image

    from pipeline.images.encode import row_size

    height, width = row_size(*image.size, SHORT_SIDE)
    if (width, height) == image.size:
        return data
    stream = io.BytesIO()
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    resized.convert("RGB").save(stream, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return stream.getvalue()


def run_loop224(folder: str, out: str, workers: int) -> None:
    """Decode and resize at 224 px in *workers* threads, and write nothing."""
    import numpy as np

    files = files_of(folder)
    array = np.empty((16, 224, 224, 3), np.uint8)

    def decode_and_resize(index: int) -> None:
        resize_square(decode_photograph(read(files[index]), 224), array[index % 16])

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(decode_and_resize, range(len(files)), chunksize=16):
            pass


def run_resize(folder: str, out: str, workers: int) -> None:
    """Resize images that were decoded before, and print the measurement of the resizing alone."""
    from PIL import Image

    images = [Image.open(file).convert("RGB") for file in files_of(folder)[:RESIZED_IMAGES]]
    before, started = cpu_seconds(), time.perf_counter()
    for image in images:
        box = square(*image.size)
        for size in SIZES:
            image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    wall, cpu = time.perf_counter() - started, cpu_seconds() - before
    print(json.dumps({"wall": wall, "cpu": cpu, "images": len(images)}))


def pool_pillow(file: str) -> list[object]:
    """Return an image at every size, resized by Pillow."""
    import numpy as np
    from PIL import Image

    image = Image.open(file).convert("RGB")
    box = square(*image.size)
    return [
        np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box)) for size in SIZES
    ]


def pool_opencv(file: str) -> list[object]:
    """Return an image at every size, resized by OpenCV with its filter that avoids aliasing."""
    import cv2

    cv2.setNumThreads(1)
    image = cv2.cvtColor(cv2.imread(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    left, top, right, bottom = square(image.shape[1], image.shape[0])
    image = image[top:bottom, left:right]
    return [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for size in SIZES]


def run_pool(work: Callable[[str], list[object]]) -> Method:
    """Return a method in which a pool of processes runs *work*, and the parent writes zarr."""

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
                rows = pool.map(work, files[start : start + 1024], chunksize=16)
                for array, column in zip(arrays, zip(*rows, strict=True), strict=True):
                    array[start : start + len(rows)] = np.stack(column)

    return run


FUNCTIONS: dict[str, Method] = {
    "floor": run_floor(SIZES),
    "pool": run_pool(pool_pillow),
    "opencv": run_pool(pool_opencv),
    "loop 224": run_loop224,
    "resize": run_resize,
    "resize stock": run_resize,
    "floor encoded": run_floor((), encoded=True),
    "floor both": run_floor(SIZES, encoded=True),
}
"""The methods that are functions of this file."""


def run_method(name: str, folder: str, out: str, workers: int) -> None:
    """Run a method in this process, and print its measurement as JSON."""
    run = FUNCTIONS[name]
    if name.startswith(("floor", "loop")):  # a lower bound has no imports and lookup tables
        run(str(next(Path(folder).parent.glob("one*"))), out, workers)
    before, started = cpu_seconds(), time.perf_counter()
    run(folder, out, workers)
    if name.startswith("resize"):  # it has printed its own measurement
        return
    print(json.dumps({"wall": time.perf_counter() - started, "cpu": cpu_seconds() - before}))


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended, in seconds."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


# --- Measurement --------------------------------------------------------------------------------


class Benchmark:
    """The folders and environments that all methods share."""

    def __init__(self, data: Path, scratch: Path, repeat: int, workers: int) -> None:
        self.scratch = scratch
        self.workers = workers
        self.images = scratch / "images"
        self.one = scratch / "one"
        self.num_images = repeat * len(list(data.glob("*/*")))
        link_images(data, self.images, self.num_images)
        link_images(data, self.one, 1)
        for file in self.images.glob("*/*"):  # into the page cache
            file.read_bytes()

    def run(self, name: str) -> Measurement:
        """Run a method that is a function of this file, in a process of its own."""
        stock = name in ("pool", "opencv", "resize stock")
        python = python_of("stock", STOCK_REQUIREMENTS) if stock else sys.executable
        with self.output_folder() as out:
            command = [python, __file__, "--method", name, str(self.images), out, str(self.workers)]
            output = subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": "" if stock else str(ROOT)},
            ).stdout
        return Measurement(**{"images": self.num_images, **json.loads(output)})

    def prepare(self, source: Path, num_images: int, options: tuple[str, ...]) -> Measurement:
        """Run `tesserae prepare`, and measure all processes that it starts."""
        with self.output_folder() as out:
            command = [sys.executable, "-m", "workflows", "prepare", str(source), f"{out}/store"]
            command += ["--workers", str(self.workers), *options]
            peak = PeakMemory()
            before, started = cpu_seconds(), time.perf_counter()
            with peak:
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            wall = time.perf_counter() - started
            reap_orphans()
            return Measurement(num_images, wall, cpu_seconds() - before, peak.rss)

    @contextlib.contextmanager
    def output_folder(self) -> Iterator[str]:
        """Yield an empty folder, after all earlier writes have reached the disk."""
        os.sync()
        folder = tempfile.mkdtemp(dir=self.scratch)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


class PeakMemory:
    """The largest memory of any descendant of this process inside the block, in MiB."""

    def __init__(self) -> None:
        self.rss = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakMemory:
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


def reap_orphans() -> None:
    """Wait for processes whose parents ended before them, so that their CPU time is counted."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def main() -> int:
    """Run the rounds and print the tables."""
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
        "--scratch",
        type=Path,
        metavar="FOLDER",
        help="folder for stores and other files, on the disk to be measured (default: TMPDIR)",
    )
    add(
        "--repeat",
        type=int,
        default=10,
        metavar="N",
        help="how often each photograph is listed (default 10)",
    )
    add(
        "--rounds",
        type=int,
        default=5,
        metavar="N",
        help="number of runs of each method (default 5)",
    )
    add(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="processes or threads of a method (default 2)",
    )
    add("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD",
        help="methods to run (default: all)")  # fmt: skip
    add("--method", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.method:
        name, folder, out, workers = args.method
        run_method(name, folder, out, int(workers))
        return 0
    if args.data is None:
        parser.error("pass a folder of class folders of photographs: --data FOLDER")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        benchmark = Benchmark(args.data, Path(scratch), args.repeat, args.workers)
        print(
            f"{benchmark.num_images:,} images, {args.workers} workers, {args.rounds} rounds",
            flush=True,
        )
        report(measure(benchmark, args.methods, args.rounds))
    return 0


def measure(benchmark: Benchmark, methods: list[str], rounds: int) -> dict[str, list[Measurement]]:
    """Run the methods once in each round, and return the measurements by method.

    If one of them is `tesserae prepare`, `one image` is measured too.
    """
    names = [*methods, *(["one image"] if set(methods) & set(COMMANDS) else [])]
    measurements: dict[str, list[Measurement]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            if name == "one image":
                result = benchmark.prepare(benchmark.one, 1, THREE_SIZES)
            elif name in COMMANDS:
                result = benchmark.prepare(benchmark.images, benchmark.num_images, COMMANDS[name])
            else:
                result = benchmark.run(name)
            measurements[name].append(result)
            print(
                f"round {number + 1}  {name:<16} {result.wall:7.2f} s {result.cpu:7.2f} s CPU",
                flush=True,
            )
    return measurements


def without_start(runs: list[Measurement], start_runs: list[Measurement]) -> list[Measurement]:
    """Return the differences of whole runs and runs of one image."""
    return [
        Measurement(run.images, run.wall - start.wall, run.cpu - start.cpu, run.rss)
        for run, start in zip(runs, start_runs, strict=True)
    ]


def report(measurements: dict[str, list[Measurement]]) -> None:
    """Print rates and CPU times of each method, and ratios of medians."""
    methods = dict(measurements)
    start_runs = methods.pop("one image", [])
    for name in set(COMMANDS) & set(measurements):
        steady = name.replace("tesserae", "steady")
        methods[steady] = without_start(measurements[name], start_runs)
    print("\n                  images/s            CPU ms/image")
    print("                  max      median     min    median")
    medians: dict[tuple[str, str], float] = {}
    for name, runs in methods.items():
        rates = [run.images / run.wall for run in runs]
        costs = [run.cpu / run.images * 1e3 for run in runs]
        medians["images/s", name] = statistics.median(rates)
        medians["CPU", name] = statistics.median(costs)
        speed = f"{max(rates):7,.0f}  {statistics.median(rates):7,.0f}"
        print(f"{name:<16} {speed}   {min(costs):7.3f}  {statistics.median(costs):7.3f}")
    print()
    for unit, method, baseline in RATIOS:
        if {(unit, method), (unit, baseline)} <= medians.keys():
            ratio = medians[unit, method] / medians[unit, baseline]
            print(f"{unit + ', ' + method + ' / ' + baseline:<42} {ratio:.2f}")
    if "tesserae" in measurements:
        largest = max(run.rss for run in measurements["tesserae"])
        print(f"memory of the largest process              {largest:,.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
