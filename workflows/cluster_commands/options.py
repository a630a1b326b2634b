"""The options of the commands under `tesserae cluster`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from types import MappingProxyType

from cluster.defaults import CERTIFICATE_DAYS, DASHBOARD_PORT, LOOPBACK, SCHEDULER_PORT
from workflows.options.fields import Options, argument, option

_SCHEDULER = "scheduler"
_WORKERS = "workers"


@dataclass(frozen=True, kw_only=True)
class CertificateOptions(Options):
    """The certificates that the processes of a cluster identify themselves with."""

    certs: str | None = option(
        None,
        "folder of certificates",
        implied="$TESSERAE_CERTS, else the user's own folder",
        metavar="DIR",
    )
    insecure: bool = option(
        False, "run without TLS certificates: traffic is neither encrypted nor authenticated"
    )


@dataclass(frozen=True, kw_only=True)
class StateOptions(Options):
    """The folder of the process ids and logs of a cluster in the background."""

    state: Path | None = option(
        None,
        "folder of process ids and logs of the cluster in the background",
        implied="the user's own folder",
        metavar="DIR",
    )


@dataclass(frozen=True, kw_only=True)
class SchedulerFlags(Options):
    """The addresses of a scheduler and of its dashboard."""

    host: str = option(
        LOOPBACK,
        "address that the scheduler listens on",
        implied=f"{LOOPBACK}, this machine only",
        metavar="HOST",
        group=_SCHEDULER,
    )
    port: int = option(
        SCHEDULER_PORT,
        "TCP port of the scheduler",
        minimum=1,
        maximum=65_535,
        metavar="PORT",
        group=_SCHEDULER,
    )
    dashboard_host: str = option(
        LOOPBACK,
        "address that the dashboard listens on; other than loopback, it requires HTTPS and a token",
        metavar="HOST",
        group=_SCHEDULER,
    )
    dashboard_port: int = option(
        DASHBOARD_PORT,
        "TCP port of the dashboard",
        minimum=1,
        maximum=65_535,
        metavar="PORT",
        group=_SCHEDULER,
    )


@dataclass(frozen=True, kw_only=True)
class WorkersFlags(Options):
    """The number and the shape of the workers of one machine."""

    workers: int | None = option(
        None,
        "number of CPU worker processes",
        implied="one per core",
        minimum=0,
        maximum=10_000,
        group=_WORKERS,
    )
    threads: int = option(
        1, "number of threads in each worker", minimum=1, maximum=1_000, group=_WORKERS
    )
    gpus: str = option(
        "all",
        "GPUs that get a worker each: all, none, or a comma-separated list such as 0,1",
        metavar="LIST",
        group=_WORKERS,
    )
    scratch: Path | None = option(
        None,
        "folder on a local disk for Dask's temporary files",
        implied="chosen by Dask",
        metavar="DIR",
        group=_WORKERS,
    )
    lifetime: str | None = option(
        None,
        "time after which workers exit, e.g. 55m",
        implied="they do not",
        metavar="TIME",
        group=_WORKERS,
    )


@dataclass(frozen=True, kw_only=True)
class OnceOptions(Options):
    """The behaviour of a program whose process exits."""

    once: bool = option(
        False,
        "exit instead of restarting the process; for use under an external supervisor",
    )


@dataclass(frozen=True, kw_only=True)
class UpOptions(SchedulerFlags, WorkersFlags, CertificateOptions, StateOptions):
    """The options of `tesserae cluster up`."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions(CertificateOptions, StateOptions):
    """The options of `tesserae cluster status`."""

    address: str | None = argument(
        "address of the scheduler",
        metavar="ADDRESS",
        default=None,
        implied="the scheduler that `up` started",
    )


@dataclass(frozen=True, kw_only=True)
class DownOptions(StateOptions):
    """The options of `tesserae cluster down`."""


@dataclass(frozen=True, kw_only=True)
class CertsOptions(CertificateOptions):
    """The options of `tesserae cluster certs`."""

    hosts: tuple[str, ...] = option(
        (),
        "host names and addresses under which browsers open the dashboard; they are added to the"
        " scheduler's certificate",
        implied="none",
        metavar="HOST",
    )
    days: float = option(
        float(CERTIFICATE_DAYS),
        "validity of the certificates in days",
        above=0,
        maximum=3_650,
        metavar="DAYS",
    )
    renew: bool = option(
        False,
        "overwrite the certificates in the folder",
        implied="refuse if there are any",
    )


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions(SchedulerFlags, CertificateOptions, OnceOptions):
    """The options of `tesserae cluster scheduler`."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(WorkersFlags, CertificateOptions, OnceOptions):
    """The options of `tesserae cluster worker`."""

    FORMER_NAMES = MappingProxyType({"patience": "scheduler_timeout"})

    address: str = argument("address of the scheduler, e.g. tls://10.0.0.1:8786", metavar="ADDRESS")
    host: str | None = option(
        None,
        "address that the workers listen on",
        implied="the local address that reaches the scheduler",
        metavar="HOST",
    )
    scheduler_timeout: float | None = option(
        None,
        "exit once the scheduler has been unreachable for this long, in seconds",
        implied="never",
        minimum=0,
        metavar="SECONDS",
    )
    stdin: bool = option(
        False,
        "read certificates from standard input, and exit when it closes; used internally by"
        " `--cluster ssh:`",
    )


@dataclass(frozen=True, kw_only=True)
class WaitOptions(CertificateOptions):
    """The options of `tesserae cluster wait`."""

    FORMER_NAMES = MappingProxyType({"seconds": "timeout"})

    address: str = argument("address of the scheduler, e.g. tls://10.0.0.1:8786", metavar="ADDRESS")
    workers: int = option(1, "number of workers to wait for", minimum=0)
    gpus: int = option(0, "number of GPUs to wait for", minimum=0)
    timeout: float = option(
        600.0,
        "timeout in seconds, after which the command fails",
        above=0,
        maximum=10_000_000,
        metavar="SECONDS",
    )


@dataclass(frozen=True, kw_only=True)
class UnitsOptions(Options):
    """The options of `tesserae cluster units`."""

    folder: Path = argument(
        "folder that the units are written to, e.g. /etc/systemd/system", metavar="FOLDER"
    )
    address: str = option(
        MISSING,
        "address of the scheduler that the workers connect to, e.g. tls://10.0.0.1:8786",
        metavar="ADDRESS",
    )
    user: str = option("tesserae", "system user that the services run as", metavar="USER")
    certs: Path = option(
        Path("/etc/tesserae/certs"), "folder of certificates on each machine", metavar="DIR"
    )
