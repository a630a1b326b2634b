"""Say what a store holds: splits, sizes, rows, recipe, and why rows are in quarantine."""

from __future__ import annotations

import argparse

IMPLEMENTATION = "workflows.reports.store_facts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae info`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--json", action="store_true", help="everything, for a program")
    parser.add_argument("--all", action="store_true", help="name every quarantined row")
