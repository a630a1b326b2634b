"""Saves a network as a folder that `open_backbone` and `transformers` can open."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.backbone.network import Backbone
from pipeline.backbone.transform import Transform
from pipeline.errors import TesseraeError


def save_backbone(backbone: Backbone, folder: str | os.PathLike[str], *, card: str = "") -> None:
    """Write `config.json`, `model.safetensors` and `preprocessor_config.json` into a new folder.

    The whole network is written, including the blocks after a cut; a pooler that was not trained is
    left out. The folder appears complete or not at all. The progress bars of transformers are
    disabled in this process.

    Args:
        backbone: A network of `transformers`, which is not changed.
        folder: The target folder, which must not exist; folders above it are created.
        card: The content of `README.md` beside them (default: no such file).

    Raises:
        TesseraeError: The folder exists, or the network is not of `transformers`.
        OSError: The folder cannot be written.
    """
    if not hasattr(backbone.model, "save_pretrained"):
        raise TesseraeError(f"{backbone.name} is a part of a model, and cannot be saved alone.")
    save_model(backbone.model, backbone.trained_weights(), backbone.transform, folder, card=card)


def save_model(
    model: Any,
    weights: Mapping[str, Tensor],
    transform: Transform,
    folder: str | os.PathLike[str],
    *,
    card: str = "",
) -> None:
    """Write a model of `transformers` as `save_backbone` does.

    Args:
        model: The model, whose configuration is written.
        weights: The weights by name, as its `state_dict` names them.
        transform: The preprocessing of its images.
        folder: The target folder, which must not exist; folders above it are created.
        card: The content of `README.md` beside them (default: no such file).

    Raises:
        TesseraeError: The folder exists.
        OSError: The folder cannot be written.
    """
    from transformers import logging

    logging.disable_progress_bar()
    target = Path(folder)
    if target.exists():
        raise TesseraeError(f"{target} exists already: pass another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the rename stays within one file system and is atomic.
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        stored = {name: value.cpu().contiguous() for name, value in weights.items()}
        model.save_pretrained(partial, state_dict=stored)
        processor_config = json.dumps(_processor_config(transform), indent=2) + "\n"
        (partial / "preprocessor_config.json").write_text(processor_config, encoding="utf-8")
        if card:
            (partial / "README.md").write_text(card, encoding="utf-8")
        partial.chmod(0o755)  # mkdtemp makes it private
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _processor_config(transform: Transform) -> dict[str, Any]:
    """Return all fields of an image processor, so that none depends on a default."""
    side = {"height": transform.size, "width": transform.size}
    crops = transform.crop_share < 1
    # In whole pixels, as image processors resize; a share of theirs so remains what it was.
    resized = {"shortest_edge": round(transform.size / transform.crop_share)} if crops else side
    return {
        "do_resize": True,
        "size": resized,
        "resample": 3,  # Pillow's number of bicubic
        "do_center_crop": crops,
        **({"crop_size": side} if crops else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
        "do_flip_channel_order": transform.channels == "BGR",
    }
