"""systemd units for machines where a cluster stands for good."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

from cluster.connect import check_address

_UNIT = """\
[Unit]
Description=Tesserae: {what}
After=network-online.target
Wants=network-online.target
# However often it ended.
StartLimitIntervalSec=0

[Service]
User={user}
Environment=TESSERAE_CERTS={certs}
ExecStart={command}
# A worker that has lost its scheduler ends, and nobody but this can bring it back.
Restart=always
RestartSec=2
# Dask closes its workers on SIGTERM; what still runs after so long is killed.
KillMode=mixed
TimeoutStopSec=30
# What a worker holds open: its shards, its pictures, its peers.
LimitNOFILE=65536
NoNewPrivileges=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""


def texts(address: str, user: str, certs: Path) -> dict[str, str]:
    """The units, by file name: of a scheduler, and of the workers of a machine.

    Args:
        address: Of the scheduler, as workers reach it.
        user: Who runs them.
        certs: The folder of certificates on each machine.
    """
    tesserae = f"{sys.executable} -m workflows cluster"
    check_address(address)
    if any(not c.isprintable() or c in ' "\\%' for c in f"{user}{certs}"):
        raise ValueError("--user and --certs: expected no spaces, quotes, % or control characters.")
    split = urlsplit(address)
    where = f"--host {split.hostname} --port {split.port}"
    trust = " --insecure" if split.scheme == "tcp" else ""
    wanted = {
        "tesserae-scheduler.service": ("scheduler", f"scheduler {where}{trust} --once"),
        "tesserae-worker.service": ("workers", f"worker {address}{trust}"),
    }
    return {
        name: _UNIT.format(what=what, user=user, certs=certs, command=f"{tesserae} {words}")
        for name, (what, words) in wanted.items()
    }


def write(folder: Path, address: str, user: str, certs: Path) -> list[Path]:
    """Write them into *folder*; returns the files."""
    paths = []
    for name, text in texts(address, user, certs).items():
        (folder / name).write_text(text)
        paths.append(folder / name)
    return paths
