"""The implementation of `tesserae cluster scheduler` and `worker`, which run until Ctrl-C."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cluster import certificates
from cluster.connect import ReconnectTimeout
from cluster.limits import raise_file_limit
from cluster.processes import commands, supervisor
from cluster.processes.heartbeat import HEARTBEAT_TIMEOUT_SECONDS
from workflows.cluster_commands.configs import check_ports_free, scheduler_config, worker_config
from workflows.cluster_commands.options import SchedulerOptions, WorkerOptions
from workflows.cluster_commands.printing import print_notice, print_scheduler


def scheduler(options: SchedulerOptions) -> int:
    """Run a scheduler until Ctrl-C or SIGTERM, and start it again whenever it exits.

    Call it in the main thread. The addresses are printed, and the limit of open files of this
    process is raised. With `--once`, the scheduler replaces this process instead, and the call does
    not return.

    Args:
        options: The parsed options of `tesserae cluster scheduler`: `host`, `port`,
            `dashboard_host`, `dashboard_port`, `certs`, `insecure` and `once`.

    Returns:
        The exit status, 0, after Ctrl-C or SIGTERM, when the scheduler has ended; errors are
        raised.

    Raises:
        CertificateError: A certificate is missing or invalid, or other machines would have access
            without one.
        ClusterError: A port is in use.
        ValueError: A port or the address of the dashboard is invalid.
    """
    raise_file_limit()  # the processes that are started here inherit the limit
    config = scheduler_config(options)
    program = commands.scheduler_program(config)
    check_ports_free(config)
    print_scheduler(config)
    return _run_programs([program], once=options.once)


def worker(options: WorkerOptions) -> int:
    """Run this machine's workers until Ctrl-C or SIGTERM, and start again those that exit.

    Call it in the main thread. The limit of open files of this process is raised. With `--once`,
    the workers replace this process instead, and the call does not return; `--scheduler-timeout`
    has no effect then.

    Args:
        options: The parsed options of `tesserae cluster worker`, such as `address`, `workers`,
            `gpus` and `certs`. With `stdin`, certificates come as the first line of standard input,
            a JSON object of file contents by name, the workers end when it closes or is silent for
            120 seconds, and `once` and `scheduler_timeout` have no effect.

    Returns:
        The exit status, 0, after Ctrl-C or SIGTERM, when the workers have ended; also after the
        scheduler has been unreachable for `--scheduler-timeout` seconds.

    Raises:
        CertificateError: A certificate is missing or invalid, or the scheduler does not trust it.
        ClusterError: The workers could not start, such as for an invalid address.
        ValueError: There is no worker to run, a GPU does not exist, or `--once` would have to run
            CPU and GPU workers at once.
    """
    raise_file_limit()  # the processes that are started here inherit the limit
    if options.stdin:
        return _run_for_remote_command(options)
    config = worker_config(options, options.address)
    programs = commands.worker_programs(config)
    folder = config.certificates
    security = None if folder is None else certificates.tls_security(folder, ["worker"])
    seconds = math.inf if options.scheduler_timeout is None else options.scheduler_timeout
    timeout = ReconnectTimeout(options.address, seconds, security)
    return _run_programs(programs, once=options.once, done=timeout.has_expired)


def _run_for_remote_command(options: WorkerOptions) -> int:
    """Run workers for a remote command, until its end of standard input closes or falls silent.

    The first line of standard input holds the certificates, as a JSON object of file contents.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = json.loads(sys.stdin.buffer.readline())
        certificates.write_certificates(
            folder, {file: text.encode() for file, text in files.items()}
        )
        config = replace(worker_config(options, options.address), certificates=folder)
        last_input = [time.monotonic()]

        def listen() -> None:
            # Read without a buffer: the exit of the interpreter would wait for the buffer's lock.
            while os.read(sys.stdin.fileno(), 4096):
                last_input[0] = time.monotonic()
            last_input[0] = float("-inf")

        threading.Thread(target=listen, daemon=True).start()
        supervisor.supervise(
            commands.worker_programs(config),
            report=print_notice,
            done=lambda: time.monotonic() - last_input[0] > HEARTBEAT_TIMEOUT_SECONDS,
        )
    return 0


def _run_programs(
    programs: Sequence[supervisor.Program], *, once: bool, done: Callable[[], bool] = lambda: False
) -> int:
    if once and len(programs) == 1:
        supervisor.run_once(programs[0])
    if once:
        raise ValueError("--once runs either CPU or GPU workers: pass --gpus none, or --workers 0.")
    supervisor.supervise(programs, report=print_notice, done=done)
    return 0
