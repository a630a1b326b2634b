"""The implementation of `tesserae cluster status` and `wait`: the state of a running cluster."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from distributed import Client

from cluster import ports
from cluster.connect import connect, wait_for
from cluster.processes import daemon
from workflows.cluster_commands.background import SCHEDULER, WORKERS, address_file, state_folder
from workflows.cluster_commands.configs import certificates_folder
from workflows.cluster_commands.options import StatusOptions, WaitOptions
from workflows.cluster_commands.printing import print_dashboard, print_notice
from workflows.terminal.formatting import counted

MAX_HEARTBEAT_SECONDS = 15.0
"""The age of a worker's last heartbeat from which on it is reported as silent."""


def status(options: StatusOptions) -> int:
    """Print the processes, the workers and the open ports of a cluster.

    Args:
        options: The parsed options: `address` (None for the scheduler of the state folder), `state`
            (that folder; None for the user's own), `certs` and `insecure`.

    Returns:
        The exit status: 1 if no scheduler is known, because none was named and none of the state
        folder runs; else 0.

    Raises:
        ClusterError: The address is invalid, the scheduler does not answer within ten seconds, or
            its certificates are missing or not trusted.
    """
    state = state_folder(options)
    running = [(n, daemon.process(state, n)) for n in (SCHEDULER, WORKERS)]
    for name, process in running:
        if process is not None:
            print(f"{name}: process {process.pid}, {daemon.log_path(state, name)}")
    where = address_file(state)
    address = options.address
    if address is None and where.exists() and running[0][1] is not None:
        address = where.read_text().strip()
    if address is None:
        restart = "stop its workers with `tesserae cluster down`; then start it"
        advice = restart if running[1][1] is not None else "start it"
        print(f"no scheduler of {state} is running: {advice} with `tesserae cluster up`.")
        return 1
    with connect(
        address, certificates_folder(options), timeout_seconds=10, report=print_notice
    ) as client:
        _print_workers(client, address)
        open_ports = ports.listening_ports(client)
    for port in open_ports:
        reach = "reachable from other machines" if port.is_public else "this machine only"
        print(f"  {port.host} {port.address}:{port.port}  {port.purpose}; {reach}")
    for port in (port for port in open_ports if port.purpose.startswith(ports.DASHBOARD)):
        print_dashboard(port.address, port.port, tls=port.is_public, machine=port.host)
    return 0


def wait(options: WaitOptions) -> int:
    """Wait until the workers and the GPUs have connected.

    Args:
        options: The parsed options: `address`, `workers` and `gpus` (the minimum of each),
            `timeout` (in seconds), `certs` and `insecure`.

    Returns:
        The exit status, 0; errors are raised.

    Raises:
        ClusterError: They have not connected before the timeout, the address is invalid, or the
            scheduler does not answer or trust the certificates.
        ValueError: The timeout is out of range.
    """
    with connect(
        options.address,
        certificates_folder(options),
        timeout_seconds=options.timeout,
        report=print_notice,
    ) as client:
        wait_for(
            client, workers=options.workers, gpus=options.gpus, timeout_seconds=options.timeout
        )
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
