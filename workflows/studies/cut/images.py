"""The images of the study: a balanced part of two splits of a store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import StoreError, TesseraeError
from pipeline.features.extract import fitting_size
from pipeline.loader.dataset import SplitDataset
from pipeline.store import records
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from workflows.evaluation import HELD_OUT

TRAIN = "train"
"""The split that heads are trained and validated on; they are tested on val, else on test."""

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """Images of a store in memory: those to train and validate with, then those to test with."""

    store: str
    """The folder or URL of the store."""
    digests: tuple[str, str]
    """The digests of the readable rows of both splits."""
    classes: tuple[tuple[str, str], ...]
    """The wnid and the words of each class, by label."""
    images: Tensor
    """(n, 3, size, size) uint8 RGB."""
    labels: Integers
    """The label of each image, (n,) int64."""
    num_train: int
    """The number of images of the split train, which come first."""

    @property
    def train_labels(self) -> Integers:
        """The labels of the images of the split train."""
        return self.labels[: self.num_train]

    @property
    def test_labels(self) -> Integers:
        """The labels of the images of the split that is tested on."""
        return self.labels[self.num_train :]


def open_image_set(store: str, network_size: int, num_rows: int, num_test_rows: int) -> ImageSet:
    """Read a balanced part of both splits of a store.

    Args:
        store: The folder or URL of the store.
        network_size: The side in pixels of the images that the network takes: the smallest stored
            squares of at least that size are read, or else the largest.
        num_rows: The number of images of the split train; all if there are fewer.
        num_test_rows: The number of images of the split val, or of test in a store without val; all
            if there are fewer.

    Raises:
        StoreError: There is no such store or split, it is not finished, or has no squares.
        TesseraeError: A split has no labelled image.
    """
    objects = open_objects(store)
    parts, digests, size = [], [], 0
    present = records.stored_splits(objects)
    tested = next((name for name in HELD_OUT if name in present), HELD_OUT[0])
    for name, count in ((TRAIN, num_rows), (tested, num_test_rows)):
        done = records.load_finish_record(objects, name)
        stored = () if done is None else done.sizes
        size = size or fitting_size(stored, network_size)
        split = open_split(objects, name, [size] if done is None or stored else [])
        if not stored:
            raise StoreError(
                f"{store} has no squares of split {name!r}, which the study reads. Add them with"
                f" `tesserae prepare ... --sizes {network_size}`."
            )
        labels = split.labels[split.readable_rows].astype(np.int64)
        indices = balanced(labels, count)
        if not len(indices):
            raise TesseraeError(f"split {name!r} of {store} has no labelled image.")
        items = SplitDataset(store, name, size=size).__getitems__(indices.tolist())
        parts.append((torch.stack([image for image, _, _ in items]), labels[indices]))
        digests.append(split.digest)
    (train, train_labels), (test, test_labels) = parts
    return ImageSet(
        store=store,
        digests=(digests[0], digests[1]),
        classes=tuple(records.load_recipe(objects).classes),
        images=torch.cat([train, test]),
        labels=np.concatenate([train_labels, test_labels]),
        num_train=len(train_labels),
    )


def balanced(labels: Integers, count: int) -> Integers:
    """Return the indices of labelled images, equally many of each class as far as that is possible.

    The same labels and count give the same indices on every machine.

    Args:
        labels: The label of each image, (n,) int64; those of -1 are never taken.
        count: The number of images to take; all labelled ones if there are fewer.

    Returns:
        Up to *count* indices, ascending, int64.
    """
    numbers = numbers_in_classes(labels, seed=0)
    numbers[labels < 0] = np.iinfo(np.int64).max
    order = np.lexsort((labels, numbers))[: min(count, int((labels >= 0).sum()))]
    return np.sort(order).astype(np.int64)


def numbers_in_classes(labels: Integers, *, seed: int) -> Integers:
    """Number the images of each class in a random order.

    Args:
        labels: The label of each image, (n,) int64.
        seed: The seed of the order.

    Returns:
        (n,) int64: 0, 1, ... for the images of each class.
    """
    # PCG64's raw stream is stable across versions of numpy; its other methods need not be.
    drawn = np.random.Generator(np.random.PCG64(seed)).random(len(labels))
    order = np.lexsort((drawn, labels))
    ordered = labels[order]
    starts = np.searchsorted(ordered, ordered)
    numbers = np.empty(len(labels), np.int64)
    numbers[order] = np.arange(len(labels)) - starts
    return numbers
