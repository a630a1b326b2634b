"""A scheduler embedded in this process, the base class of clusters with external workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, cast

from distributed import Client, LocalCluster, Scheduler

from cluster import certificates
from cluster.config import applied_settings, silence_client_logs
from cluster.dashboard.lazy import install_lazy_dashboard
from cluster.errors import ClusterError
from cluster.limits import raise_file_limit, too_many_files
from cluster.local import dashboard_address

CLOSE_SECONDS = 30.0


class EmbeddedScheduler:
    """A scheduler that runs in this process. Use it as a context manager."""

    def __init__(self, host: str, files: Mapping[str, bytes], *, dashboard: bool) -> None:
        """Start the scheduler.

        Args:
            host: Address on which it listens and workers reach it.
            files: Its certificates by file name, as `create_certificates` returns them.
            dashboard: True to serve the dashboard on the loopback address.

        Raises:
            ClusterError: The scheduler cannot listen on that address.
        """
        silence_client_logs()
        raise_file_limit()
        self._config = applied_settings()
        try:
            self.cluster = _start_scheduler(host, files, dashboard=dashboard)
        except BaseException:  # `close` will not run, so the settings are restored here
            self._config.__exit__(None, None, None)
            raise

    @property
    def address(self) -> str:
        """The address of the scheduler."""
        return str(self.cluster.scheduler_address)

    @property
    def dashboard(self) -> str:
        """The URL of the dashboard."""
        return str(self.cluster.dashboard_link)

    def client(self) -> Client:
        """Return a new client of the scheduler."""
        return Client(self.cluster)

    def check_startup(self) -> None:
        """Raise ClusterError if no worker can be expected any more; called while there is none."""

    def maintain(self) -> None:
        """Replace lost workers. Callers poll this; it limits its own rate."""

    def close(self) -> None:
        """Stop the scheduler."""
        self.cluster.close(timeout=CLOSE_SECONDS)
        self._config.__exit__(None, None, None)

    def __enter__(self) -> Self:
        """Return this object; the scheduler is running already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop the scheduler."""
        self.close()


def _start_scheduler(host: str, files: Mapping[str, bytes], *, dashboard: bool) -> LocalCluster:
    try:
        cluster = LocalCluster(
            n_workers=0,
            processes=False,
            host=f"[{host}]" if ":" in host and not host.startswith("[") else host,
            protocol="tls://",
            security=certificates.tls_security_in_memory(files),
            dashboard_address=dashboard_address() if dashboard else "127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs="CRITICAL",
        )
    except (OSError, RuntimeError) as e:
        if hint := too_many_files(e, "a scheduler's files and connections"):
            raise ClusterError(f"no scheduler can start: {hint}.") from e
        raise ClusterError(
            f"no scheduler can listen on {host} ({e.__cause__ or e}): is it an address of this"
            " machine?"
        ) from e
    if dashboard:
        install_lazy_dashboard(cast(Scheduler, cluster.scheduler))
    return cluster
