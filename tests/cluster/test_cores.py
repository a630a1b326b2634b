"""The number of cores that a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.cores import cores


def test_cores_respect_the_container_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container's quota limits the number of cores if it is lower than the affinity."""
    limits = {"/sys/fs/cgroup/cpu.max": "150000 100000\n"}
    monkeypatch.setattr(Path, "read_text", lambda self: limits[str(self)])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert cores() == 2
    limits.update({"/sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert cores() == 64
