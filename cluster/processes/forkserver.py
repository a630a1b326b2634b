"""The server that workers are forked from: it has imported what they all need, once.

Half the start-up of a worker. It starts with SIGINT, SIGTERM and SIGHUP blocked, and they inherit
that: a terminal's Ctrl-C or end and a batch system's SIGTERM reach all processes at once, and are
the command's to answer.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker

from cluster.config import allocator
from cluster.sockets import use_socket_folder

BLOCKED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""A task has one core. Dask sets this too, for workers, when the fork server's numpy is loaded."""


def start_fork_server(preload: Sequence[str]) -> None:
    """Start it, with *preload*, modules by name, imported.

    Raises:
        ClusterError: No local socket can be made, by which it is told what to fork.
    """
    use_socket_folder()
    forkserver.set_forkserver_preload(["cluster.processes.preload"])
    # Started now, else it is started below, and unblocks SIGINT and SIGTERM, which it ignores. It
    # would die of the end of a terminal, of which multiprocessing then warns.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    resource_tracker.ensure_running()
    theirs = allocator() | ONE_THREAD | {"TESSERAE_PRELOAD": " ".join(["distributed", *preload])}
    ours = {name: os.environ.get(name) for name in theirs}
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        # Read when a process starts: forked workers have the server's.
        os.environ.update(theirs)
        forkserver.ensure_running()
    finally:
        for name, value in ours.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
