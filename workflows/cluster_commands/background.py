"""The implementation of `tesserae cluster up` and `down`: a cluster in the background."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from distributed import Client

from cluster import certificates
from cluster.connect import connect, wait_for
from cluster.errors import ClusterError
from cluster.limits import raise_file_limit
from cluster.processes import commands, daemon
from cluster.processes.commands import SchedulerConfig
from pipeline.errors import TesseraeError
from workflows.cluster_commands.configs import (
    certificates_folder,
    check_ports_free,
    scheduler_config,
    worker_config,
)
from workflows.cluster_commands.options import DownOptions, StateOptions, UpOptions
from workflows.cluster_commands.printing import print_scheduler
from workflows.terminal.formatting import bytes_text, counted

SCHEDULER, WORKERS = "scheduler", "workers"
"""The names of the two background processes, as their files in the state folder are called."""


def state_folder(options: StateOptions) -> Path:
    """Return the folder of process ids and logs, which need not exist yet.

    Args:
        options: The options of the command.

    Returns:
        `options.state` as an absolute path; if it is None, the user's own folder,
        `$XDG_STATE_HOME/tesserae/cluster`, or `~/.local/state/tesserae/cluster` without
        XDG_STATE_HOME.
    """
    return daemon.default_folder() if options.state is None else options.state.absolute()


def up(options: UpOptions) -> int:
    """Start a scheduler and workers in the background, and return when all have connected.

    Certificates are created if there are none, unless `options.insecure` is set. If the start
    fails, or not all connect in time, whatever was started is stopped again.

    The addresses are printed, and marks of the processes, logs and the scheduler's address are
    written to the state folder. The limit of open files of this process is raised, and its
    PYTHONPATH is set to its module search path, for the processes that inherit them.

    Args:
        options: The parsed options of `tesserae cluster up`, such as `port`, `workers`, `gpus`,
            `certs` and `state` (the folder of the cluster's files; None for the user's own).

    Returns:
        The exit status, 0; errors are raised.

    Raises:
        ClusterError: A port is in use, a process did not start in time, `scratch` or `lifetime` is
            invalid, or the state folder is that of another machine.
        TesseraeError: A cluster of this state folder is already running.
        ValueError: There is no worker to start, or a GPU does not exist.
        CertificateError: A certificate is missing or invalid.
    """
    raise_file_limit()  # the processes that are started here inherit the limit
    state = state_folder(options)
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
    config = scheduler_config(options)
    commands.scheduler_program(config)  # invalid options fail here, and not in a daemon's log
    check_ports_free(config)
    workers = worker_config(options, config.address)
    commands.worker_programs(workers)
    trust = ["--insecure"] if options.insecure else ["--certs", str(config.certificates)]
    started: list[str] = []  # what another command started at the same time is not ours to stop
    try:
        _start(
            state,
            SCHEDULER,
            *("--host", config.host, "--port", str(config.port), *trust),
            *("--dashboard-host", config.dashboard_host),
            *("--dashboard-port", str(config.dashboard_port)),
        )
        started.append(SCHEDULER)
        _start(
            state,
            WORKERS,
            config.address,
            *("--workers", str(workers.workers), "--threads", str(workers.threads), *trust),
            *("--gpus", ",".join(workers.gpus) or "none"),
            *(("--scratch", str(workers.scratch.absolute())) if workers.scratch else ()),
            *(("--lifetime", workers.lifetime) if workers.lifetime else ()),
        )
        started.append(WORKERS)
        print_scheduler(config)
        address_file(state).write_text(config.address)
        with connect(config.address, certificates_folder(options), timeout_seconds=60) as client:
            wait_for(client, workers=workers.workers + len(workers.gpus), timeout_seconds=120)
            _check_dashboard(client, config)
    except BaseException as e:
        for name in reversed(started):
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
            " use it. Try again, or pass another --dashboard-port."
        )


def _start(state: Path, name: str, *flags: str) -> None:
    subcommand = {SCHEDULER: "scheduler", WORKERS: "worker"}[name]
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    daemon.start(state, name, [sys.executable, "-m", "workflows", "cluster", subcommand, *flags])


def down(options: DownOptions) -> int:
    """Stop the workers and the scheduler that `up` started, and print what was stopped.

    Args:
        options: The parsed options, whose `state` is the folder that was passed to `up`.

    Returns:
        The exit status, 0; also if nothing was running.

    Raises:
        ClusterError: They were started on another machine or in another container.
    """
    state = state_folder(options)
    stopped = [name for name in (WORKERS, SCHEDULER) if daemon.stop(state, name)]
    print(f"stopped {' and '.join(stopped)}" if stopped else f"no cluster of {state} is running")
    return 0


def address_file(state: Path) -> Path:
    """Return the path of the file that holds the scheduler's address, which need not exist.

    Args:
        state: The folder of the files of a cluster in the background, from `state_folder`.

    Returns:
        `<state>/address`. The file holds a text such as `tls://10.0.0.1:8786`, also after `down`.
    """
    return state / "address"
