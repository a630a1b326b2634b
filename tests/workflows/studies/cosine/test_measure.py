"""Metrics of a sample: anisotropy, hubs, agreement and precision."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.workflows.studies.vectors import clustered_vectors
from workflows.studies.cosine.measure import (
    CENTRED,
    CENTRED_UNIT,
    FORMS,
    RAW,
    UNIT,
    form_metrics,
    hub_metrics,
    in_form,
    mean_cosine,
    norm_quantiles,
    overlap,
    precision,
    sample_of,
)
from workflows.studies.cosine.rankings import COSINE, DOT, EUCLIDEAN, RANDOM, Space
from workflows.studies.vector_sets import VectorSet

VECTORS = clustered_vectors(300, 12).astype(np.float64)


def test_forms_have_unit_length_or_no_mean() -> None:
    """The last form is centred first."""
    lengths = {form: np.linalg.norm(in_form(VECTORS, form), axis=1) for form in FORMS}
    assert lengths[UNIT] == pytest.approx(1)
    assert lengths[CENTRED_UNIT] == pytest.approx(1)
    assert in_form(VECTORS, CENTRED).mean(0) == pytest.approx(0, abs=1e-12)
    assert np.array_equal(in_form(VECTORS, RAW), VECTORS)
    centred = VECTORS - VECTORS.mean(0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert in_form(VECTORS, CENTRED_UNIT) == pytest.approx(expected)


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
    """A plain loop over pairs gives the same."""
    units = VECTORS[:30] / np.linalg.norm(VECTORS[:30], axis=1, keepdims=True)
    pairs = [units[i] @ units[j] for i in range(30) for j in range(30) if i != j]
    assert mean_cosine(Space(VECTORS[:30])) == pytest.approx(np.mean(pairs))


def test_agreement_is_whole_at_unit_length_alone() -> None:
    """Lengths make the difference, and the mean a share of it."""
    metrics = {form: form_metrics(VECTORS, form) for form in FORMS}
    for form in (UNIT, CENTRED_UNIT):
        assert {metrics[form][name] for name in ("dot_cosine", "dot_euclidean", "same")} == {1.0}
    for form in (RAW, CENTRED):
        assert 0.1 < metrics[form]["dot_cosine"] < 0.99
        assert metrics[form]["same"] < 0.5
    assert metrics[RAW]["mean_cosine"] > 0.05
    assert abs(metrics[CENTRED]["mean_cosine"]) < 0.02
    share = (VECTORS.mean(0) ** 2).sum() / (VECTORS**2).sum(1).mean()
    assert metrics[RAW]["mean_share"] == pytest.approx(share)
    assert metrics[CENTRED]["mean_share"] == pytest.approx(0, abs=1e-12)


def test_overlap_counts_common_neighbours() -> None:
    """Their order does not matter."""
    assert overlap(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [4, 9]])) == 0.75


def test_a_vector_in_the_middle_is_a_hub_by_distance_and_a_long_one_by_product() -> None:
    """The metrics name the largest hub and those that are no one's neighbour."""
    rng = np.random.default_rng(0)
    around = rng.standard_normal((200, 30))
    vectors = np.concatenate([around, np.full((1, 30), 1e-3)])
    by_distance = hub_metrics(vectors, EUCLIDEAN, 0)
    assert by_distance["largest"] == pytest.approx(200 / 201)
    assert by_distance["hubness"] > 5
    assert by_distance["length_correlation"] < -0.5
    long = around.copy()
    long[:40] *= 100
    by_product = hub_metrics(long, DOT, 0)
    assert by_product["orphans"] > 0.6
    assert by_product["length_correlation"] > 0.3
    assert hub_metrics(long, COSINE, 0)["orphans"] < by_product["orphans"]
    control = hub_metrics(long, RANDOM, 0)
    assert control["orphans"] < 0.01
    assert abs(control["hubness"]) < 0.8


def test_without_different_lengths_there_is_no_correlation_with_them() -> None:
    """The metric is undefined, so a run leaves it out."""
    units = in_form(VECTORS, UNIT)
    assert math.isnan(hub_metrics(units, COSINE, 0)["length_correlation"])


def test_precision_is_the_share_of_the_class_of_the_query() -> None:
    """Two classes on opposite sides are told apart, and chance finds each in its proportion."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    centres = 10 * np.eye(3, 20)
    space = Space(centres[labels] + rng.standard_normal((300, 20)))
    queries = centres[[0, 1, 2] * 10] + rng.standard_normal((30, 20))
    of_queries = np.array([0, 1, 2] * 10)
    assert precision(space, labels, queries, of_queries, COSINE, 0) == 1
    assert precision(space, labels, queries, (of_queries + 1) % 3, COSINE, 0) == 0
    assert precision(space, labels, queries, of_queries, RANDOM, 0) == pytest.approx(1 / 3, abs=0.1)


def test_samples_differ_by_their_seed_alone() -> None:
    """A small set gives less than all of its vectors, so that samples differ."""
    vector_set = VectorSet(name="words", origin="f", vectors=clustered_vectors(100, 4))
    rows = sample_of(vector_set, 1_000, 0)
    assert len(rows) == 80
    assert np.array_equal(rows, np.unique(rows))
    assert np.array_equal(rows, sample_of(vector_set, 1_000, 0))
    assert not np.array_equal(rows, sample_of(vector_set, 1_000, 1))
    assert len(sample_of(vector_set, 30, 0)) == 30


def test_quantiles_of_lengths() -> None:
    """From the least to the largest."""
    quantiles = norm_quantiles(np.arange(1.0, 102.0))
    assert list(quantiles.values()) == [1, 6, 26, 51, 76, 96, 101]
