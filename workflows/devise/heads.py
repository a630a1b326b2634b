"""The network that maps features to word space."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

DrawUniform = Callable[[str, int], Tensor]
"""A source of keyed randomness: (purpose, count) -> (n, count) floats in [0, 1) for the n rows of a
batch."""


class Head(nn.Module):
    """A network of one or two linear layers over standardised features.

    Dropout uses numbers that the caller passes in instead of a generator's, so that a step does not
    depend on the number of ranks.
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
        """Create a head with freshly initialised layers.

        Args:
            mean: The mean of the features, (D,) float32.
            spread: The standard deviation of the features, (D,) float32.
            dim: The dimension of the word space.
            hidden: The number of units of the hidden layer (default 0: no hidden layer).
            dropout: The share of each layer's inputs to drop, from 0 to below 1 (default 0).
        """
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        # Copies: loading a state writes into buffers, and the arrays are the caller's.
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("spread", torch.tensor(spread))
        self.dropout = dropout
        widths = [len(mean), *([hidden] if hidden else []), dim]
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths)
        )

    def forward(self, features: Tensor, draw: DrawUniform | None = None) -> Tensor:
        """Map features to word space.

        Args:
            features: (n, D) float32, not standardised, on the head's device: the head standardises
                them.
            draw: The random numbers of dropout, for training: a function from the name of a purpose
                and a count of columns to (n, count) floats in [0, 1), on the same device (default
                None: no dropout, whatever the mode of the module).

        Returns:
            (n, dim) on that device, not normalised, float32 unless autocast lowers it.
        """
        hidden = (features - self.mean) / self.spread
        for index, layer in enumerate(self.layers):
            if index:
                hidden = nn.functional.gelu(hidden)
            if draw is not None and self.dropout:
                keep = draw(f"dropout {index}", hidden.shape[1]) >= self.dropout
                hidden = hidden * keep / (1 - self.dropout)
            hidden = layer(hidden)
        return hidden
