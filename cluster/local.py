"""A Dask cluster on this machine, made to decode pictures.

What differs from `LocalCluster()`, and why:

* All of it listens on the loopback address; the dashboard too.
* Workers come out of a fork server that has imported Dask once: half the start-up. It starts with
  SIGINT and SIGTERM blocked, and they inherit that: a terminal's Ctrl-C and a batch system's
  SIGTERM reach all of them at once, and are the command's to answer.
* The dashboard is loaded when somebody opens it (`cluster.dashboard`).
* Workers are looked at less often while they work.
* Workers have no dashboards of their own: each would import bokeh for a page that nobody opens.
* glibc's allocator keeps what is freed. Dask's nanny sets MALLOC_TRIM_THRESHOLD_ so that it gives
  memory back at once; for a task that allocates a megabyte a picture that is 38 % more CPU.
* A task that lost two workers is not run a third time as it is (`allowed-failures`).
* Workers that are gone for good are replaced (`keep`).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, cast

import dask
from distributed import LocalCluster, Scheduler

from cluster.dashboard import offer

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TOP_PAD_": str(16 * 2**20),
    # One heap is enough for a worker's two threads; more only hold more free memory.
    "MALLOC_ARENA_MAX": "2",
}

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""A task has one core. Dask sets this too, for workers, when the fork server's numpy is loaded."""

DASHBOARD_PORT = 8787
KEEP_SECONDS = 5.0
"""Between two looks at whether workers are gone."""

CLOSE_SECONDS = 10.0
"""Until workers that do not stop are killed."""


def cores() -> int:
    """Processors this process may use, by affinity and by the container's quota."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return allowed


def settings(allowed_losses: int) -> dict[str, Any]:
    """The Dask configuration that the cluster and its client run under."""
    environment = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return {
        "distributed.nanny.pre-spawn-environ": {**environment, **ALLOCATOR},
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.scheduler.allowed-failures": allowed_losses,
        "distributed.scheduler.worker-saturation": 1.1,
        "distributed.comm.timeouts.connect": "10s",  # so long is a dead worker asked for its result
        "distributed.admin.log-length": 1000,
        # Fifty looks a second at an event loop, and a hundred at what a task is doing, take the
        # interpreter from it each time: 2 to 5 % of all CPU, for figures that fewer looks give too.
        "distributed.admin.tick.interval": "500ms",
        "distributed.worker.profile.interval": "100ms",
    }


class Local:
    """A local cluster. Use as a context manager."""

    def __init__(
        self,
        workers: int,
        threads: int,
        *,
        allowed_losses: int,
        memory_limit: int = 0,
        dashboard: bool = True,
        preload: Sequence[str] = (),
    ) -> None:
        """Start it.

        Args:
            workers: Processes.
            threads: Tasks that each of them runs at once.
            allowed_losses: Workers that a task may lose and be run again.
            memory_limit: Bytes that a worker may use before it is replaced; 0 for any.
            dashboard: Whether to serve the dashboard.
            preload: Modules that the fork server imports for all workers.
        """
        self.workers = workers
        self.threads = threads
        self._checked = time.monotonic()
        self._config = dask.config.set(settings(allowed_losses))
        for name in ("distributed", "distributed.client"):
            # Not `silence_logs`, which ends with the cluster, before the last connections do.
            logging.getLogger(name).setLevel(logging.CRITICAL)
        _start_fork_server(["distributed", *preload])
        self.cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=True,
            host="127.0.0.1",
            dashboard_address=_dashboard_address() if dashboard else "127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},  # without an address it takes port 8787
            worker_dashboard_address=None,
            memory_limit=memory_limit,
            silence_logs="CRITICAL",
        )
        if dashboard:
            offer(cast(Scheduler, self.cluster.scheduler))

    @property
    def dashboard(self) -> str:
        """The dashboard's address."""
        return str(self.cluster.dashboard_link)

    def keep(self) -> None:
        """Replace workers that are gone for good. Cheap enough to be called all the time."""
        if time.monotonic() - self._checked > KEEP_SECONDS:
            self._checked = time.monotonic()
            self.cluster.scale(self.workers)

    def abandon(self) -> None:
        """Kill the workers: nobody waits for what they are doing."""
        for nanny in list(self.cluster.workers.values()):
            nanny.close_gracefully(reason="abandoned")  # starts no other worker
            if nanny.pid:
                with suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)

    def close(self) -> None:
        """Stop workers and scheduler, in whatever state they are."""
        try:
            self.cluster.close(timeout=CLOSE_SECONDS)
        except (AssertionError, OSError, RuntimeError):  # a nanny is just starting a worker
            self.cluster.shutdown_on_close = False  # or it is tried again when Python ends
            for worker in multiprocessing.active_children():
                worker.kill()
        self._config.__exit__(None, None, None)

    def __enter__(self) -> Local:
        """Start nothing: that is done."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop it; at once if that is for an error."""
        if kind is not None:
            self.abandon()
        self.close()


def _start_fork_server(preload: list[str]) -> None:
    forkserver.set_forkserver_preload(["cluster.preload"])
    resource_tracker.ensure_running()  # else it is started below, and unblocks what is blocked
    theirs = ALLOCATOR | ONE_THREAD | {"TESSERAE_PRELOAD": " ".join(preload)}
    ours = {name: os.environ.get(name) for name in theirs}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
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


def _dashboard_address() -> str:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", DASHBOARD_PORT))
        except OSError:
            return "127.0.0.1:0"
    return f"127.0.0.1:{DASHBOARD_PORT}"
