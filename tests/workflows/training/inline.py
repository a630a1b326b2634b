"""Training and features without a cluster: one rank, and every task, runs in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest

from cluster.ranks.rank_process import Rank
from cluster.ranks.world import WorldConfig
from tests.inline import NoCluster, no_cluster, run_here
from workflows import cluster_kinds
from workflows.preparation import derived_rows
from workflows.training import launch
from workflows.training.stage_registry import import_object


class InlineCluster(NoCluster):
    """A cluster of this process, without GPUs and without a dashboard."""

    is_remote = False

    def __init__(self, **shape: Any) -> None:
        self.client = Mock(id="nobody")
        self.client.run_on_scheduler.return_value = []
        self.client.nthreads.return_value = {"inline": 1}

    def use_gpus(self, count: int | None) -> None:
        """Use none."""

    def set_workers(self, workers: int) -> None:
        """Start none."""

    def check_ranks(self, *, gpu: bool) -> None:
        """Ask none."""


def run_rank(
    client: object,
    config: WorldConfig,
    entry: str,
    begin: Callable[[int], tuple[int, tuple[Any, ...]]],
    *,
    on_event: Callable[[dict[str, Any]], None],
    report: Callable[[str], None],
    tick: Callable[[], None],
) -> list[Any]:
    """Run one rank to its end, in place of `cluster.ranks.world.run_world`."""
    generation, arguments = begin(1)
    rank = Rank(rank=0, world=1, generation=generation, host="127.0.0.1", gpu=False)
    object.__setattr__(rank, "emit", lambda **event: on_event({"rank": 0, **event}))
    result = import_object(entry)(rank, *arguments)
    tick()
    return [result]


@contextmanager
def inline_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run ranks and tasks of commands in this process inside the block."""
    with no_cluster(monkeypatch), monkeypatch.context() as patch:
        patch.setattr(cluster_kinds, "CommandCluster", InlineCluster)
        patch.setattr(derived_rows, "run_jobs", run_here)
        patch.setattr(launch, "run_world", run_rank)
        yield
