"""The implementation of `tesserae cluster`: schedulers, workers, certificates and systemd units."""

from __future__ import annotations

import getpass
import json
import math
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from distributed import Client

from cluster import certificates, ports
from cluster.connect import ReconnectTimeout, connect, wait_for
from cluster.defaults import is_loopback
from cluster.errors import ClusterError
from cluster.limits import cores, raise_file_limit
from cluster.processes import commands, daemon, supervisor, systemd
from cluster.processes.commands import SchedulerConfig, WorkerConfig
from cluster.processes.heartbeat import HEARTBEAT_TIMEOUT_SECONDS
from pipeline.errors import TesseraeError
from pipeline.memory import limit_bytes
from workflows.cluster_options import (
    CertificateOptions,
    CertsOptions,
    DownOptions,
    SchedulerOptions,
    StateOptions,
    StatusOptions,
    UnitsOptions,
    UpOptions,
    WaitOptions,
    WorkerOptions,
)
from workflows.session import PRELOAD
from workflows.terminal.formatting import bytes_text, counted

SCHEDULER, WORKERS = "scheduler", "workers"

MAX_HEARTBEAT_SECONDS = 15.0
"""The age of a worker's last heartbeat from which on it is reported as silent."""


def _folder(options: CertificateOptions) -> Path | None:
    return None if options.insecure else certificates.existing_folder(options.certs)


def _scheduler_config(options: UpOptions | SchedulerOptions) -> SchedulerConfig:
    return SchedulerConfig(
        host=options.host,
        port=options.port,
        dashboard_host=options.dashboard_host,
        dashboard_port=options.dashboard_port,
        certificates=_folder(options),
        insecure=options.insecure,
        preload=["workflows.dashboard.plugin"],
    )


def _worker_config(options: UpOptions | WorkerOptions, address: str) -> WorkerConfig:
    workers = cores() if options.workers is None else options.workers
    gpus = _gpus(options.gpus)
    if not workers + len(gpus):
        raise ValueError("--workers is 0: expected at least 1, or GPUs with --gpus.")
    return WorkerConfig(
        address=address,
        workers=workers,
        threads=options.threads,
        memory_limit=limit_bytes() // (workers + len(gpus)),
        gpus=gpus,
        host=options.host if isinstance(options, WorkerOptions) else None,
        scratch=options.scratch,
        lifetime=options.lifetime,
        certificates=_folder(options),
        insecure=options.insecure,
        preload=PRELOAD,
    )


def _gpus(selection: str) -> list[str]:
    if selection in ("all", "none"):
        return commands.visible_gpus() if selection == "all" else []
    gpus = selection.split(",")
    devices = commands.gpu_uuids()
    numbers = [str(number) for number in range(len(devices))]
    if len(set(gpus)) != len(gpus) or not all(
        gpu in numbers or gpu.startswith("MIG-") or gpu in devices for gpu in gpus
    ):
        raise ValueError(
            f"--gpus is {selection!r}: expected all, none, or devices of this machine, which has"
            f" {', '.join(numbers) or 'none'}."
        )
    return gpus


def _run(
    programs: Sequence[supervisor.Program], *, once: bool, done: Callable[[], bool] = lambda: False
) -> int:
    if once and len(programs) == 1:
        supervisor.run_once(programs[0])
    if once:
        raise ValueError("--once runs either CPU or GPU workers: pass --gpus none, or --workers 0.")
    supervisor.supervise(programs, report=_print_line, done=done)
    return 0


def scheduler(options: SchedulerOptions) -> int:
    """Run a scheduler until Ctrl-C, and return the exit status."""
    raise_file_limit()  # the processes that are started here inherit the limit
    config = _scheduler_config(options)
    program = commands.scheduler_program(config)
    _check_free(config)
    _print_scheduler(config)
    return _run([program], once=options.once)


def _check_free(config: SchedulerConfig) -> None:
    for host, port in ((config.host, config.port), (config.dashboard_host, config.dashboard_port)):
        commands.check_port_free(host, port)


def worker(options: WorkerOptions) -> int:
    """Run this machine's workers until Ctrl-C, and return the exit status."""
    raise_file_limit()  # the processes that are started here inherit the limit
    if options.stdin:
        return _work_for_a_caller(options)
    config = _worker_config(options, options.address)
    programs = commands.worker_programs(config)
    folder = config.certificates
    security = None if folder is None else certificates.tls_security(folder, ["worker"])
    seconds = math.inf if options.scheduler_timeout is None else options.scheduler_timeout
    timeout = ReconnectTimeout(options.address, seconds, security)
    return _run(programs, once=options.once, done=timeout.has_expired)


def _work_for_a_caller(options: WorkerOptions) -> int:
    """Run workers for a remote command, until its end of standard input closes or falls silent.

    The first line of standard input holds the certificates, as a JSON object of file contents.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = json.loads(sys.stdin.buffer.readline())
        certificates.write_certificates(
            folder, {file: text.encode() for file, text in files.items()}
        )
        config = replace(_worker_config(options, options.address), certificates=folder)
        last_input = [time.monotonic()]

        def listen() -> None:
            # Read without a buffer: the exit of the interpreter would wait for the buffer's lock.
            while os.read(sys.stdin.fileno(), 4096):
                last_input[0] = time.monotonic()
            last_input[0] = float("-inf")

        threading.Thread(target=listen, daemon=True).start()
        supervisor.supervise(
            commands.worker_programs(config),
            report=_print_line,
            done=lambda: time.monotonic() - last_input[0] > HEARTBEAT_TIMEOUT_SECONDS,
        )
    return 0


def _print_line(line: str) -> None:
    print(f"tesserae: {line}", file=sys.stderr, flush=True)


def _print_scheduler(config: SchedulerConfig) -> None:
    print(f"scheduler: {config.address}")
    if config.certificates is None:
        print(f"  further workers: tesserae cluster worker {config.address} --insecure")
    else:
        print(f"  certificates: {config.certificates}; workers and clients on other machines need")
        print("    copies of ca.pem and of their own role's .pem and .key")
        print(f"  further workers: tesserae cluster worker {config.address} --certs DIR")
    beyond = not is_loopback(config.dashboard_host)
    _print_dashboard(config.dashboard_host, config.dashboard_port, tls=beyond)
    sys.stdout.flush()


def _print_dashboard(host: str, port: int, *, tls: bool, machine: str | None = None) -> None:
    """Print the URL of a dashboard, and how to reach it from another machine.

    Args:
        host: The address that the dashboard listens on.
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


def certs(options: CertsOptions) -> int:
    """Create certificates and a token, and return the exit status."""
    if options.insecure:
        raise ValueError("--insecure cannot be combined with `certs`: it means no certificates.")
    folder = certificates.resolve_folder(options.certs)
    files = certificates.create_certificates(hosts=options.hosts, days=options.days)
    try:
        certificates.write_certificates(folder, files, replace=options.renew)
    except FileExistsError:
        raise TesseraeError(
            f"{folder} already holds certificates. Pass another folder with --certs, or --renew to"
            " replace them; a running cluster does not accept replaced certificates."
        ) from None
    until = certificates.certificate_expiry(folder / certificates.AUTHORITY)
    print(f"{folder}: valid until {until:%Y-%m-%d %H:%M} UTC")
    print("  scheduler.*  stays on the scheduler's machine, together with token")
    print("  worker.*     goes to the machines of the workers, together with ca.pem")
    print("  client.*     goes to the machines that run commands, together with ca.pem")
    return 0


def _state(options: StateOptions) -> Path:
    return daemon.default_folder() if options.state is None else options.state.absolute()


def up(options: UpOptions) -> int:
    """Start a scheduler and workers in the background, and return the exit status."""
    raise_file_limit()  # the processes that are started here inherit the limit
    state = _state(options)
    for name in (SCHEDULER, WORKERS):
        if daemon.process(state, name) is not None:
            raise TesseraeError(
                f"the {name} recorded in {state} is already running. See `tesserae cluster"
                " status`; stop it with `tesserae cluster down`."
            )
    folder = certificates.resolve_folder(options.certs)
    if not options.insecure and not (folder / certificates.AUTHORITY).exists():
        certificates.write_certificates(
            folder, certificates.create_certificates(hosts=[options.host, options.dashboard_host])
        )
        print(f"created certificates: {folder}")
    config = _scheduler_config(options)
    commands.scheduler_program(config)  # invalid options fail here, and not in a daemon's log
    _check_free(config)
    workers = _worker_config(options, config.address)
    commands.worker_programs(workers)
    trust = ["--insecure"] if options.insecure else ["--certs", str(config.certificates)]
    _start(
        state,
        SCHEDULER,
        *("--host", config.host, "--port", str(config.port), *trust),
        *("--dashboard-host", config.dashboard_host),
        *("--dashboard-port", str(config.dashboard_port)),
    )
    _start(
        state,
        WORKERS,
        config.address,
        *("--workers", str(workers.workers), "--threads", str(workers.threads), *trust),
        *("--gpus", ",".join(workers.gpus) or "none"),
        *(("--scratch", str(workers.scratch.absolute())) if workers.scratch else ()),
        *(("--lifetime", workers.lifetime) if workers.lifetime else ()),
    )
    _print_scheduler(config)
    try:
        _address_file(state).write_text(config.address)
        with connect(config.address, _folder(options), timeout_seconds=60) as client:
            wait_for(client, workers=workers.workers + len(workers.gpus), timeout_seconds=120)
            _check_dashboard(client, config)
    except BaseException as e:
        for name in (WORKERS, SCHEDULER):
            daemon.stop(state, name)
        if not isinstance(e, ClusterError):
            raise
        raise ClusterError(f"{e} See {daemon.log_path(state, SCHEDULER).parent}/*.log.") from None
    with_threads = f"{counted(workers.workers, 'worker')} with {counted(workers.threads, 'thread')}"
    with_gpu = f", {counted(len(workers.gpus), 'GPU worker')}" if workers.gpus else ""
    print(f"cluster is up: {with_threads}{with_gpu}; {bytes_text(workers.memory_limit)} each")
    named = f" CERTS={config.certificates}" if options.certs and config.certificates else ""
    print(f"  use it: make prepare ... CLUSTER={config.address}{named}")
    return 0


def _check_dashboard(client: Client, config: SchedulerConfig) -> None:
    # If the port is in use, Dask silently picks another; the printed URL would lead elsewhere.
    if client.scheduler_info()["services"].get("dashboard") != config.dashboard_port:
        raise ClusterError(
            f"port {config.dashboard_port} was taken by another process before the dashboard could"
            " use it. Try again, or or pass another --dashboard-port."
        )


def _start(state: Path, name: str, *flags: str) -> None:
    subcommand = {SCHEDULER: "scheduler", WORKERS: "worker"}[name]
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    daemon.start(state, name, [sys.executable, "-m", "workflows", "cluster", subcommand, *flags])


def down(options: DownOptions) -> int:
    """Stop what `up` started, and return the exit status."""
    state = _state(options)
    stopped = [name for name in (WORKERS, SCHEDULER) if daemon.stop(state, name)]
    print(f"stopped {' and '.join(stopped)}" if stopped else f"no cluster of {state} is running")
    return 0


def status(options: StatusOptions) -> int:
    """Print the processes, the workers and the open ports; return 1 if nothing runs, else 0."""
    state = _state(options)
    running = [(n, daemon.process(state, n)) for n in (SCHEDULER, WORKERS)]
    for name, process in running:
        if process is not None:
            print(f"{name}: process {process.pid}, {daemon.log_path(state, name)}")
    where = _address_file(state)
    address = options.address
    if address is None and where.exists() and running[0][1] is not None:
        address = where.read_text().strip()
    if address is None:
        restart = "stop its workers with `tesserae cluster down`; then start it"
        advice = restart if running[1][1] is not None else "start it"
        print(f"no scheduler of {state} is running: {advice} with `tesserae cluster up`.")
        return 1
    with connect(address, _folder(options), timeout_seconds=10, report=_print_line) as client:
        _print_workers(client, address)
        open_ports = ports.listening_ports(client)
    for port in open_ports:
        reach = "reachable from other machines" if port.is_public else "this machine only"
        print(f"  {port.host} {port.address}:{port.port}  {port.purpose}; {reach}")
    for port in (port for port in open_ports if port.purpose.startswith(ports.DASHBOARD)):
        _print_dashboard(port.address, port.port, tls=port.is_public, machine=port.host)
    return 0


def _print_workers(client: Client, address: str) -> None:
    info = client.scheduler_info(n_workers=-1)["workers"]
    threads = sum(worker["nthreads"] for worker in info.values())
    gpus = sum(worker["resources"].get("GPU", 0) for worker in info.values())
    hosts = {urlsplit(name).hostname for name in info}
    print(
        f"{address}: {counted(len(info), 'worker')} with {counted(threads, 'thread')} on"
        f" {counted(len(hosts), 'machine')}, {counted(int(gpus), 'GPU')}"
    )
    for name, worker in sorted(info.items()):
        if (silent := time.time() - worker["last_seen"]) > MAX_HEARTBEAT_SECONDS:
            print(f"  {name}  no heartbeat for {silent:.0f} s")


def _address_file(state: Path) -> Path:
    return state / "address"


def wait(options: WaitOptions) -> int:
    """Wait until the workers and the GPUs have connected, and return the exit status."""
    with connect(
        options.address, _folder(options), timeout_seconds=options.timeout, report=_print_line
    ) as client:
        wait_for(
            client, workers=options.workers, gpus=options.gpus, timeout_seconds=options.timeout
        )
    return 0


def units(options: UnitsOptions) -> int:
    """Write systemd units, and return the exit status."""
    certs = options.certs.absolute()
    for path in systemd.write_units(options.folder, options.address, options.user, certs):
        print(path)
    print("  next: systemctl daemon-reload, then systemctl enable --now the unit of each machine")
    return 0
