"""From features to word space."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Draw = Callable[[str, int], Tensor]
"""(what it is for, how many) -> (n, that many) from 0 to 1, for the rows of a batch."""


class Head(nn.Module):
    """Features, brought to mean 0 and spread 1, through one or two layers.

    What is dropped is decided by what it is given, not by a generator: a step does not depend on
    how many ranks take it.
    """

    def __init__(
        self,
        mean: NDArray[np.float32],
        spread: NDArray[np.float32],
        dim: int,
        *,
        hidden: int = 0,
        dropout: float = 0.0,
    ) -> None:
        """Make it.

        Args:
            mean: (D,) of features.
            spread: (D,), their standard deviation.
            dim: Numbers of a word's vector.
            hidden: Units of a layer between; 0 = none.
            dropout: Share of what enters a layer that is dropped.
        """
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("spread", torch.from_numpy(spread))
        self.dropout = dropout
        widths = [len(mean), *([hidden] if hidden else []), dim]
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths)
        )

    def forward(self, features: Tensor, draw: Draw | None = None) -> Tensor:
        """(n, D) -> (n, dim); with *draw*, as it is trained."""
        made = (features - self.mean) / self.spread
        for place, layer in enumerate(self.layers):
            if place:
                made = nn.functional.gelu(made)
            if draw is not None and self.dropout:
                kept = draw(f"dropout {place}", made.shape[1]) >= self.dropout
                made = made * kept / (1 - self.dropout)
            made = layer(made)
        return made
