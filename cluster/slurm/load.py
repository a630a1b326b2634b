"""How many workers the tasks of a scheduler can use, and which have nothing to do."""

from __future__ import annotations

from dataclasses import dataclass

from distributed import Client, Scheduler

HORIZON_SECONDS = 60.0
"""So long shall what is to be done take: for less, no machine is worth its start."""


@dataclass(frozen=True)
class Need:
    """What a scheduler could do with."""

    workers: int
    idle: frozenset[str]
    """Addresses of workers without a task."""


def need(client: Client) -> Need:
    """Ask it: by Dask's own measure, of how many tasks there are and how long such have taken."""
    workers, idle = client.run_on_scheduler(_need)
    return Need(workers, frozenset(idle))


def _need(dask_scheduler: Scheduler) -> tuple[int, list[str]]:
    there = dask_scheduler.workers.values()
    idle = [worker.address for worker in there if not worker.processing]
    return dask_scheduler.adaptive_target(target_duration=HORIZON_SECONDS), idle
