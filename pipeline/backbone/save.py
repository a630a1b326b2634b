"""A network as a folder that `open_backbone`, and whoever has `transformers`, can open."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pipeline.backbone.network import Backbone
from pipeline.backbone.transform import Transform
from pipeline.errors import TesseraeError


def save_backbone(backbone: Backbone, folder: str | os.PathLike[str]) -> None:
    """Write `config.json`, `model.safetensors` and `preprocessor_config.json`.

    The whole network is written, also behind a cut. The folder is there as a whole or not at all.

    Args:
        backbone: Of `transformers`.
        folder: Which there is not yet.

    Raises:
        TesseraeError: There is something of that name, or the network is none of `transformers`.
        OSError: It cannot be written.
    """
    from transformers import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    target = Path(folder)
    model: Any = backbone.model
    if target.exists():
        raise TesseraeError(f"{target} is there already: name another folder.")
    if not hasattr(model, "save_pretrained"):
        raise TesseraeError(f"{backbone.name} is a part of a model, and cannot be saved alone.")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        kept = {name: value.cpu().contiguous() for name, value in backbone.trained().items()}
        model.save_pretrained(made, state_dict=kept)
        said = json.dumps(_said(backbone.transform), indent=2) + "\n"
        (made / "preprocessor_config.json").write_text(said, encoding="utf-8")
        made.chmod(0o755)
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _said(transform: Transform) -> dict[str, Any]:
    """The fields of an image processor; none are left to what its kind does by default."""
    side = {"height": transform.size, "width": transform.size}
    return {
        "do_resize": True,
        "size": side,
        "resample": 3,  # bicubic, in Pillow's words
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
        "do_flip_channel_order": transform.channels == "BGR",
    }
