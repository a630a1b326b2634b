"""Write `report.html` in the folder of a run: loss curves, samples and evaluation metrics.

The page is one self-contained file. --backbone adds the metrics that need a network's features (FID
and others), labelled with the network's name. Published values use Inception-v3 and cannot be
compared with those of another network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflows.commands.ranges import integer

IMPLEMENTATION = "workflows.runs.report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae report`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a training run")
    parser.add_argument(
        "--backbone",
        metavar="MODEL",
        help="vision model of `transformers`, a folder or a hub name, whose features are used for"
        " FID, KID, precision, recall and coverage (default: leave these out)",
    )
    parser.add_argument(
        "--clip",
        metavar="MODEL",
        help="CLIP model, a folder or a hub name, to compare a DeViSE run with (default: none)",
    )
    parser.add_argument(
        "--samples",
        type=integer(8, 1_000_000),
        default=1_000,
        metavar="N",
        help="number of generated images to evaluate (default 1000)",
    )
    parser.add_argument(
        "--device",
        metavar="DEVICE",
        help="torch device to evaluate on, e.g. cpu, cuda or cuda:1 (default: a GPU if there is"
        " one)",
    )
    parser.add_argument(
        "--store",
        metavar="STORE",
        help="folder or URL of the run's store, if it has moved (default: the location recorded in"
        " the run)",
    )
