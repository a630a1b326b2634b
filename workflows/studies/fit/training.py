"""New networks: each is trained on the squares of one fit, and evaluated on those of every fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.loader import Loader
from workflows.classify.options import ClassifyOptions
from workflows.classify.stage import TOP, Classify
from workflows.studies.fit import FITS
from workflows.studies.fit.options import FitOptions
from workflows.studies.fit.photographs import EVALUATED, TRAIN
from workflows.studies.fit.shapes import SHAPES, elongation, shape_of
from workflows.studies.fit.stores import EvaluatedImages, FitStores
from workflows.training.errors import DivergedError
from workflows.training.stage import Data
from workflows.training.world import World

EVALUATION_ROWS = 256
"""The number of images that are evaluated at once."""
WARMUP_SHARE, MAX_WARMUP_EPOCHS = 0.2, 2.0
"""The share of the epochs in which the learning rate rises, and the largest number of those."""
PADDING_SHARE = 1 / 8
"""The width of the reflected border from which training squares are cut, as a share of the size."""


@dataclass(frozen=True)
class Training:
    """Everything that the runs of a study share."""

    options: FitOptions
    """The options of the study."""
    stores: FitStores
    """The store of each fit."""
    images: EvaluatedImages
    """The evaluated images."""

    def recipe(self, seed: int) -> ClassifyOptions:
        """Return the options of the stage, which are the same for every fit.

        Training squares are mirrored and shifted, and keep their scale and aspect ratio: crops of
        random area and aspect ratio would be a fit of their own.

        Args:
            seed: The seed of initial weights, order and augmentation.
        """
        options = self.options
        return ClassifyOptions(
            network=options.network,
            width=options.width,
            image_size=options.size,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            crop="random",
            padding=round(PADDING_SHARE * options.size),
            warmup_epochs=min(MAX_WARMUP_EPOCHS, WARMUP_SHARE * options.epochs),
            seed=seed,
        )

    def loader(self, fit: str, recipe: ClassifyOptions, *, train: bool) -> Loader:
        """Return a loader of the squares of a fit.

        Args:
            fit: The fit.
            recipe: The options of the stage.
            train: True for training images, in random order and whole batches; False for the
                evaluated ones, in the order of their rows.
        """
        return Loader(
            self.stores.path(fit),
            TRAIN if train else EVALUATED,
            size=self.options.size,
            batch_size=recipe.batch_size if train else EVALUATION_ROWS,
            seed=recipe.seed,
            **recipe.loader_arguments(training=train),
        )

    def check(self) -> None:
        """Refuse a network that cannot be created, or a batch larger than the training images.

        Raises:
            TesseraeError: The network cannot be created or fails on images of the size.
            StoreError: There are fewer training images than in a batch.
        """
        recipe = self.recipe(0)
        loader = self.loader(FITS[0], recipe, train=True)
        if not len(loader):
            raise StoreError(
                f"there are {loader.num_rows} readable training images, fewer than --batch-size"
                f" {recipe.batch_size}. Pass a smaller --batch-size, or more images, and another"
                " --out."
            )
        recipe.check_network(self.stores.classes)


@dataclass(frozen=True, kw_only=True)
class QueryHits:
    """The images that the network of a run recognises, with one fit of the evaluated images."""

    arm: str
    """The fit of the training images."""
    seed: int
    """The seed of the run."""
    query: str
    """The fit of the evaluated images."""
    bits: str
    """A 1 for each image whose class has the highest score, else a 0, in the order of the rows."""


def bits_of(hits: NDArray[np.bool_]) -> str:
    """Return a mask as text, a 1 for True and a 0 for False.

    Args:
        hits: The mask, (n,) bool.
    """
    return (hits.astype(np.uint8) + ord("0")).tobytes().decode()


def mask_of(bits: str) -> NDArray[np.bool_]:
    """Return the mask that `bits_of` has written, (n,) bool.

    Args:
        bits: The text, of 1 and 0.
    """
    mask: NDArray[np.bool_] = np.frombuffer(bits.encode(), np.uint8) == ord("1")
    return mask


def train_and_evaluate(
    data: Training, fit: str, seed: int
) -> tuple[Mapping[str, float], list[QueryHits]]:
    """Train a network on the squares of a fit, and evaluate it on those of every fit.

    It sets torch's global seed, and depends on nothing that ran before.

    Args:
        data: What all runs share.
        fit: The fit of the training images.
        seed: The seed of initial weights, order and augmentation; of two fits with the same seed,
            the networks begin with the same weights and see the same images in the same order.

    Returns:
        The metrics that `metric_name` names, and the recognised images for each fit of the
        evaluated ones. The metrics are top-1 accuracy for each fit, over all images and over those
        of each shape, NaN for a shape without images, and with more than 5 classes top-5 accuracy.

    Raises:
        DivergedError: The loss is NaN or infinite.
        TesseraeError: An image cannot be read.
    """
    recipe = data.recipe(seed)
    loader = data.loader(fit, recipe, train=True)
    recipe = recipe.for_rows(loader.num_rows)
    torch.manual_seed(seed)
    stage = Classify(
        recipe, Data(loader, None, data.stores.classes, sizes=(data.options.size,)), World()
    )
    try:
        while stage.step < recipe.steps:
            loss = float(stage.advance()["loss"])
            if not math.isfinite(loss):
                raise DivergedError(
                    f"training diverged: seed {seed} of the fit {fit} has the loss {loss} at step"
                    f" {stage.step:,}. Lower {recipe.options_to_lower()}, and pass another --out."
                )
    finally:
        stage.batches.close()
    metrics: dict[str, float] = {}
    recognised = []
    for query in FITS:
        of_query, hits = _evaluate(data, stage, query, recipe)
        metrics |= of_query
        recognised.append(QueryHits(arm=fit, seed=seed, query=query, bits=bits_of(hits)))
    return metrics, recognised


def metric_name(query: str, *, top: int = 1, shape: str | None = None) -> str:
    """Return the name of a metric of a run.

    Args:
        query: The fit of the evaluated images.
        top: The number of best classes among which the true one is (default 1).
        shape: The shape of the images, one of `SHAPES` (default: all images).
    """
    return f"top-{top} {query}" if shape is None else f"top-{top} {query}, {shape}"


def _evaluate(
    data: Training, stage: Classify, query: str, recipe: ClassifyOptions
) -> tuple[dict[str, float], NDArray[np.bool_]]:
    first, among = [], []
    for logits, labels in stage.held_out_logits(data.loader(query, recipe, train=False)):
        best = logits.topk(min(TOP, logits.shape[1])).indices == labels[:, None]
        first.append(best[:, 0])
        among.append(best.any(1))
    hits = torch.cat(first).numpy()
    metrics = {metric_name(query): float(hits.mean())}
    if len(data.stores.classes) > TOP:
        metrics[metric_name(query, top=TOP)] = float(torch.cat(among).numpy().mean())
    metrics |= {
        metric_name(query, shape=shape): float(hits[of_shape].mean()) if of_shape.any() else np.nan
        for shape, of_shape in _of_shapes(data.images).items()
    }
    return metrics, hits


def _of_shapes(images: EvaluatedImages) -> dict[str, NDArray[np.bool_]]:
    shapes = shape_of(elongation(images.widths, images.heights))
    return {name: shapes == index for index, name in enumerate(SHAPES)}
