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

from workflows.devise.word_space import Floats, l2_normalise

Scores = Callable[[Floats], Floats]
"""A function from features of images, (n, D), to scores, (n, C)."""

SOFTMAX_STEPS = 60
"""The number of L-BFGS iterations that fit a softmax."""


@dataclass(frozen=True)
class LabelledFeatures:
    """The features and labels of training images."""

    features: Floats
    """The features of n images, (n, D) float32."""
    labels: NDArray[np.int64]
    """The label of each image, (n,) int64."""

    @cached_property
    def moments(self) -> tuple[Floats, Floats]:
        """The mean and standard deviation of the features, (D,) each; the latter is above 0."""
        std = self.features.std(0)
        return self.features.mean(0), np.maximum(std, 1e-3 * std.mean() + 1e-12)

    def standardise(self, features: Floats) -> Floats:
        """Standardise features by the mean and standard deviation of this object's own features.

        A deviation below a thousandth of the mean deviation is raised to that.

        Args:
            features: (n, D) float32, such as those of other images. They are not changed.

        Returns:
            A new array, (n, D) float32.
        """
        mean, std = self.moments
        return np.asarray((features - mean) / std, np.float32)

    @cached_property
    def gram(self) -> NDArray[np.float64]:
        """The covariance matrix of the standardised features, (D, D)."""
        inputs = self.standardise(self.features).astype(np.float64)
        return np.asarray(inputs.T @ inputs / len(inputs))


def ridge(train: LabelledFeatures, vectors: Floats, *, penalty: float) -> Scores:
    """Fit a ridge regression from features to class vectors.

    It standardises all features by the mean and standard deviation of the training features.

    Args:
        train: The `features`, (n, D) float32, as they are stored, and the `labels`, (n,) int64, of
            images of seen classes.
        vectors: The unit vectors of all classes, (C, d) float32, by label; zeros for a class
            without a vector, whose score is 0.
        penalty: The weight, above 0, of the sum of squared weights beside the mean squared error.

    Returns:
        A function from features, (n, D) float32, not standardised, to scores, (n, C) float32: the
        cosines of predicted and class vectors.
    """
    inputs = train.standardise(train.features).astype(np.float64)
    targets = vectors[train.labels].astype(np.float64)
    offset = targets.mean(0)
    system = train.gram + penalty * np.eye(len(train.gram))
    weights = np.linalg.solve(system, inputs.T @ (targets - offset) / len(inputs))

    def score(features: Floats) -> Floats:
        return l2_normalise(train.standardise(features) @ weights + offset) @ vectors.T

    return score


def random_codes(train: LabelledFeatures, classes: int, *, penalty: float, seed: int) -> Scores:
    """Fit a ridge regression to random class vectors, which carry no information on classes.

    It standardises all features by the mean and standard deviation of the training features.

    Args:
        train: The `features`, (n, D) float32, as they are stored, and the `labels`, (n,) int64, of
            images of seen classes.
        classes: The number of all classes, C.
        penalty: The weight, above 0, of the sum of squared weights beside the mean squared error.
        seed: The seed of the class vectors, (C, 300).

    Returns:
        A function from features, (n, D) float32, not standardised, to scores, (n, C) float32: the
        cosines of predicted and random class vectors.
    """
    codes = np.random.default_rng(seed).standard_normal((classes, 300))
    return ridge(train, l2_normalise(codes), penalty=penalty)


@dataclass(frozen=True)
class Softmax:
    """A fitted softmax classifier over the seen classes."""

    train: LabelledFeatures
    """The features and labels that it was fitted to, whose mean and deviation standardise
    features."""
    seen: NDArray[np.int64]
    """The labels of the seen classes, (S,) int64, ascending."""
    weights: Floats
    """The weights, (D + 1, S) float32; the last row is the bias."""

    def probabilities(self, features: Floats) -> Floats:
        """Return the probabilities of the seen classes.

        Args:
            features: (n, D) float32, not standardised: the training features' mean and deviation
                standardise them here.

        Returns:
            (n, S) float32, in the order of `seen`; each row has the sum 1.
        """
        scores = self.train.standardise(features) @ self.weights[:-1] + self.weights[-1]
        exponentials = np.exp(scores - scores.max(1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(1, keepdims=True), np.float32)


def fit_softmax(train: LabelledFeatures, *, penalty: float) -> Softmax:
    """Fit a logistic regression over the seen classes by L-BFGS.

    It standardises the features by their own mean and standard deviation, and so does the result
    with the features that it gets.

    Args:
        train: The `features`, (n, D) float32, as they are stored, and the `labels`, (n,) int64, of
            images of seen classes: those that occur are the seen ones.
        penalty: The weight, at least 0, of the sum of squared weights, without the bias, beside the
            mean cross entropy of an image.

    Returns:
        The classifier, with the S `seen` labels, (S,) int64, and `weights`, (D + 1, S) float32.
    """
    seen, targets = np.unique(train.labels, return_inverse=True)
    inputs, target = torch.from_numpy(train.standardise(train.features)), torch.from_numpy(targets)
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
    return Softmax(train, seen.astype(np.int64), fitted)


def conse(softmax: Softmax, vectors: Floats, *, num_classes: int) -> Scores:
    """Return the scores of ConSE, which embeds an image as a convex combination of class vectors.

    Norouzi et al.: Zero-Shot Learning by Convex Combination of Semantic Embeddings, ICLR 2014.

    Args:
        softmax: The classifier over seen classes, as `fit_softmax` returns it.
        vectors: The unit vectors of all classes, (C, d) float32, by label; zeros for a class
            without a vector, whose score is 0.
        num_classes: The number of most probable classes that are combined, at least 1; T in the
            paper. If there are fewer, all seen classes are combined.

    Returns:
        A function from features, (n, D) float32, not standardised, to scores, (n, C) float32: the
        cosines of embeddings and class vectors.
    """

    def score(features: Floats) -> Floats:
        probabilities = softmax.probabilities(features)
        if num_classes < probabilities.shape[1]:
            threshold = np.partition(probabilities, -num_classes, axis=1)[:, -num_classes, None]
            probabilities = np.where(probabilities >= threshold, probabilities, 0)
        return l2_normalise(probabilities @ vectors[softmax.seen]) @ vectors.T

    return score


def softmax_scores(softmax: Softmax, classes: int) -> Scores:
    """Return the scores of a softmax, by which all classes but the seen ones tie for the last rank.

    Args:
        softmax: The classifier over seen classes, as `fit_softmax` returns it.
        classes: The number of all classes, C, above every seen label.

    Returns:
        A function from features, (n, D) float32, not standardised, to scores, (n, C) float32: the
        probabilities of seen classes, and -1 for all others.
    """

    def score(features: Floats) -> Floats:
        scores = np.full((len(features), classes), -1, np.float32)
        scores[:, softmax.seen] = softmax.probabilities(features)
        return scores

    return score
