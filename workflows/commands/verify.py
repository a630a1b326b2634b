"""Check every file of a store against its recorded digest, and list missing and damaged files.

The exit status is 0 if the store is complete and undamaged, and 1 if a file is missing or damaged
or if a split is not finished.
"""

from __future__ import annotations

import argparse

from workflows.commands.ranges import integer

IMPLEMENTATION = "workflows.preparation.verify"

SOURCE_ROWS = 100
"""The default number of rows of each split that --source decodes again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae verify`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--split", nargs="+", help="splits to check (default: all)")
    parser.add_argument(
        "--source",
        nargs="?",
        type=integer(1),
        const=SOURCE_ROWS,
        metavar="ROWS",
        help="also decode ROWS rows of each split from the source and compare their pixels"
        f" (default: do not; without a number, {SOURCE_ROWS} rows)",
    )
    parser.add_argument(
        "--threads",
        type=integer(0, 1_000),
        default=0,
        metavar="N",
        help="number of threads that read files; 0 uses one per core (default 0)",
    )
