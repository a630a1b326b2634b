"""Metrics of generated images: their distance to held-out images, and how varied they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workflows.evaluation.generative import nearest
from workflows.evaluation.random_features import FeatureReference
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.studies.gans.images import StudyImages, as_floats

DISTANCE, FEATURES = "distance", "feature distance"
DIVERSITY, NOVELTY = "diversity", "novelty"
"""The names of the metrics."""
NOISE, GAUSSIAN, TRAINING_ROWS = "uniform noise", "fitted Gaussian", "training rows"
"""The names of controls, whose samples no network has generated."""
CONTROLS = (NOISE, GAUSSIAN, TRAINING_ROWS)
"""All of them, in the order of the tables."""


@dataclass(frozen=True, kw_only=True)
class HeldOutComparison:
    """The real images that samples are compared with."""

    held_out: Tensor
    """Held-out rows, (m, 3, size, size) float32 in [-1, 1]."""
    features: FeatureReference
    """The features of the held-out rows."""
    train: Tensor
    """All training rows, (n, 3, size, size) uint8."""
    spread: float
    """The median distance of a held-out row to the nearest other one."""
    real_novelty: float
    """The median distance of a held-out row to the nearest training row."""

    def distances(self, samples: Tensor) -> dict[str, float]:
        """Return the distances of samples to the held-out rows.

        Args:
            samples: (k, 3, size, size) float32 in [-1, 1].

        Returns:
            `distance`, the sliced Wasserstein distance of pixels; and `feature distance`, that of
            the features of a random network.

        Raises:
            NonFiniteError: A value is NaN or infinite.
        """
        return {
            DISTANCE: sliced_wasserstein(samples, self.held_out),
            FEATURES: self.features.distance(samples),
        }

    def measure(self, samples: Tensor) -> dict[str, float]:
        """Return all metrics of samples.

        Args:
            samples: (m, 3, size, size) float32 in [-1, 1], as many as there are held-out rows: the
                distance to the nearest other row depends on their number.

        Returns:
            The `distances`; `diversity`, the median distance of a sample to the nearest other
            sample, divided by that of held-out rows; and `novelty`, that to the nearest training
            row, divided likewise. Of both, 1 is that of real rows, and 0 that of repeated rows.

        Raises:
            NonFiniteError: A value is NaN or infinite.
        """
        return {
            **self.distances(samples),
            DIVERSITY: _spread(samples) / self.spread,
            NOVELTY: _novelty(samples, self.train) / self.real_novelty,
        }


def compare_with(images: StudyImages, device: torch.device, *, max_rows: int) -> HeldOutComparison:
    """Return the comparison with the held-out rows of a study.

    Args:
        images: The images.
        device: The device of the samples.
        max_rows: Maximum number of held-out rows, the first ones, that are compared.
    """
    # No more than there are training rows, as the control of training rows has as many samples.
    held_out = as_floats(images.held_out[: min(max_rows, len(images.train))].to(device))
    return HeldOutComparison(
        held_out=held_out,
        features=FeatureReference.of(held_out),
        train=images.train,
        # Held-out rows that are all equal would divide by 0.
        spread=max(_spread(held_out), 1e-6),
        real_novelty=max(_novelty(held_out, images.train), 1e-6),
    )


def control_samples(images: StudyImages, count: int, seed: int) -> Mapping[str, Tensor]:
    """Return samples that no network has generated, with which those of networks are compared.

    Args:
        images: The images.
        count: The number of samples of each control, at most that of training rows.
        seed: The seed that draws them.

    Returns:
        (count, 3, size, size) float32 by the name of the control: uniform noise in [-1, 1]; a
        Gaussian with the mean and the covariance of the training rows, cut to [-1, 1]; and training
        rows, without replacement.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = as_floats(images.train).flatten(1)
    mean = rows.mean(0)
    # Random sums of centred rows have their covariance, whose matrix is too large for large images.
    weights = torch.randn(count, len(rows), generator=generator) / (len(rows) - 1) ** 0.5
    gaussian = mean + weights @ rows.sub_(mean)  # in place, as all rows are large
    shape = (count, *images.train.shape[1:])
    noise = torch.rand(shape, generator=generator) * 2 - 1
    chosen = torch.randperm(len(rows), generator=generator)[:count]
    return {
        NOISE: noise,
        GAUSSIAN: gaussian.clamp(-1, 1).view(shape),
        TRAINING_ROWS: as_floats(images.train[chosen]),
    }


def _spread(rows: Tensor) -> float:
    """Return the median distance of a row to the nearest other row."""
    return float(nearest(rows, rows, 2)[1][:, 1].median())


def _novelty(rows: Tensor, train: Tensor) -> float:
    """Return the median distance of a row, in [-1, 1], to the nearest training row, in uint8."""
    return float(nearest((rows + 1) * 127.5, train)[1].median()) / 127.5
