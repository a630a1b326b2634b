"""The ports on which a running cluster listens, each with its purpose."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import psutil
from distributed import Client, Nanny, Scheduler, Worker

from cluster.broadcast import broadcast

TLS = "TLS with a certificate"
HTTPS = "HTTPS with a token"
DASHBOARD = "dashboard"

RESPONSE_TIMEOUT_SECONDS = 10.0
"""The timeout for a worker that lists its ports."""


@dataclass(frozen=True, order=True)
class Port:
    """A listening socket."""

    host: str
    """The host name of the machine."""
    address: str
    """The IP address that is listened on."""
    port: int
    purpose: str
    """The purpose and the protection, such as `dashboard, HTTPS with a token`."""

    @property
    def is_public(self) -> bool:
        """True if other machines can reach the port."""
        return not ipaddress.ip_address(self.address.split("%")[0]).is_loopback

    @property
    def is_authenticated(self) -> bool:
        """True if the port authenticates its peers."""
        return self.purpose.endswith((TLS, HTTPS))


def listening_ports(client: Client) -> list[Port]:
    """Return every TCP port on which the scheduler, nannies and workers of a cluster listen.

    Each process reports its own ports; those of a worker that does not answer are missing.

    Args:
        client: A client of the cluster.

    Returns:
        The ports, sorted by host, address and number, each with `host` (the name of the machine),
        `address` (the IP address that is listened on), `port`, `purpose` (a text such as
        `dashboard, HTTPS with a token`, or `purpose unknown`), `is_public` (other machines reach
        it) and `is_authenticated` (it requires a certificate or a token).
    """
    ports_found = list(client.run_on_scheduler(_scheduler_ports))
    for answers in (
        broadcast(client, _worker_ports, timeout_seconds=RESPONSE_TIMEOUT_SECONDS),
        broadcast(client, _nanny_ports, nanny=True, timeout_seconds=RESPONSE_TIMEOUT_SECONDS),
    ):
        for worker_ports in answers.values():
            ports_found += worker_ports if isinstance(worker_ports, list) else []
    # Nannies share a process: each reports all its ports, and knows the purpose of its own only.
    # A port whose purpose none of them knows is still open, and is listed.
    explained = {(port.host, port.address, port.port): port for port in ports_found if port.purpose}
    all_ports = {(port.host, port.address, port.port): port for port in ports_found}
    merged = (all_ports | explained).values()
    return sorted(replace(port, purpose=port.purpose or "purpose unknown") for port in merged)


def _scheduler_ports(dask_scheduler: Scheduler) -> list[Port]:
    comm = urlsplit(dask_scheduler.address)
    return _own_ports(
        {
            comm.port: f"scheduler, {_encryption_text(comm.scheme)}",
            _http_port(dask_scheduler): f"{DASHBOARD}, {_dashboard_protocol(dask_scheduler)}",
        }
    )


def _worker_ports(dask_worker: Worker) -> list[Port]:
    comm = urlsplit(dask_worker.address)
    return _own_ports(
        {
            comm.port: f"worker, {_encryption_text(comm.scheme)}",
            _http_port(dask_worker): "worker metrics, plain HTTP",
        }
    )


def _nanny_ports(dask_worker: Nanny) -> list[Port]:
    comm = urlsplit(dask_worker.address)
    return _own_ports(
        {comm.port: f"nanny, which restarts a worker, {_encryption_text(comm.scheme)}"}
    )


def _own_ports(purposes: dict[int | None, str]) -> list[Port]:
    """Return the listening sockets of this process, with the *purposes* of ports; empty if none."""
    connections = psutil.Process().net_connections("inet")
    addresses = [entry.laddr for entry in connections if entry.status == psutil.CONN_LISTEN]
    return [
        Port(os.uname().nodename, address.ip, address.port, purposes.get(address.port, ""))
        for address in addresses
    ]


def _http_port(server: Scheduler | Worker) -> int:
    return int(server.http_server.port)  # type: ignore[attr-defined]  # Dask sets it at start


def _encryption_text(scheme: str) -> str:
    return TLS if scheme == "tls" else "NOT encrypted, open to everyone"


def _dashboard_protocol(scheduler: Scheduler) -> str:
    return HTTPS if scheduler.http_server.ssl_options is not None else "plain HTTP"
