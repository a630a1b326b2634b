"""How fast pictures are fed from a store that does not fit in memory, beside what the disk gives.

    python benchmarks/cold.py [--data FOLDER] [--images 20000] [--rounds 3] [--set FOLDER]

As root, with fio and a memory controller (cgroup v1 or v2). Every arm runs in a group that may have
--share of the store's bytes of memory, page cache included, and begins with nothing in the page
cache. Each feeds for --seconds.

    fio random      reads of one row's bytes at random places, sixteen under way: `direct` past the
                    page cache, `cached` through it
    fio sequential  reads of 1 MiB, one after the other
    tesserae        full random order, and windows of 96 MiB
    ffcv            raw: RANDOM through the page cache; QUASI_RANDOM with memory of its own (0 where
                    that is too much, and the kernel kills it)
    mds             MosaicML Streaming: JPEG, a sixth of the bytes, so decoding limits it
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

from feeds import ROW_BYTES
from pictureset import MADE, PictureSet, opened, parser_of

ARMS = ("tesserae cold", "tesserae windowed cold", "ffcv", "ffcv quasi cold", "mds")
BETWEEN = {"fio random direct": "tesserae cold", "fio sequential direct": "tesserae windowed cold"}
"""Disks are not the same from one minute to the next, so ours runs between its two of fio."""
PAGE = 4096
FIO = {
    "fio random direct": ("randread", ROW_BYTES // PAGE * PAGE, 1, 1),
    "fio random cached": ("randread", ROW_BYTES, 0, 16),
    "fio sequential direct": ("read", 2**20, 1, 1),
    "fio sequential cached": ("read", 2**20, 0, 1),
}
"""What fio does: how, bytes of a read, whether past the page cache, processes."""
RATIOS = (
    ("tesserae cold", "fio random direct"),
    ("tesserae cold", "fio random cached"),
    ("tesserae windowed cold", "fio sequential direct"),
    ("tesserae windowed cold", "fio sequential cached"),
    ("tesserae cold", "ffcv"),
)


class MemoryGroup:
    """A control group with a limit of memory, page cache included."""

    def __init__(self, num_bytes: int) -> None:
        """Make one.

        Raises:
            OSError: It cannot be made here.
        """
        root = Path("/sys/fs/cgroup")
        first = not (root / "cgroup.controllers").exists()  # version 1
        self._folder = (root / "memory" if first else root) / f"cold-{uuid.uuid4().hex[:8]}"
        self._folder.mkdir()
        limit = "memory.limit_in_bytes" if first else "memory.max"
        (self._folder / limit).write_text(str(num_bytes))
        self.within = ("sh", "-c", f'echo $$ > {self._folder}/cgroup.procs; exec "$@"', "sh")
        """What a command is put behind to run in it."""

    def remove(self) -> None:
        """Remove it; nothing runs in it any more."""
        self._folder.rmdir()


def drop_pages() -> None:
    """Nothing stays in the page cache."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def fio(pictures: PictureSet, name: str, seconds: float, within: tuple[str, ...]) -> float:
    """Bytes a second of the files of the store."""
    how, num_bytes, direct, jobs = FIO[name]
    shards = sorted((pictures.folder / "raw/images.zarr/train/224").glob("c.*"))
    engine = ["--ioengine=libaio", "--iodepth=16"] if direct else ["--ioengine=psync"]
    said = subprocess.run(
        [
            *within, "fio", "--name=cold", f"--filename={':'.join(map(str, shards))}",
            f"--rw={how}", f"--bs={num_bytes}", f"--direct={direct}", f"--numjobs={jobs}", *engine,
            "--readonly", "--norandommap", "--time_based", f"--runtime={seconds:.0f}",
            "--group_reporting", "--output-format=json",
        ],
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    return float(json.loads(said[said.index("{") :])["jobs"][0]["read"]["bw_bytes"])


def fed(
    pictures: PictureSet, name: str, seconds: float, within: tuple[str, ...]
) -> tuple[float, float]:
    """Bytes of pixels a second, and MiB of memory; 0 of one that is killed for want of memory."""
    try:
        took = pictures.feed(name, 0, seconds, within)
    except subprocess.CalledProcessError as e:
        if e.returncode not in (-signal.SIGKILL, 128 + signal.SIGKILL):
            raise
        return 0.0, 0.0
    return took.rows * ROW_BYTES / took.wall, took.rss


def main() -> int:
    """Run the rounds and print the table."""
    parser = parser_of(__doc__, ARMS, rounds=3)
    parser.add_argument("--share", type=float, default=0.25, help="of the store's bytes (0.25)")
    args = parser.parse_args()
    if args.data is None:
        parser.error("say where photographs are: --data FOLDER of class folders")
    if shutil.which("fio") is None:
        parser.error("fio is not installed")
    with opened(args.set, args.scratch) as pictures:
        pictures.make(args.data, args.images, {arm.split()[0] for arm in args.arms} & set(MADE))
        limit = int(args.share * pictures.num_images() * ROW_BYTES)
        print(f"{pictures.num_images():,} pictures, {limit / 2**20:,.0f} MiB of memory", flush=True)
        names = [found for fio_arm in FIO for found in (fio_arm, BETWEEN.get(fio_arm))]
        names += [arm for arm in args.arms if arm not in names]
        speeds: dict[str, list[float]] = {name: [] for name in names if name in (*FIO, *args.arms)}
        rss = dict.fromkeys(args.arms, 0.0)
        group = MemoryGroup(limit)
        try:
            for place in range(args.rounds):
                for name in speeds:
                    drop_pages()
                    if name in FIO:
                        speed = fio(pictures, name, args.seconds, group.within)
                    else:
                        speed, memory = fed(pictures, name, args.seconds, group.within)
                        rss[name] = max(rss[name], memory)
                    speeds[name].append(speed)
                    print(f"round {place + 1}  {name:<22} {speed / 1e6:8,.0f} MB/s", flush=True)
        finally:
            group.remove()
    report(speeds, rss)
    return 0


def report(speeds: dict[str, list[float]], rss: dict[str, float]) -> None:
    """Print rates, memory, and the ratios that matter."""
    print("\n                          MB/s of pixels      images/s     own memory")
    print("                           max     median       median      most, MiB")
    median = {name: statistics.median(found) for name, found in speeds.items()}
    for name, found in speeds.items():
        memory = f"{rss[name]:14,.0f}" if name in rss else ""
        print(
            f"{name:<22} {max(found) / 1e6:8,.0f}   {median[name] / 1e6:8,.0f}   "
            f"{median[name] / ROW_BYTES:10,.0f} {memory}"
        )
    print()
    print("of the rounds:                                      min  median    max")
    for one, other in RATIOS:
        if one in speeds and other in speeds and min(speeds[other]):
            found = [a / b for a, b in zip(speeds[one], speeds[other], strict=True)]
            print(
                f"{one + ' / ' + other:<48} {min(found):6.2f}  {statistics.median(found):6.2f} "
                f"{max(found):6.2f}"
            )


if __name__ == "__main__":
    sys.exit(main())
