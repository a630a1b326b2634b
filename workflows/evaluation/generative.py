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
BLOCK = 1024
"""Rows among which they are looked for at once, and pictures that are taken to a device at once."""
FEW = 2048
"""Rows below which the Fréchet distance says more of their number than of what they are like."""
CLOSE = 2
"""Rows more than are wanted whose distances are computed again, exactly, in each block."""


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
    coverage: float
    """Share of real rows with a made one among their neighbours (Naeem et al., ICML 2020). Rows far
    from all others, whose neighbours are far, make precision 1 of whatever lies between them: a
    single picture, made again and again, covers next to nothing."""
    width: int
    """Numbers of a row of features."""

    @property
    def warning(self) -> str:
        """What the figures must not be taken for, given how few rows they are of; or nothing."""
        fewest = min(self.made, self.real)
        if fewest >= max(FEW, self.width + 1):
            return ""
        return (
            f"They are of {fewest:,} pictures, and of features of {self.width:,} numbers: the"
            " Fréchet distance of so few is too high, the more so the fewer there are. Compare it"
            " with figures of as many pictures alone, or pass more --samples; papers use 10,000 to"
            " 50,000."
        )


class _AsTheyAre(nn.Module):
    """Features in place of pictures, for what counts on features that were taken before."""

    num_features: int

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, rows: Tensor) -> Tensor:
        return rows


def judge(
    made: Tensor, real: Tensor, backbone: Backbone, *, device: str = "cpu", seed: int = 0
) -> Distances:
    """Compare pictures.

    Args:
        made: (n, 3, h, w) uint8.
        real: (m, 3, h, w) uint8.
        backbone: Whose features are compared; it is on *device*.
        device: Where features and figures are computed.
        seed: Of the subsets of the kernel distance.

    Raises:
        ValueError: There are fewer pictures than neighbours are looked at.
    """

    def features(pictures: Tensor) -> Tensor:
        parts = torch.split(pictures, BLOCK)
        return torch.cat([backbone.features(part.to(device)) for part in parts])

    return compare(features(made), features(real), backbone.name, seed=seed)


def compare(made: Tensor, real: Tensor, network: str, *, seed: int = 0) -> Distances:
    """Compare features.

    Args:
        made: (n, d) float32, on any device.
        real: (m, d) float32, on the same.
        network: Whose features they are.
        seed: Of the subsets of the kernel distance.

    Raises:
        ValueError: There are fewer than neighbours are looked at, or they are not finite.
    """
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
    for metric in (frechet.to(made.device), kernel.to(made.device)):
        for rows, kind in ((real, True), (made, False)):
            for part in torch.split(rows, BLOCK):  # in float64 they are twice as long
                metric.update(part, real=kind)
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
        coverage=coverage(made, real),
        width=made.shape[1],
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


def coverage(made: Tensor, real: Tensor, *, neighbours: int = NEIGHBOURS) -> float:
    """Share of *real* rows that a row of *made* is as near to as their own neighbours are.

    Args:
        made: (n, d) float32.
        real: (m, d) float32.
        neighbours: How many of the real rows decide how far a row reaches.
    """
    reach = _reach(real, neighbours)
    near = [torch.cdist(some, made).amin(1) for some in torch.split(real, AT_ONCE)]
    return float((torch.cat(near) <= reach).float().mean())


def _within(rows: Tensor, others: Tensor, neighbours: int) -> float:
    reach = _reach(others, neighbours)
    within = [(torch.cdist(some, others) <= reach).any(1) for some in torch.split(rows, AT_ONCE)]
    return float(torch.cat(within).float().mean())


def _reach(rows: Tensor, neighbours: int) -> Tensor:
    """(n,) how far the last of so many neighbours of each row is; itself is one more."""
    far = [torch.cdist(some, rows) for some in torch.split(rows, AT_ONCE)]
    return torch.cat([one.kthvalue(neighbours + 1, dim=1).values for one in far])


def nearest(rows: Tensor, others: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The rows of *others* that are nearest to each row.

    Args:
        rows: (n, ...).
        others: (m, ...), of rows as long.
        count: How many of them.

    Returns:
        (n, count) which, nearest first, and (n, count) how far.
    """
    found = Nearest(rows, count)
    for block in torch.split(others, BLOCK):
        found.add(block)
    return found.rows, found.distances


class Nearest:
    """The nearest of many rows, which come block by block and are not kept.

    Products of a block name candidates; their distances are computed from the differences. Products
    alone are off by more than near rows are apart.
    """

    def __init__(self, queries: Tensor, count: int = 1) -> None:
        """Look for the *count* rows that are nearest to each query.

        Args:
            queries: (n, ...), on the device that searches.
            count: How many.
        """
        self._queries = queries.flatten(1).float()
        self._count = count
        self.seen = 0
        """How many rows there were."""
        self.rows = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
        """(n, count): their places among all that came, nearest first."""
        self.distances = torch.empty((len(queries), 0), device=queries.device)
        """(n, count), Euclidean."""

    def add(self, block: Tensor) -> None:
        """Look among (m, ...) rows more."""
        block = block.flatten(1).to(self._queries.device).float()
        parts = [self._best(some, block) for some in torch.split(self._queries, AT_ONCE)]
        far = torch.cat([self.distances, torch.cat([part[0] for part in parts])], 1)
        rows = torch.cat([self.rows, torch.cat([part[1] for part in parts]) + self.seen], 1)
        order = far.sort(dim=1, stable=True).indices[:, : self._count]  # of equal ones the first
        self.distances, self.rows = far.gather(1, order), rows.gather(1, order)
        self.seen += len(block)

    def _best(self, queries: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        count = min(self._count + CLOSE, len(block))
        rows = torch.cdist(queries, block).topk(count, dim=1, largest=False).indices.sort(1).values
        far = [(block[rows[:, place]] - queries).norm(dim=1) for place in range(count)]
        return torch.stack(far, 1), rows
