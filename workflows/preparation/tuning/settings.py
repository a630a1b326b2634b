"""The settings that are tried: numbers of worker processes, of their threads and of readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workflows.preparation.worker_memory import worker_bytes

MAX_THREADS = 16
"""The largest number of threads of a process that is tried: they share an interpreter."""
MAX_TASKS_PER_CORE = 2
"""The largest number of tasks per core that is tried."""
READERS = (1, 2, 4, 8, 16, 32, 64)
"""The numbers of readers that are tried, in ascending order."""


@dataclass(frozen=True, order=True)
class Setting:
    """How `prepare` uses this machine."""

    workers: int
    """The number of worker processes."""
    threads: int
    """The number of threads of each, each of which has a task."""
    readers: int
    """The number of threads of each task that read images ahead."""

    @property
    def tasks(self) -> int:
        """The number of tasks that run at once."""
        return self.workers * self.threads

    def __str__(self) -> str:
        workers = f"{self.workers} worker{'' if self.workers == 1 else 's'}"
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        readers = f"{self.readers} reader{'' if self.readers == 1 else 's'}"
        return f"{workers} x {threads}, {readers}"


def worker_settings(
    cores: int, readers: int, *, task_bytes: int, limit_bytes: int
) -> list[Setting]:
    """Return the settings of workers and threads that keep the cores of a machine busy.

    They have half as many tasks as there are cores, as many, or up to twice as many: fewer suffice
    for a slow disk, and more keep cores busy while others wait.

    Args:
        cores: The number of cores.
        readers: The number of readers of all of them.
        task_bytes: The memory of a task.
        limit_bytes: The memory of all workers together; settings that need more are left out.

    Returns:
        The settings in ascending order; if none fits into the memory, one worker with one thread.
    """
    workers = {1, cores, round(1.5 * cores), MAX_TASKS_PER_CORE * cores}
    workers |= {2**power for power in range(cores.bit_length() + 1)}
    settings = [
        Setting(processes, threads, readers)
        for processes in sorted(workers)
        for threads in sorted({1, *(2**power for power in range(1, MAX_THREADS.bit_length()))})
        if max(1, cores // 2) <= processes * threads <= MAX_TASKS_PER_CORE * cores
    ]
    fitting = [
        setting
        for setting in settings
        if setting.workers * worker_bytes(setting.threads, task_bytes) <= limit_bytes
    ]
    return fitting or [Setting(1, 1, readers)]


def cheapest(settings: Sequence[Setting]) -> Setting:
    """Return the setting that needs the least memory: the fewest workers, tasks and readers.

    Args:
        settings: The settings, at least one.
    """
    return min(settings, key=lambda s: (s.tasks * s.readers, s.workers, s.tasks, s.readers))
