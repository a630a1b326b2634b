"""From photographs to a store, trained nets and answers: sample, prepare, verify, train, search.

Without --data it works on an embedded sample, made from photographs inside scikit-image: a check
of the plumbing, not a result. `--data imagenette` fetches a public set; any other --data names a
folder or archive of yours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workflows.commands.flags import add_source
from workflows.commands.ranges import number, whole

IMPLEMENTATION = "workflows.sample_data.demo"

SAMPLE_IMAGES = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae demo`."""
    parser.add_argument("--data", default="", help="your images, or `imagenette` (the sample)")
    parser.add_argument("--dir", type=Path, default=Path("demo"), help="where to work (demo)")
    parser.add_argument(
        "--images",
        type=whole(1),
        default=SAMPLE_IMAGES,
        help="pictures of the embedded sample, without --data (400)",
    )
    parser.add_argument("--workers", type=whole(1, 10_000), help="processes (one a core)")
    parser.add_argument(
        "--minutes", type=number(0), default=1.0, help="to train two small nets; 0 = do not (1)"
    )
    add_source(parser.add_argument_group("classes of your images"))
