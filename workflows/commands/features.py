"""Run a network over every image of a store and save its outputs beside the images.

Each shard is one task of the cluster, and runs on a GPU if the cluster has any. Run the same
command again to resume: shards that are committed are kept, and shards that are missing or whose
images have changed are computed again. --repair also checks the committed files and computes
damaged ones again. DeViSE trains on these features in minutes rather than hours.
"""

from __future__ import annotations

import argparse

from pipeline.backbone.choices import POOLINGS
from pipeline.store.features import DTYPES, PRECISIONS
from workflows.commands.flags import add_cluster
from workflows.commands.ranges import integer

IMPLEMENTATION = "workflows.preparation.features"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae features`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    output = parser.add_argument_group("features")
    add_trunk(output)
    output.add_argument(
        "--split",
        nargs="+",
        default=["all"],
        help="splits whose features are computed, or `all` finished splits (default all)",
    )
    output.add_argument(
        "--mirrored",
        action="store_true",
        help="also compute the features of each image's horizontal mirror image",
    )
    execution = parser.add_argument_group("execution")
    execution.add_argument(
        "--gpus",
        type=integer(0),
        metavar="N",
        help="number of GPUs to use; 0 computes on CPUs (default: all GPUs of the cluster)",
    )
    execution.add_argument(
        "--repair",
        action="store_true",
        help="check the committed features first, and compute damaged ones again",
    )
    execution.add_argument(
        "--wait",
        action="store_true",
        help="wait for another run that computes the same features (default: fail)",
    )
    add_cluster(parser.add_argument_group("cluster"))


def add_trunk(group: argparse._ArgumentGroup) -> None:
    """Add the flags that select the network, and the layer and precision of its output."""
    group.add_argument(
        "--trunk",
        required=True,
        metavar="MODEL",
        help="vision model of `transformers`: a local folder or a name on the model hub",
    )
    group.add_argument(
        "--cut",
        metavar="BLOCK",
        help="block of the network whose output becomes the features (default: the last)",
    )
    group.add_argument(
        "--pooling",
        choices=POOLINGS,
        default="end",
        help="how that output is pooled into one vector per image; `end` pools as the model does"
        " (default end)",
    )
    group.add_argument(
        "--size",
        type=integer(1, 4_096),
        metavar="PIXELS",
        help="side of the stored images that are fed to the network, in pixels (default: the"
        " stored size that suits the network's input best)",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="number format that the network computes in (default float32)",
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="number format of the stored features (default float32)",
    )
