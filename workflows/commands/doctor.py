"""Say what is active on this machine, and what to do about what is missing.

Exit status 1 if something would stop `tesserae prepare`. With STORE, room and durability are
looked at where the store lies or will lie; otherwise where the command is run.
"""

from __future__ import annotations

import argparse

IMPLEMENTATION = "workflows.setup.doctor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae doctor`."""
    parser.add_argument("store", metavar="STORE", nargs="?", help="where room is looked for (here)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="also look at the cluster at ADDRESS and at its ports (none)",
    )
    parser.add_argument("--certs", metavar="DIR", help="certificates for tls://")
