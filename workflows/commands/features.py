"""Run a network over a whole store once, and keep what it makes of each picture beside the images.

Tasks of the cluster do it, a shard each, on its GPUs if there are any. What is committed stays: a
run that was broken off goes on where it was when the same command is given again, and what is
missing or of other images by now is made anew. --repair reads all that is there first, and makes
anew what is damaged. DeViSE trains on what is kept here, in minutes rather than hours.
"""

from __future__ import annotations

import argparse

from pipeline.backbone.choices import POOLINGS
from pipeline.store.features import DTYPES, PRECISIONS
from workflows.commands.flags import add_cluster
from workflows.commands.ranges import whole

IMPLEMENTATION = "workflows.preparation.features"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae features`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    what = parser.add_argument_group("what is made")
    add_trunk(what)
    what.add_argument("--split", nargs="+", default=["all"], help="splits, or `all` (all)")
    what.add_argument("--mirrored", action="store_true", help="of each picture's mirror image too")
    how = parser.add_argument_group("how")
    how.add_argument("--gpus", type=whole(0), metavar="N", help="use GPUs, N here (all; 0 = none)")
    how.add_argument(
        "--repair", action="store_true", help="read what is there, make anew what is damaged"
    )
    how.add_argument("--wait", action="store_true", help="wait for another run of the same")
    add_cluster(parser.add_argument_group("where"))


def add_trunk(group: argparse._ArgumentGroup) -> None:
    """Add the flags that say which network runs, and which of its outputs is kept."""
    group.add_argument(
        "--trunk", required=True, metavar="MODEL", help="vision model of transformers: folder, name"
    )
    group.add_argument("--cut", metavar="BLOCK", help="block whose output is taken (the end)")
    group.add_argument("--pooling", choices=POOLINGS, default="end", help="how it is pooled (end)")
    group.add_argument(
        "--size",
        type=whole(1, 4_096),
        metavar="PIXELS",
        help="stored size that the network is given, in pixels (what fits it best)",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="number format that the network computes in (float32)",
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="number format of stored features (float32)",
    )
