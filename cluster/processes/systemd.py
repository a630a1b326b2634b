"""systemd units for machines on which a cluster runs permanently."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

from cluster.connect import check_address

_UNIT = """\
[Unit]
Description=Tesserae: {description}
After=network-online.target
Wants=network-online.target
# No limit on the number of restarts.
StartLimitIntervalSec=0

[Service]
User={user}
Environment=TESSERAE_CERTS={certs}
ExecStart={command}
# A worker that has lost its scheduler ends, and only systemd can restart it.
Restart=always
RestartSec=2
# Dask closes its workers on SIGTERM; processes that still run after the timeout are killed.
KillMode=mixed
TimeoutStopSec=30
# The open files of a worker: shards, images, and connections to its peers.
LimitNOFILE=65536
NoNewPrivileges=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""


def unit_files(address: str, user: str, certs: Path) -> dict[str, str]:
    """Return the texts of the units for a scheduler and for workers of a machine, by file name.

    The units run the Python interpreter of this process, by its path.

    Args:
        address: Address of the scheduler for its workers, `tls://HOST:PORT`, or `tcp://HOST:PORT`
            without certificates.
        user: Name of the user that runs the services.
        certs: Folder of certificates on each machine, an absolute path.

    Returns:
        The texts of `tesserae-scheduler.service` and `tesserae-worker.service`. Nothing is written.

    Raises:
        ClusterError: *address* is not an address of a scheduler.
        ValueError: *user* or *certs* contains characters that systemd would interpret.
    """
    tesserae = f"{sys.executable} -m workflows cluster"
    check_address(address)
    if any(not c.isprintable() or c in ' "\\%' for c in f"{user}{certs}"):
        raise ValueError("--user and --certs: expected no spaces, quotes, % or control characters.")
    url = urlsplit(address)
    listen_options = f"--host {url.hostname} --port {url.port}"
    insecure_option = " --insecure" if url.scheme == "tcp" else ""
    units = {
        "tesserae-scheduler.service": (
            "scheduler",
            f"scheduler {listen_options}{insecure_option} --once",
        ),
        "tesserae-worker.service": ("workers", f"worker {address}{insecure_option}"),
    }
    return {
        name: _UNIT.format(
            description=description, user=user, certs=certs, command=f"{tesserae} {arguments}"
        )
        for name, (description, arguments) in units.items()
    }


def write_units(folder: Path, address: str, user: str, certs: Path) -> list[Path]:
    """Write the systemd units of a scheduler and of workers to a folder, replacing older ones.

    Args:
        folder: An existing folder; nothing is installed or started.
        address: Address of the scheduler for its workers, `tls://HOST:PORT`, or `tcp://HOST:PORT`
            without certificates.
        user: Name of the user that runs the services.
        certs: Folder of certificates on each machine, an absolute path.

    Returns:
        The paths of `tesserae-scheduler.service` and `tesserae-worker.service` in *folder*.

    Raises:
        ClusterError: *address* is not an address of a scheduler.
        ValueError: *user* or *certs* contains characters that systemd would interpret.
        OSError: A file cannot be written.
    """
    paths = []
    for name, text in unit_files(address, user, certs).items():
        (folder / name).write_text(text)
        paths.append(folder / name)
    return paths
