"""A Dask cluster on this machine, made to decode pictures.

What differs from `LocalCluster()`, beside what `dask.yaml` sets, and why:

* All of it listens on the loopback address; the dashboard too.
* Its comms are encrypted, with certificates made for it: other users of this machine reach the
  loopback address too, and whoever reaches a scheduler runs code as its user.
* Workers come out of a fork server (`cluster.processes.forkserver`).
* The dashboard is loaded when somebody opens it (`cluster.dashboard.lazy`).
* Workers have no dashboards of their own: each would import bokeh for a page that nobody opens.
* Workers that are gone for good are replaced (`keep`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

from distributed import LocalCluster, Scheduler

from cluster import certificates
from cluster.config import hush, in_force
from cluster.dashboard.lazy import offer
from cluster.defaults import DASHBOARD_PORT
from cluster.errors import ClusterError
from cluster.limits import too_many_files
from cluster.processes.forkserver import start_fork_server

DAYS = 365.0
"""A certificate's life, which no run outlives."""
KEEP_SECONDS = 5.0
"""Between two looks at whether workers are gone."""

CLOSE_SECONDS = 10.0
"""Until workers that do not stop are killed."""


class Local:
    """A local cluster. Use as a context manager."""

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
        """Start it.

        Args:
            workers: Processes.
            threads: Tasks that each of them runs at once.
            memory_limit: Bytes that a worker may use before it is replaced; 0 for any.
            dashboard: Whether to serve the dashboard.
            preload: Modules that the fork server imports for all workers.
            gpus: As CUDA_VISIBLE_DEVICES names them: a worker more for each, that holds `GPU: 1`.
        """
        self.workers = workers
        self.threads = threads
        self._checked = time.monotonic()
        self.security = certificates.in_memory(certificates.make(days=DAYS))
        self._config = in_force()
        hush()
        start_fork_server(preload)
        self.cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=True,
            host="127.0.0.1",
            protocol="tls://",
            security=self.security,
            dashboard_address=dashboard_address() if dashboard else "127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},  # without an address it takes port 8787
            worker_dashboard_address=None,
            memory_limit=memory_limit,
            silence_logs="CRITICAL",
        )
        if gpus:
            self._add(gpus)
        if dashboard:
            offer(cast(Scheduler, self.cluster.scheduler))

    def _add(self, gpus: Sequence[str]) -> None:
        plain = next(iter(self.cluster.worker_spec.values()))
        for place, gpu in enumerate(gpus):
            options = {
                **plain["options"],
                "nthreads": 1,
                "resources": {"GPU": 1},
                "env": {"CUDA_VISIBLE_DEVICES": gpu},
            }
            self.cluster.worker_spec[f"gpu-{place}"] = {**plain, "options": options}
        self.workers += len(gpus)
        self.cluster.sync(self.cluster._correct_state)

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


def scheduler_here(host: str, files: Mapping[str, bytes], *, dashboard: bool) -> LocalCluster:
    """A scheduler in this process that listens on *host*, without workers.

    Args:
        host: The address by which workers reach it.
        files: Its certificates, as `certificates.make` makes them.
        dashboard: Whether to serve the dashboard, on the loopback address.

    Raises:
        ClusterError: It cannot listen there.
    """
    try:
        made = LocalCluster(
            n_workers=0,
            processes=False,
            host=f"[{host}]" if ":" in host and not host.startswith("[") else host,
            protocol="tls://",
            security=certificates.in_memory(files),
            dashboard_address=dashboard_address() if dashboard else "127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs="CRITICAL",
        )
    except (OSError, RuntimeError) as e:
        if why := too_many_files(e, "a scheduler's files and connections"):
            raise ClusterError(f"no scheduler can start: {why}.") from e
        raise ClusterError(
            f"no scheduler can listen on {host} ({e.__cause__ or e}): is it an address of this"
            " machine?"
        ) from e
    if dashboard:
        offer(cast(Scheduler, made.scheduler))
    return made


def dashboard_address() -> str:
    """Dask's usual port on the loopback address, or any if that is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", DASHBOARD_PORT))
        except OSError:
            return "127.0.0.1:0"
    return f"127.0.0.1:{DASHBOARD_PORT}"
