"""Measurements of training steps: methods that take turns in rounds, and tables of rates."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil
import torch


def cpu_seconds() -> float:
    """Return the CPU time of this process and its descendants, in seconds."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(p.cpu_times().user + p.cpu_times().system for p in processes)


def wait_for_idle_processes() -> None:
    """Wait until the processes of a DataLoader have prefetched what they may, at most a minute."""
    for _ in range(60):
        before = cpu_seconds()
        time.sleep(1)
        if cpu_seconds() - before < 0.1:
            return


@dataclass
class Method:
    """A method of training and its measurements, one for each round."""

    step: Callable[[], float]
    """Makes one training step; returns the seconds that it waited for batches, 0 if unknown."""
    images: int
    """The number of images that a step takes from the data."""
    images_per_second: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """The CPU time of a step in seconds."""
    waits: list[float] = field(default_factory=list)
    """The share of the time that steps waited for batches."""

    def measure(self, steps: int, *, unmeasured: int = 0) -> None:
        """Make some steps, and add their measurement.

        Args:
            steps: Number of measured steps.
            unmeasured: Number of steps before them, which use up what a DataLoader has prefetched
                while other methods ran (default 0).
        """
        for _ in range(unmeasured):
            self.step()
        started, cpu = time.perf_counter(), cpu_seconds()
        waited = sum(self.step() for _ in range(steps))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        self.images_per_second.append(steps * self.images / seconds)
        self.cpu.append((cpu_seconds() - cpu) / steps)
        self.waits.append(waited / seconds)


def print_rates(
    methods: dict[str, Method], compared: Sequence[str], baselines: Sequence[str]
) -> None:
    """Print the measurements of each method, and ratios of rates.

    Args:
        methods: The methods by name, each with as many measurements.
        compared: Names of methods whose rates are divided by those of the baselines.
        baselines: Names of the baselines. Methods that were not measured are left out.
    """
    print(f"{'':18} {'images/s':>10} {'max':>10} {'CPU s/step':>11} {'loader wait':>12}")
    for name, method in methods.items():
        rate, best = statistics.median(method.images_per_second), max(method.images_per_second)
        cpu, wait = statistics.median(method.cpu), statistics.median(method.waits)
        print(f"{name:18} {rate:10.1f} {best:10.1f} {cpu:11.2f} {wait:12.2%}")
    print("ratio of the rates within a round")
    for name, baseline in itertools.product(compared, baselines):
        if name in methods and baseline in methods:
            rates = (methods[key].images_per_second for key in (name, baseline))
            ratios = [a / b for a, b in zip(*rates, strict=True)]
            median = statistics.median(ratios)
            print(f"{name} / {baseline}: median {median:.2f}, min {min(ratios):.2f}")
