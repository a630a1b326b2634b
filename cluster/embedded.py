"""A scheduler embedded in this process, the base class of clusters with external workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from distributed import Client

from cluster.config import applied_settings, hush
from cluster.limits import raise_file_limit
from cluster.local import embedded_scheduler

CLOSE_SECONDS = 30.0


class EmbeddedScheduler:
    """A scheduler that runs in this process. Use it as a context manager."""

    def __init__(self, host: str, files: Mapping[str, bytes], *, dashboard: bool) -> None:
        """Start the scheduler.

        Args:
            host: Address on which it listens and workers reach it.
            files: Its certificates by file name, as `certificates.make` returns them.
            dashboard: True to serve the dashboard on the loopback address.

        Raises:
            ClusterError: The scheduler cannot listen on that address.
        """
        hush()
        raise_file_limit()
        self._config = applied_settings()
        try:
            self.cluster = embedded_scheduler(host, files, dashboard=dashboard)
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

    def check(self) -> None:
        """Raise ClusterError if no worker can be expected any more; called while there is none."""

    def keep(self) -> None:
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
