"""Opens networks from a folder or the model hub, and makes new ones."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from pipeline.backbone.check_files import check_folder, check_opened
from pipeline.backbone.choices import NEW
from pipeline.backbone.determinism import check_deterministic
from pipeline.backbone.network import Backbone
from pipeline.backbone.transform import Transform, read_transform
from pipeline.errors import TesseraeError
from pipeline.installation import install_advice

LOAD_ERRORS = (
    OSError, ValueError, ImportError, TypeError, KeyError, AttributeError, RuntimeError,
    ArithmeticError, SafetensorError,
)  # fmt: skip
"""The errors that libraries raise for settings and weights that do not match."""

VISION_PART = "vision_model"
"""The attribute of the vision part in a model of images and text."""


def open_backbone(
    name_or_path: str | os.PathLike[str],
    device: torch.device | None = None,
    *,
    cut: str | None = None,
    pooling: str = "end",
) -> Backbone:
    """Open a pretrained vision model of `transformers` as a network that computes features.

    The messages and progress bars of transformers, and the messages of huggingface_hub, are
    silenced in this process.

    Args:
        name_or_path: A folder with `config.json`, `preprocessor_config.json` and
            `model.safetensors`; a name of the model hub, which is downloaded unless it is in the
            local cache; or the string `new` for a small untrained network, that of `new_backbone`.
        device: The device of the model (default: the CPU).
        cut: The name of the block whose output is used, as `named_modules` of the model has it;
            None: the last one.
        pooling: The pooling of that output into one row for each image: `end` as the model learned
            to pool it, otherwise the mean; `mean` or `max` over positions; `grid` the mean over
            each quarter of the image, concatenated; `token` the first token of a transformer
            (default: end).

    Returns:
        The network in evaluation mode, with float32 weights that receive no gradients; its
        `extract` computes the features of images.

    Raises:
        TesseraeError: The model is missing, damaged, no vision model, not deterministic, lacks the
            block, or cannot be pooled so; or `transformers` is not installed.
        AssertionError, RuntimeError: Torch cannot use the device.
    """
    if name_or_path == NEW:
        return new_backbone(device, cut=cut, pooling=pooling)
    folder = Path(name_or_path)
    opened, missing = load_pretrained(str(name_or_path))
    model, prefix = (
        (getattr(opened, VISION_PART), f"{VISION_PART}.")
        if hasattr(opened, VISION_PART)
        else (opened, "")
    )
    input_name = getattr(model, "main_input_name", "pixel_values")
    if input_name != "pixel_values":
        raise TesseraeError(f"{name_or_path} is not a vision model: its input is {input_name}.")
    untrained = {name.removeprefix(prefix) for name in missing if name.startswith(prefix)}
    required = sorted(name for name in untrained if not name.startswith("pooler."))
    if required:  # transformers would draw them at random
        raise TesseraeError(
            f"{name_or_path} has no weights for {required[0]}: it belongs to another model."
        )
    backbone = Backbone(
        model.to(device or "cpu").float(),
        name=f"{type(model).__name__} ({folder.name})",
        transform=read_transform(str(name_or_path), model.config, local=folder.is_dir()),
        pooler=not untrained,
        cut=cut,
        pooling=pooling,
    )
    if backbone.dim:  # computed first, since it refuses a network that fails on images
        check_deterministic(backbone)
    return backbone


@contextmanager
def _needs_transformers() -> Iterator[None]:
    """Raise a `TesseraeError` that says how to install transformers if it cannot be imported."""
    try:
        yield
    except ImportError as e:
        raise TesseraeError(
            f"a backbone needs the package transformers ({e}): {install_advice('train')}."
        ) from e


def silence_transformers() -> None:
    """Silence the messages and progress bars of transformers in this process."""
    from transformers import logging as transformers_logging

    transformers_logging.set_verbosity(logging.CRITICAL)
    # Its errors are reported by ours.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    transformers_logging.disable_progress_bar()


def load_config(name_or_path: str) -> Any:
    """Open the configuration of a pretrained model of `transformers`, without its weights.

    Args:
        name_or_path: A folder, or a name of the model hub.

    Raises:
        TesseraeError: The model is missing or damaged, or `transformers` is not installed.
    """
    with _opening(name_or_path):
        from transformers import AutoConfig

        local = Path(name_or_path).is_dir()
        config: Any = AutoConfig.from_pretrained(
            name_or_path, trust_remote_code=False, local_files_only=local
        )
    return config


def load_pretrained(name_or_path: str, *, classifier: bool = False) -> tuple[Any, set[str]]:
    """Open a pretrained model of `transformers` with all of its parts.

    Args:
        name_or_path: A folder, or a name of the model hub.
        classifier: True to open it as an image classifier, with its last layers (default: False,
            without them).

    Returns:
        The model on the CPU, and the names of the weights that it lacks, which are random.

    Raises:
        TesseraeError: The model is missing, damaged, or not of that kind; or `transformers` is not
            installed.
    """
    with _opening(name_or_path):
        from transformers import AutoModel, AutoModelForImageClassification

        kind: Any = AutoModelForImageClassification if classifier else AutoModel
        model, loaded = kind.from_pretrained(
            name_or_path,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=Path(name_or_path).is_dir(),
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    check_opened(name_or_path, model, loaded["mismatched_keys"])
    return model, set(loaded["missing_keys"])


@contextmanager
def _opening(name_or_path: str) -> Iterator[None]:
    """Refuse what is no model before the block, and errors of transformers in it, in a sentence."""
    folder = Path(name_or_path)
    if (folder / "options.json").exists() and not (folder / "config.json").exists():
        raise TesseraeError(
            f"{name_or_path} is a training run: `tesserae export {name_or_path}` writes its trained"
            " model into a folder. Pass that folder instead."
        )
    if folder.is_dir():
        check_folder(folder)
    with _needs_transformers():
        import transformers  # noqa: F401 - the error says how to install it

        import pipeline.backbone.small_images  # noqa: F401 - registers the models of Tesserae
    silence_transformers()
    try:
        if folder.is_absolute() and not folder.exists():  # transformers would take it for a name
            raise OSError("there is no such folder")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except LOAD_ERRORS as e:
        first = (str(e).strip().splitlines() or [""])[0]
        raise TesseraeError(
            f"{name_or_path} is not a backbone ({first}): expected a folder with config.json and"
            " model.safetensors, or a name of the model hub."
        ) from e


def new_backbone(
    device: torch.device | None = None,
    *,
    size: int = 64,
    width: int = 32,
    cut: str | None = None,
    pooling: str = "end",
) -> Backbone:
    """Return an untrained residual network of eight convolutions in its blocks.

    Torch's global generator draws its weights and is advanced by that. The package transformers
    must be installed.

    Args:
        device: The device of the model (default: the CPU).
        size: The side of its images in pixels, at least 32 (default: 64).
        width: The number of channels of the first layers (default: 32); it has 8 times as many
            features.
        cut: The name of the block whose output is used, as `named_modules` of the model has it;
            None: the last one.
        pooling: The pooling of that output, `end` or `mean` (over positions), `max`, or `grid` (the
            mean over each quarter of the image, which gives 4 times as many features) (default:
            end). With `token`, which is for transformers, `dim` and `extract` raise TesseraeError.

    Returns:
        The network in evaluation mode, with float32 weights that receive no gradients. It takes RGB
        normalised to -1 to 1.

    Raises:
        TesseraeError: The block or the pooling does not exist, or the package transformers is not
            installed.
        AssertionError, RuntimeError: Torch cannot use the device.
    """
    with _needs_transformers():
        from transformers import ResNetConfig, ResNetModel

    widths = [width * factor for factor in (1, 2, 4, 8)]
    config = ResNetConfig(
        embedding_size=width, hidden_sizes=widths, depths=[1, 1, 1, 1], layer_type="basic"
    )
    half = (0.5, 0.5, 0.5)
    model: nn.Module = ResNetModel(config)
    model.to(device or "cpu")
    transform = Transform(size=size, mean=half, std=half)
    return Backbone(model, name=NEW, transform=transform, cut=cut, pooling=pooling)
