"""The workers on which ranks can run, in the order of preference."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

from distributed import Client, Scheduler
from distributed.core import Status


@dataclass(frozen=True)
class WorkerSlot:
    """A worker on which one rank can run."""

    worker: str
    """The address of the worker."""
    host: str
    """The address of its machine."""
    gpu: bool
    """True if the rank uses the worker's GPU."""


def count_gpu_workers(client: Client) -> int:
    """Return the number of running workers that have the Dask resource `GPU`.

    Args:
        client: A client of the cluster.
    """
    return len(worker_slots(client, gpu=True))


def workers_for_ranks(client: Client, *, gpu: bool) -> list[str]:
    """Return the addresses of the workers on which ranks can run now, in the order of their use.

    Args:
        client: A client of the cluster.
        gpu: True for workers with the Dask resource `GPU` only, machine by machine, so that ranks
            share a machine; False for all running workers, the first one of each machine, then the
            second ones, and so on. Machines and their workers are sorted by address.

    Returns:
        Addresses such as `tls://10.0.0.2:40123`; empty if no such worker runs.
    """
    return [slot.worker for slot in worker_slots(client, gpu=gpu)]


def worker_slots(client: Client, *, gpu: bool) -> list[WorkerSlot]:
    """Return a slot for one rank on each running worker; fewer ranks use the first of them.

    Args:
        client: A client of the cluster.
        gpu: True for workers with the Dask resource `GPU` only, machine by machine, so that ranks
            share a machine; False for all workers, the first one of each machine, then the second
            ones, and so on. Machines and their workers are sorted by address.

    Returns:
        The slots, each with `worker` (its address), `host` (the address of its machine) and `gpu`
        (as passed); empty if no such worker runs.
    """
    workers: list[tuple[str, str, float]] = client.run_on_scheduler(_running_workers)
    slots = [
        WorkerSlot(address, host, gpu) for host, address, gpus in sorted(workers) if gpus or not gpu
    ]
    if gpu:
        return slots  # by machine: ranks on one machine communicate faster
    slots_per_host: Counter[str] = Counter()
    ranked = []
    for slot in slots:
        ranked.append((slots_per_host[slot.host], slot))
        slots_per_host[slot.host] += 1
    # Round robin over machines.
    return [slot for _, slot in sorted(ranked, key=lambda turn: turn[0])]


def _running_workers(dask_scheduler: Scheduler) -> list[tuple[str, str, float]]:
    return [
        (str(urlsplit(worker.address).hostname), worker.address, worker.resources.get("GPU", 0))
        for worker in dask_scheduler.workers.values()
        if worker.status == Status.running
    ]
