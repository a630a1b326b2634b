"""Commands without a cluster, whose tasks run in this process one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self

import pytest

from pipeline.errors import ReadError
from pipeline.ingest.planning import new_run
from pipeline.ingest.worker import workspace
from pipeline.jobs import Failed, Job
from pipeline.store.open import open_objects
from workflows import cli, cluster_kinds
from workflows.preparation import prepare, repair, spooling
from workflows.preparation.options import RepairOptions


class NoCluster:
    """A replacement of `workflows.cluster_kinds.CommandCluster` without processes."""

    client = SimpleNamespace(id="nobody")

    def __init__(self, **shape: Any) -> None:
        """Start nothing."""

    def maintain(self) -> None:
        """Do nothing, since there are no workers to replace."""

    def connect_if_remote(self) -> None:
        """Do nothing, since there is no scheduler to connect to."""

    def check_workers(self, work: Any) -> None:
        """Do nothing, since there are no workers."""

    def use_gpus(self, count: int | None) -> None:
        """Do nothing, since there are no workers."""

    def set_workers(self, workers: int) -> None:
        """Do nothing, since there are no workers."""

    def worker_memory(self) -> list[tuple[int, int]]:
        """Return an empty list, since there are no workers."""
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop nothing."""


def run_here(
    client: object, run: str, jobs: Sequence[Job], *, tick: Callable[[], None]
) -> Iterator[Any]:
    """Run jobs in this process, in place of `pipeline.jobs.run_jobs`."""
    for job in jobs:
        try:
            yield job.call(*job.arguments, **job.options)
        except ReadError as e:
            yield Failed(job, e)


@contextmanager
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the tasks of commands in this process inside the block."""
    workspace.cache_clear()  # a test may have changed what lies under it
    with monkeypatch.context() as patch:
        for module in (prepare, repair, spooling):
            patch.setattr(module, "run_jobs", run_here)
        # Commands start a cluster by `cluster_kinds.cluster_of`, which must not start one here.
        patch.setattr(cluster_kinds, "CommandCluster", NoCluster)
        patch.setattr(cluster_kinds, "LocalWorkers", _refuse_workers)
        for module in (prepare, repair):
            patch.setattr(module, "ShardTaskConfig", _patient(module.ShardTaskConfig))
        yield


def _refuse_workers(*_: object, **__: object) -> None:
    raise AssertionError("a test that runs tasks in this process has started workers")


def _patient(make: Callable[..., Any]) -> Callable[..., Any]:
    # No alarm in this process, and no second between two tries to read.
    return lambda **fields: make(**fields, watched=False, retry_delay_seconds=0.0)


def tesserae(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run a command in this process, and return its exit status."""
    with no_cluster(monkeypatch):
        return cli.main([str(word) for word in words])


def repair_inline(
    monkeypatch: pytest.MonkeyPatch, store: str, split: str = "train", **options: Any
) -> int:
    """Repair a split in this process, and return the number of remaining problems."""
    run = new_run(split)
    objects = open_objects(store, run)
    objects.begin()
    with no_cluster(monkeypatch):
        task = repair.Repair(
            options=RepairOptions(store=store, **options),
            objects=objects,
            split=split,
            run=run,
            cluster=NoCluster(),  # type: ignore[arg-type]
        )
        try:
            return repair.repair_split(task)
        finally:
            objects.end()
