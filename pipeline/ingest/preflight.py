"""What a worker is asked before it gets shards: does it see and make the same as the planner?"""

from __future__ import annotations

import socket
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.ingest.shard import Work, check_begun, workspace


def join(work: Work) -> None:
    """Open the store and the source of *work* in this process, as its tasks will.

    Raises:
        StoreError: The store here is not the one where the run was begun.
        StoreMismatchError: Pictures come out otherwise here.
        SourceError: The source is not here.
    """
    check_begun(work.store, work.run)
    space = workspace(work)
    root = space.rows.origin.root
    if not space.remote and not Path(root).exists():
        raise SourceError(
            f"on {socket.gethostname()} there is no {root}. Every machine must have the images"
            " under the same path: use a network file system, or a URL."
        )
