"""Start, inspect and stop a persistent cluster that several commands can share.

    tesserae cluster up                 start a scheduler and workers here, in the background
    tesserae cluster status             show processes, open ports and the dashboard's address
    tesserae cluster down               stop what `up` started
    tesserae cluster certs              create a certificate authority, role certificates, a token
    tesserae cluster scheduler          run a scheduler in the foreground until Ctrl-C
    tesserae cluster worker ADDRESS     run this machine's workers in the foreground until Ctrl-C
    tesserae cluster wait ADDRESS       wait until a number of workers or GPUs has connected
    tesserae cluster units FOLDER       write systemd units for a scheduler and for workers

Pass `--cluster tls://HOST:PORT` to run another command on this cluster. Without it, each command
starts a temporary cluster on this machine.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from cluster.defaults import CERTIFICATE_DAYS, DASHBOARD_PORT, LOOPBACK, SCHEDULER_PORT
from workflows.commands.ranges import integer, number

IMPLEMENTATION = "workflows.cluster_programs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae cluster`."""
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for name, (description, flag_groups) in _subcommands().items():
        subparser = subparsers.add_parser(
            name, help=description, description=description, allow_abbrev=False
        )
        for add_flags in flag_groups:
            add_flags(subparser)


AddFlags = Callable[[argparse.ArgumentParser], None]


def _subcommands() -> dict[str, tuple[str, tuple[AddFlags, ...]]]:
    return {
        "up": (
            "Start a scheduler and workers on this machine, in the background.",
            (_add_scheduler, _add_workers, _add_certificates, _add_state),
        ),
        "status": (
            "Show the running processes, the ports they listen on, and the connected workers.",
            (_add_optional_address, _add_certificates, _add_state),
        ),
        "down": ("Stop the scheduler and the workers that `up` started.", (_add_state,)),
        "certs": (
            "Create a certificate authority, a certificate for each role, and a dashboard token.",
            (_add_new_certificates, _add_certificates),
        ),
        "scheduler": (
            "Run a scheduler until Ctrl-C; restart it if it exits.",
            (_add_scheduler, _add_certificates, _add_once),
        ),
        "worker": (
            "Run this machine's workers until Ctrl-C; restart those that exit.",
            (_add_address, _add_workers, _add_certificates, _add_once),
        ),
        "wait": (
            "Wait until the given number of workers or GPUs has connected.",
            (_add_wait_condition, _add_certificates),
        ),
        "units": (
            "Write systemd units for a scheduler and for workers.",
            (_add_units,),
        ),
    }


def _add_optional_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        nargs="?",
        help="address of the scheduler (default: the scheduler that `up` started)",
    )


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address", metavar="ADDRESS", help="address of the scheduler, e.g. tls://10.0.0.1:8786"
    )
    parser.add_argument(
        "--host",
        help="address that the workers listen on (default: the local address that reaches the"
        " scheduler)",
    )
    parser.add_argument(
        "--patience",
        type=number(0),
        default=math.inf,
        metavar="SECONDS",
        help="exit once the scheduler has been unreachable for this long (default: never)",
    )
    parser.add_argument(
        "--stdin",
        action="store_true",
        help="read certificates from standard input, and exit when it closes; used internally by"
        " `--cluster ssh:`",
    )


def _add_wait_condition(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address", metavar="ADDRESS", help="address of the scheduler, e.g. tls://10.0.0.1:8786"
    )
    parser.add_argument(
        "--workers",
        type=integer(0),
        default=1,
        metavar="N",
        help="number of workers to wait for (default 1)",
    )
    parser.add_argument(
        "--gpus",
        type=integer(0),
        default=0,
        metavar="N",
        help="number of GPUs to wait for (default 0)",
    )
    parser.add_argument(
        "--seconds",
        type=number(above=0, maximum=10_000_000),
        default=600,
        help="timeout in seconds, after which the command fails (default 600)",
    )


def _add_new_certificates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hosts",
        nargs="+",
        default=[],
        metavar="HOST",
        help="host names and addresses under which browsers open the dashboard; they are added to"
        " the scheduler's certificate (default: none)",
    )
    parser.add_argument(
        "--days",
        type=number(above=0, maximum=3_650),
        default=CERTIFICATE_DAYS,
        help="validity of the certificates in days (default 30)",
    )
    parser.add_argument(
        "--renew",
        action="store_true",
        help="overwrite the certificates in the folder (default: refuse if there are any)",
    )


def _add_units(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="folder that the units are written to, e.g. /etc/systemd/system",
    )
    parser.add_argument(
        "--address",
        required=True,
        help="address of the scheduler that the workers connect to, e.g. tls://10.0.0.1:8786",
    )
    parser.add_argument(
        "--user", default="tesserae", help="system user that the services run as (default tesserae)"
    )
    parser.add_argument(
        "--certs",
        metavar="DIR",
        default="/etc/tesserae/certs",
        help="folder of certificates on each machine (default /etc/tesserae/certs)",
    )


def _add_scheduler(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scheduler")
    group.add_argument(
        "--host",
        default=LOOPBACK,
        help="address that the scheduler listens on (default 127.0.0.1: this machine only)",
    )
    group.add_argument(
        "--port",
        type=integer(1, 65_535),
        default=SCHEDULER_PORT,
        help="TCP port of the scheduler (default 8786)",
    )
    group.add_argument(
        "--dashboard-host",
        default=LOOPBACK,
        help="address that the dashboard listens on; other than loopback, it requires HTTPS and a"
        " token (default 127.0.0.1)",
    )
    group.add_argument(
        "--dashboard-port",
        type=integer(1, 65_535),
        default=DASHBOARD_PORT,
        help="TCP port of the dashboard (default 8787)",
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--workers",
        type=integer(0, 10_000),
        metavar="N",
        help="number of CPU worker processes (default: one per core)",
    )
    group.add_argument(
        "--threads",
        type=integer(1, 1_000),
        default=1,
        metavar="N",
        help="number of threads in each worker (default 1)",
    )
    group.add_argument(
        "--gpus",
        default="all",
        help="GPUs that get a worker each: all, none, or a comma-separated list such as 0,1"
        " (default all)",
    )
    group.add_argument(
        "--scratch",
        metavar="DIR",
        help="folder on a local disk for Dask's temporary files (default: chosen by Dask)",
    )
    group.add_argument(
        "--lifetime",
        metavar="TIME",
        help="time after which workers exit, e.g. 55m (default: they do not)",
    )


def _add_certificates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--certs",
        metavar="DIR",
        help="folder of certificates (default: $TESSERAE_CERTS, else the user's own folder)",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="run without TLS certificates: traffic is neither encrypted nor authenticated",
    )


def _add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        metavar="DIR",
        help="folder of process ids and logs of the cluster in the background (default: the user's"
        " own folder)",
    )


def _add_once(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--once",
        action="store_true",
        help="exit instead of restarting the process; for use under an external supervisor",
    )
