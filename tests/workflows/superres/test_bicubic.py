"""Bicubic resizing is that of MATLAB: known weights, published images, and laws."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from workflows.evaluation.image_quality import luma, psnr, without_border
from workflows.superres import bicubic

DATA = Path(os.environ.get("TESSERAE_DATA", "nowhere"), "superres", "Set5")


def random_images(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).double()


def reduced_by_definition(line: np.ndarray, factor: int) -> np.ndarray:
    """Return a line reduced as `imresize` describes it, by a loop over all pixels."""

    def cubic(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0

    reduced = []
    for k in range(1, len(line) // factor + 1):
        centre = k * factor + 0.5 * (1 - factor)
        weights = {
            i: cubic((centre - i) / factor)
            for i in range(int(centre) - 3 * factor, int(centre) + 3 * factor)
        }
        total = sum(weights.values())
        pixels = [line[min(max(i, 1), len(line)) - 1] for i in weights]
        reduced.append(np.dot(pixels, list(weights.values())) / total)
    return np.array(reduced)


@given(seed=st.integers(0, 2**32 - 1), factor=st.integers(2, 5), size=st.integers(1, 9))
def test_a_line_is_reduced_by_its_definition(seed: int, factor: int, size: int) -> None:
    """Pixels beyond an edge are those of the edge."""
    images = random_images(seed, 1, 1, factor, size * factor)
    images[:] = images[:, :, :1]
    expected = reduced_by_definition(images[0, 0, 0].numpy(), factor)
    actual = bicubic.reduce(images, factor, levels=False)[0, 0, 0].numpy()
    assert actual == pytest.approx(expected, abs=1e-9)


@given(
    seed=st.integers(0, 2**32 - 1),
    factor=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
)
def test_images_of_one_level_keep_it(seed: int, factor: int, height: int, width: int) -> None:
    """The weights sum to 1, also at the edges, in both directions."""
    level = random_images(seed, 1, 3, 1, 1)
    images = level.expand(1, 3, height * factor, width * factor)
    reduced = bicubic.reduce(images, factor)
    assert torch.equal(reduced, level.expand(1, 3, height, width))
    assert torch.equal(bicubic.enlarge(reduced, factor), images)


def test_a_ramp_is_enlarged_to_a_ramp() -> None:
    """Interpolation with a = -0.5 is exact for lines, away from the edges."""
    ramp = torch.arange(0, 90, 9.0, dtype=torch.float64).expand(1, 1, 10, 10)
    enlarged = bicubic.enlarge(ramp, 3, levels=False)[0, 0, 15, 6:-6]
    assert np.diff(enlarged.numpy()) == pytest.approx(np.full(17, 3.0), abs=1e-9)


@given(
    seed=st.integers(0, 2**32 - 1),
    factor=st.integers(2, 4),
    top=st.integers(0, 4),
    left=st.integers(0, 4),
)
def test_a_patch_with_its_margin_is_reduced_as_in_its_image(
    seed: int, factor: int, top: int, left: int
) -> None:
    """So a patch can be cut out before it is reduced."""
    images = random_images(seed, 1, 2, 12 * factor, 12 * factor)
    border = -(-bicubic.margin(factor) // factor)
    assert border == 2
    y, x = (slice(factor * (k + border - 2), factor * (k + border + 6)) for k in (top, left))
    patch = bicubic.reduce(images[:, :, y, x], factor)[:, :, 2:-2, 2:-2]
    y, x = (slice(k + border, k + border + 4) for k in (top, left))
    assert torch.equal(patch, bicubic.reduce(images, factor)[:, :, y, x])


def test_sides_must_be_multiples_of_the_factor() -> None:
    """The message has both."""
    with pytest.raises(ValueError, match="images are 10x8 pixels: expected multiples of 4"):
        bicubic.reduce(torch.zeros(1, 1, 8, 10), 4)


@pytest.mark.skipif(not DATA.is_dir(), reason="TESSERAE_DATA names no folder with Set5")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_published_images_are_reproduced_to_the_level(dtype: torch.dtype) -> None:
    """The reduced images of Set5 equal those that were published, and so does the PSNR."""
    scores = []
    for number in range(1, 6):
        high, low = (
            torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)[None]
            for file in (DATA / f"img_00{number}_SRF_4_{kind}.png" for kind in ("HR", "LR"))
        )
        reduced = bicubic.reduce(high.to(dtype), 4)
        assert torch.equal(reduced, low.to(dtype))
        enlarged = bicubic.enlarge(reduced, 4)
        pair = (without_border(luma(each), 4) for each in (enlarged, high))
        scores.append(float(psnr(*pair)))
    assert np.mean(scores) == pytest.approx(28.42, abs=0.005)
