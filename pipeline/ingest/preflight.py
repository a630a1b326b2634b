"""Checks on a worker before it gets shards: it must see and make the same as the planner."""

from __future__ import annotations

import socket
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.ingest.shard import Work, check_begun, workspace


def join(work: Work) -> None:
    """Open the store and the source of *work* in this process, as its tasks will.

    Raises:
        StoreError: The folder on this machine is not the store in which the run was started.
        StoreMismatchError: This machine decodes or resizes to other pixels than the planner.
        SourceError: The source does not exist on this machine.
    """
    check_begun(work.store, work.run)
    space = workspace(work)
    root = space.rows.origin.root
    if not space.remote and not Path(root).exists():
        raise SourceError(
            f"{root} does not exist on {socket.gethostname()}. Every machine must have the images"
            " under the same path: use a network file system, or a URL."
        )
