"""Constraints that limit the slope of a critic: parameter clipping and a gradient penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Clip every parameter to [-limit, limit], in place.

    Arjovsky et al.: Wasserstein GAN, ICML 2017, arXiv 1701.07875, algorithm 1.

    Args:
        parameters: The parameters of a critic.
        limit: The largest absolute value that is left, at least 0.
    """
    for parameter in parameters:
        parameter.clamp_(-limit, limit)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor
) -> Tensor:
    """Return the gradient penalty between real and fake rows, before its weight.

    Gulrajani et al.: Improved Training of Wasserstein GANs, NIPS 2017, arXiv 1704.00028, section 4.

    Args:
        critic: A function from rows (n, ...) to scores (n,), each of which depends on its row
            alone. It can be differentiated twice.
        real: Real rows, (n, ...) float32.
        fake: Fake rows, of the same shape, dtype and device.
        alpha: (n,) float32 from 0 to 1 on that device, the weight of the real row at each point of
            evaluation.

    Returns:
        The mean over rows of (norm of the gradient - 1) squared, a 0-d tensor with gradients to the
        parameters of the critic, but not to *real* or *fake*.
    """
    alpha = alpha.view(-1, *[1] * (real.dim() - 1))
    interpolated = (alpha * real + (1 - alpha) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(interpolated).sum(), interpolated, create_graph=True)
    norm: Tensor = gradient.flatten(1).norm(dim=1)
    return (norm - 1).square().mean()
