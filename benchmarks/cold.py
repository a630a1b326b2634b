"""Measure how fast loaders read a store that does not fit in memory, and compare with the disk.

    python benchmarks/cold.py [--data FOLDER] [--images 20000] [--rounds 3] [--set FOLDER]

Needs root, fio and a memory controller (cgroup v1 or v2). Every method runs in a control group
whose memory, page cache included, is limited to --share of the store's bytes. It begins with an
empty page cache, and loads batches for --seconds.

    fio random      reads of one row's bytes at random offsets, sixteen at a time: `direct` bypasses
                    the page cache, `cached` uses it
    fio sequential  reads of 1 MiB, one after the other
    tesserae        random order, and windows of 96 MiB
    ffcv            raw pixels: RANDOM through the page cache; QUASI_RANDOM in memory of its own (0
                    if the kernel kills it because that is too much)
    mds             MosaicML Streaming: JPEG files have a sixth of the bytes, so decoding limits it
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import uuid
from pathlib import Path

from image_set import FORMATS, ImageSet, create_parser, open_set
from loader_methods import ROW_BYTES

METHODS = ("tesserae cold", "tesserae windowed cold", "ffcv", "ffcv quasi cold", "mds")
FOLLOWING = {
    "fio random direct": "tesserae cold",
    "fio sequential direct": "tesserae windowed cold",
}
"""The method that runs after a job of fio. The speed of a disk changes within minutes, so a method
runs between the two jobs of fio with which it is compared."""
PAGE_BYTES = 4096
FIO_JOBS = {
    "fio random direct": ("randread", ROW_BYTES // PAGE_BYTES * PAGE_BYTES, 1, 1),
    "fio random cached": ("randread", ROW_BYTES, 0, 16),
    "fio sequential direct": ("read", 2**20, 1, 1),
    "fio sequential cached": ("read", 2**20, 0, 1),
}
"""The pattern, the bytes of a read, 1 to bypass the page cache, and the number of processes."""
RATIOS = (
    ("tesserae cold", "fio random direct"),
    ("tesserae cold", "fio random cached"),
    ("tesserae windowed cold", "fio sequential direct"),
    ("tesserae windowed cold", "fio sequential cached"),
    ("tesserae cold", "ffcv"),
)
"""The pairs of methods whose ratio of rates is printed."""


class MemoryGroup:
    """A control group with a limit of memory, page cache included.

    Raises:
        OSError: The group cannot be created.
    """

    def __init__(self, num_bytes: int) -> None:
        root = Path("/sys/fs/cgroup")
        version1 = not (root / "cgroup.controllers").exists()
        self._folder = (root / "memory" if version1 else root) / f"cold-{uuid.uuid4().hex[:8]}"
        self._folder.mkdir()
        limit = "memory.limit_in_bytes" if version1 else "memory.max"
        (self._folder / limit).write_text(str(num_bytes))
        self.prefix = ("sh", "-c", f'echo $$ > {self._folder}/cgroup.procs; exec "$@"', "sh")
        """The words before a command that make it run in the group."""

    def remove(self) -> None:
        """Remove the group, in which no process runs any more."""
        self._folder.rmdir()


def drop_page_cache() -> None:
    """Write all pages to the disk and remove them from the page cache."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def fio_rate(image_set: ImageSet, name: str, seconds: float, prefix: tuple[str, ...]) -> float:
    """Read the store's shards with a job of fio, and return bytes/s."""
    pattern, num_bytes, direct, processes = FIO_JOBS[name]
    shards = sorted((image_set.folder / "raw/images.zarr/train/224").glob("c.*"))
    engine = ["--ioengine=libaio", "--iodepth=16"] if direct else ["--ioengine=psync"]
    output = subprocess.run(
        [
            *prefix, "fio", "--name=cold", f"--filename={':'.join(map(str, shards))}",
            f"--rw={pattern}", f"--bs={num_bytes}", f"--direct={direct}",
            f"--numjobs={processes}", *engine, "--readonly", "--norandommap", "--time_based",
            f"--runtime={seconds:.0f}", "--group_reporting", "--output-format=json",
        ],
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    return float(json.loads(output[output.index("{") :])["jobs"][0]["read"]["bw_bytes"])


def loader_rate(
    image_set: ImageSet, method: str, seconds: float, prefix: tuple[str, ...]
) -> tuple[float, float]:
    """Return the bytes/s of pixels and the MiB of memory of a method; zeros if it ran out of it."""
    try:
        run = image_set.measure(method, 0, seconds, prefix)
    except subprocess.CalledProcessError as e:
        if e.returncode not in (-signal.SIGKILL, 128 + signal.SIGKILL):
            raise
        return 0.0, 0.0
    return run.rows * ROW_BYTES / run.wall, run.rss


def main() -> int:
    """Run the rounds and print the table."""
    parser = create_parser(__doc__, METHODS, rounds=3)
    parser.add_argument(
        "--share", type=float, default=0.25, metavar="FRACTION",
        help="memory limit as a fraction of the store's bytes (default 0.25)",
    )  # fmt: skip
    args = parser.parse_args()
    if args.data is None:
        parser.error("pass a folder of class folders of photographs: --data FOLDER")
    if shutil.which("fio") is None:
        parser.error("fio is not installed")
    with open_set(args.set, args.scratch) as image_set:
        formats = {method.split()[0] for method in args.methods} & set(FORMATS)
        image_set.create(args.data, args.images, formats)
        limit = int(args.share * image_set.num_images() * ROW_BYTES)
        print(f"{image_set.num_images():,} images, {limit / 2**20:,.0f} MiB of memory", flush=True)
        names = [name for job in FIO_JOBS for name in (job, FOLLOWING.get(job))]
        names += [method for method in args.methods if method not in names]
        selected = (*FIO_JOBS, *args.methods)
        rates: dict[str, list[float]] = {name: [] for name in names if name in selected}
        rss = dict.fromkeys(args.methods, 0.0)
        group = MemoryGroup(limit)
        try:
            for number in range(args.rounds):
                for name in rates:
                    drop_page_cache()
                    if name in FIO_JOBS:
                        rate = fio_rate(image_set, name, args.seconds, group.prefix)
                    else:
                        rate, memory = loader_rate(image_set, name, args.seconds, group.prefix)
                        rss[name] = max(rss[name], memory)
                    rates[name].append(rate)
                    print(f"round {number + 1}  {name:<22} {rate / 1e6:8,.0f} MB/s", flush=True)
        finally:
            group.remove()
    report(rates, rss)
    return 0


def report(rates: dict[str, list[float]], rss: dict[str, float]) -> None:
    """Print rates and memory of each method, and ratios of rates within the rounds."""
    print("\n                          MB/s of pixels      images/s     own memory")
    print("                           max     median       median       max, MiB")
    for name, values in rates.items():
        median = statistics.median(values)
        memory = f"{rss[name]:14,.0f}" if name in rss else ""
        print(
            f"{name:<22} {max(values) / 1e6:8,.0f}   {median / 1e6:8,.0f}   "
            f"{median / ROW_BYTES:10,.0f} {memory}"
        )
    print("\nratio of the rates within a round                   min  median    max")
    for method, baseline in RATIOS:
        if method in rates and baseline in rates and min(rates[baseline]):
            ratios = [a / b for a, b in zip(rates[method], rates[baseline], strict=True)]
            print(
                f"{method + ' / ' + baseline:<48} {min(ratios):6.2f}  "
                f"{statistics.median(ratios):6.2f} {max(ratios):6.2f}"
            )


if __name__ == "__main__":
    sys.exit(main())
