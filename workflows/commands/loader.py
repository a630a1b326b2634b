"""Measure a loader's throughput on this machine and the quality of its shuffling.

Batches are read as fast as possible and discarded. `--cold` first drops the store from the page
cache. The shuffle figures are relative to a perfect shuffle, which scores 1.
"""

from __future__ import annotations

import argparse

from pipeline.order import ORDERS
from workflows.commands.ranges import integer

IMPLEMENTATION = "workflows.reports.loader_rates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae loader`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--split", default="train", help="split to read (default train)")
    parser.add_argument(
        "--size",
        type=integer(1, 4_096),
        default=224,
        metavar="PIXELS",
        help="side of the stored images to read, in pixels (default 224)",
    )
    parser.add_argument(
        "--batch",
        type=integer(1),
        default=256,
        metavar="N",
        help="number of rows in a batch (default 256)",
    )
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default="random",
        help="order of the rows in an epoch (default random)",
    )
    parser.add_argument(
        "--epochs", type=integer(1), default=3, metavar="N", help="number of epochs (default 3)"
    )
    parser.add_argument(
        "--threads",
        type=integer(1, 1_000),
        metavar="N",
        help="number of threads that gather batches (default: one per core, at most 4)",
    )
    parser.add_argument(
        "--seed",
        type=integer(0, 2**64 - 1),
        default=0,
        help="seed of the random order (default 0)",
    )
    parser.add_argument(
        "--staging-dir",
        "--stage",
        metavar="DIR",
        help="folder on a local disk that shards are copied to and read from (default: read the"
        " store in place)",
    )
    parser.add_argument(
        "--checksum",
        choices=("auto", "never", "once"),
        default="auto",
        help="whether to verify a chunk's checksum when one of its rows is first read; auto"
        " verifies where the pixels fit into memory (default auto)",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="read the committed shards of an unfinished split (default: fail)",
    )
    parser.add_argument(
        "--cold", action="store_true", help="drop the store from the page cache before measuring"
    )
