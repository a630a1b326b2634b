"""The implementation of `tesserae classify`: what a trained classifier says of image files."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.store import records
from pipeline.store.open import open_objects
from workflows.classify.model import BATCH_ROWS, TrainedClassifier, open_classifier
from workflows.classify.options import EVALUATION_SHARE
from workflows.runs.options import ClassifyImagesOptions
from workflows.search.query import QueryError
from workflows.search.query_image import ImagePreprocessor, accepted_format_of, read_image
from workflows.terminal.formatting import printable
from workflows.training.devices import parse_device

HEAD_BYTES = 4_096
"""The number of first bytes of a file by which its format is detected."""


def run_classify_images(options: ClassifyImagesOptions) -> int:
    """Print the most likely classes of image files.

    Args:
        options: `run`, the folder of a classifier's run; `images`, files, or folders, of which all
            images are classified; `top`, the number of classes for each; `format`, `text`, `csv` or
            `json`; `device`; and `store`, the location of the run's store (None = as recorded).

    Returns:
        The exit status: 0, or 1 if an image could not be read, of which standard error tells.

    Raises:
        TesseraeError: The run cannot be opened, or there is no image.
        ValueError: There is no such device.
    """
    trained = open_classifier(options.run, parse_device(options.device))
    files = list(_files(options.images))
    store = trained.run.store(options.store)
    share = None if trained.options.encoded is None else EVALUATION_SHARE
    recipe = records.load_recipe(open_objects(store))
    preprocessor = ImagePreprocessor(recipe, trained.stored_side, crop_share=share)
    writer = _Writer(options, trained)
    try:
        failures = _classify(files, trained, preprocessor, writer)
        writer.close()
    finally:
        preprocessor.close()
    if failures and len(files) > 1:
        print(f"{failures:,} of {len(files):,} images could not be read.", file=sys.stderr)
    return 1 if failures else 0


def _files(names: tuple[str, ...]) -> Iterator[str]:
    """Yield the files that are named, and all images within folders, by name."""
    for name in names:
        path = _expanded(name)
        if path is None or not path.is_dir():
            yield name
            continue
        has_image = False
        for folder, folders, files in os.walk(path):
            folders.sort()
            for file in sorted(files):
                path = Path(folder, file)
                if _is_image(path):
                    has_image = True
                    yield str(path)
        if not has_image:
            raise TesseraeError(f"{name} has no images: expected a folder of JPEG or PNG files.")


def _expanded(name: str) -> Path | None:
    """Return a path with the home folder for ~; None if there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return None


def _is_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return accepted_format_of(file.read(HEAD_BYTES)) is not None
    except OSError:
        return False


def _classify(
    files: list[str],
    trained: TrainedClassifier,
    preprocessor: ImagePreprocessor,
    writer: _Writer,
) -> int:
    """Classify files in batches; return the number of those that could not be read."""
    failures = 0
    names: list[str] = []
    images: list[NDArray[np.uint8]] = []

    def flush() -> None:
        if names:
            pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
            for name, row in zip(names, trained.probabilities(pixels), strict=True):
                writer.write(name, row)
            names.clear()
            images.clear()

    for name in files:
        try:
            images.append(_pixels_of(name, preprocessor))
            names.append(name)
        except QueryError as e:
            failures += 1
            print(printable(str(e)), file=sys.stderr)
        if len(names) == BATCH_ROWS:
            flush()
    flush()
    return failures


def _pixels_of(name: str, preprocessor: ImagePreprocessor) -> NDArray[np.uint8]:
    """Return the pixels of a file; every QueryError names it."""
    data = read_image(name)
    try:
        return preprocessor.preprocess(data)
    except QueryError as e:
        raise QueryError(f"{name}: {e}") from e


class _Writer:
    """Writes the classes of each image to standard output."""

    def __init__(self, options: ClassifyImagesOptions, trained: TrainedClassifier) -> None:
        self._options = options
        self._trained = trained
        self._csv = csv.writer(sys.stdout, lineterminator="\n")  # as other lines of a terminal
        if options.format == "csv":
            self._csv.writerow(["image", "rank", "class", "name", "probability"])

    def write(self, name: str, probabilities: torch.Tensor) -> None:
        """Write the most likely classes of an image.

        Args:
            name: The path of the image.
            probabilities: (C,) float32.
        """
        values, labels = probabilities.topk(min(self._options.top, len(probabilities)))
        best = [
            (self._trained.wnids[label], self._trained.names[label], value)
            for label, value in zip(labels.tolist(), values.tolist(), strict=True)
        ]
        if self._options.format == "json":
            classes = [{"class": wnid, "name": words, "probability": round(value, 6)}
                       for wnid, words, value in best]  # fmt: skip
            document: dict[str, Any] = {"image": name, "classes": classes}
            print(json.dumps(document))
        elif self._options.format == "csv":
            for rank, (wnid, words, value) in enumerate(best, 1):
                self._csv.writerow([name, rank, wnid, words, f"{value:.6f}"])
        else:
            listed = ", ".join(f"{words} {value:.1%}" for _, words, value in best)
            print(printable(f"{name}: {listed}"))

    def close(self) -> None:
        """Write what is left."""
        sys.stdout.flush()
