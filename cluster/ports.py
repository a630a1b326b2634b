"""What a running cluster listens on, port by port, and why."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import psutil
from distributed import Client, Nanny, Scheduler, Worker

from cluster.broadcast import ask

TLS = "TLS with a certificate"
HTTPS = "HTTPS with a token"
DASHBOARD = "dashboard"

LOOK_SECONDS = 10.0
"""So long a worker may take to look."""


@dataclass(frozen=True, order=True)
class Port:
    """One socket that somebody may connect to."""

    host: str
    """The machine, as its processes name it."""
    address: str
    port: int
    why: str

    @property
    def open(self) -> bool:
        """Whether other machines reach it."""
        return not ipaddress.ip_address(self.address.split("%")[0]).is_loopback

    @property
    def safe(self) -> bool:
        """Whether it asks who is there."""
        return self.why.endswith((TLS, HTTPS))


def listening(client: Client) -> list[Port]:
    """Every port that scheduler, nannies and workers of *client* listen on, each asked itself."""
    found = list(client.run_on_scheduler(_of_scheduler))
    for answers in (
        ask(client, _of_worker, seconds=LOOK_SECONDS),
        ask(client, _of_nanny, nanny=True, seconds=LOOK_SECONDS),
    ):
        for ports in answers.values():
            found += ports if isinstance(ports, list) else []
    # Nannies of one process each know their own; what none of them knows is still open.
    known = {(port.host, port.address, port.port): port for port in found if port.why}
    others = {(port.host, port.address, port.port): port for port in found}
    return sorted(replace(port, why=port.why or "not known") for port in (others | known).values())


def _of_scheduler(dask_scheduler: Scheduler) -> list[Port]:
    comm = urlsplit(dask_scheduler.address)
    return _mine(
        {
            comm.port: f"scheduler, {_kind(comm.scheme)}",
            _http_port(dask_scheduler): f"{DASHBOARD}, {_web(dask_scheduler)}",
        }
    )


def _of_worker(dask_worker: Worker) -> list[Port]:
    comm = urlsplit(dask_worker.address)
    return _mine(
        {
            comm.port: f"worker, {_kind(comm.scheme)}",
            _http_port(dask_worker): "a worker's figures, plain HTTP",
        }
    )


def _of_nanny(dask_worker: Nanny) -> list[Port]:
    comm = urlsplit(dask_worker.address)
    return _mine({comm.port: f"nanny, which restarts a worker, {_kind(comm.scheme)}"})


def _mine(why: dict[int | None, str]) -> list[Port]:
    """The sockets of this process, with those reasons that *why* gives."""
    ours = psutil.Process().net_connections("inet")
    at = [entry.laddr for entry in ours if entry.status == psutil.CONN_LISTEN]
    return [Port(os.uname().nodename, a.ip, a.port, why.get(a.port, "")) for a in at]


def _http_port(server: Scheduler | Worker) -> int:
    return int(server.http_server.port)  # type: ignore[attr-defined]  # Dask puts it there


def _kind(scheme: str) -> str:
    return TLS if scheme == "tls" else "NOT encrypted, for everybody"


def _web(scheduler: Scheduler) -> str:
    return HTTPS if scheduler.http_server.ssl_options is not None else "plain HTTP"
