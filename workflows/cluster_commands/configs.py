"""The configurations of a scheduler and of workers, from the options of a command."""

from __future__ import annotations

from pathlib import Path

from cluster import certificates
from cluster.limits import cores
from cluster.processes import commands
from cluster.processes.commands import SchedulerConfig, WorkerConfig
from pipeline.memory import limit_bytes
from workflows.cluster_commands.options import (
    CertificateOptions,
    SchedulerOptions,
    UpOptions,
    WorkerOptions,
)
from workflows.cluster_kinds import PRELOAD


def certificates_folder(options: CertificateOptions) -> Path | None:
    """Return the folder of certificates that a command uses.

    Args:
        options: The options of the command: `certs` (the folder; None for that of the environment
            variable `TESSERAE_CERTS`, or else the user's own) and `insecure`.

    Returns:
        The folder, which need not exist if it was chosen by option or environment variable; None
        with `--insecure`, or if none was chosen and the user's own one does not exist.
    """
    return None if options.insecure else certificates.existing_folder(options.certs)


def scheduler_config(options: UpOptions | SchedulerOptions) -> SchedulerConfig:
    """Return the configuration of a scheduler that serves the Tesserae page; nothing is started.

    Args:
        options: The options of the command, of which `host`, `port`, `dashboard_host`,
            `dashboard_port`, `certs` and `insecure` are used.

    Returns:
        The configuration, with the hosts, ports and certificates of the options, which are not
        checked.
    """
    return SchedulerConfig(
        host=options.host,
        port=options.port,
        dashboard_host=options.dashboard_host,
        dashboard_port=options.dashboard_port,
        certificates=certificates_folder(options),
        insecure=options.insecure,
        preload=["workflows.dashboard.plugin"],
    )


def worker_config(options: UpOptions | WorkerOptions, address: str) -> WorkerConfig:
    """Return the configuration of this machine's workers, which share its memory equally.

    Args:
        options: The options of the command. `workers` is the number of CPU workers, None for one
            per core; `gpus` is `all`, `none` or comma-separated devices: numbers from 0, UUIDs or
            MIG names. `threads`, `scratch`, `lifetime`, `certs`, `insecure` and, of a
            WorkerOptions, `host` are used, too.
        address: The address of the scheduler, such as `tls://10.0.0.1:8786`.

    Returns:
        The configuration. `memory_limit` is the bytes of each worker, and `gpus` the names of the
        devices, each of which gets a worker of its own.

    Raises:
        ValueError: There is neither a CPU worker nor a GPU worker, or `--gpus` names a device that
            this machine lacks, or one twice. Names of MIG devices are not checked.
    """
    workers = cores() if options.workers is None else options.workers
    gpus = _gpu_names(options.gpus)
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
        certificates=certificates_folder(options),
        insecure=options.insecure,
        preload=PRELOAD,
    )


def _gpu_names(selection: str) -> list[str]:
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


def check_ports_free(config: SchedulerConfig) -> None:
    """Check that the ports of a scheduler and of its dashboard can be listened on.

    Args:
        config: The configuration of the scheduler; each port is bound for a moment.

    Raises:
        ClusterError: Another process uses one of them, or it is not permitted.
    """
    for host, port in ((config.host, config.port), (config.dashboard_host, config.dashboard_port)):
        commands.check_port_free(host, port)
