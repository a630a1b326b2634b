"""The loss functions of DeViSE, computed for each row separately.

With m the output of the head and t the vectors of the seen classes:

    hinge     max(0, margin - t_label . m + t_wrong . m) of the first wrong class, in random order,
              that violates the margin (Frome et al. 2013, section 3.3)
    cosine    1 - cos(m, t_label)
    l2        |m - t_label|^2, half as accurate as hinge in the paper
    infonce   cross entropy of cos(m, t) / temperature over the seen classes (van den Oord et al.
              2018, with class vectors in place of other rows)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Loss:
    """A loss function with its parameters."""

    kind: str
    """The name of the function: hinge, cosine, l2 or infonce."""
    margin: float = 0.1
    """The margin of the hinge loss."""
    temperature: float = 0.3
    """The temperature of InfoNCE; lower is sharper."""

    def __call__(
        self,
        outputs: Tensor,
        labels: Tensor,
        targets: Tensor,
        order: Tensor,
        groups: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of each row.

        Args:
            outputs: The outputs of the head, (n, d), not normalised.
            labels: The index into *targets* of each row's class, (n,) int64.
            targets: The unit vectors of the seen classes, (S, d).
            order: Random numbers in [0, 1), (n, S), in whose order hinge visits wrong classes.
            groups: The group number of each class, (S,) int64, from `identical_vector_groups`.
                Classes of one group are not wrong for each other (default: every class is its own
                group).

        Returns:
            The losses, (n,), with the dtype of *outputs*.
        """
        if self.kind == "hinge":
            return hinge_rank(outputs @ targets.T, labels, order, self.margin, groups)
        if self.kind == "l2":
            return (outputs - targets[labels]).square().sum(1)
        outputs = functional.normalize(outputs, dim=1)
        if self.kind == "cosine":
            return 1 - (outputs * targets[labels]).sum(1)
        return functional.cross_entropy(
            outputs @ targets.T / self.temperature, labels, reduction="none"
        )


def identical_vector_groups(targets: Tensor) -> Tensor:
    """Return a group number for each class; classes with exactly equal vectors share a group.

    Args:
        targets: The vectors of the seen classes, (S, d), of any floating-point dtype.

    Returns:
        (S,) int64, from 0, on the device of *targets*.
    """
    groups: Tensor = torch.unique(targets, dim=0, return_inverse=True)[1]
    return groups


def hinge_rank(
    scores: Tensor, labels: Tensor, order: Tensor, margin: float, groups: Tensor | None = None
) -> Tensor:
    """Compute the hinge rank loss, truncated at the first class that violates the margin.

    Frome et al.: DeViSE: A Deep Visual-Semantic Embedding Model, NIPS 2013, section 3.3.

    Args:
        scores: The products t . m of the n outputs m, not normalised, and the S unit class vectors
            t, (n, S) of a floating-point dtype.
        labels: The column of each row's true class, (n,) int64.
        order: Sort keys, (n, S), finite floats: the wrong classes of a row are visited in ascending
            order.
        margin: The score, at least 0, by which the true class should exceed every wrong class.
        groups: The group number of each class, (S,) int64, equal for classes with equal vectors.
            Classes of one group are not wrong for each other (default None: every class is its own
            group). (In the paper every term has its own vector.)

    Returns:
        The losses, (n,) with the dtype of *scores* and gradients to them: *margin* minus the true
        score plus that of the first wrong class for which this is above 0; 0 where no class
        violates the margin.
    """
    terms = margin - scores.gather(1, labels[:, None]) + scores
    violates = (terms > 0).scatter(1, labels[:, None], value=False)
    if groups is not None:
        violates &= groups[labels][:, None] != groups
    first = torch.where(violates, order, torch.inf).argmin(1, keepdim=True)
    any_violates = violates.gather(1, first)
    return torch.where(any_violates, terms.gather(1, first), 0.0).squeeze(1)
