"""The baselines, compared with closed forms and other implementations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from workflows.devise import baselines
from workflows.devise.baselines import LabelledFeatures
from workflows.devise.word_space import l2_normalise

CLASSES, DIM, WIDTH = 5, 4, 6


@pytest.fixture(scope="module")
def learned() -> LabelledFeatures:
    """Return features and labels of images of the classes 0, 1 and 3 of five."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3], 90).astype(np.int64)
    middles = rng.standard_normal((CLASSES, WIDTH))
    features = middles[labels] + 0.8 * rng.standard_normal((90, WIDTH)) + 3
    return LabelledFeatures(features.astype(np.float32), labels)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Return the unit vectors of five classes."""
    return l2_normalise(np.random.default_rng(1).standard_normal((CLASSES, DIM)))


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    """Return the features of eight images."""
    return (np.random.default_rng(2).standard_normal((8, WIDTH)) + 3).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_vectors_of_any_float_are_scaled_to_length_1(dtype: type) -> None:
    """The sum of squares of a vector of float16 may be too large for float16."""
    scaled = l2_normalise(np.array([[3_000, 4_000], [0, 0]], dtype))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [[0.6, 0.8], [0, 0]], atol=1e-7)


def test_ridge_equals_scikit_learn(
    learned: LabelledFeatures, vectors: np.ndarray, queries: np.ndarray
) -> None:
    """Scores agree on standardised features; scikit-learn penalises the sum of errors."""
    inputs = learned.standardise(learned.features)
    model = Ridge(alpha=0.5 * len(inputs)).fit(inputs, vectors[learned.labels])
    expected = l2_normalise(model.predict(learned.standardise(queries))) @ vectors.T
    actual = baselines.ridge(learned, vectors, penalty=0.5)(queries)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_the_softmax_equals_scikit_learn(learned: LabelledFeatures, queries: np.ndarray) -> None:
    """Probabilities agree, and columns are the seen classes in ascending order."""
    penalty = 1e-2
    inputs = learned.standardise(learned.features)
    model = LogisticRegression(C=1 / (2 * penalty * len(inputs)), tol=1e-8, max_iter=1_000)
    expected = model.fit(inputs, learned.labels).predict_proba(learned.standardise(queries))
    softmax = baselines.fit_softmax(learned, penalty=penalty)
    assert softmax.seen.tolist() == [0, 1, 3]
    np.testing.assert_allclose(softmax.probabilities(queries), expected, atol=2e-3)


def test_conse_follows_the_paper(
    learned: LabelledFeatures, vectors: np.ndarray, queries: np.ndarray
) -> None:
    """The output is the mean of the likeliest classes' vectors, weighted by probability."""
    softmax = baselines.fit_softmax(learned, penalty=1e-2)
    shares = softmax.probabilities(queries)
    for likeliest in (1, 2, 3, 9):
        actual = baselines.conse(softmax, vectors, num_classes=likeliest)(queries)
        for row, share in enumerate(shares):
            best = np.argsort(-share)[:likeliest]
            mean = sum(share[column] * vectors[softmax.seen[column]] for column in best)
            np.testing.assert_allclose(
                actual[row], vectors @ (mean / np.linalg.norm(mean)), atol=1e-5
            )


def test_a_softmax_never_answers_with_an_unseen_class(
    learned: LabelledFeatures, queries: np.ndarray
) -> None:
    """Every unseen class scores below every seen class."""
    scores = baselines.softmax_scores(baselines.fit_softmax(learned, penalty=1e-2), CLASSES)(
        queries
    )
    assert scores[:, [2, 4]].max() < scores[:, [0, 1, 3]].min()


def test_random_codes_carry_no_information(learned: LabelledFeatures, queries: np.ndarray) -> None:
    """Equal seeds give equal codes, and unseen classes score no better than by chance."""
    first, again, different = (
        baselines.random_codes(learned, CLASSES, penalty=0.5, seed=seed)(queries)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, different)
    assert np.abs(first[:, [2, 4]]).max() < 0.4 < first[:, [0, 1, 3]].max()
