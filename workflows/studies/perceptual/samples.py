"""Crops of the enlarged images, side by side and pixel for pixel."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from workflows.evaluation.image_quality import luma
from workflows.studies.perceptual import BICUBIC
from workflows.studies.results import ResultsFolder
from workflows.superres.comparison import find_window
from workflows.superres.pairs import Pair
from workflows.training.image_grid import GAP_PIXELS, grid_png
from workflows.training.writing import write

SAMPLES_FOLDER = "samples"
"""The folder of the crops, in the folder of the study."""
LOW, ORIGINAL = "low resolution", "original"
"""The names of the crops that no arm makes: the low-resolution image in squares, and the original,
both written with the control."""
NUM_CROPS = 4
"""The number of images of which crops are shown, the first held-out ones."""
CROP_PIXELS = 80
"""The side of a crop, or that of the images if they are smaller, in pixels."""


def write_crops(results: ResultsFolder, arm: str, enlarged: Tensor, held_out: Pair) -> None:
    """Write the crops of an arm as one PNG file, one below the other.

    Args:
        results: The folder of the study.
        arm: The name of the arm, which names the file. With the control, the crops of the
            low-resolution images and of the originals are written as well.
        enlarged: (n, 3, h, w) uint8, the enlarged held-out images.
        held_out: The held-out images.
    """
    crops = {arm: enlarged}
    if arm == BICUBIC:
        scale = held_out.high.shape[2] // held_out.low.shape[2]
        squares = functional.interpolate(held_out.low[:NUM_CROPS], scale_factor=scale)
        crops |= {LOW: squares, ORIGINAL: held_out.high}
    positions = [detailed_square(original) for original in held_out.high[:NUM_CROPS]]
    (results.path / SAMPLES_FOLDER).mkdir(exist_ok=True)
    for name, images in crops.items():
        cut = [
            image[:, top : top + side, left : left + side].byte().permute(1, 2, 0).numpy()
            for image, (top, left, side) in zip(images[:NUM_CROPS].cpu(), positions, strict=True)
        ]
        write(_file(results, name), grid_png(np.stack(cut), columns=1))


def detailed_square(original: Tensor) -> tuple[int, int, int]:
    """Return the top and left edge and the side of the square of an image with the most detail.

    Detail is the absolute difference of the luma of neighbouring pixels. The choice depends on the
    original alone, so that it favours no arm.

    Args:
        original: (3, h, w) float32 in levels.
    """
    side = min(CROP_PIXELS, *original.shape[1:])
    grey = luma(original[None])[0, 0]
    detail = (grey[1:, :-1] - grey[:-1, :-1]).abs() + (grey[:-1, 1:] - grey[:-1, :-1]).abs()
    return *find_window(detail, side - 1, side - 1, 1), side


def comparisons(results: ResultsFolder, arms: Sequence[str]) -> list[bytes]:
    """Return for each image the crops of arms from left to right, as a PNG file.

    Args:
        results: The folder of the study, with a file of crops of each arm.
        arms: The names of the arms, or of other crops, from left to right.

    Returns:
        A file for each image; none if an arm has no crops.
    """
    files = [_file(results, arm) for arm in arms]
    if not all(file.exists() for file in files):
        return []
    columns = [np.asarray(Image.open(io.BytesIO(file.read_bytes()))) for file in files]
    return [grid_png(np.stack(row), columns=len(row)) for row in zip(*map(_split, columns),
                                                                    strict=True)]  # fmt: skip


def _split(column: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the squares of a column that `grid_png` has made."""
    side = column.shape[1]
    return [column[top : top + side] for top in range(0, len(column), side + GAP_PIXELS)]


def file_name(name: str) -> str:
    """Return a name as part of the name of a file.

    Args:
        name: The name of an arm, a network or a crop.
    """
    return name.replace(", ", "_").replace(" ", "-")


def _file(results: ResultsFolder, name: str) -> Path:
    return results.path / SAMPLES_FOLDER / f"{file_name(name)}.png"
