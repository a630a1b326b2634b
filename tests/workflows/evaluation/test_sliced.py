"""Tests of the sliced Wasserstein distance by its laws, and by scipy's in one dimension."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workflows.evaluation.sliced import sliced_wasserstein


def rows(count: int, width: int, seed: int) -> torch.Tensor:
    """Return random rows (count, width)."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@given(
    count=st.integers(1, 30),
    width=st.integers(1, 5),
    seed=st.integers(0, 1000),
    far=st.floats(-5, 5),
    grown=st.floats(0.1, 5),
)
def test_sliced_wasserstein_is_a_metric(
    count: int, width: int, seed: int, far: float, grown: float
) -> None:
    """The distance scales with the rows and ignores common shifts."""
    first, second = rows(count, width, seed), rows(count, width, seed + 1)
    between = sliced_wasserstein(first, second)
    assert sliced_wasserstein(first, first[torch.randperm(count)]) == pytest.approx(0, abs=1e-5)
    assert sliced_wasserstein(second, first) == pytest.approx(between, rel=1e-4, abs=1e-5)
    assert sliced_wasserstein(grown * first, grown * second) == pytest.approx(
        grown * between, rel=1e-3, abs=1e-4
    )
    assert sliced_wasserstein(first + far, second + far) == pytest.approx(
        between, rel=1e-3, abs=1e-3
    )
    third = rows(count, width, seed + 2)
    through = sliced_wasserstein(first, third) + sliced_wasserstein(third, second)
    assert between <= through + 1e-4


def test_sliced_wasserstein_of_a_shift_matches_theory() -> None:
    """The distance is the length of the shift divided by the root of the number of dimensions."""
    first = rows(500, 3, 0)
    shift = torch.tensor([3.0, 4.0, 0.0])
    distance = sliced_wasserstein(first, first + shift, directions=5_000)
    assert distance == pytest.approx(5 / 3**0.5, rel=0.02)


def test_sliced_wasserstein_in_one_dimension_is_the_distance_of_quantiles() -> None:
    """The sets may have unequal sizes."""
    first, second = rows(400, 1, 3), 2 * rows(400, 1, 4) + 1
    expected = (first.sort(0).values - second.sort(0).values).square().mean().sqrt()
    assert sliced_wasserstein(first, second) == pytest.approx(float(expected), rel=1e-4)
    quarter = second[:100]
    assert sliced_wasserstein(first, quarter) == pytest.approx(
        float((first.sort(0).values - quarter.sort(0).values.repeat_interleave(4, 0)).norm() / 20),
        rel=1e-4,
    )
    first_order = stats.wasserstein_distance(first[:, 0].numpy(), second[:, 0].numpy())
    assert sliced_wasserstein(first, second) >= first_order - 1e-6


def test_sets_that_cannot_be_compared_are_refused() -> None:
    """Empty sets and rows of other lengths are refused."""
    for second in (torch.zeros(0, 3), torch.zeros(4, 2)):
        with pytest.raises(ValueError, match="expected rows, as long"):
            sliced_wasserstein(torch.zeros(4, 3), second)
