"""Write the network that a run of DeViSE has trained as a folder that others can open.

`--learn all` trains the trunk too. The folder has config.json, model.safetensors and
preprocessor_config.json, as models of `transformers` have: name it as `--trunk` of `tesserae
features` or another run, or open it with `transformers`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

IMPLEMENTATION = "workflows.runs.export"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae export`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument(
        "-o", "--out", metavar="DIR", type=Path, help="folder that is made (RUN/trunk)"
    )
