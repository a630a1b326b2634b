"""A scheduler in this process, for workers that are elsewhere: what all ways to have them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from distributed import Client

from cluster.config import hush, in_force
from cluster.limits import raise_file_limit
from cluster.local import scheduler_here

CLOSE_SECONDS = 30.0


class Here:
    """A scheduler for as long as a command runs. Use as a context manager."""

    def __init__(self, host: str, files: Mapping[str, bytes], *, dashboard: bool) -> None:
        """Start it.

        Args:
            host: The address by which workers reach it.
            files: Its certificates, as `certificates.make` makes them.
            dashboard: Whether to serve the dashboard, on the loopback address.

        Raises:
            ClusterError: It cannot listen there.
        """
        hush()
        raise_file_limit()
        self._config = in_force()
        try:
            self.cluster = scheduler_here(host, files, dashboard=dashboard)
        except BaseException:
            self._config.__exit__(None, None, None)
            raise

    @property
    def address(self) -> str:
        """The scheduler's."""
        return str(self.cluster.scheduler_address)

    @property
    def dashboard(self) -> str:
        """The dashboard's address."""
        return str(self.cluster.dashboard_link)

    def client(self) -> Client:
        """A client of it."""
        return Client(self.cluster)

    def check(self) -> None:
        """See that workers may still come, while there is none."""

    def keep(self) -> None:
        """Replace workers that are lost. May be called all the time."""

    def close(self) -> None:
        """Stop the scheduler."""
        self.cluster.close(timeout=CLOSE_SECONDS)
        self._config.__exit__(None, None, None)

    def __enter__(self) -> Self:
        """Start nothing: that is done."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop it."""
        self.close()
