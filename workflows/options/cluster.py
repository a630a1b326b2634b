"""The options of every command that runs tasks on a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.options.fields import Options, option

CLUSTER = "cluster"
"""The heading of the help text under which the options are listed."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    """The cluster that a command runs on."""

    cluster: str = option(
        "local",
        "cluster to run on: `local` starts workers on this machine; tls://HOST:PORT or"
        " tcp://HOST:PORT connects to a running scheduler; ssh:FILE starts workers on the hosts"
        " listed in FILE; slurm:FILE starts them through Slurm, with the profile in FILE",
        metavar="WHERE",
        group=CLUSTER,
    )
    certs: str | None = option(
        None,
        "folder of certificates for a tls:// cluster",
        implied="$TESSERAE_CERTS, else the user's own folder",
        metavar="DIR",
        group=CLUSTER,
    )
    workers: int | None = option(
        None,
        "number of worker processes of a local cluster",
        implied="one per core",
        minimum=1,
        maximum=10_000,
        group=CLUSTER,
    )
    threads: int = option(
        1, "number of threads in each local worker", minimum=1, maximum=1_000, group=CLUSTER
    )
    dashboard: bool = option(True, "serve the Dask dashboard", group=CLUSTER)
