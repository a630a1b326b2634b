"""Export the trunk that a DeViSE run has trained as a model folder for `transformers`.

The run must have trained its trunk (`--learn all`). The folder holds config.json,
model.safetensors and preprocessor_config.json. Open it with `transformers`, or pass it as `--trunk`
to `tesserae features` or to another run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

IMPLEMENTATION = "workflows.runs.export"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae export`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a DeViSE run")
    parser.add_argument(
        "-o",
        "--out",
        metavar="DIR",
        type=Path,
        help="new folder that the model is written to (default RUN/trunk)",
    )
