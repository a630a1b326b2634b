"""Runs Dask's scheduler, or workers of one kind, in this process, with Tesserae's settings.

`python -m cluster.processes.serve scheduler|worker ARGUMENTS`, with the arguments of `dask
scheduler` or `dask worker`. `cluster.processes.supervisor` starts it, and it ends with that.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from cluster.config import applied_settings
from cluster.processes.forkserver import start_fork_server
from cluster.processes.supervisor import SUPERVISOR_VARIABLE

_PR_SET_PDEATHSIG = 1

PRELOAD = "TESSERAE_WORKER_PRELOAD"
"""The environment variable with the names of modules that all workers of a machine preload."""


def main(arguments: Sequence[str]) -> None:
    """Run the scheduler or workers until a signal stops them, or workers lose their scheduler.

    Call it in the main thread. On Linux, this process gets SIGTERM when the process that started it
    ends. Dask's configuration has Tesserae's settings meanwhile. For workers, the environment
    variable `TESSERAE_WORKER_PRELOAD` names modules, separated by spaces, that are imported
    once for all.

    Args:
        arguments: `scheduler` or `worker`, and the arguments of `dask scheduler` or `dask worker`.

    Raises:
        click.UsageError: An argument is invalid.
        SystemExit: The process that started this one has ended already.
    """
    role, *dask_arguments = arguments
    _end_with_parent()
    with applied_settings():
        if role == "scheduler":
            from distributed.cli.dask_scheduler import main as command
        else:
            from distributed.cli.dask_worker import main as command

            start_fork_server(os.environ.get(PRELOAD, "").split())
        command.main(args=dask_arguments, prog_name=f"dask {role}", standalone_mode=False)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if str(os.getppid()) != os.environ.get(SUPERVISOR_VARIABLE, str(os.getppid())):
        sys.exit(1)  # the parent ended before the request took effect


if __name__ == "__main__":
    main(sys.argv[1:])
