"""A small source and its store, and the study's data about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.workflows.training.small import ENCODED, SIZE, small_store
from workflows.studies.options import ParityOptions, ParityRecipe
from workflows.studies.parity.data import ParityData, open_parity_data

ROWS, BATCH = 24, 8
ENCODINGS = (ENCODED, "original")
RECIPE = {
    "network": "resnet9",
    "width": 8,
    "image_size": SIZE,
    "epochs": 2,
    "batch_size": BATCH,
    "learning_rate": 0.05,
    "precision": "float32",
}
"""The options of a recipe that takes a moment."""
STUDY = {"window_rows": 8, "dataloader_workers": 0}
"""The options of a study in this process."""


def small_source(folder: Path) -> Path:
    """Prepare a store of 24 images of three classes, and return the folder of both."""
    small_store(folder, ROWS, encoded=ENCODINGS)
    return folder


def study_options(folder: Path, **choices: Any) -> ParityOptions:
    """Return the options of a study of a small store."""
    source, store = str(folder / "source"), str(folder / "store")
    return ParityOptions(**{**STUDY, "source": source, "store": store, **choices})


def small_data(folder: Path, *, workers: int = 0, **choices: Any) -> ParityData:
    """Return the data of a study of a small store, with some options of the recipe changed."""
    options = study_options(folder, dataloader_workers=workers)
    return open_parity_data(options, ParityRecipe(**{**RECIPE, **choices}))
