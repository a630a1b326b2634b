"""Heads on the features of images: a linear probe, and DeViSE on unseen classes.

Both are ridge regressions in their dual form (Saunders et al.: Ridge regression learning algorithm
in dual variables, ICML 1998), which is exact for any number of features and needs only the inner
products of images. The penalty is chosen on validation images or classes, and the head that was
chosen is tested; it is not trained again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.wordvectors.vectors import ClassVectors
from workflows.devise.accuracy import LabelledImages, hit_rate_of_part, identical_groups
from workflows.devise.class_splits import LEFT_OUT, SEEN, UNSEEN, VALIDATION, class_parts
from workflows.devise.word_space import l2_normalise, move_origin
from workflows.studies.cut.images import ImageSet, Integers, numbers_in_classes

PENALTIES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""The penalties to choose from, in units of the mean squared length of the centred features."""
VALIDATION_SHARE = 0.2
"""The share of each class's images of the split train that chooses the probe's penalty."""
SELECTION_K = 5
"""The k of the hit@k on validation classes that chooses the penalty of DeViSE's head."""
KS = (1, 5)
"""The k of hit@k on unseen classes."""
RANDOM_DIM = 300
"""The dimension of the random class vectors of the control."""

Doubles = NDArray[np.float64]


class KernelRidge:
    """A ridge regression with an offset, from the features of some images to any targets."""

    def __init__(self, products: Doubles, train: Integers) -> None:
        """Centre the inner products by the mean of the training images.

        Args:
            products: The inner products of m images and all n images, (m, n) float64, where the m
                images are the first of the n.
            train: The indices of the t training images, (t,) int64, each below m.
        """
        block = products[train]
        means = block.mean(0)
        centred = block - means - means[train][:, None] + means[train].mean()
        self._products = torch.from_numpy(centred)
        self._system = self._products[:, torch.from_numpy(train)]
        # Features that are all equal have the length 0, and any unit will do.
        self._unit = float(self._system.diagonal().mean()) or 1.0

    def predictor(self, targets: Doubles, penalty: float) -> Callable[[Integers], Doubles]:
        """Fit the regression to targets.

        Args:
            targets: The targets of the training images, (t, d) float64.
            penalty: The weight of the squared weights beside the sum of squared errors, above 0, in
                units of the mean squared length of the centred features.

        Returns:
            A function from indices of images, (q,) int64, to predictions, (q, d) float64.
        """
        offset = targets.mean(0)
        system = self._system + penalty * self._unit * torch.eye(len(targets), dtype=torch.float64)
        factor = torch.linalg.cholesky(system)
        weights = torch.cholesky_solve(torch.from_numpy(targets - offset), factor)

        def predict(rows: Integers) -> Doubles:
            predictions = self._products[:, torch.from_numpy(rows)].T @ weights
            return np.asarray(predictions.numpy() + offset)

        return predict


@dataclass(frozen=True)
class ProbeTask:
    """A linear probe: classes, and the images of a seed to train, validate and test with."""

    train: Integers
    """The indices of the training images."""
    validation: Integers
    """The indices of the validation images, of the split train as well."""
    test: Integers
    """The indices of the test images, of the split val."""
    labels: Integers
    """The label of each image, (n,) int64."""

    @property
    def chance(self) -> float:
        """The accuracy of always answering with the most frequent class of the test images."""
        counts = np.bincount(self.labels[self.test])
        return float(counts.max() / counts.sum())


def probe_task(
    images: ImageSet, allowed: NDArray[np.bool_], *, seed: int, num_seeds: int
) -> ProbeTask:
    """Draw the images of a linear probe.

    Each seed validates with other images of the split train, and tests with another part of those
    of the split val: the parts do not overlap, so that means over seeds count each image once.

    Args:
        images: The images.
        allowed: (C,) bool: True for the classes to tell apart. Classes with fewer than two images
            of the split train are left out.
        seed: The seed, from 0.
        num_seeds: The number of seeds, and so of parts of the test images.

    Raises:
        TesseraeError: Fewer than two classes are left, or a part has no image of them.
    """
    counts = np.bincount(images.train_labels, minlength=len(allowed))
    probed = allowed & (counts >= 2)
    if probed.sum() < 2:
        raise TesseraeError(
            f"{int(probed.sum())} classes of {images.store} have two images to train a probe with:"
            " expected 2 or more. Pass a larger --rows."
        )
    labels = images.train_labels
    numbers = numbers_in_classes(labels, seed=seed)
    num_validation = np.maximum(1, np.floor(VALIDATION_SHARE * counts)).astype(np.int64)
    is_validation = numbers < num_validation[labels]
    folds = _folds(images.test_labels, num_seeds)
    test = np.flatnonzero((folds == seed % num_seeds) & probed[images.test_labels])
    if not len(test):
        raise TesseraeError(
            f"seed {seed} has no images to test the probe with: {len(images.test_labels):,} images"
            f" of the split val are dealt to {num_seeds} seeds. Pass a larger --test-rows, or fewer"
            " --seeds."
        )
    return ProbeTask(
        train=np.flatnonzero(probed[labels] & ~is_validation),
        validation=np.flatnonzero(probed[labels] & is_validation),
        test=images.num_train + test,
        labels=images.labels,
    )


def _folds(labels: Integers, num_folds: int) -> Integers:
    """Deal images to parts, (n,) int64: each class as evenly as possible, as are all images."""
    numbers = numbers_in_classes(labels, seed=0)
    order = np.lexsort((numbers, labels))
    folds = np.empty(len(labels), np.int64)
    folds[order] = np.arange(len(labels)) % num_folds
    return folds


def run_probe(products: Doubles, task: ProbeTask) -> dict[str, float]:
    """Train a linear probe, and return its metrics.

    It is a ridge regression to one-hot targets, whose largest prediction is the answer.

    Args:
        products: The inner products of the features, (m, n) float64, as of `Gram`.
        task: The images.

    Returns:
        `top1`, the accuracy on the test images; `validation_top1`; `probe_penalty`, the penalty
        with the best accuracy on the validation images; and `probe_seconds`, the CPU time.
    """
    started = time.process_time()
    classes, targets = np.unique(task.labels[task.train], return_inverse=True)
    ridge = KernelRidge(products, task.train)
    one_hot = np.eye(len(classes))[targets]

    def accuracy(predict: Callable[[Integers], Doubles], rows: Integers) -> float:
        answers = classes[predict(rows).argmax(1)]
        return float((answers == task.labels[rows]).mean())

    predictors = {penalty: ridge.predictor(one_hot, penalty) for penalty in PENALTIES}
    reached = {p: accuracy(predict, task.validation) for p, predict in predictors.items()}
    best = max(reached, key=reached.__getitem__)
    return {
        "top1": accuracy(predictors[best], task.test),
        "validation_top1": reached[best],
        "probe_penalty": best,
        "probe_seconds": time.process_time() - started,
    }


@dataclass(frozen=True)
class DeviseTask:
    """DeViSE: the parts of the classes of a seed, and the class vectors."""

    images: ImageSet
    parts: NDArray[np.int8]
    """The part of each class, (C,) int8 (`workflows.devise.class_splits`)."""
    vectors: NDArray[np.float32]
    """The unit class vectors, (C, d) float32, centred by the mean of the seen classes."""
    random_vectors: NDArray[np.float32]
    """Random unit vectors in their place, (C, 300) float32, for the control."""

    def rows(self, part: int, *, held_out: bool) -> Integers:
        """Return the indices of the images of a part's classes in one of the splits.

        Args:
            part: `SEEN`, `VALIDATION` or `UNSEEN`.
            held_out: True for images of the split val, False for those of the split train.
        """
        rows = np.flatnonzero(self.parts[self.images.labels] == part)
        return np.asarray(rows[(rows >= self.images.num_train) == held_out])


def devise_task(
    images: ImageSet,
    classes: ClassVectors,
    new: NDArray[np.bool_],
    *,
    unseen: int,
    validation: int,
    seed: int,
) -> DeviseTask:
    """Draw the unseen and validation classes of a seed.

    Args:
        images: The images.
        classes: The word vectors of all classes, by label.
        new: (C,) bool: True for the classes from which unseen and validation classes are drawn; all
            others with a vector are seen ones.
        unseen: The number of unseen classes.
        validation: The number of validation classes.
        seed: The seed.

    Raises:
        TesseraeError: Too few classes are left to train on, or a part has no images.
    """
    parts = class_parts(
        classes.wnids, classes.has_vector & new,
        unseen=str(unseen), validation=validation, seed=seed,
    )  # fmt: skip
    parts = np.where((parts == LEFT_OUT) & classes.has_vector, SEEN, parts).astype(np.int8)
    task = DeviseTask(
        images,
        parts,
        move_origin(classes.vectors, classes.vectors[parts == SEEN].mean(0)),
        l2_normalise(np.random.default_rng(seed).standard_normal((len(parts), RANDOM_DIM))),
    )
    for name, part, held_out in (
        ("seen", SEEN, False), ("validation", VALIDATION, False), ("unseen", UNSEEN, True),
    ):  # fmt: skip
        if not len(task.rows(part, held_out=held_out)):
            option = "--test-rows" if held_out else "--rows"
            raise TesseraeError(
                f"the {name} classes of seed {seed} have no image in {images.store}: pass a larger"
                f" {option}."
            )
    return task


def run_devise(products: Doubles, task: DeviseTask) -> dict[str, float]:
    """Train a head from features to class vectors, and return its metrics on unseen classes.

    The answers are the unseen classes whose vectors have the largest cosine with the prediction.

    Args:
        products: The inner products of the features, (m, n) float64, as of `Gram`.
        task: The classes and the images.

    Returns:
        `hit1` and `hit5`, the hit@k of images of unseen classes among these, for k up to their
        number; `validation_hit5`, the hit@k of validation classes among these, with their number
        minus 1 as k if that is smaller than 5; `random_hit5`, the control with random vectors;
        `devise_penalty`, the penalty with the best hit@k on validation classes; and
        `devise_seconds`, the CPU time of both heads.
    """
    started = time.process_time()
    train = task.rows(SEEN, held_out=False)
    ridge = KernelRidge(products, train)
    metrics: dict[str, float] = {}
    controls: dict[str, float] = {}
    for vectors, results in ((task.vectors, metrics), (task.random_vectors, controls)):
        results.update(_fit_head(ridge, task, vectors, train))
    if "hit5" in controls:
        metrics["random_hit5"] = controls["hit5"]
    metrics["devise_seconds"] = time.process_time() - started
    return metrics


def _fit_head(
    ridge: KernelRidge, task: DeviseTask, vectors: NDArray[np.float32], train: Integers
) -> Mapping[str, float]:
    labels, parts = task.images.labels, task.parts
    wnids = [wnid for wnid, _ in task.images.classes]
    groups = identical_groups(task.vectors)
    targets = vectors[labels[train]].astype(np.float64)
    validation_k = min(SELECTION_K, int((parts == VALIDATION).sum()) - 1)

    def hit_rate(predict: Callable[[Integers], Doubles], part: int, k: int) -> float:
        rows = task.rows(part, held_out=part == UNSEEN)
        scores = l2_normalise(predict(rows)) @ vectors.T
        images = LabelledImages(labels[rows], wnids, parts, groups)
        return hit_rate_of_part(scores, images, part, k)

    predictors = {penalty: ridge.predictor(targets, penalty) for penalty in PENALTIES}
    reached = {p: hit_rate(f, VALIDATION, validation_k) for p, f in predictors.items()}
    best = max(reached, key=reached.__getitem__)
    num_unseen = int((parts == UNSEEN).sum())
    rates = {f"hit{k}": hit_rate(predictors[best], UNSEEN, k) for k in KS if k <= num_unseen}
    return {**rates, "validation_hit5": reached[best], "devise_penalty": best}
