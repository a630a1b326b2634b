"""The number of CPU cores available to this process."""

from __future__ import annotations

import os
from pathlib import Path


def cores() -> int:
    """Return the number of CPU cores that affinity and the container's quota allow, at least 1."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return allowed
