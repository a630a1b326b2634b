"""The memory that a worker of `prepare` needs."""

from __future__ import annotations

BASE_BYTES = 400 * 2**20
"""The memory of a worker apart from its tasks: interpreter, libraries, one very large image."""


def worker_bytes(threads: int, task_bytes: int) -> int:
    """Return the memory in bytes that a worker needs.

    Args:
        threads: The number of tasks that it runs at once.
        task_bytes: The memory of a task: a chunk of every array, or a whole shard of each that is
            uploaded to an object store.
    """
    return BASE_BYTES + threads * task_bytes
