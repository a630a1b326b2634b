"""Default values of cluster options, in a module that command lines can import without Dask."""

from __future__ import annotations

import ipaddress

LOOPBACK = "127.0.0.1"
SCHEDULER_PORT = 8786
DASHBOARD_PORT = 8787
CERTIFICATE_DAYS = 30.0
"""The validity of a certificate in days."""


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach a server that listens on an address.

    Args:
        host: An IP address or host name; a name other than `localhost` counts as reachable.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
