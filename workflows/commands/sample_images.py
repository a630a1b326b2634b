"""Make pictures with a run that was trained to: a grid of them in one PNG.

The same run, step and --seed make the same pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflows.commands.ranges import whole

IMPLEMENTATION = "workflows.runs.sample_images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae sample-images`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument(
        "-n", "--n", type=whole(1, 10_000), default=64, metavar="N", help="how many (64)"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("samples.png"),
        help="PNG file that is written (samples.png)",
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="seed that draws the noise (0)")
    parser.add_argument(
        "--label", help="class of all pictures, by number, wnid or words (all in turn)"
    )
    parser.add_argument(
        "--interpolate", action="store_true", help="lines, each from one picture to another"
    )
