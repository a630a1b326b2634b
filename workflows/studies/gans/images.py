"""The images of the studies, held in memory: training rows, and held-out rows to compare with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.augment import Augment
from pipeline.errors import StoreError
from pipeline.loader import Loader
from pipeline.store import records
from pipeline.store.open import open_objects
from workflows.training.image_rows import choose_rows
from workflows.wgan.options import WganOptions
from workflows.wgan.stage import RGB

READ_ROWS = 256
"""The number of rows read at once."""
MAX_HELD_OUT = 2_000
"""The maximum number of held-out images."""
HELD_OUT_SHARE = 0.1
"""The share of a split that is held out where there is no split for it."""
MIN_HELD_OUT, MIN_TRAIN = 16, 64
"""The smallest numbers of held-out and of training images."""


@dataclass(frozen=True, kw_only=True)
class StudyImages:
    """The images of a study."""

    store: str
    """The folder or URL of their store."""
    train: Tensor
    """The training rows, (n, 3, size, size) uint8."""
    labels: Tensor
    """Their labels, (n,) int64; -1 = none."""
    held_out: Tensor
    """The held-out rows, (m, 3, size, size) uint8, which are not trained on."""
    num_classes: int
    """The number of classes of the store."""
    identity: str
    """The digests of the plans of both splits, and the stored arrays that were read."""
    description: str
    """The images in a phrase, with their numbers."""

    @property
    def is_labelled(self) -> bool:
        """True if there are two classes or more, and every training row has a label."""
        return self.num_classes > 1 and bool((self.labels >= 0).all())


def open_images(
    store: str, split: str, held_out: str | None, *, image_size: int, max_images: int
) -> StudyImages:
    """Read the images of a study into memory, reduced to one size.

    Larger stored images are resized with antialiasing. Rows of a store are in random order, so the
    first ones of a split are a random sample.

    Args:
        store: Folder or URL of the store.
        split: The split to train on.
        held_out: The split to compare with; None holds out the last tenth of the training split.
        image_size: Side of the images, in pixels.
        max_images: Maximum number of training images.

    Raises:
        StoreError: The store lacks a split or images that are large enough, or has too few; or both
            splits are of the same images.
    """
    objects = open_objects(store)
    recipe = records.load_recipe(objects)
    plans = [records.load_plan(objects, name) for name in (split, held_out) if name is not None]
    if len({plan.listing for plan in plans}) < len(plans):
        raise StoreError(
            f"splits {split!r} and {held_out!r} of {store} have the same images: samples would be"
            " compared with images that are trained on. Pass another --held-out, or omit it, so"
            " that a part of the split is held out."
        )
    train, labels, array = _read(store, split, image_size, max_images)
    arrays = [array]
    if held_out is None:
        count = min(MAX_HELD_OUT, round(HELD_OUT_SHARE * len(train)))
        train, held_out_rows = train[: len(train) - count], train[len(train) - count :]
        labels = labels[: len(train)]
        source = f"the last rows of split {split}"
    else:
        held_out_rows, _, array = _read(store, held_out, image_size, MAX_HELD_OUT)
        arrays.append(array)
        source = f"split {held_out}"
    if len(train) < MIN_TRAIN or len(held_out_rows) < MIN_HELD_OUT:
        raise StoreError(
            f"{store} has {len(train):,} training and {len(held_out_rows):,} held-out images:"
            f" expected at least {MIN_TRAIN} and {MIN_HELD_OUT}. Pass a larger --max-images or a"
            " larger store."
        )
    return StudyImages(
        store=store,
        train=train,
        labels=labels,
        held_out=held_out_rows,
        num_classes=len(recipe.classes),
        identity=" ".join([*(plan.digest[:16] for plan in plans), *arrays]),
        description=(
            f"{len(train):,} training images of split {split} and {len(held_out_rows):,} held-out"
            f" ones of {source}, at {image_size} px"
        ),
    )


def as_floats(images: Tensor) -> Tensor:
    """Convert uint8 pixels to float32 in [-1, 1].

    Args:
        images: (n, 3, h, w) uint8, on any device.

    Returns:
        A new tensor of the same shape, on the same device.
    """
    return images.float() / 127.5 - 1


def _read(store: str, split: str, size: int, count: int) -> tuple[Tensor, Tensor, str]:
    """Return the first rows of a split, their labels, and the name of the array they are from."""
    rows = choose_rows(store, split, WganOptions(image_size=size))
    loader = Loader(
        store,
        split,
        size=rows.size,
        encoded=rows.encoded,
        batch_size=READ_ROWS,
        order="sequential",
        drop_last=False,
        rank=0,  # a study reads every row, even under a launcher that sets ranks
        world=1,
    )
    resize = Augment(size=size, crop="none", flip=False, mean=RGB, std=RGB, resize=size)
    images, labels, num_rows = [], [], 0
    for batch in loader:
        assert isinstance(batch.images, Tensor)  # one size was asked for
        floats = resize(batch.images, batch.rows, 0)
        images.append(((floats + 1) * 127.5).round().clamp(0, 255).byte())
        labels.append(batch.labels.clone())
        num_rows += len(floats)
        if num_rows >= count:
            break
    if not images:
        raise StoreError(f"{store} has no readable image in split {split!r}.")
    array = rows.encoded or f"{rows.size} px"
    return torch.cat(images)[:count], torch.cat(labels)[:count], array
