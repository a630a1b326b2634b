"""Helpers for tests: a small store of coloured classes, and a classifier in this process."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.augment import IMAGENET_MEAN, IMAGENET_STD
from pipeline.backbone.save import save_model
from pipeline.backbone.transform import Transform
from tests.images import prepare_inline
from tests.workflows.training.inline import inline_ranks
from workflows.classify.networks import new_classifier
from workflows.classify.options import ClassifyOptions
from workflows.classify.stage import Classify
from workflows.cli import main
from workflows.runs.training_data import open_images
from workflows.training.run_folder import RunFolder
from workflows.training.run_options import RunOptions
from workflows.training.stage import Data
from workflows.training.world import World

SIZE, BATCH = 16, 8
SIZES = (8, 16, 20)
"""The sides of the stored squares."""
ENCODED = "jpeg:24@90"
"""The encoding of the encoded rows, which have the scale of the source."""
CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox<b>")
ROWS, HELD_OUT_ROWS = 36, 17
"""The numbers of images: an epoch has four batches, and the last one of an evaluation one row."""

SMALL: dict[str, Any] = {
    "network": "resnet9",
    "width": 8,
    "image_size": SIZE,
    "batch_size": BATCH,
    "epochs": 3,
    "crop": "random",
    "learning_rate": 0.05,
    "warmup_epochs": 0.5,
    "precision": "float32",
    "threads_per_rank": 1,
}

QUICK: tuple[object, ...] = (
    *("--batch-size", BATCH, "--crop", "random", "--threads-per-rank", 1, "--width", 8),
    *("--precision", "float32", "--no-dashboard", "--log-every", 1, "--schedule", "constant"),
)
"""The flags of a quick command."""

CONFIGS: dict[str, dict[str, Any]] = {
    "resnet": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16],
               "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1],
                 "num_stages": 2, "patch_size": 2},
    "vit": {"model_type": "vit", "image_size": 224, "patch_size": 8, "hidden_size": 16,
            "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "hidden_dropout_prob": 0.3},
}  # fmt: skip
"""The configurations of small networks: with batch norm, without it, and with dropout."""


def coloured(seed: int, label: int, width: int = 30, height: int = 24) -> bytes:
    """Return a small JPEG whose colour tells its class."""
    rng = np.random.default_rng(seed)
    colour = np.array([(label >> bit & 1) * 160 + 40 for bit in range(3)])
    coarse = np.clip(colour + rng.integers(-40, 41, (4, 5, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def class_store(
    folder: Path,
    *,
    rows: int = ROWS,
    held_out: int = HELD_OUT_ROWS,
    sizes: tuple[int, ...] = SIZES,
    encoded: tuple[str, ...] = (),
    classes: tuple[str, ...] = CLASSES,
    **choices: Any,
) -> Path:
    """Prepare a store of coloured classes, with the splits train and val.

    Args:
        folder: A folder that gets the folders `source` and `store`.
        rows: The number of images of the split train, 30 px wide and 24 px high.
        held_out: That of the split val.
        sizes: The sides of the stored squares.
        encoded: The encodings of further rows.
        classes: The names of the folders of the classes.
        choices: Other fields of `StoreOptions`.
    """
    for split, count in (("train", rows), ("val", held_out)):
        for number in range(count):
            name = classes[number % len(classes)]
            colour = CLASSES.index(name) if name in CLASSES else 7  # in any store the same
            file = folder / "source" / split / name / f"{split}{number}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(coloured(number + 1_000 * (split == "val"), colour))
        if count:
            prepare_inline(
                folder / "source", str(folder / "store"), split=split, sizes=sizes,
                encoded=encoded, serves=24, **choices,
            )  # fmt: skip
    return folder / "store"


def config_file(folder: Path, name: str, **changes: Any) -> str:
    """Write one of `CONFIGS`, with changes, as a file; return its path."""
    file = folder / f"{name}-config.json"
    file.write_text(json.dumps({**CONFIGS[name], **changes}))
    return str(file)


def small_trunk(folder: Path, name: str = "resnet", *, size: int = SIZE) -> Path:
    """Save a small classifier of three classes as a pretrained one; return its folder.

    The statistics of its batch norms are those of no data.
    """
    torch.manual_seed(5)
    classifier = new_classifier(config_file(folder, name), ("a", "b", "c"), image_size=size)
    for module in classifier.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    transform = Transform(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    save_model(classifier.model, classifier.model.state_dict(), transform, folder / name)
    return folder / name


def train_inline(monkeypatch: pytest.MonkeyPatch, store: Path, run: Path, *words: object) -> int:
    """Run `tesserae train classify` with one rank in this process; return its exit status."""
    with inline_ranks(monkeypatch):
        line = ("train", "classify", store, "--run", run, *QUICK, *words)
        return main([str(word) for word in line])


def open_small(
    store: Path, *, held_out: str | None = None, split: str = "train", **choices: Any
) -> tuple[ClassifyOptions, Data]:
    """Return the options and the data of a small stage, as the command has them."""
    run_options = RunOptions(stage="classify", store=str(store), split=split, held_out=held_out)
    options, data = open_images(
        run_options,
        ClassifyOptions(**{**SMALL, **choices}),
        RunFolder(store / "no-run"),
        gpu=False,
    )
    assert isinstance(options, ClassifyOptions)
    return options, data


def small_stage(store: Path, world: World | None = None, **choices: Any) -> Classify:
    """Return a stage on *store* before its first step."""
    options, data = open_small(store, **choices)
    torch.manual_seed(options.seed)
    return Classify(options, data, world or World())


def take_steps(stage: Classify, steps: int) -> list[dict[str, float]]:
    """Take steps; return their metrics."""
    return [{name: float(value) for name, value in stage.advance().items()} for _ in range(steps)]
