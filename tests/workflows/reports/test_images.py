"""Tests of images that a page embeds."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from workflows.reports.images import encode_jpeg


def test_a_photograph_looks_the_same() -> None:
    """Its edges and its colours stay."""
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    pixels = np.stack([4 * x, 4 * y, 128 + 100 * np.sin(x / 3)], axis=-1).astype(np.uint8)
    with Image.open(io.BytesIO(encode_jpeg(pixels))) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        np.testing.assert_allclose(np.asarray(image).astype(int), pixels, atol=12)
