"""Make pictures with a run that was trained to: a grid of them in one PNG.

The same run, step and --seed make the same pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae sample-images`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument("-n", "--n", type=int, default=64, metavar="N", help="how many (64)")
    parser.add_argument("-o", "--out", type=Path, default=Path("samples.png"), help="(samples.png)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    parser.add_argument("--label", help="of one class, by number, wnid or words")
    parser.add_argument(
        "--interpolate", action="store_true", help="lines, each from one picture to another"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; what it needs is imported only now."""
    from workflows.sample_images import run as call

    return call(args)
