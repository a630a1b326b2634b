"""The server from which workers are forked, with the modules that they all need imported.

This halves the start-up time of a worker. The server starts with SIGINT, SIGTERM and SIGHUP
blocked, and workers inherit that: Ctrl-C, the end of a terminal and the SIGTERM of a batch system
reach all processes at once, and only the command must react to them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker

from cluster.config import allocator_environment
from cluster.sockets import use_socket_folder

BLOCKED_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

SINGLE_THREAD_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""The environment that limits numeric libraries to one thread, since a task has one core. Dask
sets it too, but only after the fork server has loaded numpy."""


def start_fork_server(preload: Sequence[str]) -> None:
    """Start the fork server of this process; multiprocessing's `forkserver` method forks from it.

    It imports the modules once, in the background; a fork server that runs already is kept as it
    is. Multiprocessing's resource tracker is started, too, and multiprocessing's temporary folder
    is set for this process. The environment and the signal mask are the same afterwards.

    Args:
        preload: Names of the modules that it imports, beside `distributed`, such as
            `pipeline.jobs`. One that cannot be imported is left out, and those after it, too,
            without an error.

    Raises:
        ClusterError: No local socket can be created for its requests.
    """
    use_socket_folder()
    forkserver.set_forkserver_preload(["cluster.processes.preload"])
    environment = (
        allocator_environment()
        | SINGLE_THREAD_ENVIRONMENT
        | {
            "TESSERAE_PRELOAD": " ".join(["distributed", *preload]),
            # Otherwise a module of the working folder could stand in for one of these.
            "PYTHONSAFEPATH": "1",
        }
    )
    previous_values = {name: os.environ.get(name) for name in environment}
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        # The resource tracker is started first. Otherwise it would start below, where starting it
        # unblocks SIGINT and SIGTERM, which it ignores. SIGHUP is blocked for it: the end of a
        # terminal would kill it, and multiprocessing would warn.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
        # Read only when a process starts: forked workers inherit what the server has read.
        os.environ.update(environment)
        forkserver.ensure_running()
    finally:
        for name, value in previous_values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)
