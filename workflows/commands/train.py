"""Train a stage on a store, with data-parallel ranks on a cluster.

Run the same command again to resume from the last checkpoint after Ctrl-C or a crash, with more or
fewer ranks if need be. With --data, the store is prepared first on the same cluster: training
starts when its split is finished, while the other splits are still being prepared.
"""

from __future__ import annotations

import argparse

from pipeline.sources import SOURCE_KINDS
from workflows.commands.flags import add_cluster, add_source
from workflows.commands.ranges import integer, number
from workflows.training.options import add_flags
from workflows.training.stages import STAGES, load_name

IMPLEMENTATION = "workflows.runs.train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae train`."""
    stages = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, stage in STAGES.items():
        subparser = stages.add_parser(
            name,
            help=stage.what,
            description=f"{stage.what[0].upper()}{stage.what[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        subparser.add_argument("store", metavar="STORE", help="folder or URL of the store")
        data = subparser.add_argument_group("data and run folder")
        data.add_argument(
            "--run",
            metavar="DIR",
            help=f"folder of checkpoints, metrics and samples of the run (default runs/{name})",
        )
        data.add_argument(
            "--data",
            metavar="SOURCE",
            help="folder, archive or URL of images that STORE is first prepared from (default:"
            " STORE exists already)",
        )
        data.add_argument(
            "--source-kind", choices=SOURCE_KINDS, help="format of --data (default: detected)"
        )
        data.add_argument(
            "--max-bad",
            type=number(0, 1),
            default=0.01,
            metavar="SHARE",
            help="fraction of rows of --data, 0 to 1, that may be quarantined before the run fails"
            " (default 0.01)",
        )
        data.add_argument("--split", default="train", help="split to train on (default train)")
        data.add_argument(
            "--held-out",
            metavar="SPLIT",
            help="split to evaluate on, or `none` (default: val, else test)",
        )
        data.add_argument(
            "--from-step",
            type=integer(0),
            metavar="N",
            help="resume from the checkpoint of step N, with other learning rates if you pass them;"
            " 0 starts from scratch (default: the newest checkpoint)",
        )
        add_source(subparser.add_argument_group("source, with --data"))
        add_flags(subparser, load_name(stage.options))
        cluster = subparser.add_argument_group("cluster")
        cluster.add_argument(
            "--ranks",
            type=integer(1),
            metavar="N",
            help="number of training processes; they run on CPUs unless --gpus is given (default:"
            " one per GPU, or 1 without GPUs)",
        )
        cluster.add_argument(
            "--gpus",
            type=integer(0),
            metavar="N",
            help="number of GPUs, with one rank on each; 0 trains on CPUs (default: every GPU,"
            " unless --ranks is given)",
        )
        cluster.add_argument(
            "--rank-timeout", type=number(0, 10_000_000), default=600.0, metavar="SECONDS",
            help="time to wait for workers for all ranks, in seconds, before training starts with"
            " fewer ranks (default 600)",
        )  # fmt: skip
        add_cluster(cluster)
