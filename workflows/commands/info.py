"""Say what a store holds: splits, sizes, rows, recipe, and why rows are in quarantine."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae info`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--json", action="store_true", help="everything, for a program")
    parser.add_argument("--all", action="store_true", help="name every quarantined row")


def run(args: argparse.Namespace) -> int:
    """Run the command; what it needs is imported only now."""
    from workflows.info import run as call

    return call(args)
