"""The command lines of a scheduler and of workers: the base that every way to run reduces to.

Nothing binds to an address that nobody named: a scheduler and its dashboard to the loopback
address unless told otherwise, a worker to the address by which its machine reaches the scheduler.
Beyond the loopback address there is no comm without TLS, and no dashboard without HTTPS and a
token.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dask.utils import parse_timedelta
from distributed.utils import get_ip, get_ipv6

from cluster import certificates
from cluster.connect import check_address
from cluster.dashboard.auth import TOKEN_FILE
from cluster.defaults import DASHBOARD_PORT, LOOPBACK, SCHEDULER_PORT
from cluster.errors import CertificateError, ClusterError
from cluster.processes.serve import PRELOAD
from cluster.processes.supervisor import Program

DEATH_TIMEOUT = "60s"
"""So long a worker asks for its scheduler before it ends, to be started again."""


@dataclass(frozen=True, kw_only=True)
class SchedulerWish:
    """What a scheduler shall be."""

    host: str = LOOPBACK
    port: int = SCHEDULER_PORT
    dashboard_host: str = LOOPBACK
    dashboard_port: int = DASHBOARD_PORT
    certificates: Path | None = None
    insecure: bool = False
    preload: Sequence[str] = ()
    """Modules that put pages on the dashboard."""

    @property
    def address(self) -> str:
        """Where it will be."""
        return f"{_protocol(self.certificates)}://{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class WorkerWish:
    """What the workers of a machine shall be."""

    address: str
    """Of the scheduler."""
    workers: int
    """Processes that decode; 0 for none."""
    threads: int = 1
    memory_limit: int = 0
    """Bytes that each may use before it is replaced; 0 for any."""
    gpus: Sequence[str] = ()
    """Devices, as CUDA_VISIBLE_DEVICES names them: each has a worker of its own."""
    host: str | None = None
    """Where they listen; None = the address by which the scheduler is reached."""
    scratch: Path | None = None
    lifetime: str | None = None
    certificates: Path | None = None
    insecure: bool = False
    preload: Sequence[str] = field(default=())
    """Modules that all workers of the machine share."""


def scheduler(wish: SchedulerWish) -> Program:
    """The scheduler.

    Raises:
        CertificateError: It would take anybody, or show its dashboard to anybody.
    """
    for name, port in (("--port", wish.port), ("--dashboard-port", wish.dashboard_port)):
        if not 1 <= port <= 65_535:
            raise ValueError(f"{name} is {port}: expected 1 to 65535.")
    if wish.port == wish.dashboard_port:
        raise ValueError(f"--port and --dashboard-port are both {wish.port}: expected two.")
    if ":" in wish.dashboard_host:
        raise ValueError("--dashboard-host: Dask serves it on IPv4 alone.")
    _check_open(wish.host, "a scheduler", wish.certificates, insecure=wish.insecure)
    environment: dict[str, str] = {}
    preload = list(wish.preload)
    if not is_loopback(wish.dashboard_host):
        if wish.certificates is None:
            raise CertificateError(
                f"a dashboard on {wish.dashboard_host} shows code, logs and paths to whoever asks."
                " Make certificates with `tesserae cluster certs`, or leave it on 127.0.0.1 and"
                " reach it through ssh."
            )
        certificates.check_token(wish.certificates)
        # First: what is loaded before it would be open if the next one failed.
        preload.insert(0, "cluster.dashboard.auth")
        environment[TOKEN_FILE] = str(wish.certificates / certificates.TOKEN)
        tls = "DASK_DISTRIBUTED__SCHEDULER__DASHBOARD__TLS__"
        environment[tls + "CERT"] = str(wish.certificates / "scheduler.pem")
        environment[tls + "KEY"] = str(wish.certificates / "scheduler.key")
    words = [
        *_serve("scheduler"),
        *("--host", _bracketed(wish.host)),
        *("--port", str(wish.port)),
        *("--protocol", _protocol(wish.certificates)),
        *("--dashboard-address", f"{_bracketed(wish.dashboard_host)}:{wish.dashboard_port}"),
        *_tls(wish.certificates, "scheduler"),
        *(word for module in preload for word in ("--preload", module)),
    ]
    return Program("scheduler", words, environment | _encrypted(wish.certificates))


def workers(wish: WorkerWish) -> list[Program]:
    """The workers of this machine: one program that decodes, and one for each GPU.

    A worker with a GPU holds the resource `GPU: 1` and one thread. Decoding carries no resource, so
    it runs on both kinds.

    Raises:
        CertificateError: They would work for anybody.
        ClusterError: They would end again and again.
    """
    check_address(wish.address)
    split = urlsplit(wish.address)
    if split.scheme == "tls" and wish.certificates is None:
        raise CertificateError(
            f"{wish.address} asks for a certificate. Copy ca.pem, worker.pem and worker.key from"
            " the machine that made them, and name their folder with --certs."
        )
    if split.scheme == "tcp" and wish.certificates is not None:
        raise CertificateError(
            f"{wish.address} is not encrypted, and certificates were named: expected tls://."
        )
    if wish.host is not None:
        _check_open(wish.host, "a worker", wish.certificates, insecure=wish.insecure)
    _check_work(wish, str(split.hostname))
    host = wish.host or _seen_by(str(split.hostname), split.port)
    _check_open(host, "a worker", wish.certificates, insecure=wish.insecure)
    words = [
        *_serve("worker"),
        wish.address,
        *("--host", _bracketed(host)),
        *("--memory-limit", str(wish.memory_limit)),
        # Not 0.0.0.0, as it would be; metrics are read on the machine itself.
        *("--dashboard-address", f"{LOOPBACK}:0", "--no-dashboard"),
        *("--death-timeout", DEATH_TIMEOUT),
        *_tls(wish.certificates, "worker"),
        *(("--local-directory", str(wish.scratch)) if wish.scratch else ()),
        *(("--lifetime", wish.lifetime) if wish.lifetime else ()),
    ]
    environment = {PRELOAD: " ".join(wish.preload)} | _encrypted(wish.certificates)
    programs = []
    if wish.workers:
        shape = ["--nworkers", str(wish.workers), "--nthreads", str(wish.threads)]
        programs.append(Program("workers", [*words, *shape], environment))
    for gpu in wish.gpus:
        shape = ["--nworkers", "1", "--nthreads", "1", "--resources", "GPU=1"]
        one = environment | {"CUDA_VISIBLE_DEVICES": gpu}
        programs.append(Program(f"worker of GPU {gpu}", [*words, *shape], one))
    return programs


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()] if devices() else []
    return devices()


def devices() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them when it names them well."""
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.split() if done.returncode == 0 else []


def _serve(role: str) -> list[str]:
    return [sys.executable, "-m", "cluster.processes.serve", role]


def _protocol(folder: Path | None) -> str:
    return "tcp" if folder is None else "tls"


def _tls(folder: Path | None, role: str) -> list[str]:
    if folder is None:
        return []
    certificates.security(folder, [role])
    return [
        *("--tls-ca-file", str(folder / certificates.AUTHORITY)),
        *("--tls-cert", str(folder / f"{role}.pem")),
        *("--tls-key", str(folder / f"{role}.key")),
    ]


def _encrypted(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    return {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION": "1.3",
    }


def _check_open(host: str, what: str, folder: Path | None, *, insecure: bool) -> None:
    if folder is None and not insecure and not is_loopback(host):
        raise CertificateError(
            f"{what} on {host} without certificates runs code for whoever reaches it. Make them"
            " with `tesserae cluster certs`; or, where nobody else reaches that network, pass"
            " --insecure."
        )


def _check_work(wish: WorkerWish, scheduler: str) -> None:
    """Refuse what each start would meet again: it is said here, once."""
    try:
        socket.getaddrinfo(scheduler, None)
    except socket.gaierror as e:
        if e.errno == socket.EAI_NONAME:  # and not that no name is known yet, at a machine's start
            raise ClusterError(f"no machine is known as {scheduler!r} here.") from None
    if wish.host is not None:
        _check_own(wish.host)
    if wish.lifetime is not None:
        _check_lifetime(wish.lifetime)
    if wish.scratch is not None:
        _check_scratch(wish.scratch)


def _check_own(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError as e:
        raise ClusterError(f"--host {host}: {e.strerror}.") from None


def _check_lifetime(text: str) -> None:
    try:
        lasts = float(parse_timedelta(text))
    except (ValueError, KeyError, TypeError):
        lasts = 0.0
    if not lasts > 0:
        raise ClusterError(f"--lifetime is {text!r}: expected e.g. 55m or 4h.")


def _check_scratch(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        raise ClusterError(
            f"--scratch {folder}: nothing can be written there ({e.strerror})."
        ) from None


def _seen_by(host: str, port: int | None) -> str:
    """The address of this machine by which it reaches another."""
    if ":" in host:
        return str(get_ipv6(host, port))
    return str(get_ip(host, port))


def check_free(host: str, port: int) -> None:
    """Refuse a port that somebody listens on.

    Raises:
        ClusterError: With what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            raise ClusterError(
                f"nothing can listen on {host}:{port} ({e.strerror}). Name another with --host and"
                " --port, or --dashboard-host and --dashboard-port."
            ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches *host*."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
