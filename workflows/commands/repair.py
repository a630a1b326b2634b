"""Restore damaged or missing files of a store, and change nothing else.

Records are restored from their second copy, table parts from the merged table, and pixels from the
source, whose bytes must still match the recorded checksums. The exit status is 0 if the store is
complete and undamaged afterwards.
"""

from __future__ import annotations

import argparse

from pipeline.sources import SOURCE_KINDS
from workflows.commands.flags import add_cluster, add_source

IMPLEMENTATION = "workflows.preparation.repair"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae repair`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--split", nargs="+", help="splits to repair (default: all)")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="folder, archive or URL of the source images, if they have moved (default: the"
        " location recorded in the store)",
    )
    parser.add_argument(
        "--source-kind", choices=SOURCE_KINDS, help="format of SOURCE (default: detected)"
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait for another run that works on the same split (default: fail)",
    )
    add_source(parser.add_argument_group("source"))
    add_cluster(parser.add_argument_group("cluster"))
