"""Bring damaged or missing files of a store back, and touch nothing else.

Records come from their second copy, parts of the table from the table, pixels from the source,
whose bytes must still have the checksums that were recorded. Exit status 0: the store is whole.
"""

from __future__ import annotations

import argparse

from pipeline.sources import SOURCE_KINDS
from workflows.commands.flags import add_cluster, add_source

IMPLEMENTATION = "workflows.preparation.repair"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae repair`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--split", nargs="+", help="splits to repair (all)")
    parser.add_argument(
        "--data", metavar="SOURCE", help="where the images are, if not where they were"
    )
    parser.add_argument("--source-kind", choices=SOURCE_KINDS, help="what SOURCE is (detected)")
    parser.add_argument("--wait", action="store_true", help="wait for another run of the split")
    add_source(parser.add_argument_group("classes of the images in SOURCE"))
    add_cluster(parser.add_argument_group("where"))
