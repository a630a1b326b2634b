"""How many accelerators a loader feeds: emulated ones take its batches and sleep as if computing.

This is the method of MLPerf Storage. The utilisation of accelerators is the share of the time in
which they compute:

    steps * step_seconds / seconds from the first batch to the end of the last step

All accelerators of a run take a batch each, then all compute at once, as in data-parallel training.
An accelerator needs no processor while it computes, so the loader has all cores.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflows.loader.profiles import AcceleratorProfile

if TYPE_CHECKING:
    from pipeline.loader import Loader
    from pipeline.loader.batch import Batch


@dataclass(frozen=True)
class Emulation:
    """The result of feeding some emulated accelerators."""

    accelerators: int
    steps: int
    """The number of steps that each of them made."""
    utilisation: float
    """The share of their time in which they computed, 0 to 1."""
    images_per_second: float
    """The rows that all of them together took in a second."""
    longest_wait: float
    """The longest time in seconds for which they waited for their batches."""


def feed(
    loader: Loader, profile: AcceleratorProfile, accelerators: int, seconds: float
) -> Emulation:
    """Feed emulated accelerators for some time.

    Args:
        loader: The loader, whose batches are those of one accelerator; it has at least one.
        profile: The accelerators.
        accelerators: Their number, at least 1.
        seconds: The duration in seconds; the step that begins before its end is the last one.
    """
    batches = _endless(loader)
    for _ in range(accelerators):  # the first batches do not count: training starts with them
        next(batches)
    steps, longest_wait = 0, 0.0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        time.sleep(profile.step_seconds)
        steps += 1
        waiting = time.perf_counter()
        for _ in range(accelerators):
            next(batches)
        longest_wait = max(longest_wait, time.perf_counter() - waiting)
    elapsed = time.perf_counter() - started
    batches.close()
    return Emulation(
        accelerators,
        steps,
        steps * profile.step_seconds / elapsed,
        steps * accelerators * profile.batch_size / elapsed,
        longest_wait,
    )


def _endless(loader: Loader) -> Generator[Batch, None, None]:
    while True:
        yield from loader


def most_fed(loader: Loader, profile: AcceleratorProfile, seconds: float) -> Iterator[Emulation]:
    """Yield emulations of more and more accelerators until they are no longer fed.

    Their number begins at one and is doubled; the interval in which it lies is then halved, so that
    even a hundred take about a dozen emulations.

    Args:
        loader: The loader, whose batches are those of one accelerator; it has at least one.
        profile: The accelerators.
        seconds: The duration of each emulation in seconds.
    """
    fed, unfed = 0, 0
    while not unfed or unfed - fed > 1:
        accelerators = (fed + unfed) // 2 if unfed else max(1, 2 * fed)
        emulation = feed(loader, profile, accelerators, seconds)
        yield emulation
        if emulation.utilisation >= profile.utilisation:
            fed = accelerators
        else:
            unfed = accelerators
