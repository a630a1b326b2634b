"""Constraints that limit the slope of a critic: parameter clipping and a gradient penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Clip every parameter to [-limit, limit], in place (Arjovsky et al. 2017)."""
    for parameter in parameters:
        parameter.clamp_(-limit, limit)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor
) -> Tensor:
    """Return the gradient penalty between real and fake rows (Gulrajani et al. 2017).

    Args:
        critic: A function from rows (n, ...) to scores (n,).
        real: Real rows, (n, ...).
        fake: Fake rows, (n, ...).
        share: (n,) from 0 to 1, the weight of the real row at each point of evaluation.

    Returns:
        The mean over rows of (norm of the gradient - 1) squared, a differentiable 0-d tensor.
    """
    share = share.view(-1, *[1] * (real.dim() - 1))
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    length: Tensor = slope.flatten(1).norm(dim=1)
    return (length - 1).square().mean()
