"""The measurements of gpu.py: `gpu_measurements.py SETTINGS` runs the one that the settings name.

Each is a function of a `Context`, by which it appends its figures to a file as lines of JSON.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_context import Context, ratio_text
from gpu_stages import classify, compiled, devise, features, wgan
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
K = 10
"""The number of neighbours of a search."""


# --- the machine and the data ---------------------------------------------------------------------


def machine(context: Context) -> None:
    """Report the GPU, the machine and the versions."""
    from cluster.limits import cores
    from pipeline.images.crop_decode import crop_decoder
    from pipeline.memory import limit_bytes

    has_gpu = torch.cuda.is_available()
    facts: dict[str, Any] = {"gpu": None, "gpu_memory_gib": 0, "driver": "", "nccl": ""}
    if has_gpu:
        gpu = torch.cuda.get_device_properties(0)
        facts = {
            "gpu": gpu.name,
            "gpu_memory_gib": round(gpu.total_memory / 2**30, 1),
            "multiprocessors": gpu.multi_processor_count,
            "capability": f"{gpu.major}.{gpu.minor}",
            "driver": driver_version(),
            "nccl": nccl_version(),
        }
    context.write({
        "facts": {
            **facts,
            "torch": torch.__version__,
            "cuda": torch.version.cuda or "",
            "cudnn": torch.backends.cudnn.version() or "",
            "transformers": installed_version("transformers"),
            "tesserae": installed_version("tesserae"),
            "commit": commit(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "decoder": crop_decoder(),
            "cores": cores(),
            "memory_gib": round(limit_bytes() / 2**30, 1),
            "load": round(os.getloadavg()[0], 2),
        }
    })  # fmt: skip


def nccl_version() -> str:
    """Return the version of NCCL; empty if torch was built without it."""
    if not torch.distributed.is_nccl_available():
        return ""
    return ".".join(map(str, torch.cuda.nccl.version()))


def driver_version() -> str:
    """Return the version of NVIDIA's driver; empty if nvidia-smi does not tell it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.check_output(query, text=True, timeout=20).splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return ""


def installed_version(package: str) -> str:
    """Return the version of a package; empty if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def commit() -> str:
    """Return the commit of this tree, with `+` if it was changed; empty outside of a clone."""
    try:
        name = subprocess.check_output(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"],
            cwd=ROOT, text=True, stderr=subprocess.DEVNULL, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return name.strip()


def data(context: Context) -> None:
    """Make photographs, and prepare squares of two sizes and encoded rows of them."""
    from image_set import link_images, prepare

    from workflows.sample_data.sample import make_sample

    workload = context.workload
    started = time.perf_counter()
    sample = make_sample(context.folder / "sample", workload.photographs)
    seconds = time.perf_counter() - started
    context.report("photographs", [workload.photographs / seconds], "images/s", "one thread")
    link_images(sample.directory / "train", context.folder / "images", workload.images)
    sizes = (str(workload.gan_stored_size), str(workload.image_size))
    options = ["--shard-rows", str(workload.shard_rows), "--max-bad", "0.1"]
    if context.rehearse:
        options += ["--workers", "1"]
    started = time.perf_counter()
    prepare(
        context.folder / "images", Path(context.store), tuple(options),
        ("--sizes", *sizes, "--encoded", workload.encoding),
    )  # fmt: skip
    seconds = time.perf_counter() - started
    detail = f"{workload.images:,} images, {' and '.join(sizes)} px, {workload.encoding}"
    context.report("prepare", [workload.images / seconds], "images/s", f"with start-up; {detail}")


# --- from memory to the device --------------------------------------------------------------------


def memory_kinds(context: Context) -> tuple[bool, ...]:
    """Return whether memory is page-locked, for each kind of memory to measure."""
    return (True, False) if context.is_gpu else (False,)


def kind_name(pinned: bool) -> str:
    """Return the name of a kind of memory."""
    return "page-locked memory" if pinned else "pageable memory"


def block_copy(context: Context, *, pinned: bool) -> Callable[[], object]:
    """Return a function that copies a block to the device."""
    source = torch.randint(0, 256, (context.workload.block_bytes,), dtype=torch.uint8)
    if pinned:
        source = source.pin_memory()
    target = torch.empty_like(source, device=context.device)
    return lambda: target.copy_(source, non_blocking=True)


def bus_rate(context: Context, call: Callable[[], object], copies: int = 4) -> float:
    """Return the rate of `block_copy` in GB/s."""
    return copies * context.workload.block_bytes / 1e9 / context.seconds(call, copies)


def bus(context: Context) -> None:
    """Measure copies of a block to the device."""
    for pinned in memory_kinds(context):
        call = block_copy(context, pinned=pinned)
        context.seconds(call)
        rates = [bus_rate(context, call, 16) for _ in context.rounds()]
        size = context.workload.block_bytes / 2**20
        context.report(kind_name(pinned), rates, "GB/s", f"blocks of {size:.0f} MiB")


def loader(context: Context) -> None:
    """Measure whole epochs of squares that are copied to the device, beside copies of a block."""
    from pipeline.loader import Loader, Reading
    from workflows.terminal.formatting import counted

    workload = context.workload
    for pinned in memory_kinds(context):
        squares = Loader(
            context.store, size=workload.image_size, batch_size=workload.batch_size,
            reading=Reading(pin_memory=pinned), rank=0, world=1,
        )  # fmt: skip

        def epoch(squares: Loader = squares) -> None:
            for batch in squares:
                batch.images.to(context.device, non_blocking=True)

        copy_block = block_copy(context, pinned=pinned)
        rows = len(squares) * squares.batch_size
        num_bytes = rows * 3 * workload.image_size**2
        context.seconds(epoch)
        context.seconds(copy_block)
        rates, shares, cpu = [], [], []
        for _ in context.rounds():
            peak, cpu_started = bus_rate(context, copy_block), time.process_time()
            seconds = context.seconds(epoch)
            cpu.append((time.process_time() - cpu_started) / rows * 1e3)
            rates.append(rows / seconds)
            shares.append(num_bytes / 1e9 / seconds / peak * 100)
        name = kind_name(pinned)
        context.report(
            f"to the device, {name}", rates, "images/s",
            f"{workload.image_size} px, {counted(squares.threads, 'thread')}, batches of"
            f" {squares.batch_size}, {statistics.median(cpu):.3f} CPU ms per image",
        )  # fmt: skip
        gigabytes = statistics.median(rates) * 3 * workload.image_size**2 / 1e9
        context.report(f"share of the bus, {name}", shares, "%", f"{gigabytes:.2f} GB/s")


def augment(context: Context) -> None:
    """Measure the augmentation of a training batch on the device."""
    from pipeline.augment import Augment

    workload, size = context.workload, context.workload.image_size
    shape = (workload.batch_size, 3, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=context.device)
    images = images.contiguous(memory_format=torch.channels_last)
    rows = torch.arange(workload.batch_size)
    crop = Augment(size=size)

    def call() -> Tensor:
        return crop(images, rows, 0)

    context.seconds(call, 3)
    images_of_round = workload.steps * workload.batch_size
    rates = [images_of_round / context.seconds(call, workload.steps) for _ in context.rounds()]
    detail = f"crop, resize to {size} px, flip, normalise"
    context.report("random resized crops", rates, "images/s", detail)


# --- search, collectives and tests ----------------------------------------------------------------


def search(context: Context) -> None:
    """Measure the exact index on the device, with single queries and batches, and torch.topk."""
    from pipeline.neighbours import build

    workload = context.workload
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((workload.num_vectors, workload.vector_dim), np.float32)
    queries = rng.standard_normal((workload.num_queries, workload.vector_dim), np.float32)
    started = context.now()
    index = build("exact", vectors, device=str(context.device))
    built = context.now() - started
    units = nn.functional.normalize(torch.from_numpy(vectors)).to(context.device)

    def by_hand(batch: Any) -> Any:
        directions = nn.functional.normalize(torch.from_numpy(batch)).to(context.device)
        return (directions @ units.T).topk(K, 1).indices.cpu().numpy()

    def one_by_one() -> None:
        for query in queries:
            index.search(query[None], K)

    rows, plain_rows = index.search(queries, K).rows, by_hand(queries)
    agreement = np.mean([len({*a} & {*b}) / K for a, b in zip(rows, plain_rows, strict=True)])
    single, batch, plain = [], [], []
    for _ in context.rounds():
        single.append(workload.num_queries / context.seconds(one_by_one))
        batch.append(workload.num_queries / context.seconds(lambda: index.search(queries, K)))
        plain.append(workload.num_queries / context.seconds(lambda: by_hand(queries)))
    shape = f"{workload.num_vectors:,} x {workload.vector_dim}"
    context.report(
        f"batches of {workload.num_queries}", batch, "queries/s",
        f"{shape}, built in {built:.1f} s, {ratio_text(batch, plain, 'torch.topk')}",
    )  # fmt: skip
    context.report("one at a time", single, "queries/s", shape)
    detail = f"batches of {workload.num_queries}, {agreement:.2%} of the rows are the same"
    context.report("torch.topk", plain, "queries/s", detail)


def nccl(context: Context) -> None:
    """Measure an all-reduce in the world that a rank joins."""
    import torch.distributed as dist

    from cluster.ranks.rank_process import Rank
    from workflows.training.world import join

    rank = Rank(rank=0, world=1, generation=1, host="127.0.0.1", gpu=context.is_gpu)
    started = context.now()
    with join(rank, context.folder / "meetings", connect_alone=True) as world:
        joined = context.now() - started
        backend = dist.get_backend()
        values = torch.ones(context.workload.num_reduced, device=world.device)
        context.seconds(lambda: dist.all_reduce(values), 3)
        steps = context.workload.steps
        milliseconds = [
            context.seconds(lambda: dist.all_reduce(values), steps) / steps * 1e3
            for _ in context.rounds()
        ]
        if not bool((values == 1).all()):
            raise RuntimeError("an all-reduce over one rank changed the values")
        flags = torch.tensor([0, 1], dtype=torch.int32)
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=world.control)
        if flags.tolist() != [0, 1]:
            raise RuntimeError("the group for decisions changed the flags of one rank")
    context.report("join", [joined], "s", f"{backend}, one rank")
    detail = f"{context.workload.num_reduced:,} floats, {backend}, one rank"
    context.report("all-reduce", milliseconds, "ms", detail)


def tests(context: Context) -> None:
    """Run the tests marked `gpu`, which are skipped without a GPU."""
    files = [
        file
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.gpu" in (text := file.read_text()) or "tests.devices" in text
    ]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [*command, *map(str, files)], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines() or ["no output"]
    summary = lines[-1].strip("= ")
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (\w+)", summary)}
    if "passed" in counts or "failed" in counts or "skipped" in counts:
        context.report("passed", [counts.get("passed", 0)], "tests", summary)
    if done.returncode:
        print(done.stdout)
        failed = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), summary)
        raise RuntimeError(f"pytest ended with exit status {done.returncode}: {failed}")


MEASUREMENTS: dict[str, Callable[[Context], None]] = {
    function.__name__: function
    for function in (
        machine, data, bus, loader, augment, classify, wgan, features, devise, search, nccl, tests,
        compiled,
    )
}  # fmt: skip
"""All measurements by name."""


def report_error(
    context: Context, kind: type[BaseException], error: BaseException, trace: Any
) -> None:
    """Report an exception that ends the process, as one line, and print its traceback."""
    first = (str(error).strip().splitlines() or [""])[0]
    context.write({"error": f"{kind.__name__}: {first}"})
    sys.__excepthook__(kind, error, trace)


def main(settings: dict[str, Any]) -> None:
    """Run the measurement that the settings name."""
    context = Context(settings)
    sys.excepthook = functools.partial(report_error, context)
    if context.rehearse:
        torch.set_num_threads(1)
    MEASUREMENTS[settings["name"]](context)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(json.loads(sys.argv[1]))
