"""A small store for each fit, prepared from the same photographs, and the shapes of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.store import layout, records, table
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from workflows import cluster_kinds
from workflows.preparation.options import PrepareOptions
from workflows.preparation.plans import plan_splits
from workflows.preparation.prepare import prepare_split
from workflows.studies.fit import CROP, FITS
from workflows.studies.fit.photographs import ARCHIVE, EVALUATED, TRAIN


@dataclass(frozen=True)
class FitStores:
    """The stores of a study, whose rows are the same photographs in the same order."""

    folder: Path
    """The folder of the study."""
    size: int
    """The side of the squares, in pixels."""
    classes: tuple[str, ...]
    """The ids of the classes by label."""
    num_unreadable: int = 0
    """The number of photographs that cannot be decoded, whose rows no loader returns."""

    def path(self, fit: str) -> str:
        """Return the path of the store of a fit.

        Args:
            fit: The fit, such as `crop`.
        """
        return str(store_path(self.folder, fit))


@dataclass(frozen=True)
class EvaluatedImages:
    """The images of the evaluated split that can be read, in the order of their rows."""

    labels: NDArray[np.int64]
    """(n,) the labels."""
    widths: NDArray[np.int64]
    """(n,) the widths in pixels, before the fit."""
    heights: NDArray[np.int64]
    """(n,) the heights in pixels."""


def store_path(folder: Path, fit: str) -> Path:
    """Return the path of the store of a fit.

    Args:
        folder: The folder of the study.
        fit: The fit, such as `crop`.
    """
    return folder / "stores" / fit


def prepare_stores(folder: Path, sizes: Mapping[str, Sequence[int]], *, train: bool) -> FitStores:
    """Prepare the store of each fit, or complete those that an interrupted study has begun.

    The workers are started once, and only if images are missing.

    Args:
        folder: The folder of the study, with the archive of the photographs.
        sizes: The sides of the squares of each fit, in pixels; the first one is evaluated.
        train: True if the archive has training images.

    Raises:
        TesseraeError: A store cannot be prepared.
        KeyboardInterrupt: It was interrupted; the message says how to continue.
    """
    splits = (TRAIN, EVALUATED) if train else (EVALUATED,)
    first = _prepare_options(folder, CROP, sizes, splits)
    with cluster_kinds.cluster_of(first) as cluster:
        for fit in FITS:
            if not _is_finished(store_path(folder, fit), splits, sizes[fit]):
                print(f"store of the fit {fit}:", flush=True)
                options = _prepare_options(folder, fit, sizes, splits)
                plans = plan_splits(options, cluster)
                for split in splits:
                    prepare_split(options, split, cluster, plans)
    stores = FitStores(folder, sizes[CROP][0], _classes(folder))
    _check_rows(stores, splits)
    objects = open_objects(stores.path(CROP))
    excluded = [len(open_split(objects, split, []).excluded) for split in splits]
    return replace(stores, num_unreadable=sum(excluded))


def _prepare_options(
    folder: Path, fit: str, sizes: Mapping[str, Sequence[int]], splits: tuple[str, ...]
) -> PrepareOptions:
    return PrepareOptions(
        source=str(folder / ARCHIVE),
        source_kind="tar",
        store=str(store_path(folder, fit)),
        split=splits,
        sizes=tuple(sizes[fit]),
        fit=fit,
        # No fit can read an unreadable image, so that leaving it out favours none.
        max_bad=1.0,
        dashboard=False,
    )


def _is_finished(store: Path, splits: tuple[str, ...], sizes: Sequence[int]) -> bool:
    if not (store / layout.RECIPE).exists():
        return False
    objects = open_objects(str(store))
    finished = [records.load_finish_record(objects, split) for split in splits]
    return all(done is not None and {*sizes} <= {*done.sizes} for done in finished)


def _classes(folder: Path) -> tuple[str, ...]:
    recipe = records.load_recipe(open_objects(str(store_path(folder, CROP))))
    return tuple(wnid for wnid, _ in recipe.classes)


def _check_rows(stores: FitStores, splits: tuple[str, ...]) -> None:
    """Refuse stores whose rows are not the same photographs with the same labels."""
    for split in splits:
        of_fits = [open_split(open_objects(stores.path(fit)), split, []) for fit in FITS]
        first = of_fits[0]
        for fit, compared in zip(FITS, of_fits, strict=True):
            if (
                compared.plan.listing != first.plan.listing
                or compared.plan.seed != first.plan.seed
                or not np.array_equal(compared.labels, first.labels)
                or not np.array_equal(compared.excluded, first.excluded)
            ):
                raise StoreError(
                    f"split {split!r} of {stores.path(fit)} has other images than that of"
                    f" {stores.path(FITS[0])}: expected the same rows. Remove the folder"
                    f" {stores.folder}, or pass another --out."
                )


def evaluated_images(stores: FitStores) -> EvaluatedImages:
    """Return the labels and shapes of the evaluated images.

    Args:
        stores: The stores of the study.

    Raises:
        StoreError: No image can be read, or a table is damaged.
    """
    objects = open_objects(stores.path(CROP))
    split = open_split(objects, EVALUATED, [])
    rows = split.readable_rows
    if not len(rows):
        raise StoreError(
            f"none of the evaluated images of {stores.folder / ARCHIVE} is readable. Pass another"
            " --source, and another --out."
        )
    plan = split.plan
    parts = pa.concat_tables(
        table.load_part(objects, layout.part(EVALUATED, shard), plan.rows(shard)).select(
            ["width", "height"]
        )
        for shard in range(plan.num_shards)
    ).take(rows)
    return EvaluatedImages(
        labels=split.labels[rows].astype(np.int64),
        widths=parts["width"].to_numpy().astype(np.int64),
        heights=parts["height"].to_numpy().astype(np.int64),
    )
