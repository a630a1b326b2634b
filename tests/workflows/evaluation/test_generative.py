"""Figures of features: known in closed form, or beside another's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from workflows.evaluation.generative import (
    Nearest,
    compare,
    coverage,
    nearest,
    precision_recall,
)
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.training.finite import NotFiniteError


def gaussians(seed: int, count: int = 800, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_the_frechet_distance_is_that_of_means_and_covariances() -> None:
    """Against scipy's square root of a matrix; and 0 of a set to itself."""
    real = gaussians(0)
    made = gaussians(1) @ torch.diag(torch.linspace(0.5, 2, 6)) + 0.3
    found = compare(made, real, "features")
    means = [rows.double().mean(0).numpy() for rows in (made, real)]
    spreads = [np.cov(rows.double().numpy().T) for rows in (made, real)]
    root = linalg.sqrtm(spreads[0] @ spreads[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(spreads[0] + spreads[1] - 2 * root)
    assert found.frechet == pytest.approx(expected, rel=1e-3)
    assert (found.network, found.made, found.real) == ("features", 800, 800)
    assert compare(real, real, "features").frechet == pytest.approx(0, abs=1e-3)


def test_the_kernel_distance_is_unbiased_and_seeded() -> None:
    """Near 0 for two sets of one distribution, far from it for others; nothing else is drawn."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    same = compare(gaussians(2), gaussians(3), "features")
    assert torch.equal(torch.get_rng_state(), before)
    assert abs(same.kernel) < 0.05
    other = compare(gaussians(2) + 1, gaussians(3), "features")
    assert other.kernel > 20 * abs(same.kernel)
    assert compare(gaussians(2) + 1, gaussians(3), "features") == other


def test_precision_and_recall_tell_what_is_missing_from_what_is_wrong() -> None:
    """Half of the modes: precise, not recalled. Noise around all: the other way."""
    modes = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    real = modes[torch.arange(400) % 2] + 0.1 * gaussians(0, 400, 2)
    one = modes[torch.zeros(400, dtype=torch.int64)] + 0.1 * gaussians(1, 400, 2)
    precision, recall = precision_recall(one, real)
    assert precision > 0.9
    assert recall == pytest.approx(0.5, abs=0.05)
    wide = 20 * (torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 0.25)
    precision, recall = precision_recall(wide, real)
    assert precision < 0.1
    assert recall > 0.9
    assert precision_recall(real, real) == (1.0, 1.0)


def test_the_nearest_are_found() -> None:
    """As a loop finds them."""
    rows, others = gaussians(0, 7, 4), gaussians(1, 30, 4)
    which, far = nearest(rows, others, 2)
    for place, row in enumerate(rows):
        distances = (others - row).norm(dim=1)
        assert which[place].tolist() == distances.argsort()[:2].tolist()
        torch.testing.assert_close(far[place], distances.sort().values[:2], rtol=1e-3, atol=1e-3)


def test_too_few_are_refused() -> None:
    """A neighbour needs others."""
    with pytest.raises(ValueError, match="more than 3"):
        compare(gaussians(0, 3), gaussians(1, 9), "features")


def test_of_few_rows_a_spread_is_one_of_subsets() -> None:
    """Not of the same rows again and again."""
    assert compare(gaussians(0, 300), gaussians(1, 300), "features").kernel_spread > 1e-4


@given(
    seed=st.integers(0, 1_000),
    queries=st.integers(1, 5),
    rows=st.integers(1, 40),
    block=st.integers(1, 41),
    count=st.integers(1, 3),
    far=st.sampled_from([0.0, 100.0]),
)
def test_the_nearest_are_found_among_all_however_they_come(
    seed: int, queries: int, rows: int, block: int, count: int, far: float
) -> None:
    """Block by block; and how far they are is exact, also of what lies far from zero."""
    others = gaussians(seed, rows, 4) + far
    some = others[:queries] + 1e-3 * gaussians(seed + 1, len(others[:queries]), 4)
    found = Nearest(some, count)
    for part in torch.split(others, block):
        found.add(part)
    assert found.seen == rows
    distances = (others[None].double() - some[:, None].double()).norm(dim=2)
    expected = distances.sort(1).values[:, :count]
    torch.testing.assert_close(found.distances.double(), expected, rtol=1e-3, atol=1e-5)
    own = distances.gather(1, found.rows)
    torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-5)


def test_a_single_picture_covers_nothing_though_it_is_precise() -> None:
    """One real row far from all others, whose neighbours are far, makes precision 1 of it."""
    real = torch.cat([0.1 * gaussians(0, 200, 3), torch.full((1, 3), 20.0)])
    black = torch.full((200, 3), 5.0)
    assert precision_recall(black, real)[0] == 1.0
    assert coverage(black, real) < 0.01
    assert coverage(real, real) == 1.0
    assert coverage(0.1 * gaussians(3, 200, 3), real[:-1]) > 0.9


def test_what_is_not_finite_has_no_figures() -> None:
    """They would say something of nothing."""
    for bad in (float("nan"), float("inf")):
        rows = gaussians(0, 50)
        rows[7, 2] = bad
        with pytest.raises(NotFiniteError, match="1 of 50 rows hold values that are not finite"):
            compare(rows, gaussians(1, 50), "features")
        with pytest.raises(NotFiniteError):
            sliced_wasserstein(rows, gaussians(1, 50))


def test_figures_of_few_pictures_say_so() -> None:
    """The Frechet distance of few rows of one distribution is not near zero."""
    few = compare(gaussians(0, 8), gaussians(1, 8), "features")
    assert few.frechet > 0.5
    assert few.warning.startswith("They are of 8 pictures, and of features of 6 numbers")
    assert compare(gaussians(0, 2_048), gaussians(1, 2_048), "features").warning == ""
