"""Tests of workflows.training.image_grid: grids of images and their previews."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from workflows.training.image_grid import grid_png, jpeg_preview


@pytest.mark.parametrize(("limit", "size"), [(2**20, (64, 48)), (1_500, (32, 24)), (1, (1, 1))])
def test_a_preview_is_halved_until_it_is_short_enough(limit: int, size: tuple[int, int]) -> None:
    """One pixel is the smallest, whatever the limit."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(noise).save(png, "PNG")
    jpeg = jpeg_preview(png.getvalue(), limit)
    assert Image.open(io.BytesIO(jpeg)).size == size
    assert len(jpeg) <= limit or size == (1, 1)


def test_a_grid_has_the_columns_of_its_images() -> None:
    """Images with rows and columns of their own stay beside each other; others get the root."""
    images = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    images = images.repeat(4, 1).repeat(5, 2)

    def pixels(png: bytes) -> Any:
        return np.asarray(Image.open(io.BytesIO(png)))

    three_rows = pixels(grid_png(images.reshape(3, 2, 4, 5, 3)))
    assert three_rows.shape == (3 * 4 + 2 * 2, 2 * 5 + 2, 3)
    assert np.array_equal(three_rows, pixels(grid_png(images, columns=2)))
    assert three_rows[::6, ::7, 0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert pixels(grid_png(images)).shape == (2 * 4 + 2, 3 * 5 + 2 * 2, 3)
