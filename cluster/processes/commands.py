"""The command lines of a scheduler and of workers, on which all kinds of clusters are based.

No process listens on all interfaces by default: a scheduler and its dashboard use the loopback
address, and a worker the address by which its machine reaches the scheduler. Beyond the loopback
address, connections require TLS, and the dashboard requires HTTPS and a token.
"""

from __future__ import annotations

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
from cluster.defaults import DASHBOARD_PORT, LOOPBACK, SCHEDULER_PORT, is_loopback
from cluster.errors import CertificateError, ClusterError
from cluster.processes.serve import PRELOAD
from cluster.processes.supervisor import Program

DEATH_TIMEOUT = "60s"
"""How long a worker tries to reach its scheduler before it ends and is restarted."""


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """The configuration of a scheduler."""

    host: str = LOOPBACK
    """The address on which the scheduler listens."""
    port: int = SCHEDULER_PORT
    dashboard_host: str = LOOPBACK
    """The address on which the dashboard listens."""
    dashboard_port: int = DASHBOARD_PORT
    certificates: Path | None = None
    """The folder of certificates; None without TLS."""
    insecure: bool = False
    """True to allow a scheduler without TLS beyond the loopback address."""
    preload: Sequence[str] = ()
    """The names of modules that add pages to the dashboard."""

    @property
    def address(self) -> str:
        """The address of the scheduler, as `PROTOCOL://HOST:PORT`."""
        return f"{_address_scheme(self.certificates)}://{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """The configuration of the workers of a machine."""

    address: str
    """The address of the scheduler."""
    workers: int
    """The number of worker processes without a GPU, 0 or more."""
    threads: int = 1
    """The number of tasks that each of them runs at once."""
    memory_limit: int = 0
    """The bytes that each worker may use before it is restarted; 0 for no limit."""
    gpus: Sequence[str] = ()
    """The GPUs by their names in CUDA_VISIBLE_DEVICES; each gets one more worker."""
    host: str | None = None
    """The address on which they listen; None for that by which the scheduler is reached."""
    scratch: Path | None = None
    """The folder for temporary files; None for Dask's default."""
    lifetime: str | None = None
    """The time after which each worker is restarted, such as `4h`; None for never."""
    certificates: Path | None = None
    """The folder of certificates; None without TLS."""
    insecure: bool = False
    """True to allow connections without TLS beyond the loopback address."""
    preload: Sequence[str] = field(default=())
    """The names of modules that the fork server imports for all workers of the machine."""


def scheduler_program(config: SchedulerConfig) -> Program:
    """Return the program of a scheduler; nothing is started.

    Args:
        config: The scheduler's `host`, `port`, `dashboard_host` and `dashboard_port` (the loopback
            address with 8786 and 8787 by default), `certificates` (their folder; None without TLS),
            `insecure` (True to allow a scheduler that other machines reach without TLS, but no such
            dashboard) and `preload` (names of modules that add pages).

    Returns:
        The program: `name` (`scheduler`), `command` (the program and its arguments) and
        `environment` (the variables to add to those of the process that starts it).

    Raises:
        CertificateError: The scheduler or its dashboard would be accessible without authentication,
            or a certificate or the token is missing or invalid.
        ValueError: A port is outside 1 to 65,535, both ports are equal, or `dashboard_host` is an
            IPv6 address.
    """
    for name, port in (("--port", config.port), ("--dashboard-port", config.dashboard_port)):
        if not 1 <= port <= 65_535:
            raise ValueError(f"{name} is {port}: expected 1 to 65535.")
    if config.port == config.dashboard_port:
        raise ValueError(
            f"--port and --dashboard-port are both {config.port}: expected two different ports."
        )
    if ":" in config.dashboard_host:
        raise ValueError(
            f"--dashboard-host is {config.dashboard_host}: Dask serves the dashboard on IPv4 only."
            " Pass an IPv4 address."
        )
    _check_exposure(config.host, "a scheduler", config.certificates, insecure=config.insecure)
    environment: dict[str, str] = {}
    preload = list(config.preload)
    if not is_loopback(config.dashboard_host):
        if config.certificates is None:
            raise CertificateError(
                f"a dashboard on {config.dashboard_host} exposes code, logs and paths to anyone."
                " Create certificates with `tesserae cluster certs`, or keep it on 127.0.0.1"
                " and use an ssh tunnel."
            )
        certificates.check_token(config.certificates)
        # Loaded first: pages that are loaded before it would be open if it failed.
        preload.insert(0, "cluster.dashboard.auth")
        environment[TOKEN_FILE] = str(config.certificates / certificates.TOKEN)
        tls_prefix = "DASK_DISTRIBUTED__SCHEDULER__DASHBOARD__TLS__"
        environment[tls_prefix + "CERT"] = str(config.certificates / "scheduler.pem")
        environment[tls_prefix + "KEY"] = str(config.certificates / "scheduler.key")
    arguments = [
        *_serve_command("scheduler"),
        *("--host", _bracketed(config.host)),
        *("--port", str(config.port)),
        *("--protocol", _address_scheme(config.certificates)),
        *("--dashboard-address", f"{_bracketed(config.dashboard_host)}:{config.dashboard_port}"),
        *_tls_arguments(config.certificates, "scheduler"),
        *(argument for module in preload for argument in ("--preload", module)),
    ]
    return Program(
        "scheduler", arguments, environment | _encryption_environment(config.certificates)
    )


def worker_programs(config: WorkerConfig) -> list[Program]:
    """Return the programs of this machine's workers: one for all CPU workers, and one for each GPU.

    A worker with a GPU has one thread and the resource `GPU: 1`. Tasks without a resource, such as
    decoding, run on both kinds. Nothing is started, but a missing folder `scratch` is created.

    Args:
        config: The workers' `address` (of the scheduler), `workers` (the number of CPU workers),
            `threads` (of each of these), `memory_limit` (bytes of each; 0 for none), `gpus` (names
            for CUDA_VISIBLE_DEVICES), `host` (the address on which they listen; None for that by
            which the scheduler is reached), `scratch` (folder for temporary files), `lifetime`
            (such as `4h`), `certificates` (their folder), `insecure` and `preload` (names of
            modules).

    Returns:
        The programs, each with `name` (`workers`, or such as `worker of GPU 0`), `command` (the
        program and its arguments) and `environment` (the variables to add to those of the process
        that starts it), that of the CPU workers first; without CPU workers it is left out.

    Raises:
        CertificateError: A certificate is missing or invalid, *config* has certificates for a
            tcp:// address or none for a tls:// address, or the workers would accept any client.
        ClusterError: `address` is invalid or its host name is unknown, `host` is not an address of
            this machine, `lifetime` is not a duration, or `scratch` cannot be written to.
    """
    check_address(config.address)
    url = urlsplit(config.address)
    if url.scheme == "tls" and config.certificates is None:
        raise CertificateError(
            f"{config.address} requires a certificate. Copy ca.pem, worker.pem and worker.key from"
            " the machine where they were created, and pass their folder with --certs."
        )
    if url.scheme == "tcp" and config.certificates is not None:
        raise CertificateError(
            f"{config.address} is not encrypted, but --certs was passed: expected a tls:// address."
        )
    if config.host is not None:
        _check_exposure(config.host, "a worker", config.certificates, insecure=config.insecure)
    _check_worker_options(config, str(url.hostname))
    host = config.host or _address_that_reaches(str(url.hostname), url.port)
    _check_exposure(host, "a worker", config.certificates, insecure=config.insecure)
    arguments = [
        *_serve_command("worker"),
        config.address,
        *("--host", _bracketed(host)),
        *("--memory-limit", str(config.memory_limit)),
        # The default would be 0.0.0.0. Metrics can be read on the machine itself.
        *("--dashboard-address", f"{LOOPBACK}:0", "--no-dashboard"),
        *("--death-timeout", DEATH_TIMEOUT),
        *_tls_arguments(config.certificates, "worker"),
        *(("--local-directory", str(config.scratch)) if config.scratch else ()),
        *(("--lifetime", config.lifetime) if config.lifetime else ()),
    ]
    environment = {PRELOAD: " ".join(config.preload)} | _encryption_environment(config.certificates)
    programs = []
    if config.workers:
        size_arguments = ["--nworkers", str(config.workers), "--nthreads", str(config.threads)]
        programs.append(Program("workers", [*arguments, *size_arguments], environment))
    for gpu in config.gpus:
        size_arguments = ["--nworkers", "1", "--nthreads", "1", "--resources", "GPU=1"]
        gpu_environment = environment | {"CUDA_VISIBLE_DEVICES": gpu}
        programs.append(
            Program(f"worker of GPU {gpu}", [*arguments, *size_arguments], gpu_environment)
        )
    return programs


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()] if gpu_uuids() else []
    return gpu_uuids()


def gpu_uuids() -> list[str]:
    """Return the UUIDs of the GPUs of this machine, which CUDA_VISIBLE_DEVICES accepts."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return completed.stdout.split() if completed.returncode == 0 else []


def _serve_command(role: str) -> list[str]:
    return [sys.executable, "-P", "-m", "cluster.processes.serve", role]


def _address_scheme(folder: Path | None) -> str:
    return "tcp" if folder is None else "tls"


def _tls_arguments(folder: Path | None, role: str) -> list[str]:
    if folder is None:
        return []
    certificates.tls_security(folder, [role])
    return [
        *("--tls-ca-file", str(folder / certificates.AUTHORITY)),
        *("--tls-cert", str(folder / f"{role}.pem")),
        *("--tls-key", str(folder / f"{role}.key")),
    ]


def _encryption_environment(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    return {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION": "1.3",
    }


def _check_exposure(host: str, role: str, folder: Path | None, *, insecure: bool) -> None:
    if folder is None and not insecure and not is_loopback(host):
        raise CertificateError(
            f"{role} on {host} without certificates runs code for anyone who can reach it. Create"
            " certificates with `tesserae cluster certs`, or pass --insecure on a network that you"
            " trust."
        )


def _check_worker_options(config: WorkerConfig, scheduler: str) -> None:
    """Check for errors that every restart of the workers would meet again."""
    try:
        socket.getaddrinfo(scheduler, None)
    except socket.gaierror as e:
        if e.errno == socket.EAI_NONAME:  # other errors are temporary, as while a machine boots
            raise ClusterError(
                f"the host name {scheduler!r} cannot be resolved. Check the address of the"
                " scheduler."
            ) from None
    if config.host is not None:
        _check_bindable(config.host)
    if config.lifetime is not None:
        _check_lifetime(config.lifetime)
    if config.scratch is not None:
        _check_scratch(config.scratch)


def _check_bindable(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError as e:
        raise ClusterError(
            f"--host is {host}: {e.strerror}. Pass an address of this machine."
        ) from None


def _check_lifetime(text: str) -> None:
    try:
        lifetime_seconds = float(parse_timedelta(text))
    except (ValueError, KeyError, TypeError):
        lifetime_seconds = 0.0
    if not lifetime_seconds > 0:
        raise ClusterError(f"--lifetime is {text!r}: expected e.g. 55m or 4h.")


def _check_scratch(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        raise ClusterError(
            f"--scratch is {folder}: cannot write there ({e.strerror}). Pass a writable folder."
        ) from None


def _address_that_reaches(host: str, port: int | None) -> str:
    """Return the address of this machine by which it reaches *host*."""
    if ":" in host:
        return str(get_ipv6(host, port))
    return str(get_ip(host, port))


def check_port_free(host: str, port: int) -> None:
    """Check that a process can listen on a port now.

    Args:
        host: An IPv4 or IPv6 address of this machine, on which the port is bound for a moment.
        port: The number of the port, 1 to 65,535.

    Raises:
        ClusterError: The port is in use or not permitted, or *host* is not an address of this
            machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            raise ClusterError(
                f"cannot listen on {host}:{port} ({e.strerror}). Pass another with --host and"
                " --port, or --dashboard-host and --dashboard-port."
            ) from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
