"""Make a small ImageNet-shaped folder out of the photographs inside scikit-image's wheel.

    DIR/train/<wnid>/<wnid>_<number>.JPEG
    DIR/val/<wnid>/val_<number>.JPEG
    DIR/LOC_synset_mapping.txt              wnid and words of each class
    DIR/is-a.txt                            what they are kinds of: parent and child
    DIR/sample.json                         what was asked for, and what was made; written last

Crops, mirrored or not, a little brighter or darker, scaled to ImageNet's spread of sizes; among
them a few grey ones, a CMYK JPEG, a PNG named .JPEG, a truncated and an empty file. Made of the
same photographs by the same Pillow, the same options give the same bytes. Nothing is fetched.

No photograph is in both train and val. The wheel has one photograph of most things, so classes
are as broad as it takes to have two: `person` learns from an astronaut and is judged on a
photographer. What is learned from it is a check of the plumbing, not a result.

200 images take 2 s and 15 MB, 2,000 take 15 s and 150 MB, on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflows.commands.ranges import whole
from workflows.sample_data.photographs import CLASSES

IMPLEMENTATION = "workflows.sample_data.sample"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae sample`."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="new or empty folder")
    parser.add_argument(
        "--images", type=whole(1), default=400, metavar="N", help="train and val together (400)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="of crops and colours (0)")
    parser.add_argument(
        "--classes",
        type=whole(2, len(CLASSES)),
        default=len(CLASSES),
        metavar="K",
        help=f"the first K of: {', '.join(each.words.split(',')[0] for each in CLASSES)} (all)",
    )
