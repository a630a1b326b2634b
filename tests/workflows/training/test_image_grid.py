"""Tests of workflows.training.image_grid: previews of image grids."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from workflows.training.image_grid import jpeg_preview


@pytest.mark.parametrize(("limit", "size"), [(2**20, (64, 48)), (1_500, (32, 24)), (1, (1, 1))])
def test_a_preview_is_halved_until_it_is_short_enough(limit: int, size: tuple[int, int]) -> None:
    """One pixel is the smallest, whatever the limit."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(noise).save(png, "PNG")
    jpeg = jpeg_preview(png.getvalue(), limit)
    assert Image.open(io.BytesIO(jpeg)).size == size
    assert len(jpeg) <= limit or size == (1, 1)
