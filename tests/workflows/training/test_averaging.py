"""Tests of the running average of a network's weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workflows.training.averaging import average_of


class Counting(nn.Module):
    """A module with weights of two types, and a buffer of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.coarse = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))

    def set(self, value: float) -> None:
        """Set all values."""
        with torch.no_grad():
            self.weight.fill_(value)
            self.coarse.fill_(value)
            self.mean.fill_(10 * value)  # type: ignore[operator]
            self.count.fill_(int(value))  # type: ignore[operator]


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.9])
def test_an_average_forgets_as_its_decay_says(decay: float) -> None:
    """The first values are copied; then the decay grows up to its limit; numbers are the newest."""
    network = Counting()
    average = average_of(network, decay)
    assert average.module is not network
    expected = 0.0
    for update in range(12):
        value = float(update * update + 1)
        network.set(value)
        average.update_parameters(network)
        limit = min(decay, (1 + update) / (10 + update)) if decay else 0.0
        expected = value if not update else limit * expected + (1 - limit) * value
        module = average.module
        torch.testing.assert_close(module.weight.detach(), torch.full((3,), expected))
        torch.testing.assert_close(module.mean, torch.full((2,), 10 * expected))
        assert float(module.coarse.detach()[0]) == pytest.approx(expected, rel=0.05)
        assert int(module.count) == int(value)
        assert torch.equal(network.weight.detach(), torch.full((3,), value))


def test_a_loaded_average_goes_on() -> None:
    """The number of updates is a part of its state."""
    network = Counting()
    first, second = average_of(network, 0.9), average_of(network, 0.9)
    for value in range(4):
        network.set(value)
        first.update_parameters(network)
    second.load_state_dict(first.state_dict())
    network.set(9)
    for average in (first, second):
        average.update_parameters(network)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
