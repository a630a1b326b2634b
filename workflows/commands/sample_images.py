"""Generate images with a trained run and write them as a grid into one PNG file.

The same run, step and --seed generate the same images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflows.commands.ranges import integer

IMPLEMENTATION = "workflows.runs.sample_images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae sample-images`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a training run")
    parser.add_argument(
        "-n",
        "--n",
        type=integer(1, 10_000),
        default=64,
        metavar="N",
        help="number of images (default 64)",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("samples.png"),
        metavar="FILE",
        help="PNG file to write (default samples.png)",
    )
    parser.add_argument(
        "--seed", type=integer(0), default=0, help="seed of the generator's noise (default 0)"
    )
    parser.add_argument(
        "--label",
        metavar="CLASS",
        help="class of all images, as a label, a wnid or words (default: all classes in turn)",
    )
    parser.add_argument(
        "--interpolate",
        action="store_true",
        help="make each row of the grid interpolate between two random images",
    )
