"""How far made pictures are from real ones in what a network sees in them.

A figure is of the network that saw: published ones are of Inception-v3, and no other network's can
stand beside them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.backbone.network import Backbone
from workflows.training.finite import refuse_not_finite

NEIGHBOURS = 3
SUBSETS, SUBSET = 50, 500
"""Of the kernel distance; of fewer rows, half of them."""
AT_ONCE = 256
"""Rows whose neighbours are looked for at once."""


@dataclass(frozen=True)
class Distances:
    """Of made to real pictures."""

    network: str
    """Whose features they are of."""
    made: int
    """How many pictures were judged."""
    real: int
    """How many they were compared with."""
    frechet: float
    """Heusel et al.: GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017."""
    kernel: float
    """Binkowski et al.: Demystifying MMD GANs, ICLR 2018: the mean over subsets."""
    kernel_spread: float
    """Its standard deviation over subsets."""
    precision: float
    """Share of made rows within the real ones (Kynkaanniemi et al., NeurIPS 2019)."""
    recall: float
    """Share of real rows within the made ones."""


class _AsTheyAre(nn.Module):
    """Features in place of pictures, for what counts on features that were taken before."""

    num_features: int

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, rows: Tensor) -> Tensor:
        return rows


def judge(made: Tensor, real: Tensor, backbone: Backbone, *, seed: int = 0) -> Distances:
    """Compare pictures.

    Args:
        made: (n, 3, h, w) uint8.
        real: (m, 3, h, w) uint8.
        backbone: Whose features are compared.
        seed: Of the subsets of the kernel distance.

    Raises:
        ValueError: There are fewer pictures than neighbours are looked at.
    """
    return compare(backbone.features(made), backbone.features(real), backbone.name, seed=seed)


def compare(made: Tensor, real: Tensor, network: str, *, seed: int = 0) -> Distances:
    """The same, given the features: (n, d) and (m, d) float32."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    refuse_not_finite(made, real)
    least = min(len(made), len(real))
    if least <= NEIGHBOURS:
        raise ValueError(f"{least} pictures: expected more than {NEIGHBOURS} of either kind.")
    features = _AsTheyAre(made.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it keeps the features: so it shall
        frechet = FrechetInceptionDistance(feature=features).set_dtype(torch.float64)
        kernel = KernelInceptionDistance(
            feature=features, subsets=SUBSETS, subset_size=min(SUBSET, least // 2)
        )
    for metric in (frechet, kernel):
        metric.update(real, real=True)
        metric.update(made, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, spread = kernel.compute()
    precision, recall = precision_recall(made, real)
    return Distances(
        network=network,
        made=len(made),
        real=len(real),
        frechet=float(frechet.compute()),
        kernel=float(mean),
        kernel_spread=float(spread),
        precision=precision,
        recall=recall,
    )


def precision_recall(
    made: Tensor, real: Tensor, *, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Which rows of one set lie within the other: near one of its rows as its neighbours are.

    Args:
        made: (n, d) float32.
        real: (m, d) float32.
        neighbours: How many of a row's own set decide how far it reaches.
    """
    return _within(made, real, neighbours), _within(real, made, neighbours)


def _within(rows: Tensor, others: Tensor, neighbours: int) -> float:
    reach = torch.cdist(others, others).kthvalue(neighbours + 1, dim=1).values  # itself is one
    return float((torch.cdist(rows, others) <= reach).any(1).float().mean())


def nearest(rows: Tensor, others: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The rows of *others* that are nearest to each row.

    Args:
        rows: (n, ...).
        others: (m, ...), of rows as long.
        count: How many of them.

    Returns:
        (n, count) which, nearest first, and (n, count) how far.
    """
    others = others.flatten(1).float()
    found = [
        torch.cdist(some, others).topk(count, dim=1, largest=False)
        for some in torch.split(rows.flatten(1).float(), AT_ONCE)
    ]
    return torch.cat([one.indices for one in found]), torch.cat([one.values for one in found])
