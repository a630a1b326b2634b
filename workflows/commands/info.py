"""Show what a store holds: splits, sizes, rows, recipe, and the reasons for quarantined rows."""

from __future__ import annotations

import argparse

IMPLEMENTATION = "workflows.reports.store_facts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae info`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--json", action="store_true", help="print all facts as one JSON document")
    parser.add_argument(
        "--all", action="store_true", help="list every quarantined row (default: the first 50)"
    )
