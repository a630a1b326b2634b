"""How much of this machine a process may use."""

from __future__ import annotations

import os
from pathlib import Path


def cores() -> int:
    """Processors this process may use, by affinity and by the container's quota."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return allowed
