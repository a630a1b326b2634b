"""One scheduler, or the workers of one kind, in this process: Dask's own, under our settings.

`python -m cluster.processes.serve scheduler|worker WORDS`, where WORDS are those of `dask
scheduler` and `dask worker`. Started by `cluster.processes.supervisor`, and gone when that is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from cluster.config import in_force
from cluster.processes.forkserver import start_fork_server
from cluster.processes.supervisor import PARENT

_PR_SET_PDEATHSIG = 1

PRELOAD = "TESSERAE_WORKER_PRELOAD"
"""The environment variable that names modules which all workers of a machine share."""


def main(words: Sequence[str]) -> None:
    """Run it until it is told to stop, or has lost its scheduler."""
    role, *rest = words
    _end_with_parent()
    with in_force():
        if role == "scheduler":
            from distributed.cli.dask_scheduler import main as command
        else:
            from distributed.cli.dask_worker import main as command

            start_fork_server(os.environ.get(PRELOAD, "").split())
        command.main(args=rest, prog_name=f"dask {role}", standalone_mode=False)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if str(os.getppid()) != os.environ.get(PARENT, str(os.getppid())):
        sys.exit(1)  # it ended before we asked


if __name__ == "__main__":
    main(sys.argv[1:])
