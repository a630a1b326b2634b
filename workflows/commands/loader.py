"""Measure what a loader delivers from a store on this machine, and how well it mixes.

Each epoch is handed out to nobody, as fast as it comes. `--cold` begins with no page of the store
in memory. Figures of mixing are 1 for a perfect shuffle.
"""

from __future__ import annotations

import argparse

from pipeline.order import ORDERS
from workflows.commands.ranges import whole

IMPLEMENTATION = "workflows.reports.loader_rates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae loader`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--split", default="train", help="which split (train)")
    parser.add_argument(
        "--size",
        type=whole(1, 4_096),
        default=224,
        help="side of the stored squares to read, in pixels (224)",
    )
    parser.add_argument("--batch", type=whole(1), default=256, help="rows of a global batch (256)")
    parser.add_argument(
        "--order", choices=ORDERS, default="random", help="order in which rows come (random)"
    )
    parser.add_argument("--epochs", type=whole(1), default=3, help="number of epochs (3)")
    parser.add_argument(
        "--threads",
        type=whole(1, 1_000),
        help="threads that gather batches (one a core, at most 4)",
    )
    parser.add_argument(
        "--seed", type=whole(0, 2**64 - 1), default=0, help="seed that draws the order (0)"
    )
    parser.add_argument(
        "--staging-dir",
        "--stage",
        metavar="DIR",
        help="copy shards to this folder, on a disk of this node, and read them there",
    )
    parser.add_argument(
        "--checksum",
        choices=("auto", "never", "once"),
        default="auto",
        help="compare each chunk with its checksum when a row of it is first read: once, never, or"
        " where memory can hold the pixels (auto, the default)",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="read the finished shards of an unfinished split (refuse it)",
    )
    parser.add_argument(
        "--cold", action="store_true", help="drop the store from the page cache first"
    )
