"""Running averages of a network's weights, which stages evaluate in place of the last weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def average_of(network: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a network's weights and buffers.

    It is updated by `update_parameters(network)`. After n updates the decay is at most (1 + n) /
    (10 + n), so that the average soon forgets the random initial weights.

    Args:
        network: The network, which is copied, on its final device.
        decay: The largest decay, 0 to below 1; with 0 the average equals the newest weights.
    """
    return AveragedModel(network, multi_avg_fn=partial(_update, decay), use_buffers=True)


def _update(max_decay: float, averages: Any, parameters: Any, num_averaged: Tensor | int) -> None:
    updates = int(num_averaged)
    decay = min(max_decay, (1 + updates) / (10 + updates)) if max_decay else 0.0
    if torch.is_floating_point(averages[0]):
        torch._foreach_lerp_(averages, parameters, 1 - decay)
    else:
        for average, parameter in zip(averages, parameters, strict=True):
            average.copy_(parameter)
