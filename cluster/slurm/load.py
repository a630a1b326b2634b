"""The number of workers that a scheduler's tasks can use, and the workers that are idle."""

from __future__ import annotations

from dataclasses import dataclass

from distributed import Client, Scheduler

HORIZON_SECONDS = 60.0
"""The target duration of the remaining work: no job is started to finish in less."""


@dataclass(frozen=True)
class WorkerDemand:
    """The load of a scheduler."""

    workers: int
    """The number of workers for which there is work."""
    idle: frozenset[str]
    """The addresses of workers without a task."""


def worker_demand(client: Client) -> WorkerDemand:
    """Return how many workers a scheduler's tasks can use, and which workers are idle.

    The number is Dask's own estimate (`adaptive_target`), from the number of tasks and their past
    durations: so many that the remaining work takes 60 seconds.

    Args:
        client: A client of the scheduler.

    Returns:
        `workers` (the number of workers for which there is work) and `idle` (the set of the
        addresses of workers without a task).
    """
    workers, idle = client.run_on_scheduler(_demand_on_scheduler)
    return WorkerDemand(workers, frozenset(idle))


def _demand_on_scheduler(dask_scheduler: Scheduler) -> tuple[int, list[str]]:
    workers = dask_scheduler.workers.values()
    idle = [worker.address for worker in workers if not worker.processing]
    return dask_scheduler.adaptive_target(target_duration=HORIZON_SECONDS), idle
