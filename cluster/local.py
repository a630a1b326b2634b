"""A Dask cluster on this machine for CPU-bound tasks such as decoding.

It differs from `LocalCluster()` in these points, and in the settings of `dask.yaml`:

* All its ports, also that of the dashboard, listen on the loopback address.
* Connections are encrypted, with certificates made for this cluster: other users of the machine can
  reach the loopback address, and a client of a scheduler can run code as its user.
* Workers start from a fork server (`cluster.processes.forkserver`).
* The dashboard is loaded when its first page is opened (`cluster.dashboard.lazy`).
* Workers have no dashboards: each would import bokeh for a page that is rarely opened.
* Workers whose nanny has ended are replaced (`maintain`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from distributed import LocalCluster, Scheduler

from cluster import certificates
from cluster.config import applied_settings, silence_client_logs
from cluster.dashboard.lazy import install_lazy_dashboard
from cluster.defaults import DASHBOARD_PORT
from cluster.processes.forkserver import start_fork_server

CERTIFICATE_LIFETIME_DAYS = 365.0
"""The validity of the cluster's certificates, longer than any run."""
MAINTENANCE_INTERVAL_SECONDS = 5.0
"""The interval between two checks for lost workers."""

CLOSE_SECONDS = 10.0
"""The timeout after which workers that do not stop are killed."""


class LocalWorkers:
    """A cluster on this machine. Use it as a context manager."""

    def __init__(
        self,
        workers: int,
        threads: int,
        *,
        memory_limit: int = 0,
        dashboard: bool = True,
        preload: Sequence[str] = (),
        gpus: Sequence[str] = (),
    ) -> None:
        """Start the cluster.

        Args:
            workers: Number of worker processes without a GPU.
            threads: Number of tasks that each of them runs at once.
            memory_limit: Bytes that a worker may use before it is restarted; 0 for no limit
                (default: 0).
            dashboard: True to serve the dashboard (default: True).
            preload: Names of modules that the fork server imports for all workers.
            gpus: GPUs by their names in CUDA_VISIBLE_DEVICES. Each gets one more worker, with one
                thread and the resource `GPU: 1`.
        """
        self.workers = workers
        self.threads = threads
        self._checked = time.monotonic()
        self.security = certificates.tls_security_in_memory(
            certificates.create_certificates(days=CERTIFICATE_LIFETIME_DAYS)
        )
        self._config = applied_settings()
        silence_client_logs()
        start_fork_server(preload)
        self.cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=True,
            host="127.0.0.1",
            protocol="tls://",
            security=self.security,
            dashboard_address=dashboard_address() if dashboard else "127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},  # without an address Dask would use port 8787
            worker_dashboard_address=None,
            memory_limit=memory_limit,
            silence_logs="CRITICAL",
        )
        if gpus:
            self._add(gpus)
        if dashboard:
            install_lazy_dashboard(cast(Scheduler, self.cluster.scheduler))

    def _add(self, gpus: Sequence[str]) -> None:
        # Dask has no API for workers of several kinds, so their specifications are added directly.
        template = next(iter(self.cluster.worker_spec.values()))
        for index, gpu in enumerate(gpus):
            options = {
                **template["options"],
                "nthreads": 1,
                "resources": {"GPU": 1},
                "env": {"CUDA_VISIBLE_DEVICES": gpu},
            }
            self.cluster.worker_spec[f"gpu-{index}"] = {**template, "options": options}
        self.workers += len(gpus)
        self.cluster.sync(self.cluster._correct_state)

    @property
    def dashboard(self) -> str:
        """The URL of the dashboard."""
        return str(self.cluster.dashboard_link)

    def maintain(self) -> None:
        """Replace workers whose nanny has ended. Callers poll this; it limits its own rate."""
        if time.monotonic() - self._checked > MAINTENANCE_INTERVAL_SECONDS:
            self._checked = time.monotonic()
            self.cluster.scale(self.workers)

    def abandon(self) -> None:
        """Kill the workers without waiting for their tasks."""
        for nanny in list(self.cluster.workers.values()):
            nanny.close_gracefully(reason="abandoned")  # so that it starts no new worker
            if nanny.pid:
                with suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)

    def close(self) -> None:
        """Stop workers and scheduler, whatever state they are in."""
        try:
            self.cluster.close(timeout=CLOSE_SECONDS)
        except (AssertionError, OSError, RuntimeError):  # a nanny is starting a worker
            self.cluster.shutdown_on_close = False  # Dask would try again at exit
            for worker in multiprocessing.active_children():
                worker.kill()
        self._config.__exit__(None, None, None)

    def __enter__(self) -> LocalWorkers:
        """Return this object; the cluster is running already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop the cluster; after an error, kill the workers first."""
        if kind is not None:
            self.abandon()
        self.close()


def dashboard_address() -> str:
    """Return `HOST:PORT` for a dashboard on the loopback address; port 0 if 8787 is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", DASHBOARD_PORT))
        except OSError:
            return "127.0.0.1:0"
    return f"127.0.0.1:{DASHBOARD_PORT}"
