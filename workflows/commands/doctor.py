"""Check this machine's installation and resources, and suggest how to fix what is missing.

The exit status is 1 if something would prevent `tesserae prepare` from running. With STORE, free
space and durable writes are checked at the store's location, otherwise in the current folder.
"""

from __future__ import annotations

import argparse

IMPLEMENTATION = "workflows.setup.doctor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae doctor`."""
    parser.add_argument(
        "store",
        metavar="STORE",
        nargs="?",
        help="folder or URL of the store whose disk is checked (default: the current folder)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the findings as one JSON document"
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="also check the ports of the cluster whose scheduler is at ADDRESS (default: none)",
    )
    parser.add_argument(
        "--certs",
        metavar="DIR",
        help="folder of certificates for a tls:// ADDRESS (default: $TESSERAE_CERTS, else the"
        " user's own folder)",
    )
