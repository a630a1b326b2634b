"""The sliced Wasserstein distance, by its laws and by scipy's in one dimension."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from workflows.evaluation.sliced import sliced_wasserstein


def rows(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@given(
    count=st.integers(1, 30),
    width=st.integers(1, 5),
    seed=st.integers(0, 1000),
    far=st.floats(-5, 5),
    grown=st.floats(0.1, 5),
)
def test_it_is_a_distance(count: int, width: int, seed: int, far: float, grown: float) -> None:
    """Of sets, not of sequences; of a shift, its length over the root of the dimensions."""
    one, other = rows(count, width, seed), rows(count, width, seed + 1)
    between = sliced_wasserstein(one, other)
    assert sliced_wasserstein(one, one[torch.randperm(count)]) == pytest.approx(0, abs=1e-5)
    assert sliced_wasserstein(other, one) == pytest.approx(between, rel=1e-4, abs=1e-5)
    assert sliced_wasserstein(grown * one, grown * other) == pytest.approx(
        grown * between, rel=1e-3, abs=1e-4
    )
    assert sliced_wasserstein(one + far, other + far) == pytest.approx(between, rel=1e-3, abs=1e-3)
    third = rows(count, width, seed + 2)
    through = sliced_wasserstein(one, third) + sliced_wasserstein(third, other)
    assert between <= through + 1e-4


def test_a_shift_is_as_far_as_it_is() -> None:
    """Seen from a random direction, by the root of the dimensions less."""
    one = rows(500, 3, 0)
    shift = torch.tensor([3.0, 4.0, 0.0])
    found = sliced_wasserstein(one, one + shift, directions=20_000)
    assert found == pytest.approx(5 / 3**0.5, rel=0.02)


def test_in_one_dimension_it_is_that_of_quantiles() -> None:
    """Of sets of other sizes too."""
    one, other = rows(400, 1, 3), 2 * rows(400, 1, 4) + 1
    expected = (one.sort(0).values - other.sort(0).values).square().mean().sqrt()
    assert sliced_wasserstein(one, other) == pytest.approx(float(expected), rel=1e-4)
    few = other[:100]
    assert sliced_wasserstein(one, few) == pytest.approx(
        float((one.sort(0).values - few.sort(0).values.repeat_interleave(4, 0)).norm() / 20),
        rel=1e-4,
    )
    first_order = stats.wasserstein_distance(one[:, 0].numpy(), other[:, 0].numpy())
    assert sliced_wasserstein(one, other) >= first_order - 1e-6


def test_what_cannot_be_compared_is_refused() -> None:
    """Nothing, and rows of other lengths."""
    for other in (torch.zeros(0, 3), torch.zeros(4, 2)):
        with pytest.raises(ValueError, match="expected rows, as long"):
            sliced_wasserstein(torch.zeros(4, 3), other)
