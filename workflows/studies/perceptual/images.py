"""The pairs of the study: training images in memory, and held-out images that are judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import StoreError
from pipeline.loader import Loader
from pipeline.store import records
from pipeline.store.open import open_objects
from workflows.evaluation import HELD_OUT
from workflows.studies.perceptual.options import PerceptualOptions
from workflows.superres.data import PairArrays, choose_arrays
from workflows.superres.evaluated_images import UnsuitableImageError, open_folder
from workflows.superres.options import SuperresOptions
from workflows.superres.pairs import Pair
from workflows.superres.stage import pair_maker
from workflows.training.batches import SizesBatch
from workflows.training.image_rows import finished_arrays
from workflows.training.world import World

READ_ROWS = 64
"""The number of rows read at once."""
MAX_FOLDER_IMAGES = 200
"""The maximum number of images of a folder that are judged, which are held in memory."""
HELD_OUT_SHARE = 0.1
"""The share of a split that is held out where there is no split for it."""


@dataclass(frozen=True, kw_only=True)
class StudyPairs:
    """The images of the study."""

    store: str
    """The folder or URL of their store."""
    arrays: PairArrays
    """The stored squares that pairs are made of, with the scale and the degradation."""
    train: tuple[Tensor, ...]
    """The training images at each size of `arrays`, (n, 3, size, size) uint8."""
    held_out: Pair
    """The held-out images, whole."""
    folder: tuple[Pair, ...]
    """The images of the folder `--images`, one in each; empty without one."""
    identity: str
    """The digests of the splits that were read."""
    description: str
    """The images in a phrase, with their numbers."""


def open_pairs(options: PerceptualOptions) -> StudyPairs:
    """Read the images of the study into memory.

    Rows of a store are in random order, so the first ones of a split are a random sample.

    Args:
        options: The options of the study.

    Raises:
        StoreError: The store lacks a split or suitable squares, or has too few images; or both
            splits are of the same images.
        TesseraeError: The folder of further images, or an image of it, cannot be used.
    """
    stage_options = SuperresOptions(
        scale=options.scale, degradation=options.degradation, patch_size=options.patch_size
    )
    available = finished_arrays(options.store, options.split)
    arrays = choose_arrays(options.store, available, stage_options)
    if arrays.encoded is not None:
        smallest = arrays.scale * options.patch_size
        raise StoreError(
            f"{options.store} has {available}: the study reads stored squares of at least"
            f" {smallest} px. Add them with `tesserae prepare ... --sizes 72 288`."
        )
    held_out = options.held_out or _held_out_split(options)
    identity = _identity(options.store, [options.split, *([held_out] if held_out else [])])
    train = _read(options.store, options.split, arrays, options.max_images)
    if held_out is None:
        count = min(options.evaluated_images, round(HELD_OUT_SHARE * len(train[0])))
        rest = len(train[0]) - count
        judged = tuple(images[rest:] for images in train)
        train = tuple(images[:rest] for images in train)
        source = f"the last rows of split {options.split}"
    else:
        judged = _read(options.store, held_out, arrays, options.evaluated_images)
        source = f"split {held_out}"
    if len(train[0]) < options.batch_size or not len(judged[0]):
        raise StoreError(
            f"{options.store} has {len(train[0]):,} training and {len(judged[0]):,} held-out"
            f" images: expected at least a batch of {options.batch_size}, and one. Pass a smaller"
            " --batch-size, a larger --max-images, or a larger store."
        )
    make_pairs = pair_maker(
        replace(stage_options, scale=arrays.scale, degradation=arrays.degradation), whole=True
    )
    return StudyPairs(
        store=options.store,
        arrays=arrays,
        train=train,
        held_out=make_pairs(judged, torch.arange(len(judged[0])), 0),
        folder=() if options.images is None else _read_folder(options.images, arrays.scale),
        identity=identity,
        description=(
            f"{len(train[0]):,} training images of split {options.split} and {len(judged[0]):,}"
            f" held-out ones of {source}; {arrays}"
        ).rstrip("."),
    )


def _held_out_split(options: PerceptualOptions) -> str | None:
    """Return the first finished split of val and test that is not trained on, if there is one."""
    objects = open_objects(options.store)
    stored = records.stored_splits(objects)
    return next(
        (
            name
            for name in HELD_OUT
            if name in stored and name != options.split
            and records.load_finish_record(objects, name) is not None
        ),
        None,
    )  # fmt: skip


def _identity(store: str, splits: list[str]) -> str:
    """Return the digests of splits, after checking that they are of different images."""
    objects = open_objects(store)
    plans = [records.load_plan(objects, name) for name in splits]
    if len({plan.listing for plan in plans}) < len(plans):
        raise StoreError(
            f"splits {splits[0]!r} and {splits[1]!r} of {store} have the same images: the judged"
            " images would be trained on. Pass another --held-out."
        )
    return " ".join(plan.digest[:16] for plan in plans)


def _read(store: str, split: str, arrays: PairArrays, count: int) -> tuple[Tensor, ...]:
    """Return the first rows of a split at each size, (n, 3, size, size) uint8."""
    loader = Loader(
        store,
        split,
        sizes=arrays.sizes,
        batch_size=min(READ_ROWS, count),
        order="sequential",
        drop_last=False,
        rank=0,  # a study reads every row, even under a launcher that sets ranks
        world=1,
    )
    parts: list[tuple[Tensor, ...]] = []
    num_rows = 0
    for batch in loader:
        parts.append(tuple(images.clone() for images in batch.images))
        num_rows += len(batch.rows)
        if num_rows >= count:
            break
    if not parts:
        raise StoreError(f"{store} has no readable image in split {split!r}.")
    return tuple(torch.cat(of_size)[:count] for of_size in zip(*parts, strict=True))


def _read_folder(folder: Path, scale: int) -> tuple[Pair, ...]:
    """Return the images of a folder, after refusing those that cannot be judged."""
    pairs = []
    for _, pair in open_folder(folder, None, scale, MAX_FOLDER_IMAGES).pairs():
        if isinstance(pair, UnsuitableImageError):
            raise pair
        pairs.append(Pair(pair.low, pair.high))
    return tuple(pairs)


class KeyedBatches:
    """Batches of random training images, which depend on the seed and their number alone.

    They stand in for the stream of a stage, whose loader would also read the rows that are held
    out.
    """

    def __init__(self, pairs: StudyPairs, batch_size: int, seed: int, world: World) -> None:
        """Begin with the first batch.

        Args:
            pairs: The images.
            batch_size: Number of images in a batch.
            seed: Seed of the order.
            world: The world of one rank, with its device.
        """
        self._images = pairs.train
        self._batch_size, self._seed, self._world = batch_size, seed, world
        self._count = 0

    def take_sizes(self) -> SizesBatch:
        """Return the next batch, whose number is the epoch of its patches' positions."""
        key = (self._seed, self._count, "rows")
        rows = self._world.integers(self._batch_size, len(self._images[0]), key=key).cpu()
        images = tuple(of_size[rows].to(self._world.device) for of_size in self._images)
        batch = SizesBatch(images, torch.full_like(rows, -1), rows, self._count)
        self._count += 1
        return batch
