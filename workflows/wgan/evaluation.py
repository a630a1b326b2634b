"""What a finished run makes, judged beside pictures that it has not learned from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone.load import open_backbone
from pipeline.loader import Loader
from workflows.evaluation.generative import Distances, Nearest, judge
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.training.image_grid import grid_png, to_uint8
from workflows.training.run_folder import RunFolder
from workflows.wgan.sampling import Painter, open_painter
from workflows.wgan.stage import plain

SHOWN = 8
"""Pictures whose neighbours are shown, and ways from one to another."""
WAY = 10
SEED = 1
QUERIES = 1_000
"""Samples, and real rows, whose nearest training row is looked for."""
BATCH = 64
BLOCK = 1_024
"""Training rows that are read, and searched, at once."""


@dataclass(frozen=True)
class Judged:
    """Figures and pictures."""

    step: int
    made: int
    real: int
    split: str
    """Of the rows that were compared with."""
    sliced: float
    floor: float | None
    """The distance of other training rows to the same: less cannot be asked for; None = there are
    no others."""
    neighbour: float
    """Median distance of samples to their nearest training row, over that of held-out rows."""
    searched: tuple[int, int]
    """How many samples, and as many real rows, were looked for among how many training rows."""
    distinct: int
    """How many of the samples are not one and the same picture."""
    distances: Distances | None
    pictures: tuple[tuple[str, bytes], ...]
    """(what, PNG)."""

    @property
    def tables(self) -> tuple[()]:
        """None."""
        return ()

    @property
    def notice(self) -> str:
        """What the figures must not be taken for."""
        parts = []
        if self.distinct < self.made:
            parts.append(
                f"Of {self.made:,} samples {self.distinct:,} are different pictures: precision says"
                " nothing of those that are made again and again."
            )
        if self.distances is not None:
            parts.append(
                "Fréchet and kernel distance, precision, recall and coverage are of the features"
                f" of {self.distances.network}. Published figures are of Inception-v3, and cannot"
                " stand beside them."
            )
            parts.append(self.distances.warning)
        return " ".join(filter(None, parts))

    def figures(self) -> Iterator[tuple[str, str]]:
        """(name, value), for people."""
        yield "samples", f"{self.made:,} beside {self.real:,} of split {self.split}"
        yield "sliced Wasserstein distance", f"{self.sliced:.4f}"
        if self.floor is not None:
            yield "the same of training rows", f"{self.floor:.4f}"
        queries, rows = self.searched
        yield (
            "distance to the nearest training row, over that of real rows",
            f"{self.neighbour:.3f} (of {queries:,} each, among all {rows:,})",
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
            yield f"coverage, {found.network}", f"{found.coverage:.3f}"


def judge_run(
    folder: RunFolder,
    *,
    samples: int,
    backbone: str | None,
    device: torch.device | None = None,
    store: str | None = None,
) -> Judged:
    """Judge the newest checkpoint of a run.

    Args:
        folder: Of the run.
        samples: How many pictures are made, at most as many as there are to compare with.
        backbone: Folder or name of a model for what needs features; None = without.
        device: Where pictures are made and compared (the processor).
        store: Where the store of the run is now (where the run says, or beside the run).

    Raises:
        TesseraeError: The run, its store or the backbone cannot be opened.
    """
    device = device or torch.device("cpu")
    painter = open_painter(folder, device)
    data = {**folder.data(), "store": folder.store(store)}
    split = data["held_out"] or data["split"]
    real = _first(_blocks(data, split, painter, BATCH), samples)
    made = torch.cat([one.half() for one in _painted(painter, len(real))])
    # Held-out rows are none of the training rows; others are, and are nearest to themselves.
    skipped = 0 if data["held_out"] else len(real)
    found = _search(data, painter, made, real, skipped)
    distances = None
    if backbone is not None:
        opened = open_backbone(backbone, device)
        distances = judge(_bytes(made), _bytes(real), opened, device=str(device))
    return Judged(
        step=painter.step,
        made=len(made),
        real=len(real),
        split=split,
        sliced=sliced_wasserstein(made, real, device=device),
        floor=sliced_wasserstein(found.others, real, device=device) if len(found.others) else None,
        neighbour=found.ratio,
        searched=(found.queries, found.rows),
        distinct=len({picture.numpy().tobytes() for picture in _bytes(made)}),
        distances=distances,
        pictures=tuple(_pictures(painter, made, found.pictures)),
    )


def _painted(painter: Painter, count: int) -> Iterator[Tensor]:
    """All samples, some at a time: those of the report of an earlier version, in their order."""
    noise = painter.noise(count, SEED)
    labels = torch.arange(count) % len(painter.classes) if painter.classes else None
    for start in range(0, count, BLOCK):
        part = slice(start, start + BLOCK)
        yield painter.paint(noise[part], None if labels is None else labels[part])


@dataclass(frozen=True)
class _Found:
    """What a search among all training rows gave."""

    queries: int
    rows: int
    ratio: float
    pictures: Tensor
    """(at most `SHOWN`, 3, size, size): the training rows nearest to the first samples."""
    others: Tensor
    """Training rows, as many as real ones were compared with, and none of those."""


def _search(
    data: dict[str, Any], painter: Painter, made: Tensor, real: Tensor, skipped: int
) -> _Found:
    """Look for the first samples and real rows among all training rows, which are read once.

    Args:
        data: Of the run.
        painter: The generator, with its device.
        made: Samples.
        real: Rows that they are compared with.
        skipped: How many rows at the beginning of the training split are those real rows.
    """
    count = min(len(made), QUERIES)
    device = painter.device
    of_made = Nearest(made[:count].to(device))
    of_real = Nearest(real[:count].to(device), 2 if skipped else 1)
    shown = made[:SHOWN].float().clone()
    others: list[Tensor] = []
    blocks = _blocks(data, data["split"], painter, BLOCK)
    for images in blocks:
        start = of_made.seen
        near = images.to(device)
        of_made.add(near)
        of_real.add(near)
        for place, row in enumerate(of_made.rows[:SHOWN, 0].tolist()):
            if row >= start:
                shown[place] = images[row - start]
        if sum(map(len, others)) < len(real):
            others.append(images[max(0, skipped - start) :].half())
    far = of_real.distances[:, -1].median().clamp_min(1e-9)
    return _Found(
        queries=count,
        rows=of_made.seen,
        ratio=float(of_made.distances[:, 0].median() / far),
        pictures=shown,
        others=torch.cat(others)[: len(real)],
    )


def _pictures(painter: Painter, made: Tensor, near: Tensor) -> Iterator[tuple[str, bytes]]:
    beside = torch.stack([made[:SHOWN].float(), near]).flatten(0, 1)
    yield (
        "samples, and under each the training picture that is nearest to it",
        grid_png(to_uint8(beside), columns=len(near)),
    )
    labels = None
    if painter.classes:
        labels = (torch.arange(SHOWN) % len(painter.classes)).repeat_interleave(WAY)
    ways = painter.paint(painter.between(SHOWN, WAY, SEED), labels)
    yield "on the way from one sample to another", grid_png(to_uint8(ways), columns=WAY)


def _blocks(data: dict[str, Any], split: str, painter: Painter, rows: int) -> Iterator[Tensor]:
    """All rows of a split in the order of the store: (at most rows, 3, size, size) float32."""
    loader = Loader(
        data["store"],
        split,
        size=data["size"],
        batch_size=rows,
        order="sequential",
        drop_last=False,
        rank=0,  # a report reads every row, also one that is made under a launcher of ranks
        world=1,
    )
    as_judged = plain(painter.options, int(data["size"]))
    for images, _, which in loader:
        assert isinstance(images, Tensor)  # of one size
        yield as_judged(images, which, 0)


def _first(blocks: Iterator[Tensor], count: int) -> Tensor:
    """The first *count* rows, in half precision: a level of a picture is sixteen steps of it."""
    found: list[Tensor] = []
    rows = 0
    for images in blocks:
        found.append(images.half())
        rows += len(images)
        if rows >= count:
            break
    return torch.cat(found)[:count]


def _bytes(images: Tensor) -> Tensor:
    """(n, 3, h, w) uint8."""
    made: np.ndarray[Any, np.dtype[np.uint8]] = to_uint8(images)
    return torch.from_numpy(made).permute(0, 3, 1, 2)
