"""A program that decodes and resizes images by one method, and prints how long that took as JSON.

    python measured.py '{"files": "files.txt", "method": "threads", "workers": 2}'

It needs Pillow, numpy and what the method itself needs, and nothing of this project, so that
interpreters and environments that cannot run the project can be measured, too. The time begins
when all threads or processes are ready, and ends when the last image is there.
"""

from __future__ import annotations

import functools
import importlib
import io
import json
import os
import re
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

GROUP = 8
"""The number of images of a message to a process."""
CHECKED_FILES = 8
"""The number of files of which it is checked that they left the page cache: few, as a check may
start reading a file again."""
CALIBRATION_SECONDS = 1.0
"""How long a loop holds the interpreter's lock, by which samples of it are scaled."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Task:
    """The measured method of decoding and resizing."""

    files: str
    """A text file with the path of an image on each line."""
    method: str = "serial"
    """serial, threads, processes (their pixels are sent to this process, as in the lesson),
    processes-kept (their pixels stay with them), dask-threads or dask-processes."""
    workers: int = 1
    """The number of threads or processes."""
    decoder: str = "pillow"
    """pillow or simplejpeg, which leaves to Pillow what is no plain JPEG."""
    size: int = 224
    """The side of the squares in pixels."""
    buffers: bool = False
    """True to decode into a buffer that each thread keeps; False to allocate one for each image."""
    cold: bool = False
    """True to remove the files from the page cache first."""
    calibrate: bool = False
    """True to hold the interpreter's lock for a second first, for a sampler that looks on."""
    repeats: int = 1
    """The number of times that the images are decoded; more give a sampler more time."""
    pixels: str = ""
    """A file for the pixels of all images, (n, size, size, 3) uint8 in numpy's format; empty: they
    are not kept."""


@dataclass(frozen=True)
class Rendered:
    """One image: its checksum, and what it cost."""

    checksum: int
    """The CRC-32 of its pixels."""
    decode_seconds: float
    resize_seconds: float
    process: tuple[int, float, float]
    """The process: its number, and its processor time in seconds before and after."""


_local = threading.local()


def _buffer(num_bytes: int) -> bytearray:
    """Return the buffer of this thread, which grows to the largest image."""
    buffer: bytearray = getattr(_local, "buffer", bytearray())
    if len(buffer) < num_bytes:
        buffer = _local.buffer = bytearray(num_bytes)
    return buffer


def _decode_by_simplejpeg(data: bytes, *, buffers: bool) -> Image.Image | None:
    import simplejpeg

    if not data.startswith(b"\xff\xd8"):
        return None
    with suppress(ValueError):  # Pillow decodes the others
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        buffer = _buffer(height * width * 4) if buffers else None
        pixels = simplejpeg.decode_jpeg(data, "RGBX", buffer=buffer)
        # Four bytes a pixel: Pillow's own form of RGB, so that nothing is converted.
        size = (pixels.shape[1], pixels.shape[0])
        return Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1)
    return None


def _decode_by_pillow(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def render(path: str, task: Task) -> tuple[Pixels, Rendered]:
    """Return the square of an image: its centre, resized with a bilinear filter.

    Args:
        path: The file.
        task: The decoder, the side of the square, and whether buffers are kept.
    """
    cpu = time.process_time()
    started = time.perf_counter()
    data = Path(path).read_bytes()
    image = None
    if task.decoder == "simplejpeg":
        image = _decode_by_simplejpeg(data, buffers=task.buffers)
    if image is None:
        image = _decode_by_pillow(data)
    image.load()
    decoded = time.perf_counter()
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.resize(
        (task.size, task.size), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
    )
    data = square.tobytes("raw", "RGB")
    pixels = np.frombuffer(data, np.uint8).reshape(task.size, task.size, 3)
    resized = time.perf_counter()
    checksum = zlib.crc32(data)
    process = (os.getpid(), cpu, time.process_time())
    return pixels, Rendered(checksum, decoded - started, resized - decoded, process)


def render_group(
    paths: Sequence[str], task: Task, *, keep: bool
) -> list[tuple[Pixels | None, Rendered]]:
    """Render some images in a worker process.

    Args:
        paths: The files.
        task: The measured method.
        keep: True to leave the pixels in this process, False to return them.
    """
    results = [render(path, task) for path in paths]
    return [(None if keep else pixels, rendered) for pixels, rendered in results]


def _wait(seconds: float) -> None:
    time.sleep(seconds)


Run = Callable[[Sequence[str]], Iterator[tuple[Pixels | None, Rendered]]]


def _open_serial(task: Task, stack: ExitStack) -> Run:
    return lambda paths: (render(path, task) for path in paths)


def _open_threads(task: Task, stack: ExitStack) -> Run:
    pool = stack.enter_context(ThreadPoolExecutor(task.workers, "render"))
    list(pool.map(_wait, [0.05] * task.workers))
    return lambda paths: iter(pool.map(lambda path: render(path, task), paths))


def _open_processes(task: Task, stack: ExitStack) -> Run:
    pool = stack.enter_context(ProcessPoolExecutor(task.workers, get_context("forkserver")))
    list(pool.map(_wait, [0.3] * task.workers))  # each process has imported this module then
    work = functools.partial(render_group, task=task, keep=task.method == "processes-kept")
    return lambda paths: _flat(pool.map(work, _groups(paths)))


def _open_dask(task: Task, stack: ExitStack) -> Run:
    from distributed import Client, LocalCluster

    in_processes = task.method == "dask-processes"
    cluster = stack.enter_context(
        LocalCluster(
            n_workers=task.workers if in_processes else 1,
            threads_per_worker=1 if in_processes else task.workers,
            processes=in_processes,
            host="127.0.0.1" if in_processes else None,  # threads need no sockets
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            worker_dashboard_address=None,
            memory_limit=0,
        )
    )
    client = stack.enter_context(Client(cluster))
    client.wait_for_workers(task.workers if in_processes else 1)
    client.gather(client.map(_wait, [0.3] * task.workers, pure=False))
    work = functools.partial(render_group, task=task, keep=True)

    def run(paths: Sequence[str]) -> Iterator[tuple[Pixels | None, Rendered]]:
        return _flat(client.gather(client.map(work, list(_groups(paths)), pure=False)))

    return run


OPENERS = {
    "serial": _open_serial,
    "threads": _open_threads,
    "processes": _open_processes,
    "processes-kept": _open_processes,
    "dask-threads": _open_dask,
    "dask-processes": _open_dask,
}
"""The function that opens the threads or processes of each method."""


def _groups(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    return (paths[start : start + GROUP] for start in range(0, len(paths), GROUP))


def _flat(groups: Iterable[list[Any]]) -> Iterator[Any]:
    return (item for group in groups for item in group)


def calibrate() -> None:
    """Hold the interpreter's lock for a second."""
    end = time.perf_counter() + CALIBRATION_SECONDS
    while time.perf_counter() < end:
        pass


def peak_bytes(pid: int) -> int:
    """Return the largest resident memory that a process has had, in bytes.

    The `ru_maxrss` of getrusage does not serve: the kernel passes it on to the programs that a
    process starts, so that a small program would have the peak of the command that started it.

    Args:
        pid: The number of the process.

    Raises:
        OSError: There is no such process, or the system has no `/proc`.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def measure(task: Task, run: Run, paths: Sequence[str]) -> dict[str, Any]:
    """Decode all images, and return what that took.

    Args:
        task: The measured method.
        run: The function that decodes them in the method of the task, whose processes still run.
        paths: The files.
    """
    out = np.zeros((len(paths), task.size, task.size, 3), np.uint8)
    cpu, started = time.process_time(), time.perf_counter()
    rendered: list[Rendered] = []
    for _ in range(task.repeats):
        rendered = []
        for index, (pixels, result) in enumerate(run(paths)):
            if pixels is not None:
                out[index] = pixels
            rendered.append(result)
    seconds = time.perf_counter() - started
    cpu = time.process_time() - cpu
    if task.pixels:
        np.save(task.pixels, out)
    spans: dict[int, tuple[float, float]] = {}
    for pid, before, after in (r.process for r in rendered):
        low, high = spans.get(pid, (before, after))
        spans[pid] = (min(low, before), max(high, after))
    cpu += sum(high - low for pid, (low, high) in spans.items() if pid != os.getpid())
    images = len(paths) * task.repeats
    checksums = b"".join(r.checksum.to_bytes(4, "little") for r in rendered)
    return {
        "images": images,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "decode_seconds": sum(r.decode_seconds for r in rendered) * task.repeats,
        "resize_seconds": sum(r.resize_seconds for r in rendered) * task.repeats,
        "memory_bytes": sum(map(peak_bytes, {os.getpid(), *spans})),
        "checksum": zlib.crc32(checksums),
        "pillow": PIL.__version__,
        "lock": not hasattr(sys, "_is_gil_enabled") or sys._is_gil_enabled(),
    }


def remove_from_cache(paths: Iterable[str]) -> None:
    """Remove files from the page cache.

    Args:
        paths: The files.
    """
    for path in paths:
        with Path(path).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_share(paths: Sequence[str]) -> float | None:
    """Return the share of files whose first byte is in the page cache, 0 to 1.

    Some file systems keep pages that they were advised to drop. A few of the files are looked at.

    Args:
        paths: The files.

    Returns:
        The share; None if the system does not tell.
    """
    sample = paths[:: -(-len(paths) // CHECKED_FILES)]
    cached = 0
    for path in sample:
        with Path(path).open("rb", buffering=0) as file:
            try:
                cached += os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
            except BlockingIOError:
                continue
            except (AttributeError, OSError):
                return None
    return cached / len(sample)


def main() -> None:
    """Measure the task of the first argument, and print the result as a line of JSON."""
    task = Task(**json.loads(sys.argv[1]))
    paths = Path(task.files).read_text(encoding="utf-8").splitlines()
    if task.calibrate:
        calibrate()
    with ExitStack() as stack:
        run = OPENERS[task.method](task, stack)
        share: float | None = 1.0
        if task.cold:
            remove_from_cache(paths)
            share = cached_share(paths)
        else:
            for path in paths:  # not decoded, so that all methods begin alike
                Path(path).read_bytes()
        result = measure(task, run, paths)
    print(json.dumps({**asdict(task), **result, "cached_share": share}), flush=True)


if __name__ == "__main__":
    # Worker processes must be able to import what is sent to them, and cannot import __main__.
    sys.path.insert(0, str(Path(__file__).parent))
    importlib.import_module("measured").main()
