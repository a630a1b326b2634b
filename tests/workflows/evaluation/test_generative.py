"""Tests of feature metrics against closed forms and other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from workflows.evaluation.generative import (
    NearestSearch,
    compare_features,
    coverage,
    nearest,
    precision_recall,
)
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.training.finite import NonFiniteError


def gaussians(seed: int, count: int = 800, width: int = 6) -> torch.Tensor:
    """Return standard normal rows (count, width)."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_the_frechet_distance_equals_its_formula() -> None:
    """The oracle uses scipy's matrix square root; the distance of equal sets is 0."""
    real = gaussians(0)
    generated = gaussians(1) @ torch.diag(torch.linspace(0.5, 2, 6)) + 0.3
    distances = compare_features(generated, real, "features")
    means = [rows.double().mean(0).numpy() for rows in (generated, real)]
    spreads = [np.cov(rows.double().numpy().T) for rows in (generated, real)]
    root = linalg.sqrtm(spreads[0] @ spreads[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(spreads[0] + spreads[1] - 2 * root)
    assert distances.frechet == pytest.approx(expected, rel=1e-3)
    assert (distances.network, distances.generated, distances.real) == ("features", 800, 800)
    assert compare_features(real, real, "features").frechet == pytest.approx(0, abs=1e-3)


def test_the_kernel_distance_is_unbiased_and_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The distance is near 0 for equal distributions, and torch's random states are unchanged."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("GPUs were seeded"))
    same = compare_features(gaussians(2), gaussians(3), "features")
    assert torch.equal(torch.get_rng_state(), before)
    assert abs(same.kernel) < 0.05
    shifted = compare_features(gaussians(2) + 1, gaussians(3), "features")
    assert shifted.kernel > 20 * abs(same.kernel)
    assert compare_features(gaussians(2) + 1, gaussians(3), "features") == shifted


def test_precision_and_recall_differ() -> None:
    """Half of the modes are precise but not recalled; wide noise is the opposite."""
    modes = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    real = modes[torch.arange(400) % 2] + 0.1 * gaussians(0, 400, 2)
    half = modes[torch.zeros(400, dtype=torch.int64)] + 0.1 * gaussians(1, 400, 2)
    precision, recall = precision_recall(half, real)
    assert precision > 0.9
    assert recall == pytest.approx(0.5, abs=0.05)
    wide = 20 * (torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 0.25)
    precision, recall = precision_recall(wide, real)
    assert precision < 0.1
    assert recall > 0.9
    assert precision_recall(real, real) == (1.0, 1.0)


def test_the_nearest_neighbours_equal_those_of_a_loop() -> None:
    """A plain loop compares all pairs of rows."""
    rows, references = gaussians(0, 7, 4), gaussians(1, 30, 4)
    positions, actual = nearest(rows, references, 2)
    for index, row in enumerate(rows):
        distances = (references - row).norm(dim=1)
        assert positions[index].tolist() == distances.argsort()[:2].tolist()
        torch.testing.assert_close(actual[index], distances.sort().values[:2], rtol=1e-3, atol=1e-3)


def test_too_few_rows_are_refused() -> None:
    """Fewer rows than neighbours are refused."""
    with pytest.raises(ValueError, match="more than 3"):
        compare_features(gaussians(0, 3), gaussians(1, 9), "features")


def test_few_rows_have_different_subsets() -> None:
    """With few rows the subsets still differ, so their spread is above 0."""
    assert compare_features(gaussians(0, 300), gaussians(1, 300), "features").kernel_spread > 1e-4


@given(
    seed=st.integers(0, 1_000),
    queries=st.integers(1, 5),
    rows=st.integers(1, 40),
    block=st.integers(1, 41),
    count=st.integers(1, 3),
    offset=st.sampled_from([0.0, 100.0]),
)
def test_the_nearest_neighbours_do_not_depend_on_the_block_size(
    seed: int, queries: int, rows: int, block: int, count: int, offset: float
) -> None:
    """Blocks of any size give exact distances, also far from zero."""
    references = gaussians(seed, rows, 4) + offset
    queried = references[:queries] + 1e-3 * gaussians(seed + 1, len(references[:queries]), 4)
    search = NearestSearch(queried, count)
    for part in torch.split(references, block):
        search.add(part)
    assert search.num_searched == rows
    distances = (references[None].double() - queried[:, None].double()).norm(dim=2)
    expected = distances.sort(1).values[:, :count]
    torch.testing.assert_close(search.distances.double(), expected, rtol=1e-3, atol=1e-5)
    own = distances.gather(1, search.rows)
    torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5)


def test_a_repeated_image_is_precise_but_covers_nothing() -> None:
    """An outlier among real rows makes a single image precise, but not covering."""
    real = torch.cat([0.1 * gaussians(0, 200, 3), torch.full((1, 3), 20.0)])
    black = torch.full((200, 3), 5.0)
    assert precision_recall(black, real)[0] == 1.0
    assert coverage(black, real) < 0.01
    assert coverage(real, real) == 1.0
    assert coverage(0.1 * gaussians(3, 200, 3), real[:-1]) > 0.9


def test_rows_that_are_not_finite_are_refused() -> None:
    """Rows with NaN or infinity are refused."""
    for bad in (float("nan"), float("inf")):
        rows = gaussians(0, 50)
        rows[7, 2] = bad
        with pytest.raises(NonFiniteError, match="1 of 50 rows contain NaN or infinity"):
            compare_features(rows, gaussians(1, 50), "features")
        with pytest.raises(NonFiniteError):
            sliced_wasserstein(rows, gaussians(1, 50))


def test_few_images_give_a_warning() -> None:
    """The metrics of few rows have a warning, since the Frechet distance is biased."""
    distances = compare_features(gaussians(0, 8), gaussians(1, 8), "features")
    assert distances.frechet > 0.5
    assert distances.warning.startswith("They compare 8 images by 6 features")
    assert compare_features(gaussians(0, 2_048), gaussians(1, 2_048), "features").warning == ""
