"""Start, look at and stop the parts of a cluster that stands for more than one command.

    tesserae cluster up                 a scheduler and workers on this machine, in the background
    tesserae cluster status             what runs, what it listens on, and how to see its dashboard
    tesserae cluster down               stop them
    tesserae cluster certs              certificates: an authority, one for each role, a token
    tesserae cluster scheduler          a scheduler, until Ctrl-C
    tesserae cluster worker ADDRESS     the workers of this machine, until Ctrl-C
    tesserae cluster wait ADDRESS       until so many workers, or GPUs, are there
    tesserae cluster units FOLDER       systemd units for a scheduler and for workers

A command is pointed at it with `--cluster tls://...`; without, it has a cluster of its own.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from cluster.defaults import CERTIFICATE_DAYS, DASHBOARD_PORT, LOOPBACK, SCHEDULER_PORT
from workflows.commands.ranges import number, whole

IMPLEMENTATION = "workflows.cluster_programs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae cluster`."""
    words = parser.add_subparsers(dest="word", metavar="WORD", required=True)
    for name, (what, parts) in _words().items():
        one = words.add_parser(name, help=what, description=what, allow_abbrev=False)
        for part in parts:
            part(one)


Part = Callable[[argparse.ArgumentParser], None]


def _words() -> dict[str, tuple[str, tuple[Part, ...]]]:
    return {
        "up": (
            "Start a scheduler and workers on this machine, in the background.",
            (_add_scheduler, _add_workers, _add_certificates, _add_state),
        ),
        "status": (
            "Say what runs, what it listens on, and who works.",
            (_add_known, _add_certificates, _add_state),
        ),
        "down": ("Stop what `up` started.", (_add_state,)),
        "certs": (
            "Make an authority, a certificate for each role, and a token.",
            (_add_new_certificates, _add_certificates),
        ),
        "scheduler": (
            "Run a scheduler until Ctrl-C; start it again if it ends.",
            (_add_scheduler, _add_certificates, _add_once),
        ),
        "worker": (
            "Run this machine's workers until Ctrl-C; start them again if they end.",
            (_add_address, _add_workers, _add_certificates, _add_once),
        ),
        "wait": (
            "Wait until so many workers, or GPUs, are there.",
            (_add_wanted, _add_certificates),
        ),
        "units": (
            "Write systemd units for a scheduler and for workers.",
            (_add_units,),
        ),
    }


def _add_known(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        nargs="?",
        help="address of the scheduler (that of the one `up` started)",
    )


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address", metavar="ADDRESS", help="address of the scheduler, e.g. tls://10.0.0.1:8786"
    )
    parser.add_argument(
        "--host", help="address to listen on (the one from which the scheduler is reached)"
    )
    parser.add_argument(
        "--patience",
        type=number(0),
        default=math.inf,
        metavar="SECONDS",
        help="end when the scheduler was not reached for so long (never)",
    )
    parser.add_argument("--stdin", action="store_true", help="as `--cluster ssh:` calls it")


def _add_wanted(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="of the scheduler")
    parser.add_argument("--workers", type=whole(0), default=1, help="workers to wait for (1)")
    parser.add_argument("--gpus", type=whole(0), default=0, help="GPUs to wait for (0)")
    parser.add_argument(
        "--seconds",
        type=number(above=0, most=10_000_000),
        default=600,
        help="seconds to wait at most (600)",
    )


def _add_new_certificates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hosts", nargs="+", default=[], help="names that browsers will use")
    parser.add_argument(
        "--days",
        type=number(above=0, most=3_650),
        default=CERTIFICATE_DAYS,
        help="days for which the certificates are valid (30)",
    )
    parser.add_argument(
        "--renew", action="store_true", help="replace certificates in the folder (refuse)"
    )


def _add_units(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="where to, e.g. /etc/systemd/system")
    parser.add_argument(
        "--address", required=True, help="of the scheduler, e.g. tls://10.0.0.1:8786"
    )
    parser.add_argument("--user", default="tesserae", help="who runs them (tesserae)")
    parser.add_argument(
        "--certs", metavar="DIR", default="/etc/tesserae/certs", help="of each machine"
    )


def _add_scheduler(parser: argparse.ArgumentParser) -> None:
    here = parser.add_argument_group("scheduler")
    here.add_argument("--host", default=LOOPBACK, help="to listen on (127.0.0.1)")
    here.add_argument(
        "--port", type=whole(1, 65_535), default=SCHEDULER_PORT, help="port of the scheduler (8786)"
    )
    here.add_argument(
        "--dashboard-host",
        default=LOOPBACK,
        help="address that the dashboard listens on (127.0.0.1)",
    )
    here.add_argument(
        "--dashboard-port",
        type=whole(1, 65_535),
        default=DASHBOARD_PORT,
        help="port of the dashboard (8787)",
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    here = parser.add_argument_group("workers")
    here.add_argument(
        "--workers", type=whole(0, 10_000), metavar="N", help="processes (one a core)"
    )
    here.add_argument(
        "--threads", type=whole(1, 1_000), default=1, metavar="N", help="threads of each worker (1)"
    )
    here.add_argument("--gpus", default="all", help="all, none, or devices 0,1 (all)")
    here.add_argument(
        "--scratch", metavar="DIR", help="folder on a disk of this machine for Dask's files"
    )
    here.add_argument(
        "--lifetime", help="time after which workers end by themselves, e.g. 55m (never)"
    )


def _add_certificates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--certs", metavar="DIR", help="$TESSERAE_CERTS, or those of this user")
    parser.add_argument("--insecure", action="store_true", help="without any certificates")


def _add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", metavar="DIR", help="where it is known what runs")


def _add_once(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="a supervisor starts it again")
