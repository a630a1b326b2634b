"""Displaced vectors: as many as requested, the same for every number, and as hard to search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workflows.studies.vectors import clustered_vectors
from workflows.studies.neighbours import growth
from workflows.studies.neighbours.growth import grown, intrinsic_dimension, unit_length

VECTORS = unit_length(clustered_vectors(1_500, 30))


@given(st.integers(1, 120), st.integers(1, 120))
def test_a_row_does_not_depend_on_the_number_of_rows(first: int, second: int) -> None:
    """Real vectors come first, and all have length 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "BLOCK_ROWS", 16)
        few, many = (grown(VECTORS[:40], count) for count in sorted((first, second)))
    assert (len(few), len(many)) == tuple(sorted((first, second)))
    assert np.array_equal(few, many[: len(few)])
    assert np.array_equal(few[:40], VECTORS[: min(40, len(few))])
    assert np.linalg.norm(many, axis=1) == pytest.approx(1, abs=1e-6)
    assert len(np.unique(many, axis=0)) == len(many)


def test_displaced_vectors_are_about_as_hard_to_search() -> None:
    """Their intrinsic dimension is near that of the real ones, that of copies far below."""
    real = intrinsic_dimension(VECTORS)
    further = grown(VECTORS, 3_000)[1_500:]
    assert intrinsic_dimension(further) == pytest.approx(real, rel=0.25)
    copies = np.concatenate([VECTORS[:50]] * 30) + 1e-4 * VECTORS
    assert intrinsic_dimension(unit_length(copies)) < 0.6 * real


def test_the_intrinsic_dimension_of_a_sphere_is_that_of_its_surface() -> None:
    """Vectors of a subspace of five dimensions lie on a sphere of four, whatever surrounds it."""
    rng = np.random.default_rng(0)
    inside = np.zeros((4_000, 40), np.float32)
    inside[:, :5] = rng.standard_normal((4_000, 5))
    assert intrinsic_dimension(unit_length(inside)) == pytest.approx(4, rel=0.1)
