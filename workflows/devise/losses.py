"""What DeViSE minimises, each row by itself.

hinge     max(0, margin - t_label . m + t_wrong . m) of the first wrong class, in random order,
that violates the margin (Frome et al. 2013, section 3.3)
cosine    1 - cos(m, t_label)
l2        |m - t_label|^2, which in the paper does half as well as hinge
infonce   cross entropy of cos(m, t) / temperature over the seen classes (van den Oord et al.
2018; with vectors of classes in place of other rows)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Loss:
    """One of them, with what it is told."""

    kind: str
    margin: float = 0.1
    temperature: float = 0.3

    def __call__(
        self,
        made: Tensor,
        truth: Tensor,
        targets: Tensor,
        order: Tensor,
        kinds: Tensor | None = None,
    ) -> Tensor:
        """The loss of each row.

        Args:
            made: (n, d), what the head makes of pictures, as it is.
            truth: (n,) int64, each picture's place among *targets*.
            targets: (S, d) of length 1, the vectors of seen classes.
            order: (n, S) from 0 to 1, by which hinge takes wrong classes.
            kinds: (S,) int64, as of `kinds_of`: classes of one kind are not wrong for each other.

        Returns:
            (n,) of the kind of *made*.
        """
        if self.kind == "hinge":
            return hinge_rank(made @ targets.T, truth, order, self.margin, kinds)
        if self.kind == "l2":
            return (made - targets[truth]).square().sum(1)
        made = functional.normalize(made, dim=1)
        if self.kind == "cosine":
            return 1 - (made * targets[truth]).sum(1)
        return functional.cross_entropy(
            made @ targets.T / self.temperature, truth, reduction="none"
        )


def kinds_of(targets: Tensor) -> Tensor:
    """(S,) int64: classes with one and the same vector, (S, d), are of one kind."""
    kinds: Tensor = torch.unique(targets, dim=0, return_inverse=True)[1]
    return kinds


def hinge_rank(
    scores: Tensor, truth: Tensor, order: Tensor, margin: float, kinds: Tensor | None = None
) -> Tensor:
    """Hinge rank loss, truncated at the first class that violates the margin.

    Args:
        scores: (n, S), t . m.
        truth: (n,) int64.
        order: (n, S): wrong classes are taken in ascending order of it.
        margin: That the truth is to have over each wrong class.
        kinds: (S,) int64: classes of one kind have one vector, and are not wrong for each other.
            The paper's terms have vectors of their own.

    Returns:
        (n,): 0 where none violates it.
    """
    terms = margin - scores.gather(1, truth[:, None]) + scores
    candidate = (terms > 0).scatter(1, truth[:, None], value=False)
    if kinds is not None:
        candidate &= kinds[truth][:, None] != kinds
    first = torch.where(candidate, order, torch.inf).argmin(1, keepdim=True)
    violated = candidate.gather(1, first)
    return torch.where(violated, terms.gather(1, first), 0.0).squeeze(1)
