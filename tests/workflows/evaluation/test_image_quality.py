"""PSNR and SSIM equal those of scikit-image, and luma that of MATLAB."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from workflows.evaluation.image_quality import luma, psnr, ssim, without_border


@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(11, 40),
    width=st.integers(11, 40),
    noise=st.floats(0.1, 80),
)
def test_psnr_and_ssim_equal_those_of_scikit_image(
    seed: int, height: int, width: int, noise: float
) -> None:
    """They are computed by another implementation, on the same arrays."""
    rng = np.random.default_rng(seed)
    original = rng.integers(0, 256, (height, width)).astype(float)
    image = np.clip(original + rng.normal(0, noise, original.shape), 0, 255)
    x, y = (torch.from_numpy(a)[None, None] for a in (image, original))
    expected = peak_signal_noise_ratio(original, image, data_range=255)
    assert float(psnr(x, y)) == pytest.approx(expected, abs=1e-9)
    expected = structural_similarity(
        original, image, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=255,
    )  # fmt: skip
    assert float(ssim(x, y)) == pytest.approx(expected, abs=1e-9)


def test_an_image_equals_itself() -> None:
    """The error is 0, and the similarity 1, for each image alone."""
    images = torch.randint(0, 256, (2, 3, 12, 14), generator=torch.Generator().manual_seed(0))
    changed = images.clone()
    changed[1, 0, 0, 0] += 1
    assert psnr(images, images).tolist() == [np.inf, np.inf]
    assert psnr(images, changed)[0] == np.inf
    assert float(psnr(images, changed)[1]) == pytest.approx(10 * np.log10(255**2 * 3 * 12 * 14))
    assert ssim(images, images).tolist() == [1, 1]


def test_luma_has_the_levels_of_rec_601() -> None:
    """Black is 16, white 235, and values between are rounded, halves upwards."""
    colours = torch.tensor(
        [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 64, 32]]
    )
    levels = luma(colours.view(-1, 3, 1, 1)).flatten().tolist()
    assert levels == [16, 235, 81, 145, 41, 84]
    grey = torch.arange(256).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    expected = np.floor(16.5 + np.arange(256) * 219 / 255)
    assert np.array_equal(luma(grey).flatten().numpy(), expected)


def test_what_is_too_small_is_refused() -> None:
    """The message has the size and what was expected."""
    images = torch.zeros(1, 1, 8, 20)
    assert without_border(images, 3).shape == (1, 1, 2, 14)
    with pytest.raises(ValueError, match="images are 20x8 pixels: expected more than 8"):
        without_border(images, 4)
    with pytest.raises(ValueError, match="images are 20x8 pixels: expected at least 11"):
        ssim(images, images)
