"""Heads: exact ridge regressions, chosen and tested on different images and classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.wordvectors.vectors import ClassVectors
from tests.workflows.studies.cut.small import random_images
from workflows.devise.class_splits import SEEN, UNSEEN, VALIDATION
from workflows.devise.word_space import l2_normalise
from workflows.studies.cut.heads import (
    PENALTIES,
    KernelRidge,
    devise_task,
    probe_task,
    run_devise,
    run_probe,
)
from workflows.studies.cut.images import ImageSet, balanced


def _gram(features: NDArray[np.float64], num_train: int) -> NDArray[np.float64]:
    return np.asarray(features[:num_train] @ features.T)


@settings(max_examples=min(30, settings().max_examples), deadline=None)
@given(
    seed=st.integers(0, 1_000),
    dim=st.integers(1, 20),
    penalty=st.sampled_from(PENALTIES),
    shift=st.floats(-100, 100),
)
def test_the_dual_form_is_ridge_regression(
    seed: int, dim: int, penalty: float, shift: float
) -> None:
    """It equals the primal form with an offset, for any number of features and any common shift."""
    rng = np.random.default_rng(seed)
    features, targets = rng.standard_normal((14, dim)), rng.standard_normal((7, 3))
    train = np.array([0, 2, 3, 5, 6, 8, 9])
    mean = features[train].mean(0)
    inputs = features[train] - mean
    unit = (inputs**2).sum(1).mean()
    weights = np.linalg.solve(
        inputs.T @ inputs + penalty * unit * np.eye(dim), inputs.T @ (targets - targets.mean(0))
    )
    expected = (features - mean) @ weights + targets.mean(0)

    ridge = KernelRidge(_gram(features + shift, 10), train)

    predictions = ridge.predictor(targets, penalty)(np.arange(14))
    np.testing.assert_allclose(predictions, expected, rtol=1e-4, atol=1e-4)


def test_equal_features_predict_the_mean() -> None:
    """A map that is constant has no direction to learn from."""
    targets = np.array([[0.0], [1.0], [5.0]])
    ridge = KernelRidge(_gram(np.ones((5, 2)), 4), np.array([0, 1, 3]))
    np.testing.assert_allclose(ridge.predictor(targets, 1.0)(np.arange(5)), np.full((5, 1), 2.0))


def _images(per_class: int = 10, test_per_class: int = 6, classes: int = 6) -> ImageSet:
    return random_images(per_class * classes, test_per_class * classes, classes)


@pytest.mark.parametrize("num_seeds", [1, 2, 3, 5])
def test_the_probe_tests_each_held_out_image_once(num_seeds: int) -> None:
    """Images to train, validate and test with are disjoint, and only test images are held out."""
    images, allowed = _images(), np.ones(6, bool)
    tasks = [probe_task(images, allowed, seed=s, num_seeds=num_seeds) for s in range(num_seeds)]
    tested = np.concatenate([task.test for task in tasks])
    assert np.array_equal(np.sort(tested), np.arange(60, 96))
    for task in tasks:
        together = np.sort(np.concatenate([task.train, task.validation]))
        assert np.array_equal(together, np.arange(60))
        assert np.array_equal(np.bincount(images.labels[task.validation]), np.full(6, 2))
    validations = [tuple(task.validation.tolist()) for task in tasks]
    assert len(set(validations)) == num_seeds


def test_the_probe_is_restricted_to_the_allowed_classes() -> None:
    """Images of other classes are neither learned from nor tested on."""
    allowed = np.array([True, False, True, False, False, True])
    task = probe_task(_images(), allowed, seed=0, num_seeds=2)
    for rows in (task.train, task.validation, task.test):
        assert set(task.labels[rows].tolist()) == {0, 2, 5}
    with pytest.raises(TesseraeError, match="1 classes of random have two images"):
        probe_task(_images(), np.arange(6) == 1, seed=0, num_seeds=2)


def test_a_seed_without_test_images_is_refused() -> None:
    """Three images cannot be dealt to four seeds."""
    with pytest.raises(TesseraeError, match=r"seed 3 has no images .* 3 images"):
        probe_task(random_images(12, 3), np.ones(3, bool), seed=3, num_seeds=4)


def test_the_probes_penalty_does_not_depend_on_test_images() -> None:
    """Other test images change neither the choice nor its accuracy on validation images."""
    images = _images()
    rng = np.random.default_rng(0)
    features = np.eye(6)[images.labels] + rng.standard_normal((96, 6))
    task = probe_task(images, np.ones(6, bool), seed=0, num_seeds=1)
    first = run_probe(_gram(features, 60), task)
    features[60:] = rng.standard_normal((36, 6))
    second = run_probe(_gram(features, 60), task)
    assert first["probe_penalty"] == second["probe_penalty"]
    assert first["validation_top1"] == second["validation_top1"]
    assert first["top1"] > second["top1"] + 0.1
    assert first["probe_penalty"] in PENALTIES


def _classes(vectors: NDArray[np.float32]) -> ClassVectors:
    wnids = tuple(f"n{label:08d}" for label in range(len(vectors)))
    sources = tuple("token" if vector.any() else "none" for vector in vectors)
    return ClassVectors(wnids, wnids, l2_normalise(vectors), sources, ((),) * len(wnids))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_unseen_classes_are_new_and_never_learned_from(seed: int) -> None:
    """Unseen and validation classes are drawn from new classes; the others are seen ones."""
    images = _images(classes=8)
    vectors = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    vectors[3] = 0
    new = np.arange(8) >= 2
    task = devise_task(images, _classes(vectors), new, unseen=2, validation=1, seed=seed)
    drawn = np.flatnonzero(np.isin(task.parts, (UNSEEN, VALIDATION)))
    assert len(drawn) == 3
    assert new[drawn].all()
    assert 3 not in drawn
    assert {0, 1} <= set(np.flatnonzero(task.parts == SEEN).tolist())
    seen_rows = task.rows(SEEN, held_out=False)
    assert not np.isin(images.labels[seen_rows], [*drawn, 3]).any()
    assert (task.rows(UNSEEN, held_out=True) >= images.num_train).all()
    assert (task.rows(VALIDATION, held_out=False) < images.num_train).all()
    unit = l2_normalise(vectors)
    expected = l2_normalise(unit - unit[task.parts == SEEN].mean(0))
    np.testing.assert_allclose(task.vectors[0], expected[0], rtol=1e-5)


def test_features_that_are_word_vectors_recognise_unseen_classes() -> None:
    """They reach every class, and random class vectors do no better than chance."""
    images = _images(classes=30)
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((30, 6)).astype(np.float32)
    classes = _classes(vectors)
    task = devise_task(images, classes, np.ones(30, bool), unseen=8, validation=4, seed=0)
    metrics = run_devise(_gram(vectors[images.labels].astype(np.float64), images.num_train), task)
    assert metrics["hit1"] > 0.9
    assert metrics["hit5"] == 1
    assert metrics["random_hit5"] < 0.9


def test_the_choice_of_the_heads_penalty_sees_no_unseen_class() -> None:
    """Other features of unseen classes change neither the penalty nor the validation."""
    images = _images(classes=20)
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((20, 6)).astype(np.float32)
    task = devise_task(images, _classes(vectors), np.ones(20, bool), unseen=6, validation=6, seed=0)
    features = vectors[images.labels] + rng.standard_normal((len(images.labels), 6))
    first = run_devise(_gram(features, images.num_train), task)
    features[task.parts[images.labels] == UNSEEN] = 0
    second = run_devise(_gram(features, images.num_train), task)
    for name in ("devise_penalty", "validation_hit5"):
        assert first[name] == second[name]
    assert first["hit1"] != second["hit1"]


def test_fewer_unseen_classes_than_k_have_no_hit_rate() -> None:
    """The metric is undefined, and left out."""
    images = _images(classes=8)
    vectors = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)
    task = devise_task(images, _classes(vectors), np.ones(8, bool), unseen=3, validation=2, seed=0)
    metrics = run_devise(_gram(np.eye(8)[images.labels], images.num_train), task)
    assert "hit1" in metrics
    assert not {"hit5", "random_hit5"} & metrics.keys()


def test_a_part_without_images_is_refused() -> None:
    """The error says which option to raise."""
    images = _images(classes=8)
    vectors = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)
    few = replace(images, labels=np.where(np.arange(128) < 80, images.labels, 0))
    with pytest.raises(TesseraeError, match=r"the unseen classes of seed 0 .* larger --test-rows"):
        devise_task(few, _classes(vectors), np.arange(8) > 0, unseen=2, validation=2, seed=0)


@settings(max_examples=min(50, settings().max_examples), deadline=None)
@given(
    labels=st.lists(st.integers(-1, 4), min_size=1, max_size=60),
    count=st.integers(1, 80),
)
def test_a_part_of_the_images_is_balanced(labels: list[int], count: int) -> None:
    """No class that has images left has two fewer than another one, and none is unlabelled."""
    array = np.array(labels, np.int64)
    rows = balanced(array, count)
    assert len(rows) == min(count, int((array >= 0).sum()))
    assert np.array_equal(rows, np.unique(rows))
    taken, present = (
        np.bincount(array[i], minlength=5) for i in (rows, np.flatnonzero(array >= 0))
    )
    assert (array[rows] >= 0).all()
    assert all(taken[c] == present[c] or taken[c] >= taken.max() - 1 for c in range(5))
