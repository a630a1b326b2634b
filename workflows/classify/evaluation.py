"""The evaluation of a classifier: accuracy, confusion and calibration, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from pipeline.errors import TesseraeError
from pipeline.store import records
from pipeline.store.open import open_objects
from workflows.classify.model import TrainedClassifier, open_classifier
from workflows.classify.stage import TOP
from workflows.evaluation.evaluated_run import EvaluatedRun
from workflows.evaluation.evaluated_split import evaluated_split
from workflows.evaluation.options import EvaluationOptions
from workflows.reports.table import Table
from workflows.training.image_grid import grid_png
from workflows.training.run_folder import RunFolder

BINS = 15
"""The number of bins of confidence of the calibration error, as in Guo et al. 2017."""
DRAWS = 1_000
"""The number of bootstrap draws of images for the interval of the calibration error."""
MAX_LISTED_CLASSES = 50
"""The number of classes that are listed at either end of a long table."""
MAX_PAIRS = 20
"""The number of pairs of classes that are listed as confused."""
MAX_MATRIX_CLASSES = 250
"""The number of classes, at most, of which the matrix of confusions is drawn."""
CELL_PIXELS = 480
"""The side of the drawn matrix, about, in pixels."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of a classifier for n images."""

    labels: NDArray[np.int64]
    """(n,) the true classes, as labels of the run."""
    predicted: NDArray[np.int64]
    """(n,) the classes with the highest score."""
    confidence: NDArray[np.float64]
    """(n,) the probabilities of those, 0 to 1."""
    in_top: NDArray[np.bool_]
    """(n,) True if the true class is among the 5 with the highest scores."""
    losses: NDArray[np.float64]
    """(n,) the cross entropy."""
    among_shared: NDArray[np.bool_]
    """(n,) True if the true class has the highest score among the evaluated ones."""

    @property
    def hits(self) -> NDArray[np.bool_]:
        """(n,) True if the true class has the highest score."""
        hits: NDArray[np.bool_] = self.labels == self.predicted
        return hits


def evaluate_for_report(
    folder: RunFolder, options: EvaluationOptions, device: torch.device
) -> EvaluatedRun | None:
    """Evaluate the newest checkpoint of a run with the options of `tesserae report`; write nothing.

    Args:
        folder: The run folder.
        options: The options. `split` is the split to evaluate on (None = that of the run, else
            `val` or `test`), `evaluation_store` another store to evaluate on, and `store` the
            location of the run's store (None = as recorded). The other options have no effect.
        device: The device that computes.

    Returns:
        The evaluation; None, after a notice, if neither the run nor the options name a split and
        the store has no `val` or `test`.

    Raises:
        TesseraeError: The run is of another stage, has no checkpoint or has diverged; its store
            cannot be opened; the split has no labelled image; or the classes of the other store are
            none of the run's.
    """
    trained = open_classifier(folder.path, device)
    store = options.evaluation_store or folder.store(options.store)
    is_other = options.evaluation_store is not None
    label_map = _shared_labels(trained, store)  # first, as it refuses what is no store
    split = options.split or evaluated_split(folder, store, is_other=is_other)
    if split is None:
        print("notice: the run is not evaluated: pass --split, one of"
              f" {', '.join(records.stored_splits(open_objects(store)))}.")  # fmt: skip
        return None
    predictions = predict(trained, store, split, label_map)
    shared = np.unique(list(label_map.values()))
    num_images = len(predictions.labels)
    where = f"split {split}" + (f" of {store}" if is_other else "")
    notice = ""
    if len(label_map) < len(records.load_recipe(open_objects(store)).classes):
        notice = (
            f"Images of classes that the run does not know were left out: {len(label_map):,}"
            " classes are evaluated."
        )
    return EvaluatedRun(
        step=trained.step,
        metric_texts=(
            ("images", f"{num_images:,}, of {where}"),
            *_metric_texts(predictions, trained, len(shared)),
        ),
        tables=tuple(_tables(predictions, trained)),
        images=tuple(_images(predictions, trained)),
        notice=notice,
    )


def _shared_labels(trained: TrainedClassifier, store: str) -> dict[int, int]:
    """Return the label in the run of each label in a store, for the classes that both have."""
    classes = records.load_recipe(open_objects(store)).classes
    of_run = {wnid: label for label, wnid in enumerate(trained.wnids)}
    shared = {label: of_run[wnid] for label, (wnid, _) in enumerate(classes) if wnid in of_run}
    if not shared:
        raise TesseraeError(
            f"{store} has classes such as {', '.join(wnid for wnid, _ in classes[:3])}, and the run"
            f" was trained on {', '.join(trained.wnids[:3])}, ...: they share none. Pass a store of"
            " the same classes."
        )
    return shared


def predict(
    trained: TrainedClassifier, store: str, split: str, label_map: dict[int, int]
) -> Predictions:
    """Return what a classifier says of the labelled images of a split.

    Args:
        trained: The classifier.
        store: Folder or URL of the store.
        split: Name of the split.
        label_map: The label in the run of each label in the store whose images are evaluated.

    Raises:
        TesseraeError: The split has no images of the size, or none of these classes.
    """
    loader = trained.loader(store, split, sorted(label_map))
    if not len(loader):
        raise TesseraeError(
            f"split {split!r} of {store} has no readable image with a label that the run knows."
            " Pass another --split."
        )
    of_run = torch.tensor([label_map.get(label, -1) for label in range(max(label_map) + 1)])
    shared = torch.zeros(len(trained.wnids), dtype=torch.bool)
    shared[list(label_map.values())] = True
    parts = []
    for scores, stored_labels in trained.scores(loader):
        labels = of_run[stored_labels]
        probabilities = scores.softmax(1)
        confidence, predicted = probabilities.max(1)
        top = scores.topk(min(TOP, scores.shape[1])).indices
        among_shared = scores.masked_fill(~shared, -torch.inf).argmax(1)
        losses = nn.functional.cross_entropy(scores, labels, reduction="none")
        parts.append(
            (labels, predicted, confidence, (top == labels[:, None]).any(1), losses,
             among_shared == labels)
        )  # fmt: skip
    columns: list[Any] = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
    return Predictions(
        labels=columns[0],
        predicted=columns[1],
        confidence=columns[2].astype(np.float64),
        in_top=columns[3],
        losses=columns[4].astype(np.float64),
        among_shared=columns[5],
    )


# --- figures --------------------------------------------------------------------------------------


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Wilson's score (Wilson 1927).

    Args:
        hits: Number of successes, at most *count*.
        count: Number of trials, at least 1.
    """
    interval = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def calibration_error(
    confidence: NDArray[np.float64],
    hits: NDArray[np.bool_],
    counts: NDArray[np.int64] | None = None,
) -> float:
    """Return the expected calibration error (Guo et al.: On Calibration, ICML 2017).

    It is the mean difference of confidence and accuracy over 15 bins of confidence of equal width,
    weighted by their images: 0 if of the images with a confidence of p a share of p is right.

    Args:
        confidence: (n,) the probabilities of the predicted classes, 0 to 1.
        hits: (n,) True if the predicted class is the true one.
        counts: (n,) how often each image counts (default: once).
    """
    weights = np.ones(len(hits)) if counts is None else counts
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights * (confidence - hits), minlength=BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def _metric_texts(
    predictions: Predictions, trained: TrainedClassifier, num_shared: int
) -> Iterator[tuple[str, str]]:
    num_classes = len(trained.wnids)
    yield "top-1 accuracy", _share_text(predictions.hits)
    if num_classes > TOP:
        yield "top-5 accuracy", _share_text(predictions.in_top)
    if num_shared < num_classes:
        name = f"top-1 accuracy among the {num_shared:,} classes of the store"
        yield name, _share_text(predictions.among_shared)
    labels = predictions.labels
    counts = np.bincount(labels, minlength=num_classes)
    means = np.bincount(labels, predictions.hits, minlength=num_classes)[counts > 0]
    yield "mean accuracy of classes", f"{(means / counts[counts > 0]).mean():.1%}"
    losses = predictions.losses
    margin = 1.96 * losses.std(ddof=1) / np.sqrt(len(losses)) if len(losses) > 1 else np.nan
    yield "cross entropy", f"{losses.mean():.3f} ± {margin:.3f}"
    yield "calibration error", _calibration_text(predictions)
    if trained.options.mirrored_evaluation:
        yield "mirror images", "the scores of each image and its mirror image are averaged"


def _share_text(hits: NDArray[np.bool_]) -> str:
    low, high = wilson_interval(int(hits.sum()), len(hits))
    return f"{hits.mean():.1%} (95 % {low:.1%} to {high:.1%})"


def _calibration_text(predictions: Predictions) -> str:
    generator = np.random.default_rng(0)
    n = len(predictions.labels)
    draws = [
        calibration_error(
            predictions.confidence,
            predictions.hits,
            np.bincount(generator.integers(n, size=n), minlength=n),
        )
        for _ in range(DRAWS if n <= 100_000 else DRAWS // 10)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    value = calibration_error(predictions.confidence, predictions.hits)
    return f"{value:.3f} (95 % {low:.3f} to {high:.3f}, {BINS} bins)"


def _tables(predictions: Predictions, trained: TrainedClassifier) -> Iterator[Table]:
    yield _class_table(predictions, trained)
    pairs = _confused_pairs(predictions, trained)
    if pairs:
        yield Table(
            "Most frequent confusions",
            ("class", "taken for", "images", "share of the class"),
            pairs,
            text_columns=("class", "taken for"),
        )
    yield _calibration_table(predictions)


def _class_table(predictions: Predictions, trained: TrainedClassifier) -> Table:
    rows = []
    for label in np.unique(predictions.labels).tolist():
        of_class = predictions.labels == label
        hits = predictions.hits[of_class]
        low, high = wilson_interval(int(hits.sum()), len(hits))
        accuracy = f"{hits.mean():.1%}"
        rows.append((float(hits.mean()), trained.names[label], f"{len(hits):,}", accuracy,
                     f"{low:.1%} to {high:.1%}"))  # fmt: skip
    rows.sort(key=lambda row: (-row[0], row[1]))
    listed = [row[1:] for row in rows]
    title = "Classes, by accuracy"
    if len(listed) > 2 * MAX_LISTED_CLASSES:
        title = f"The {MAX_LISTED_CLASSES} classes of highest and of lowest accuracy"
        listed = [*listed[:MAX_LISTED_CLASSES], *listed[-MAX_LISTED_CLASSES:]]
    columns = ("class", "images", "accuracy", "95 % interval")
    return Table(title, columns, listed, text_columns=("class", "95 % interval"))


def _confused_pairs(
    predictions: Predictions, trained: TrainedClassifier
) -> list[tuple[str, str, str, str]]:
    wrong = ~predictions.hits
    num_classes = len(trained.wnids)
    codes = predictions.labels[wrong] * num_classes + predictions.predicted[wrong]
    pairs, counts = np.unique(codes, return_counts=True)
    totals = np.bincount(predictions.labels, minlength=num_classes)
    order = np.lexsort((pairs, -counts))[:MAX_PAIRS]
    return [
        (
            trained.names[pair // num_classes],
            trained.names[pair % num_classes],
            f"{count:,}",
            f"{count / totals[pair // num_classes]:.1%}",
        )
        for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    ]


def _calibration_table(predictions: Predictions) -> Table:
    bins = np.minimum((predictions.confidence * BINS).astype(int), BINS - 1)
    rows = []
    for index in range(BINS):
        inside = bins == index
        if inside.any():
            rows.append((
                f"{index / BINS:.2f} to {(index + 1) / BINS:.2f}", f"{inside.sum():,}",
                f"{predictions.confidence[inside].mean():.1%}",
                f"{predictions.hits[inside].mean():.1%}",
            ))  # fmt: skip
    return Table("Calibration", ("confidence", "images", "mean confidence", "accuracy"), rows,
                 text_columns=("confidence",))  # fmt: skip


def _images(predictions: Predictions, trained: TrainedClassifier) -> Iterator[tuple[str, bytes]]:
    num_classes = len(trained.wnids)
    if num_classes > MAX_MATRIX_CLASSES:
        return
    codes = predictions.labels * num_classes + predictions.predicted
    counts = np.bincount(codes, minlength=num_classes**2).reshape(num_classes, num_classes)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    shades = (255 * (1 - shares)).round().astype(np.uint8)
    scale = max(1, CELL_PIXELS // num_classes)
    enlarged = shades.repeat(scale, 0).repeat(scale, 1)
    yield (
        "confusions: a row for each true class, a column for each predicted one, in the order of"
        " labels; darker is a larger share of the row",
        grid_png(np.stack([enlarged] * 3, 2)[None], columns=1),
    )
