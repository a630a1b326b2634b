"""The evaluation of a run: samples of its generator compared with held-out images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone.load import open_backbone
from pipeline.loader import Loader
from workflows.evaluation.generative import FeatureMetrics, NearestSearch, compare_images
from workflows.evaluation.options import EvaluationOptions
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.training.image_grid import grid_png, to_uint8
from workflows.training.run_folder import RunFolder
from workflows.wgan.sampling import INTERPOLATION_STEPS, Sampler, open_sampler
from workflows.wgan.stage import gan_evaluation_augmentation

EXAMPLES = 8
"""The number of samples shown with their neighbours, and of interpolations shown."""
SEED = 1
"""The seed of the samples."""
MAX_QUERIES = 1_000
"""The maximum number of samples, and of real rows, whose nearest training row is searched."""
BATCH_ROWS = 64
"""The number of real rows read at once."""
BLOCK_ROWS = 1_024
"""The number of training rows read and searched at once."""


@dataclass(frozen=True)
class WganEvaluation:
    """The metrics and images of an evaluated run, a `workflows.runs.report.RunEvaluation`."""

    step: int
    """The number of complete steps at the checkpoint."""
    num_samples: int
    """The number of samples, that is, of generated images."""
    num_real: int
    """The number of real images that they are compared with."""
    split: str
    """The split of the real images."""
    sliced_distance: float
    """The sliced Wasserstein distance between samples and real images, pixels in [-1, 1]."""
    baseline_distance: float | None
    """The distance between other training images and the same real images, which samples seldom
    fall below; None = there are no others."""
    neighbour_ratio: float
    """The median distance of samples to their nearest training image, divided by that of real
    images; far below 1 suggests that the generator repeats training images."""
    searched: tuple[int, int]
    """The number of queries, samples and as many real images, and of training images searched."""
    num_distinct: int
    """The number of different images among the samples."""
    feature_metrics: FeatureMetrics | None
    """The metrics that need the features of a network; None without a backbone."""
    images: tuple[tuple[str, bytes], ...]
    """The captions and PNG files of the images."""

    @property
    def tables(self) -> tuple[()]:
        """No tables: the figures are a single list."""
        return ()

    @property
    def notice(self) -> str:
        """Cautions about the metrics, for the report; empty if there are none."""
        parts = []
        if self.num_distinct < self.num_samples:
            parts.append(
                f"Only {self.num_distinct:,} of {self.num_samples:,} samples are distinct images:"
                " precision does not detect repeated images."
            )
        if self.feature_metrics is not None:
            parts.append(
                "Fréchet and kernel distance, precision, recall and coverage use the features of"
                f" {self.feature_metrics.network}. They are not comparable with published values,"
                " which use Inception-v3."
            )
            parts.append(self.feature_metrics.warning)
        return " ".join(filter(None, parts))

    def metrics(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the formatted value of each metric."""
        yield (
            "samples",
            f"{self.num_samples:,}, compared with {self.num_real:,} images of split {self.split}",
        )
        yield (
            f"sliced Wasserstein distance of samples to {self.split}",
            f"{self.sliced_distance:.4f}",
        )
        if self.baseline_distance is not None:
            yield (
                f"sliced Wasserstein distance of training images to {self.split}",
                f"{self.baseline_distance:.4f}",
            )
        queries, rows = self.searched
        yield (
            "nearest-neighbour distance ratio",
            f"{self.neighbour_ratio:.3f} ({queries:,} samples and as many real images, searched"
            f" among all {rows:,} training images)",
        )
        if self.feature_metrics is not None:
            metrics = self.feature_metrics
            yield f"Fréchet distance, {metrics.network}", f"{metrics.frechet:.3f}"
            yield (
                f"kernel distance, {metrics.network}",
                f"{metrics.kernel:.5f} ± {metrics.kernel_spread:.5f}",
            )
            yield f"precision, {metrics.network}", f"{metrics.precision:.3f}"
            yield f"recall, {metrics.network}", f"{metrics.recall:.3f}"
            yield f"coverage, {metrics.network}", f"{metrics.coverage:.3f}"


def evaluate_gan_run(
    folder: RunFolder,
    *,
    samples: int,
    backbone: str | None,
    device: torch.device | None = None,
    store: str | None = None,
) -> WganEvaluation:
    """Evaluate the newest checkpoint of a run, and return its metrics and images; write nothing.

    The real images are the first rows of the held-out split, or of the training split if the run
    has none; all training images are searched for neighbours.

    Args:
        folder: The run folder.
        samples: Maximum number of real images, at least 1; as many images are generated as there
            are real ones.
        backbone: Folder or hub name of a model of `transformers` for the metrics that need
            features; None = no such metrics.
        device: The device that generates and compares images (default: the CPU).
        store: Location of the run's store (default: as recorded in the run, or beside the run).

    Returns:
        The `step` of the checkpoint; the numbers of images, `num_samples` generated ones, of which
        `num_distinct` differ, and `num_real`, and the `split` of the latter; `sliced_distance`, the
        sliced Wasserstein distance of samples to real images, and `baseline_distance`, that of
        other training images to them (None if there are no others); `neighbour_ratio`, the median
        distance of at most 1,000 samples to their nearest training image, divided by that of as
        many real images; `searched`, the numbers of these samples and of all training images;
        `feature_metrics`, the result of `workflows.evaluation.generative.compare_images`, None
        without a backbone; and `images`, pairs of a caption and the bytes of a PNG file. The method
        `metrics` yields the name and the text of each figure.

    Raises:
        TesseraeError: The run is of another stage, has no checkpoint or has diverged, or its store
            or the backbone cannot be opened.
        ValueError: A backbone is given and there are three images or fewer.
        NonFiniteError: An image or a feature contains NaN or infinity.
    """
    device = device or torch.device("cpu")
    sampler = open_sampler(folder, device)
    data = {**folder.data(), "store": folder.store(store)}
    split = data["held_out"] or data["split"]
    real = _first(_real_image_blocks(data, split, sampler, BATCH_ROWS), samples)
    generated = torch.cat([block.half() for block in _generated_samples(sampler, len(real))])
    # Without a held-out split the real rows are training rows, each its own nearest neighbour.
    num_overlap = 0 if data["held_out"] else len(real)
    search = _search(data, sampler, generated, real, num_overlap)
    feature_metrics = None
    if backbone is not None:
        opened = open_backbone(backbone, device)
        feature_metrics = compare_images(
            _as_uint8(generated), _as_uint8(real), opened, device=str(device)
        )
    return WganEvaluation(
        step=sampler.step,
        num_samples=len(generated),
        num_real=len(real),
        split=split,
        sliced_distance=sliced_wasserstein(generated, real, device=device),
        baseline_distance=sliced_wasserstein(search.baseline, real, device=device)
        if len(search.baseline)
        else None,
        neighbour_ratio=search.ratio,
        searched=(search.queries, search.rows),
        num_distinct=len({image.numpy().tobytes() for image in _as_uint8(generated)}),
        feature_metrics=feature_metrics,
        images=tuple(_images(sampler, generated, search.nearest)),
    )


def evaluate_for_report(
    folder: RunFolder, options: EvaluationOptions, device: torch.device
) -> WganEvaluation:
    """Evaluate the newest checkpoint of a run with the options of `tesserae report`; write nothing.

    Args:
        folder: The run folder.
        options: The options. `samples` is the maximum number of real and of generated images, 8 or
            more, `backbone` the model for metrics that need features (None = no such metrics), and
            `store` the location of the run's store (None = as recorded in the run, or beside the
            run). The other options have no effect.
        device: The device that generates and compares images.

    Returns:
        The `step` of the checkpoint; the numbers of images, `num_samples` generated ones, of which
        `num_distinct` differ, and `num_real`, and the `split` of the latter; `sliced_distance`, the
        sliced Wasserstein distance of samples to real images, and `baseline_distance`, that of
        other training images to them (None if there are no others); `neighbour_ratio`, the median
        distance of at most 1,000 samples to their nearest training image, divided by that of as
        many real images; `searched`, the numbers of these samples and of all training images;
        `feature_metrics`, the result of `workflows.evaluation.generative.compare_images`, None
        without a backbone; and `images`, pairs of a caption and the bytes of a PNG file. The method
        `metrics` yields the name and the text of each figure.

    Raises:
        TesseraeError: The run is of another stage, has no checkpoint or has diverged, or its store
            or the backbone cannot be opened.
        ValueError: A backbone is given and there are three images or fewer.
        NonFiniteError: An image or a feature contains NaN or infinity.
    """
    return evaluate_gan_run(
        folder,
        samples=options.samples,
        backbone=options.backbone,
        device=device,
        store=options.store,
    )


def _generated_samples(sampler: Sampler, count: int) -> Iterator[Tensor]:
    """Yield all samples in blocks; seed and order are those of earlier versions' reports."""
    noise = sampler.noise(count, SEED)
    labels = torch.arange(count) % len(sampler.classes) if sampler.classes else None
    for start in range(0, count, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        yield sampler.generate(noise[part], None if labels is None else labels[part])


@dataclass(frozen=True)
class _SearchResult:
    """The result of a search among all training rows."""

    queries: int
    """The number of samples, and of real rows, that were searched for."""
    rows: int
    """The number of training rows."""
    ratio: float
    """The nearest-neighbour distance of samples, divided by that of real rows (medians)."""
    nearest: Tensor
    """(at most `EXAMPLES`, 3, size, size): the training rows nearest to the first samples."""
    baseline: Tensor
    """Training rows other than the real rows, at most as many."""


def _search(
    data: dict[str, Any], sampler: Sampler, generated: Tensor, real: Tensor, num_overlap: int
) -> _SearchResult:
    """Search all training rows, which are read once, for neighbours of samples and real rows.

    Args:
        data: The data section of the run, with the current location of the store.
        sampler: The generator, with its device.
        generated: The samples.
        real: The real rows that they are compared with.
        num_overlap: Number of first rows of the training split that are the real rows; 0 if they
            are of a held-out split.
    """
    count = min(len(generated), MAX_QUERIES)
    device = sampler.device
    near_samples = NearestSearch(generated[:count].to(device))
    near_real = NearestSearch(real[:count].to(device), 2 if num_overlap else 1)
    neighbours = generated[:EXAMPLES].float().clone()
    baseline: list[Tensor] = []
    blocks = _real_image_blocks(data, data["split"], sampler, BLOCK_ROWS)
    for images in blocks:
        start = near_samples.num_searched
        device_images = images.to(device)
        near_samples.add(device_images)
        near_real.add(device_images)
        for index, row in enumerate(near_samples.rows[:EXAMPLES, 0].tolist()):
            if row >= start:
                neighbours[index] = images[row - start]
        if sum(map(len, baseline)) < len(real):
            baseline.append(images[max(0, num_overlap - start) :].half())
    real_distance = near_real.distances[:, -1].median().clamp_min(1e-9)
    return _SearchResult(
        queries=count,
        rows=near_samples.num_searched,
        ratio=float(near_samples.distances[:, 0].median() / real_distance),
        nearest=neighbours,
        baseline=torch.cat(baseline)[: len(real)],
    )


def _images(sampler: Sampler, generated: Tensor, neighbours: Tensor) -> Iterator[tuple[str, bytes]]:
    pairs = torch.stack([generated[:EXAMPLES].float(), neighbours]).flatten(0, 1)
    yield (
        "samples, each above the nearest training image",
        grid_png(to_uint8(pairs), columns=len(neighbours)),
    )
    labels = None
    if sampler.classes:
        labels = (torch.arange(EXAMPLES) % len(sampler.classes)).repeat_interleave(
            INTERPOLATION_STEPS
        )
    interpolations = sampler.generate(
        sampler.interpolate(EXAMPLES, INTERPOLATION_STEPS, SEED), labels
    )
    yield (
        "interpolations between two samples, one in each row",
        grid_png(to_uint8(interpolations), columns=INTERPOLATION_STEPS),
    )


def _real_image_blocks(
    data: dict[str, Any], split: str, sampler: Sampler, rows: int
) -> Iterator[Tensor]:
    """Yield the rows of a split in store order, (at most *rows*, 3, size, size) float32."""
    loader = Loader(
        data["store"],
        split,
        size=data["size"],
        encoded=data["encoded"],
        batch_size=rows,
        order="sequential",
        drop_last=False,
        rank=0,  # a report reads every row, even under a launcher that sets ranks
        world=1,
    )
    normalise = gan_evaluation_augmentation(sampler.options, int(data["size"]))
    for images, _, row_numbers in loader:
        assert isinstance(images, Tensor)  # of one size
        yield normalise(images, row_numbers, 0)


def _first(blocks: Iterator[Tensor], count: int) -> Tensor:
    """Return the first *count* rows in half precision, which is finer than 8-bit pixel levels."""
    parts: list[Tensor] = []
    rows = 0
    for images in blocks:
        parts.append(images.half())
        rows += len(images)
        if rows >= count:
            break
    return torch.cat(parts)[:count]


def _as_uint8(images: Tensor) -> Tensor:
    """Convert images in [-1, 1] to (n, 3, h, w) uint8."""
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = to_uint8(images)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
