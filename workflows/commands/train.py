"""Train a stage on a store, as ranks of a cluster.

The run goes on from its last checkpoint when the same command is given again: after Ctrl-C, after
a crash, with more or fewer ranks. With --data the store is prepared first, on the same cluster:
training begins when its split is there, and the other splits are made meanwhile.
"""

from __future__ import annotations

import argparse

from pipeline.sources import SOURCE_KINDS
from workflows.commands.flags import add_cluster, add_source
from workflows.commands.ranges import number, whole
from workflows.training.options import add_flags
from workflows.training.stages import STAGES, load_name

IMPLEMENTATION = "workflows.runs.train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae train`."""
    stages = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for name, stage in STAGES.items():
        one = stages.add_parser(
            name,
            help=stage.what,
            description=f"{stage.what[0].upper()}{stage.what[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        one.add_argument("store", metavar="STORE", help="folder or URL of the store")
        data = one.add_argument_group("from what, to where")
        data.add_argument("--run", metavar="DIR", help=f"folder of the run (runs/{name})")
        data.add_argument("--data", metavar="SOURCE", help="images to prepare STORE from first")
        data.add_argument(
            "--source-kind", choices=SOURCE_KINDS, help="what kind of source --data is (detected)"
        )
        data.add_argument(
            "--max-bad",
            type=number(0, 1),
            default=0.01,
            metavar="SHARE",
            help="share of rows of --data that may be quarantined before the run stops (0.01)",
        )
        data.add_argument("--split", default="train", help="split to learn from (train)")
        data.add_argument("--held-out", help="split to judge by, or none (val or test)")
        data.add_argument(
            "--from-step",
            type=whole(0),
            metavar="N",
            help="go back to the checkpoint of step N, with other rates if you like; 0 begins anew"
            " (the newest checkpoint)",
        )
        add_source(one.add_argument_group("classes of the images in --data"))
        add_flags(one, load_name(stage.options))
        where = one.add_argument_group("where")
        where.add_argument(
            "--ranks",
            type=whole(1),
            metavar="N",
            help="processes that train, on processors unless --gpus is given (one a GPU, else 1)",
        )
        where.add_argument(
            "--gpus",
            type=whole(0),
            metavar="N",
            help="ranks, each with a GPU; 0 = on processors (every GPU, unless --ranks is given)",
        )
        where.add_argument(
            "--rank-timeout", type=number(0, 10_000_000), default=600.0, metavar="SECONDS",
            help="how long to wait for workers for all ranks, before fewer begin (600)",
        )  # fmt: skip
        add_cluster(where)
