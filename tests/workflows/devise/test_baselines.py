"""The simpler ways, against closed forms and other implementations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from workflows.devise import baselines
from workflows.devise.baselines import Learned
from workflows.devise.class_space import unit

CLASSES, DIM, WIDTH = 5, 4, 6


@pytest.fixture(scope="module")
def learned() -> Learned:
    """Pictures of classes 0, 1 and 3 of five."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3], 90).astype(np.int64)
    middles = rng.standard_normal((CLASSES, WIDTH))
    features = middles[labels] + 0.8 * rng.standard_normal((90, WIDTH)) + 3
    return Learned(features.astype(np.float32), labels)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Of five classes."""
    return unit(np.random.default_rng(1).standard_normal((CLASSES, DIM)))


@pytest.fixture(scope="module")
def asked() -> np.ndarray:
    """Features of eight pictures."""
    return (np.random.default_rng(2).standard_normal((8, WIDTH)) + 3).astype(np.float32)


def test_ridge_is_scikit_learns(learned: Learned, vectors: np.ndarray, asked: np.ndarray) -> None:
    """On features of mean 0 and spread 1, its penalty being on the sum and not on the mean."""
    entered = learned.enter(learned.features)
    model = Ridge(alpha=0.5 * len(entered)).fit(entered, vectors[learned.labels])
    expected = unit(model.predict(learned.enter(asked))) @ vectors.T
    found = baselines.ridge(learned, vectors, penalty=0.5)(asked)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_softmax_is_scikit_learns(learned: Learned, asked: np.ndarray) -> None:
    """Of the classes that it was shown, in their order."""
    penalty = 1e-2
    entered = learned.enter(learned.features)
    model = LogisticRegression(C=1 / (2 * penalty * len(entered)), tol=1e-8, max_iter=1_000)
    expected = model.fit(entered, learned.labels).predict_proba(learned.enter(asked))
    found = baselines.fit_softmax(learned, penalty=penalty)
    assert found.seen.tolist() == [0, 1, 3]
    np.testing.assert_allclose(found.likelihoods(asked), expected, atol=2e-3)


def test_conse_is_the_papers(learned: Learned, vectors: np.ndarray, asked: np.ndarray) -> None:
    """The likeliest classes' vectors, each as likely as it is; then the nearest."""
    softmax = baselines.fit_softmax(learned, penalty=1e-2)
    shares = softmax.likelihoods(asked)
    for likeliest in (1, 2, 3, 9):
        found = baselines.conse(softmax, vectors, likeliest=likeliest)(asked)
        for row, share in enumerate(shares):
            best = np.argsort(-share)[:likeliest]
            mean = sum(share[place] * vectors[softmax.seen[place]] for place in best)
            np.testing.assert_allclose(
                found[row], vectors @ (mean / np.linalg.norm(mean)), atol=1e-5
            )


def test_a_softmax_never_answers_what_it_was_not_shown(learned: Learned, asked: np.ndarray) -> None:
    """Other classes come last."""
    scores = baselines.softmax_scores(baselines.fit_softmax(learned, penalty=1e-2), CLASSES)(asked)
    assert scores[:, [2, 4]].max() < scores[:, [0, 1, 3]].min()


def test_random_codes_say_nothing_of_words(learned: Learned, asked: np.ndarray) -> None:
    """The same seed, the same codes; and unseen classes are no nearer than chance has it."""
    first, again, other = (
        baselines.random_codes(learned, CLASSES, penalty=0.5, seed=seed)(asked)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert np.abs(first[:, [2, 4]]).max() < 0.4 < first[:, [0, 1, 3]].max()
