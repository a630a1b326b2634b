"""Write the network that a run of DeViSE has trained as a folder that others can open.

`--learn all` trains the trunk too. The folder has config.json, model.safetensors and
preprocessor_config.json, as models of `transformers` have: name it as `--trunk` of `tesserae
features` or another run, or open it with `transformers`.
"""

from __future__ import annotations

import argparse

import torch

from pipeline.backbone.saving import save_backbone
from pipeline.errors import TesseraeError
from workflows.devise.model import open_model


def run(args: argparse.Namespace) -> int:
    """Write it."""
    model = open_model(args.run, torch.device("cpu"))
    if model.trunk_state is None:
        raise TesseraeError(
            f"{args.run} learned a head on features of {model.options.trunk}, which is as it was:"
            " expected a run of --learn all."
        )
    out = args.out or args.run / "trunk"
    save_backbone(model.trunk, out)
    print(f"{out}: {model.trunk.name} of step {model.step:,} of {args.run}")
    return 0
