"""The sizes of the measurements of gpu.py, and the device, clock and reports of one of them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

TIME_SHARE = 0.7
"""The share of a measurement's time after which no round begins."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The sizes of everything that is measured."""

    photographs: int
    """The number of photographs that are made, of which 4 of 5 are used."""
    images: int
    """The number of images of the store: the photographs, repeated."""
    image_size: int
    """The side of the squares that a classifier reads, in pixels."""
    gan_stored_size: int
    gan_size: int
    """The side of the squares of the WGAN, stored and as it generates them, in pixels."""
    encoding: str
    """The encoded rows beside the squares."""
    shard_rows: int
    batch_size: int
    gan_batch_size: int
    width: int | None
    """The channels of the first layers of the classifier and of the trunk (None: as usual)."""
    rounds: int
    steps: int
    """The training steps, or calls, of a round."""
    gan_steps: int
    head_steps: int
    block_bytes: int
    """The size of the block that is copied to the GPU."""
    num_vectors: int
    vector_dim: int
    num_queries: int
    """The number of queries of a round of searches, one at a time; a batch has as many."""
    num_reduced: int
    """The number of floats of an all-reduce."""


FULL = Workload(
    photographs=2_000, images=8_192, image_size=224, gan_stored_size=72, gan_size=64,
    encoding="jpeg:256@90", shard_rows=1_024, batch_size=256, gan_batch_size=64, width=None,
    rounds=5, steps=16, gan_steps=50, head_steps=300, block_bytes=256 * 2**20,
    num_vectors=1_281_167, vector_dim=256, num_queries=100, num_reduced=25_000_000,
)  # fmt: skip
REHEARSAL = Workload(
    photographs=35, images=96, image_size=32, gan_stored_size=18, gan_size=16,
    encoding="jpeg:36@90", shard_rows=32, batch_size=16, gan_batch_size=8, width=8,
    rounds=2, steps=2, gan_steps=1, head_steps=3, block_bytes=2**20,
    num_vectors=3_000, vector_dim=16, num_queries=10, num_reduced=1_000,
)  # fmt: skip


class Context:
    """The device and the sizes of a measurement, its clock, and the file for its figures."""

    def __init__(self, settings: dict[str, Any]) -> None:
        started = time.monotonic()
        self.device = torch.device("cuda:0" if settings["device"] == "cuda" else "cpu")
        self.rehearse: bool = settings["rehearse"]
        self.workload = REHEARSAL if self.rehearse else FULL
        self.folder = Path(settings["folder"])
        self._reports = Path(settings["reports"])
        self._ends = started + TIME_SHARE * settings["seconds"]

    @property
    def store(self) -> str:
        """The store that `data` has prepared."""
        return str(self.folder / "store")

    @property
    def is_gpu(self) -> bool:
        """True if a GPU is measured."""
        return self.device.type == "cuda"

    def rounds(self) -> Iterator[int]:
        """Yield the numbers of the rounds, at least one, as long as there is time."""
        for number in range(self.workload.rounds):
            if number and time.monotonic() > self._ends:
                return
            yield number

    def now(self) -> float:
        """Wait for the device, and return the time in seconds."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, call: Callable[[], object], times: int = 1) -> float:
        """Return the seconds that some calls take, to the end of their work on the device."""
        started = self.now()
        for _ in range(times):
            call()
        return self.now() - started

    def report(self, name: str, rounds: Sequence[float], unit: str, detail: str = "") -> None:
        """Add a figure, which is the median over some rounds."""
        values = [float(value) for value in rounds]
        self.write({"name": name, "rounds": values, "unit": unit, "detail": detail})

    def write(self, report: dict[str, Any]) -> None:
        """Append a line to the file of figures."""
        with self._reports.open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")


def ratio_text(values: Sequence[float], baseline: Sequence[float], name: str) -> str:
    """Return the ratio of two medians as text."""
    return f"{statistics.median(values) / statistics.median(baseline):.2f} of {name}"


def fastest_settings(context: Context) -> None:
    """Set what a rank of `tesserae train` sets (`workflows.training.loop.train`)."""
    if context.is_gpu:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
