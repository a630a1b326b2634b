"""The implementation of `tesserae export`: it writes a trained trunk for `transformers`."""

from __future__ import annotations

import argparse

import torch

from pipeline.backbone.save import save_backbone
from pipeline.errors import TesseraeError
from workflows.devise.model import open_model


def run(args: argparse.Namespace) -> int:
    """Write the trunk that *args* name to a folder, and return the exit status."""
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
