"""The cluster of a command, started in this process."""

from __future__ import annotations

import builtins
import urllib.request
from typing import Any

import pytest

from workflows.command_cluster import CommandCluster


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

    assert statuses == [200]
