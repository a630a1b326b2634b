"""The baselines of DeViSE, all on the same stored features of the same images.

    ridge     ridge regression from features to class vectors
    conse     the mean of the vectors of the likeliest seen classes, weighted by their softmax
              probabilities (Norouzi et al.: Zero-shot learning by convex combination of semantic
              embeddings, ICLR 2014)
    random    ridge regression to random vectors: correct unseen classes are correct by chance
    softmax   the likeliest seen class; it never answers with an unseen one

Each returns scores, (n, C) float32, of images against all C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from workflows.devise.class_space import Floats, unit

Scores = Callable[[Floats], Floats]
"""A function from features of images, (n, D), to scores, (n, C)."""

SOFTMAX_STEPS = 60
"""The number of L-BFGS iterations that fit a softmax."""


@dataclass(frozen=True)
class LabelledFeatures:
    """The features and labels of images to learn from."""

    features: Floats
    """The features of n images, (n, D) float32."""
    labels: NDArray[np.int64]
    """The label of each image, (n,) int64."""

    @cached_property
    def normal(self) -> tuple[Floats, Floats]:
        """The mean and standard deviation of the features, (D,) each; the latter is bounded."""
        spread = self.features.std(0)
        return self.features.mean(0), np.maximum(spread, 1e-3 * spread.mean() + 1e-12)

    def enter(self, features: Floats) -> Floats:
        """Standardise features, (n, D), by the mean and deviation of the training features."""
        mean, spread = self.normal
        return np.asarray((features - mean) / spread, np.float32)

    @cached_property
    def gram(self) -> NDArray[np.float64]:
        """The covariance matrix of the standardised features, (D, D)."""
        inputs = self.enter(self.features).astype(np.float64)
        return np.asarray(inputs.T @ inputs / len(inputs))


def ridge(learned: LabelledFeatures, vectors: Floats, *, penalty: float) -> Scores:
    """Fit a ridge regression from features to class vectors.

    Args:
        learned: The features and labels of images of seen classes.
        vectors: The unit vectors of all classes, (C, d).
        penalty: The penalty on squared weights, for standardised features.

    Returns:
        A function from features to scores.
    """
    inputs = learned.enter(learned.features).astype(np.float64)
    targets = vectors[learned.labels].astype(np.float64)
    offset = targets.mean(0)
    system = learned.gram + penalty * np.eye(len(learned.gram))
    weights = np.linalg.solve(system, inputs.T @ (targets - offset) / len(inputs))

    def score(features: Floats) -> Floats:
        return unit(learned.enter(features) @ weights + offset) @ vectors.T

    return score


def random_codes(learned: LabelledFeatures, classes: int, *, penalty: float, seed: int) -> Scores:
    """Fit a ridge regression to random class vectors, which carry no information on classes."""
    drawn = np.random.default_rng(seed).standard_normal((classes, 300))
    return ridge(learned, unit(drawn), penalty=penalty)


@dataclass(frozen=True)
class Softmax:
    """A fitted softmax classifier over the seen classes."""

    learned: LabelledFeatures
    seen: NDArray[np.int64]
    """The labels of the seen classes, (S,) int64, ascending."""
    weights: Floats
    """The weights, (D + 1, S) float32; the last row is the bias."""

    def likelihoods(self, features: Floats) -> Floats:
        """Return the probabilities of the seen classes, (n, S), from features, (n, D)."""
        scores = self.learned.enter(features) @ self.weights[:-1] + self.weights[-1]
        shares = np.exp(scores - scores.max(1, keepdims=True))
        return np.asarray(shares / shares.sum(1, keepdims=True), np.float32)


def fit_softmax(learned: LabelledFeatures, *, penalty: float) -> Softmax:
    """Fit a logistic regression over the seen classes by L-BFGS.

    Args:
        learned: The features and labels of images of seen classes.
        penalty: The penalty on squared weights, for standardised features.
    """
    seen, truth = np.unique(learned.labels, return_inverse=True)
    inputs, target = torch.from_numpy(learned.enter(learned.features)), torch.from_numpy(truth)
    weights = torch.zeros(inputs.shape[1], len(seen), requires_grad=True)
    bias = torch.zeros(len(seen), requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights, bias], max_iter=SOFTMAX_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(inputs @ weights + bias, target)
        loss = loss + penalty * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    fitted = torch.cat([weights.detach(), bias.detach()[None]]).numpy()
    return Softmax(learned, seen.astype(np.int64), fitted)


def conse(softmax: Softmax, vectors: Floats, *, likeliest: int) -> Scores:
    """Return the scores of ConSE, a convex combination of semantic embeddings.

    Args:
        softmax: The classifier over seen classes.
        vectors: The unit vectors of all classes, (C, d).
        likeliest: The number of classes that are combined.
    """

    def score(features: Floats) -> Floats:
        shares = softmax.likelihoods(features)
        if likeliest < shares.shape[1]:
            threshold = np.partition(shares, -likeliest, axis=1)[:, -likeliest, None]
            shares = np.where(shares >= threshold, shares, 0)
        return unit(shares @ vectors[softmax.seen]) @ vectors.T

    return score


def softmax_scores(softmax: Softmax, classes: int) -> Scores:
    """Return the scores of the softmax alone; all unseen classes tie for the last rank."""

    def score(features: Floats) -> Floats:
        scores = np.full((len(features), classes), -1, np.float32)
        scores[:, softmax.seen] = softmax.likelihoods(features)
        return scores

    return score
