"""What a finished run makes, judged beside pictures that it has not learned from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone.opening import open_backbone
from pipeline.loader import Loader
from workflows.evaluation.generative import Distances, judge, nearest
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.training.folder import RunFolder
from workflows.training.pictures import grid_png, to_uint8
from workflows.wgan.sampling import Painter, open_painter
from workflows.wgan.stage import plain

SHOWN = 8
"""Pictures whose neighbours are shown, and ways from one to another."""
WAY = 10
SEED = 1


@dataclass(frozen=True)
class Judged:
    """Figures and pictures."""

    step: int
    made: int
    real: int
    split: str
    """Of the rows that were compared with."""
    sliced: float
    floor: float
    """The distance of training rows to the same: less cannot be asked for."""
    neighbour: float
    """Median distance of samples to their nearest training row, over that of held-out rows."""
    distances: Distances | None
    pictures: tuple[tuple[str, bytes], ...]
    """(what, PNG)."""

    @property
    def tables(self) -> tuple[()]:
        """None."""
        return ()

    @property
    def notice(self) -> str:
        """Whose features figures are of."""
        if self.distances is None:
            return ""
        return (
            "Fréchet and kernel distance, precision and recall are of the features of"
            f" {self.distances.network}. Published figures are of Inception-v3, and cannot stand"
            " beside them."
        )

    def figures(self) -> Iterator[tuple[str, str]]:
        """(name, value), for people."""
        yield "samples", f"{self.made:,} beside {self.real:,} of split {self.split}"
        yield "sliced Wasserstein distance", f"{self.sliced:.4f}"
        yield "the same of training rows", f"{self.floor:.4f}"
        yield (
            "distance to the nearest training row, over that of real rows",
            f"{self.neighbour:.3f}",
        )
        if self.distances is not None:
            found = self.distances
            yield f"Frechet distance, {found.network}", f"{found.frechet:.3f}"
            yield (
                f"kernel distance, {found.network}",
                f"{found.kernel:.5f} +- {found.kernel_spread:.5f}",
            )
            yield f"precision, {found.network}", f"{found.precision:.3f}"
            yield f"recall, {found.network}", f"{found.recall:.3f}"


def judge_run(folder: RunFolder, *, samples: int, backbone: str | None) -> Judged:
    """Judge the newest checkpoint of a run.

    Args:
        folder: Of the run.
        samples: How many pictures are made, at most as many as there are to compare with.
        backbone: Folder or name of a model for what needs features; None = without.

    Raises:
        TesseraeError: The run, its store or the backbone cannot be opened.
    """
    painter = open_painter(folder)
    data = folder.data()
    split = data["held_out"] or data["split"]
    real = _rows(data, split, painter, samples)
    train = _rows(data, data["split"], painter, 8 * samples)
    made = painter.paint(painter.noise(len(real), SEED))
    which, far = nearest(made, train)
    real_far = nearest(real, train, 1 if data["held_out"] else 2)[1][:, -1]
    distances = None
    if backbone is not None:
        distances = judge(_bytes(made), _bytes(real), open_backbone(backbone))
    other = train[len(train) // 2 :][: len(real)]
    return Judged(
        step=painter.step,
        made=len(made),
        real=len(real),
        split=split,
        sliced=sliced_wasserstein(made, real),
        floor=sliced_wasserstein(other, real),
        neighbour=float(far[:, 0].median() / real_far.median().clamp_min(1e-9)),
        distances=distances,
        pictures=tuple(_pictures(painter, made, train, which)),
    )


def _pictures(
    painter: Painter, made: Tensor, train: Tensor, which: Tensor
) -> Iterator[tuple[str, bytes]]:
    beside = torch.stack([made[:SHOWN], train[which[:SHOWN, 0]]]).flatten(0, 1)
    yield (
        "samples, and under each the training picture that is nearest to it",
        grid_png(to_uint8(beside), columns=SHOWN),
    )
    labels = None
    if painter.classes:
        labels = (torch.arange(SHOWN) % len(painter.classes)).repeat_interleave(WAY)
    ways = painter.paint(painter.between(SHOWN, WAY, SEED), labels)
    yield "on the way from one sample to another", grid_png(to_uint8(ways), columns=WAY)


def _rows(data: dict[str, Any], split: str, painter: Painter, count: int) -> Tensor:
    """(at most count, 3, size, size) float32 in [-1, 1], in the order of the store."""
    loader = Loader(
        data["store"],
        split,
        size=data["size"],
        batch_size=64,
        order="sequential",
        drop_last=False,
        rank=0,  # a report reads every row, also one that is made under a launcher of ranks
        world=1,
    )
    as_judged = plain(painter.options, int(data["size"]))
    found: list[Tensor] = []
    for images, _, rows in loader:
        assert isinstance(images, Tensor)  # of one size
        found.append(as_judged(images, rows, 0))
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)[:count]


def _bytes(images: Tensor) -> Tensor:
    """(n, 3, h, w) uint8."""
    made: np.ndarray[Any, np.dtype[np.uint8]] = to_uint8(images)
    return torch.from_numpy(made).permute(0, 3, 1, 2)
