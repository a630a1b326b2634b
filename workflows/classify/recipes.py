"""Recipes of training: named ones, with their sources, and one that suits a store and a machine."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("recipes.yaml")
"""The named recipes, as people read them."""
MIN_EPOCHS, MAX_EPOCHS = 16, 60
"""The bounds of the number of epochs if none is named."""
EPOCH_ROWS = 300_000
"""The number of images that training sees if no number of epochs is named, within these bounds."""


@dataclass(frozen=True)
class TrainingRecipe:
    """A named recipe."""

    source: str
    """The publication that describes it."""
    result: str
    """The accuracy that it reports."""
    differences: str
    """The differences of this implementation to it."""
    options: Mapping[str, Any]
    """The values of options by name; others have their defaults."""


@cache
def recipes() -> Mapping[str, TrainingRecipe]:
    """Return the named recipes, in the order of the file."""
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: TrainingRecipe(**values) for name, values in content.items()}


def describe_preset(args: argparse.Namespace) -> str:
    """Return the text of `--preset NAME --show`.

    Args:
        args: The parsed command line up to the flag, of which `preset` counts.

    Raises:
        ValueError: It names no preset.
    """
    name = getattr(args, "preset", None)
    if name is None:
        raise ValueError(f"--show: expected --preset NAME before it, of {', '.join(recipes())}")
    recipe = recipes()[name]
    lines = [name, f"  source: {recipe.source}", f"  result: {recipe.result}",
             f"  differences: {recipe.differences}", "  options:"]  # fmt: skip
    for option, value in recipe.options.items():
        flag = f"--{option.replace('_', '-')}"
        values = " ".join(map(str, value)) if isinstance(value, list) else value
        lines.append(f"    {flag}" if value is True else f"    {flag} {values}")
    return "\n".join(lines)


def default_image_size(sizes: tuple[int, ...], short_sides: tuple[int, ...], *, gpu: bool) -> int:
    """Return the side of the images to train on if none is named, in pixels.

    A GPU trains on 224 px where the store has them, else on its largest images. A CPU trains on the
    smallest of at least 32 px, as larger ones would take it weeks.

    Args:
        sizes: Sides of the stored squares.
        short_sides: Short sides of the pictures in encoded rows; 224 stands for those of any size.
        gpu: True if a GPU trains.
    """
    stored = sorted({*sizes, *short_sides})
    if not stored:
        return 224
    if gpu:
        return min(224, stored[-1])
    smallest = next((size for size in stored if size >= 32), stored[-1])
    return 64 if 64 < smallest <= 80 else min(224, smallest)  # 72 px leave room for random crops


def default_network(image_size: int, *, gpu: bool) -> str:
    """Return the name of the network if none is named.

    Args:
        image_size: Side of the images, in pixels.
        gpu: True if a GPU trains.
    """
    if image_size < 48:
        return "resnet9"
    if image_size < 112:
        return "resnet18-stem3" if gpu else "resnet9"
    return "resnet50" if gpu else "resnet18"


def default_epochs(rows: int) -> int:
    """Return the number of epochs if none is named: more for fewer images, 16 to 60.

    Args:
        rows: Number of training images.
    """
    return max(MIN_EPOCHS, min(MAX_EPOCHS, round(EPOCH_ROWS / max(1, rows))))
