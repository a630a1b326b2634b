"""Default values of cluster options, in a module that command lines can import without Dask."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

LOOPBACK = "127.0.0.1"
SCHEDULER_PORT = 8786
DASHBOARD_PORT = 8787
CERTIFICATE_DAYS = 30.0
"""The validity of a certificate in days."""


def xdg_folder(variable: str, fallback: str) -> Path:
    """Return a folder for files of this user, by the XDG Base Directory Specification.

    Args:
        variable: The name of the environment variable that holds the folder, such as
            `XDG_CONFIG_HOME`. A value that is not an absolute path is ignored.
        fallback: The path of the default folder below the user's home, such as `.config`.

    Returns:
        An absolute path; the folder need not exist.
    """
    value = Path(os.environ.get(variable) or "")
    return value if value.is_absolute() else Path.home() / fallback


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
