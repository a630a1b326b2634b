"""What a worker is asked before it gets shards: does it see and make the same as the planner?"""

from __future__ import annotations

import socket
from pathlib import Path

from pipeline.errors import SourceError, StoreError
from pipeline.ingest.shard import Work, workspace
from pipeline.store import layout


def join(work: Work) -> None:
    """Open the store and the source of *work* in this process, as its tasks will.

    Raises:
        StoreError: The store here is not the one where the run was begun.
        StoreMismatchError: Pictures come out otherwise here.
        SourceError: The source is not here.
    """
    host = socket.gethostname()
    begun = Path(work.store) / layout.TEMPORARY / work.run
    if "://" not in work.store and not begun.is_dir():
        raise StoreError(
            f"on {host} {work.store} is not the folder that it is here. Every machine must have the"
            " same one under the same path: use a network file system, or an object store."
        )
    space = workspace(work)
    root = space.rows.origin.root
    if not space.remote and not Path(root).exists():
        raise SourceError(
            f"on {host} there is no {root}. Every machine must have the images under the same path:"
            " use a network file system, or a URL."
        )
