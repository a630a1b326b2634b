"""Run the whole pipeline once: sample, prepare, verify, train and search.

Without --data, the demo uses a small embedded sample made from scikit-image's photographs. It
checks that everything works; its results mean nothing. `--data imagenette` downloads a public
subset of ImageNet. Any other --data is the path of a folder or archive of images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflows.commands.flags import add_source
from workflows.commands.ranges import integer, number

IMPLEMENTATION = "workflows.sample_data.demo"

SAMPLE_IMAGES = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae demo`."""
    parser.add_argument(
        "--data",
        default="",
        metavar="SOURCE",
        help="folder or archive of images, or `imagenette` (default: the embedded sample)",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="working folder for the sample, the store and the runs (default demo)",
    )
    parser.add_argument(
        "--images",
        type=integer(1),
        default=SAMPLE_IMAGES,
        metavar="N",
        help="number of images in the embedded sample; without effect with --data (default 400)",
    )
    parser.add_argument(
        "--workers",
        type=integer(1, 10_000),
        metavar="N",
        help="number of worker processes that prepare the store (default: one per core)",
    )
    parser.add_argument(
        "--minutes",
        type=number(0),
        default=1.0,
        help="minutes of training, shared by two small networks; 0 skips training (default 1)",
    )
    add_source(parser.add_argument_group("classes of your images"))
