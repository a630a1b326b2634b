"""Metrics that compare generated with real images by the features of a network.

Values depend on the network. Published ones use Inception-v3 and are not comparable with those of
another network.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.backbone.network import Backbone
from workflows.training.finite import check_finite

NEIGHBOURS = 3
"""The default number of neighbours for precision, recall and coverage."""
SUBSETS, SUBSET_ROWS = 50, 500
"""The number and size of the kernel distance's subsets; at most half of the rows each."""
QUERY_ROWS = 256
"""The number of rows whose neighbours are searched at once."""
BLOCK_ROWS = 1024
"""The number of rows searched at once, and of images moved to a device at once."""
MIN_FRECHET_ROWS = 2048
"""The number of rows below which the Fréchet distance depends mainly on their number."""
EXTRA_CANDIDATES = 2
"""The number of candidates in a block, beyond the result's, with exactly computed distances."""


@dataclass(frozen=True)
class FeatureMetrics:
    """Metrics that compare the features of generated with those of real images."""

    network: str
    """The name of the network whose features are compared."""
    generated: int
    """The number of generated images."""
    real: int
    """The number of real images."""
    frechet: float
    """The Fréchet distance (Heusel et al.: GANs Trained by a Two Time-Scale Update Rule, 2017)."""
    kernel: float
    """The kernel distance (Binkowski et al.: Demystifying MMD GANs, 2018), mean over subsets."""
    kernel_spread: float
    """The standard deviation of the kernel distance over subsets."""
    precision: float
    """The share, 0 to 1, of generated rows within the real set (Kynkaanniemi et al.: Improved
    Precision and Recall Metric for Assessing Generative Models, NeurIPS 2019)."""
    recall: float
    """The share, 0 to 1, of real rows within the generated set, from the same paper."""
    coverage: float
    """The share, 0 to 1, of real rows with a generated row among their neighbours (Naeem et al.:
    Reliable Fidelity and Diversity Metrics for Generative Models, ICML 2020).

    Unlike precision it is not inflated by real outliers, whose distant neighbours make everything
    in between count as precise: a single repeated image covers almost nothing."""
    width: int
    """The number of features in a row."""

    @property
    def warning(self) -> str:
        """A caution about too few rows for the Fréchet distance; empty if there are enough."""
        fewest = min(self.generated, self.real)
        if fewest >= max(MIN_FRECHET_ROWS, self.width + 1):
            return ""
        return (
            f"They compare {fewest:,} images by {self.width:,} features: the Fréchet distance is"
            " biased upwards for so few. Compare it only with values for as many images, or pass"
            " more --samples; papers use 10,000 to 50,000."
        )


class _Identity(nn.Module):
    """A network that returns its input, for metrics of features that are already computed."""

    num_features: int

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, rows: Tensor) -> Tensor:
        return rows


def compare_images(
    generated: Tensor, real: Tensor, backbone: Backbone, *, device: str = "cpu", seed: int = 0
) -> FeatureMetrics:
    """Compare generated with real images by the features of a backbone.

    Images are moved to *device* in blocks, and the backbone resizes them. Torch's global generators
    keep their state. The package torchmetrics must be installed.

    Args:
        generated: Generated images, (n, 3, h, w) uint8 RGB, on any device; n is above 3.
        real: Real images, (m, 3, h, w) uint8 RGB, on any device; m is above 3.
        backbone: The network whose features are compared, on *device*, as
            `pipeline.backbone.load.open_backbone` returns it.
        device: The device that computes features and metrics (default the CPU).
        seed: Seed of the subsets of the kernel distance (default 0).

    Returns:
        Numbers: `frechet`, the Fréchet distance; `kernel` and `kernel_spread`, mean and standard
        deviation of the kernel distance over random subsets; `precision`, `recall` and `coverage`,
        0 to 1 each, as the functions `precision_recall` and `coverage` return them with 3
        neighbours; `generated` and `real`, the numbers of images; and `width`, that of features.
        `network` is the name of the backbone.

    Raises:
        ValueError: There are three images or fewer of either kind.
        NonFiniteError: A feature is NaN or infinite.
    """

    def extract(images: Tensor) -> Tensor:
        parts = torch.split(images, BLOCK_ROWS)
        return torch.cat([backbone.extract(part.to(device)) for part in parts])

    return compare_features(extract(generated), extract(real), backbone.name, seed=seed)


def compare_features(
    generated: Tensor, real: Tensor, network: str, *, seed: int = 0
) -> FeatureMetrics:
    """Compare features of generated with features of real images.

    Torch's global generators keep their state. The package torchmetrics must be installed.

    Args:
        generated: Features of generated images, (n, d) float32, on any device; n is above 3.
        real: Features of real images, (m, d) float32, on the same device; m is above 3.
        network: Name of the network that computed the features, for the result.
        seed: Seed of the subsets of the kernel distance (default 0).

    Returns:
        Numbers: `frechet`, the Fréchet distance; `kernel` and `kernel_spread`, mean and standard
        deviation of the kernel distance over random subsets; `precision`, `recall` and `coverage`,
        0 to 1 each, as the functions `precision_recall` and `coverage` return them with 3
        neighbours; `generated` and `real`, the numbers of rows; and `width`, that of features.
        `network` is *network*.

    Raises:
        ValueError: There are three rows or fewer of either kind.
        NonFiniteError: A feature is NaN or infinite.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    check_finite(generated, real)
    fewest = min(len(generated), len(real))
    if fewest <= NEIGHBOURS:
        raise ValueError(f"{fewest} images: expected more than {NEIGHBOURS} of either kind.")
    features = _Identity(generated.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns that it keeps all features
        frechet = FrechetInceptionDistance(feature=features).set_dtype(torch.float64)
        kernel = KernelInceptionDistance(
            feature=features, subsets=SUBSETS, subset_size=min(SUBSET_ROWS, fewest // 2)
        )
    for metric in (frechet.to(generated.device), kernel.to(generated.device)):
        for rows, is_real in ((real, True), (generated, False)):
            # In blocks, since float64 copies take twice the memory.
            for part in torch.split(rows, BLOCK_ROWS):
                metric.update(part, real=is_real)
    # The metric draws from torch's global generator, whose state the caller keeps.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not those of GPUs, which are not restored
        mean, spread = kernel.compute()
    precision, recall = precision_recall(generated, real)
    return FeatureMetrics(
        network=network,
        generated=len(generated),
        real=len(real),
        frechet=float(frechet.compute()),
        kernel=float(mean),
        kernel_spread=float(spread),
        precision=precision,
        recall=recall,
        coverage=coverage(generated, real),
        width=generated.shape[1],
    )


def precision_recall(
    generated: Tensor, real: Tensor, *, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Return precision and recall of generated rows, 0 to 1 each.

    Precision is the share of generated rows within the real set, recall that of real rows within
    the generated set. A row lies within a set if its Euclidean distance to a row of the set is at
    most the radius of that row: the distance to the last of its *neighbours* nearest other rows in
    the set (Kynkaanniemi et al., NeurIPS 2019).

    Args:
        generated: Features of generated images, (n, d) float32.
        real: Features of real images, (m, d) float32, on the same device.
        neighbours: The number of neighbours that define the radius of a row, less than n and m
            (default 3).

    Returns:
        (precision, recall).

    Raises:
        RuntimeError: *neighbours* is not less than n and m.
    """
    return _share_within_radii(generated, real, neighbours), _share_within_radii(
        real, generated, neighbours
    )


def coverage(generated: Tensor, real: Tensor, *, neighbours: int = NEIGHBOURS) -> float:
    """Return the share of real rows with a generated row within their radius, 0 to 1.

    The radius of a real row is the Euclidean distance to the last of its *neighbours* nearest other
    real rows (Naeem et al., ICML 2020).

    Args:
        generated: Features of generated images, (n, d) float32.
        real: Features of real images, (m, d) float32, on the same device.
        neighbours: The number of real neighbours that define the radius of a row, less than m
            (default 3).

    Raises:
        RuntimeError: *neighbours* is not less than m.
    """
    radii = _radii(real, neighbours)
    near = [torch.cdist(block, generated).amin(1) for block in torch.split(real, QUERY_ROWS)]
    return float((torch.cat(near) <= radii).float().mean())


def _share_within_radii(rows: Tensor, references: Tensor, neighbours: int) -> float:
    radii = _radii(references, neighbours)
    within = [
        (torch.cdist(block, references) <= radii).any(1) for block in torch.split(rows, QUERY_ROWS)
    ]
    return float(torch.cat(within).float().mean())


def _radii(rows: Tensor, neighbours: int) -> Tensor:
    """Return the distance of each row's last neighbour, (n,); the row itself is not counted."""
    distances = [torch.cdist(block, rows) for block in torch.split(rows, QUERY_ROWS)]
    return torch.cat([block.kthvalue(neighbours + 1, dim=1).values for block in distances])


def nearest(queries: Tensor, references: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """Search the rows of *references* that are nearest to each query.

    Args:
        queries: (n, ...) of any real dtype, on the device that searches.
        references: Rows to search, (m, ...), with as many values in a row as a query has, of any
            real dtype and on any device.
        count: Number of neighbours of each query (default 1), 1 to m.

    Returns:
        A tuple: their positions in *references*, (n, count) int64, nearest first; and their
        Euclidean distances, (n, count) float32. Both are on the device of *queries*. Of many rows
        that are equally near, any may be chosen; those chosen are in their order.
    """
    search = NearestSearch(queries, count)
    for block in torch.split(references, BLOCK_ROWS):
        search.add(block)
    return search.rows, search.distances


class NearestSearch:
    """A search for nearest neighbours among rows that arrive block by block and are not stored.

    Matrix products select candidates of a block, and their distances are computed again from
    differences: the rounding error of products exceeds the distance of close rows.
    """

    def __init__(self, queries: Tensor, count: int = 1) -> None:
        """Start a search without any rows.

        Args:
            queries: (n, ...) of any dtype, on the device that searches.
            count: Number of neighbours of each query (default 1).
        """
        self._queries = queries.flatten(1).float()
        self._count = count
        self.num_searched = 0
        """The number of rows searched so far."""
        self.rows = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
        """(n, count) int64: positions among all rows searched, nearest first."""
        self.distances = torch.empty((len(queries), 0), device=queries.device)
        """(n, count): Euclidean distances, ascending."""

    def add(self, block: Tensor) -> None:
        """Search a further block of rows, which is not kept.

        `NearestSearch(queries, count)` starts the search. This method returns nothing. It updates
        `rows`, (n, count) int64, the positions of the nearest rows of each of the n queries,
        nearest first, counted from 0 over all blocks so far, and `distances`, (n, count) float32,
        their Euclidean distances. Both have fewer columns than count until as many rows have been
        searched. It adds the number of rows of the block to `num_searched`.

        Args:
            block: (m, ...) of any real dtype on any device, each row as long as a query; m is at
                least 1.
        """
        block = block.flatten(1).to(self._queries.device).float()
        parts = [self._best(part, block) for part in torch.split(self._queries, QUERY_ROWS)]
        distances = torch.cat([self.distances, torch.cat([part[0] for part in parts])], 1)
        rows = torch.cat([self.rows, torch.cat([part[1] for part in parts]) + self.num_searched], 1)
        # A stable sort, so that ties go to the earlier row.
        order = distances.sort(dim=1, stable=True).indices[:, : self._count]
        self.distances, self.rows = distances.gather(1, order), rows.gather(1, order)
        self.num_searched += len(block)

    def _best(self, queries: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        count = min(self._count + EXTRA_CANDIDATES, len(block))
        rows = torch.cdist(queries, block).topk(count, dim=1, largest=False).indices.sort(1).values
        distances = [(block[rows[:, rank]] - queries).norm(dim=1) for rank in range(count)]
        return torch.stack(distances, 1), rows
