"""The distance of random features sees what a distance of pixels does not."""

from __future__ import annotations

import pytest
import torch

from workflows.evaluation.random_features import FeatureReference, random_features
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.training.finite import NonFiniteError


def textured(rows: int, seed: int) -> torch.Tensor:
    """Return images of sparse dots, whose covariance a Gaussian can have and whose shape not."""
    generator = torch.Generator().manual_seed(seed)
    dots = (torch.rand(rows, 3, 16, 16, generator=generator) < 0.05).float()
    return dots * 2 - 1


def test_a_gaussian_of_equal_covariance_is_told_apart() -> None:
    """The sliced distance of pixels is near its floor for such a Gaussian, that of features not."""
    real, same = textured(300, 0), textured(300, 1)
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(2))
    gaussian = same.mean(0) + same.std(0) * noise
    reference = FeatureReference.of(real)
    assert reference.distance(gaussian) > 4 * reference.distance(same)
    assert sliced_wasserstein(gaussian, real) < 1.5 * sliced_wasserstein(same, real)


def test_equal_images_are_at_distance_0_in_any_order() -> None:
    """Images are compared as sets, and torch's global generator is left alone."""
    images = textured(40, 0)
    state = torch.random.get_rng_state()
    assert FeatureReference.of(images).distance(images.flip(0)) == pytest.approx(0, abs=1e-5)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("size", "layers"), [(4, 1), (8, 2), (16, 3), (32, 3)])
def test_small_images_have_fewer_layers(size: int, layers: int) -> None:
    """Brightness alone has no response in the first layer, apart from the border."""
    features = random_features(torch.rand(3, 3, size, size))
    assert [rows.shape for rows in features] == [(3, 64 * 2**layer) for layer in range(layers)]
    assert all(bool(rows.isfinite().all()) for rows in features)


def test_values_that_are_not_finite_are_refused() -> None:
    """They have no distance."""
    images = textured(10, 0)
    reference = FeatureReference.of(images)
    images[3, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="1 of 10 rows"):
        reference.distance(images)
