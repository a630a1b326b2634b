"""Crops show what they are said to show."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from workflows.superres.comparison import CROP_PIXELS, compare_crops, find_window


@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    step=st.integers(1, 3),
)
def test_the_window_has_the_largest_sum(seed: int, height: int, width: int, step: int) -> None:
    """All windows are tried; of equal ones it is the first."""
    values = np.random.default_rng(seed).integers(0, 4, (11, 10)).astype(float)
    sums = {
        (y, x): values[y : y + height, x : x + width].sum()
        for y in range(0, 11 - height + 1, step)
        for x in range(0, 10 - width + 1, step)
    }
    assert find_window(torch.from_numpy(values), height, width, step) == max(sums, key=sums.get)  # type: ignore[arg-type]


def test_crops_lie_where_the_enlargements_differ() -> None:
    """Cells are in reading order, at their own size, and errors have one scale."""
    scale, (height, width) = 4, (60, 90)
    high = torch.full((1, 3, scale * height, scale * width), 100.0)
    interpolated, enlarged = high.clone(), high.clone()
    interpolated[:, :, 200:, 300:] = 200  # the network is right, in the lower right corner
    enlarged[:, :, 236, 356] = 130
    low = torch.arange(height * width).remainder(251).float().view(1, 1, height, width)
    comparison = compare_crops(low.expand(-1, 3, -1, -1), interpolated, enlarged, high)
    with Image.open(BytesIO(comparison.png)) as image:
        pixels = np.array(image)
    side, pitch = CROP_PIXELS, CROP_PIXELS + 2
    assert pixels.shape == (2 * pitch - 2, 3 * pitch - 2, 3)
    cells = {
        (row, column): pixels[row * pitch :, column * pitch :][:side, :side]
        for row in range(2)
        for column in range(3)
    }
    top, left = 240 - side, 360 - side  # the only window that covers the whole corner
    for column, original in enumerate((interpolated, enlarged, high)):
        expected = original[0, :, top : top + side, left : left + side].permute(1, 2, 0)
        np.testing.assert_array_equal(cells[0, column], expected)
    assert comparison.white == 86  # luma of a grey level v is 16 + 219 v / 255: 102 and 188
    assert cells[1, 0].max() == 255
    assert (cells[1, 0] == 255).mean() == 40 * 60 / side**2
    errors = cells[1, 1][:, :, 0]
    assert errors[236 - top, 356 - left] == round(26 * 255 / 86)  # 128 and 102
    assert np.count_nonzero(errors) == 1
    squares = low[0, 0, top // 4 : 60, left // 4 : 90].repeat_interleave(4, 0)
    np.testing.assert_array_equal(cells[1, 2][:, :, 1], squares.repeat_interleave(4, 1))


def test_small_images_are_shown_whole() -> None:
    """Rounding errors stay dark."""
    low = torch.zeros(1, 3, 7, 9)
    high = torch.zeros(1, 3, 14, 18)
    comparison = compare_crops(low, high + 1, high, high)
    with Image.open(BytesIO(comparison.png)) as image:
        assert image.size == (3 * 18 + 4, 2 * 14 + 2)
    assert comparison.white == 8
