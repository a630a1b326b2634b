"""Check every file of a store against what was committed, and name each that is wrong.

Exit status 0: the store is whole. 1: it is not, or a split of it is not finished.
"""

from __future__ import annotations

import argparse

from workflows.commands.ranges import whole

IMPLEMENTATION = "workflows.preparation.verify"

SOURCE_ROWS = 100
"""Rows of each split that --source decodes again, unless told."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae verify`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--split", nargs="+", help="splits to check (all)")
    parser.add_argument(
        "--source",
        nargs="?",
        type=whole(1),
        const=SOURCE_ROWS,
        metavar="ROWS",
        help=f"also decode that many rows of each split from the source ({SOURCE_ROWS})",
    )
    parser.add_argument(
        "--threads", type=whole(0, 1_000), default=0, help="readers; 0 = one a core (0)"
    )
