"""What keeps a critic from changing too fast: a clip of its parameters, a penalty of its slope."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Bring every parameter to at most *limit* from zero (Arjovsky et al. 2017)."""
    for parameter in parameters:
        parameter.clamp_(-limit, limit)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor
) -> Tensor:
    """How far the critic's slope is from 1, between real and made rows (Gulrajani et al. 2017).

    Args:
        critic: (n, ...) -> (n,).
        real: (n, ...).
        fake: (n, ...).
        share: (n,) from 0 to 1: how much of each row is of the real one.

    Returns:
        The mean of (slope - 1) squared; it can be differentiated.
    """
    share = share.view(-1, *[1] * (real.dim() - 1))
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    length: Tensor = slope.flatten(1).norm(dim=1)
    return (length - 1).square().mean()
