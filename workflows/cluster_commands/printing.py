"""Lines for the terminal: the addresses of a scheduler and of its dashboard."""

from __future__ import annotations

import getpass
import socket
import sys

from cluster.defaults import is_loopback
from cluster.processes.commands import SchedulerConfig


def print_notice(line: str) -> None:
    """Print a line to standard error, preceded by `tesserae: `.

    Args:
        line: The line without a newline.
    """
    print(f"tesserae: {line}", file=sys.stderr, flush=True)


def print_scheduler(config: SchedulerConfig) -> None:
    """Print the address of a scheduler, how to add workers to it, and its dashboard's URL.

    Args:
        config: The configuration of the scheduler, which need not run yet.
    """
    print(f"scheduler: {config.address}")
    if config.certificates is None:
        print(f"  further workers: tesserae cluster worker {config.address} --insecure")
    else:
        print(f"  certificates: {config.certificates}; workers and clients on other machines need")
        print("    copies of ca.pem and of their own role's .pem and .key")
        print(f"  further workers: tesserae cluster worker {config.address} --certs DIR")
    beyond = not is_loopback(config.dashboard_host)
    print_dashboard(config.dashboard_host, config.dashboard_port, tls=beyond)
    sys.stdout.flush()


def print_dashboard(host: str, port: int, *, tls: bool, machine: str | None = None) -> None:
    """Print the URL of a dashboard, and how to reach it from another machine.

    Args:
        host: The address that the dashboard listens on, which is shown with *tls* only: without it,
            the URL is that of the loopback address. For all addresses, `0.0.0.0` or `::`, *machine*
            is shown.
        port: The TCP port of the dashboard.
        tls: True if it requires HTTPS and a token.
        machine: The host name of its machine; None is this machine.
    """
    machine = machine or socket.gethostname()
    if tls:
        hostname = machine if host in ("0.0.0.0", "::") else host
        hostname = f"[{hostname}]" if ":" in hostname else hostname
        print(f"dashboard: https://{hostname}:{port}/tesserae?token=... (from the file `token`)")
        return
    print(f"dashboard: http://127.0.0.1:{port}/tesserae")
    print(
        f"  from another machine: ssh -N -L {port}:127.0.0.1:{port} {getpass.getuser()}@{machine}"
    )
