"""The losses of critics and generators, as functions of the critic's scores.

Scores are (n,), high for rows that the critic takes for real. A loss is a mean over the rows of a
batch, so that the mean over ranks is that of the whole batch.

This is the only list of objectives. The command line reads it for help texts, so torch is imported
only where a loss is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """The losses of a critic and of a generator, with their default constraints."""

    critic: Callable[[Tensor, Tensor], Tensor]
    """The critic's loss, a 0-d tensor, of the scores of real rows, (n,), and of fake rows, (m,)."""
    generator: Callable[[Tensor], Tensor]
    """The generator's loss, a 0-d tensor, of the scores of fake rows, (n,)."""
    clip: float | None = None
    """The default limit of a critic's parameters; None = no clipping."""
    penalty: float = 0.0
    """The default weight of the gradient penalty; 0 = none."""
    relative: bool = False
    """True if a score counts relative to the mean score of the other kind of rows. The generator's
    loss is then the critic's with the kinds exchanged, and needs real rows too."""


def _wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    return fake.mean() - real.mean()


def _cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    return _softplus(-real) + _softplus(fake)


def _softplus(scores: Tensor) -> Tensor:
    from torch.nn.functional import softplus

    return softplus(scores).mean()


def _squares(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def _hinge(real: Tensor, fake: Tensor) -> Tensor:
    return (1 - real).relu().mean() + (1 + fake).relu().mean()


def _score(fake: Tensor) -> Tensor:
    return -fake.mean()


OBJECTIVES = MappingProxyType(
    {
        # Arjovsky et al.: Wasserstein GAN, ICML 2017 (arXiv 1701.07875), algorithm 1.
        "wgan": Objective(_wasserstein, _score, clip=0.01),
        # Gulrajani et al.: Improved Training of Wasserstein GANs, NIPS 2017 (arXiv 1704.00028).
        "wgan-gp": Objective(_wasserstein, _score, penalty=10.0),
        # Goodfellow et al. 2014, with the generator's loss that does not saturate, as in Radford
        # et al.: DCGAN, ICLR 2016 (arXiv 1511.06434).
        "dcgan": Objective(_cross_entropy, lambda fake: _softplus(-fake)),
        # Mao et al.: Least Squares GANs, ICCV 2017 (arXiv 1611.04076), a = 0, b = c = 1.
        "lsgan": Objective(_squares, lambda fake: 0.5 * (fake - 1).square().mean()),
        # Lim and Ye: Geometric GAN (arXiv 1705.02894).
        "hinge": Objective(_hinge, _score),
    }
)
"""The objectives by the name that options and run folders use."""

RELATIVE_OBJECTIVES = MappingProxyType(
    {
        # Jolicoeur-Martineau: The relativistic discriminator (arXiv 1807.00734), its average form,
        # as in Wang et al.: ESRGAN, ECCV Workshops 2018 (arXiv 1809.00219).
        "relativistic": Objective(_cross_entropy, lambda fake: _softplus(-fake), relative=True),
    }
)
"""The objectives of stages whose generator has real rows to compare its own with, by name."""
