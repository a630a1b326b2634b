"""The cluster of a command, started in this process."""

from __future__ import annotations

import builtins
import urllib.request
from typing import Any

import pytest

from cluster.processes import commands
from pipeline.memory import limit_bytes
from workflows.cluster_kinds import CommandCluster


@pytest.mark.slow
def test_the_dashboard_answers_when_its_address_is_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A person who opens the address at once must not get an error."""
    statuses = []

    def open_printed(line: str, **_: Any) -> None:
        url = line.removeprefix("dashboard: ")
        assert url.endswith("/tesserae")
        with urllib.request.urlopen(url, timeout=30) as response:
            statuses.append(response.status)

    monkeypatch.setattr(builtins, "print", open_printed)

    with CommandCluster(workers=1, threads=1, dashboard=True) as cluster:
        assert cluster.client
        memory = cluster.worker_memory()
        cluster.set_workers(8)  # too late
        assert cluster.worker_memory() == memory

    assert statuses == [200]


def test_the_memory_of_the_machine_is_shared_by_all_local_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker with a GPU counts as one without."""
    monkeypatch.setattr(commands, "visible_gpus", lambda: ["0", "1", "2"])
    cluster = CommandCluster(workers=2, threads=1, dashboard=False)
    assert cluster.worker_memory() == [(limit_bytes() // 2, 1)]

    cluster.use_gpus(None)
    assert cluster.worker_memory() == [(limit_bytes() // 5, 1)]
