"""The implementation of `tesserae export`: it writes a trained trunk for `transformers`."""

from __future__ import annotations

from dataclasses import replace

import torch

from pipeline.backbone.save import save_backbone
from pipeline.errors import TesseraeError
from workflows.devise.model import open_devise_model
from workflows.runs.options import ExportOptions


def run_export(options: ExportOptions) -> int:
    """Write the trained trunk of a run as a folder of `transformers`, and print its path.

    The progress bars and messages of `transformers` are switched off in this process.

    Args:
        options: `run`, the folder of a DeViSE run; and `out`, the new folder, or None for
            RUN/trunk. It appears complete or not at all; folders above it are created.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The folder holds no DeViSE run with a checkpoint that trained its trunk, the
            run has diverged, its pretrained trunk cannot be opened, or the target exists.
        OSError: The target cannot be written.
    """
    model = open_devise_model(options.run, torch.device("cpu"))
    if model.trunk_state is None:
        raise TesseraeError(
            f"{options.run} has trained a head only; its trunk is {model.options.trunk},"
            " unchanged. `export` needs a run of `train devise --learn all`."
        )
    out = options.out or options.run / "trunk"
    # It was trained on the largest squares of pictures, or on crops of any part.
    model.trunk.transform = replace(model.trunk.transform, crop_share=1.0)
    save_backbone(model.trunk, out)
    rows = "" if model.encoded is None else f" of the encoded rows {model.encoded}"
    print(
        f"{out}: {model.trunk.name} of step {model.step:,} of {options.run}, trained on images of"
        f" {model.size} px{rows}"
    )
    return 0
