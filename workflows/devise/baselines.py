"""What DeViSE is compared with: all of them on the same stored features of the same pictures.

    ridge     least squares from features to the vectors of classes, with a penalty on weights
    conse     the mean of the vectors of the likeliest seen classes, each as likely as a softmax
              says (Norouzi et al.: Zero-shot learning by convex combination of semantic
              embeddings, ICLR 2014)
    random    as ridge, to random vectors: what is right of unseen classes is right by chance
    softmax   the likeliest seen class; it never answers another

Each returns scores, (n, C) float32, of pictures against all C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from workflows.devise.class_space import unit

Floats = NDArray[np.float32]
Scores = Callable[[Floats], Floats]
"""(n, D) features of pictures -> (n, C)."""

SOFTMAX_STEPS = 60
"""Of L-BFGS, for a softmax."""


@dataclass(frozen=True)
class Learned:
    """Pictures to learn from."""

    features: Floats
    """(n, D)."""
    labels: NDArray[np.int64]
    """(n,)."""

    @cached_property
    def normal(self) -> tuple[Floats, Floats]:
        """(D,), (D,): mean and standard deviation of features."""
        spread = self.features.std(0)
        return self.features.mean(0), np.maximum(spread, 1e-3 * spread.mean() + 1e-12)

    def enter(self, features: Floats) -> Floats:
        """(n, D) features, brought to mean 0 and spread 1 of those that are learned from."""
        mean, spread = self.normal
        return np.asarray((features - mean) / spread, np.float32)

    @cached_property
    def gram(self) -> NDArray[np.float64]:
        """(D, D): the covariance of what is entered."""
        entered = self.enter(self.features).astype(np.float64)
        return np.asarray(entered.T @ entered / len(entered))


def ridge(learned: Learned, vectors: Floats, *, penalty: float) -> Scores:
    """Ridge regression to class vectors.

    Args:
        learned: Pictures of seen classes.
        vectors: (C, d) of length 1, of all classes.
        penalty: On the squared weights, for features of spread 1.
    """
    entered = learned.enter(learned.features).astype(np.float64)
    targets = vectors[learned.labels].astype(np.float64)
    middle = targets.mean(0)
    system = learned.gram + penalty * np.eye(len(learned.gram))
    weights = np.linalg.solve(system, entered.T @ (targets - middle) / len(entered))

    def score(features: Floats) -> Floats:
        return unit(learned.enter(features) @ weights + middle) @ vectors.T

    return score


def random_codes(learned: Learned, classes: int, *, penalty: float, seed: int) -> Scores:
    """Ridge regression to vectors that say nothing of classes."""
    drawn = np.random.default_rng(seed).standard_normal((classes, 300))
    return ridge(learned, unit(drawn), penalty=penalty)


@dataclass(frozen=True)
class Softmax:
    """How likely each seen class is."""

    learned: Learned
    seen: NDArray[np.int64]
    """(S,) the classes that it knows, ascending."""
    weights: Floats
    """(D + 1, S), the last row being added."""

    def likelihoods(self, features: Floats) -> Floats:
        """(n, D) -> (n, S)."""
        scores = self.learned.enter(features) @ self.weights[:-1] + self.weights[-1]
        shares = np.exp(scores - scores.max(1, keepdims=True))
        return np.asarray(shares / shares.sum(1, keepdims=True), np.float32)


def fit_softmax(learned: Learned, *, penalty: float) -> Softmax:
    """Logistic regression over the classes that are learned from, by L-BFGS.

    Args:
        learned: Pictures of seen classes.
        penalty: On the squared weights, for features of spread 1.
    """
    seen, truth = np.unique(learned.labels, return_inverse=True)
    entered, wanted = torch.from_numpy(learned.enter(learned.features)), torch.from_numpy(truth)
    weights = torch.zeros(entered.shape[1], len(seen), requires_grad=True)
    added = torch.zeros(len(seen), requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights, added], max_iter=SOFTMAX_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(entered @ weights + added, wanted)
        loss = loss + penalty * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    made = torch.cat([weights.detach(), added.detach()[None]]).numpy()
    return Softmax(learned, seen.astype(np.int64), made)


def conse(softmax: Softmax, vectors: Floats, *, likeliest: int) -> Scores:
    """Convex combination of semantic embeddings.

    Args:
        softmax: Over seen classes.
        vectors: (C, d) of length 1, of all classes.
        likeliest: How many classes a combination is made of.
    """

    def score(features: Floats) -> Floats:
        shares = softmax.likelihoods(features)
        if likeliest < shares.shape[1]:
            least = np.partition(shares, -likeliest, axis=1)[:, -likeliest, None]
            shares = np.where(shares >= least, shares, 0)
        return unit(shares @ vectors[softmax.seen]) @ vectors.T

    return score


def softmax_scores(softmax: Softmax, classes: int) -> Scores:
    """The softmax alone: classes that it does not know come last, all alike."""

    def score(features: Floats) -> Floats:
        scores = np.full((len(features), classes), -1, np.float32)
        scores[:, softmax.seen] = softmax.likelihoods(features)
        return scores

    return score
