"""The cluster a command runs on, started when it is first needed and no earlier."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

from distributed import Client

from cluster.local import Local
from pipeline.errors import TesseraeError
from pipeline.ingest import graph
from pipeline.memory import limit_bytes
from workflows.interrupts import held_back

PRELOAD = ("pipeline.ingest.shard",)
"""Imported once by the fork server, not once by every worker."""


class Cluster:
    """A cluster and its client. Use as a context manager."""

    def __init__(self, *, workers: int, threads: int, dashboard: bool) -> None:
        """Start nothing yet.

        Args:
            workers: Processes.
            threads: Tasks that each of them runs at once.
            dashboard: Whether to serve the dashboard, and say where.
        """
        self._shape = (workers, threads)
        self._dashboard = dashboard
        self._stack = ExitStack()
        self._local: Local | None = None
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client, and with it workers that are there."""
        if self._client is None:
            self._client = self._start()
        return self._client

    def keep(self) -> None:
        """Replace workers that are gone for good."""
        if self._local is not None:
            self._local.keep()

    def _start(self) -> Client:
        with held_back():  # half a cluster cannot be closed
            try:
                local = Local(
                    *self._shape,
                    allowed_losses=graph.ALLOWED_LOSSES,
                    memory_limit=limit_bytes() // self._shape[0],
                    dashboard=self._dashboard,
                    preload=PRELOAD,
                )
            except (RuntimeError, OSError) as e:
                raise TesseraeError(
                    f"the {self._shape[0]} workers do not start ({e.__cause__ or e}). Pass fewer"
                    " --workers, and see `tesserae doctor`."
                ) from e
            self._local = self._stack.enter_context(local)
            client: Client = self._stack.enter_context(Client(local.cluster))
        if self._dashboard:
            print(f"dashboard: {local.dashboard}", flush=True)
        graph.wait_for_workers(client)
        return client

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with held_back():
            self._stack.__exit__(kind, error, trace)
