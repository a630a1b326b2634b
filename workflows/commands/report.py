"""How a training run went: curves, samples and figures on one page, `report.html` in its folder.

The page needs nothing else. With --backbone the figures that need a network's features are there
too, each with the network's name: published ones are of Inception-v3, and no other network's can
stand beside them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflows.commands.ranges import whole

IMPLEMENTATION = "workflows.runs.report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae report`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument(
        "--backbone",
        metavar="MODEL",
        help="vision model, folder or name: adds FID, KID, precision, recall and coverage (none)",
    )
    parser.add_argument("--clip", metavar="MODEL", help="CLIP model to put beside a run of DeViSE")
    parser.add_argument(
        "--samples",
        type=whole(8, 1_000_000),
        default=1_000,
        metavar="N",
        help="pictures that are judged (1000)",
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="where: cpu, cuda, cuda:1 (a GPU, if there is one)"
    )
    parser.add_argument(
        "--store", metavar="STORE", help="where the store of the run is now (where it was)"
    )
