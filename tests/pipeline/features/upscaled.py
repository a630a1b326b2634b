"""Helpers that enlarge the images of a small store in this process, without a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.features import extract
from pipeline.features.probes import encode_probe
from pipeline.features.shard_task import compute_shard
from pipeline.features.verify import check_derived_records
from pipeline.features.worker import RowNetwork, RowTaskConfig, open_workspace
from pipeline.ingest import verify as image_check
from pipeline.store import derived, records, upscaled
from pipeline.store.derived import DerivedRecipe, Family
from pipeline.store.integrity import Problem, check_objects
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.plan import Plan
from pipeline.store.upscaled import UpscaledRecipe

NAME = "nearest-x2-16"
SCALE, SIDE = 2, 8
"""Squares of 8 px become squares of 16 px."""


@dataclass(frozen=True, kw_only=True)
class NearestTaskConfig(RowTaskConfig):
    """The arguments of tasks that repeat each pixel."""

    family: ClassVar[Family] = upscaled.FAMILY

    def load_recipe(self, objects: Objects) -> UpscaledRecipe:
        """Load the recipe from the store."""
        return derived.load_recipe(objects, UpscaledRecipe, self.name)

    def open_network(self, recipe: DerivedRecipe, device: torch.device) -> RowNetwork:
        """Return the network."""
        return NearestNetwork()


class NearestNetwork:
    """A network that repeats each pixel."""

    device = torch.device("cpu")
    batch_rows = 3

    def __init__(self) -> None:
        self.software: dict[str, str] = {}

    def compute(self, images: torch.Tensor, kind: str) -> NDArray[Any]:
        """Return the enlarged images, (n, h * 2, w * 2, 3) uint8."""
        return enlarged(images.permute(0, 2, 3, 1).numpy())

    def probe(self) -> str:
        """Return a probe that is the same on every machine."""
        return encode_probe(np.ones((2, 4), np.float32))


def enlarged(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return squares, (n, h, w, 3), with each pixel repeated."""
    return pixels.repeat(SCALE, 1).repeat(SCALE, 2)


def recipe_of(objects: Objects, **changes: Any) -> UpscaledRecipe:
    """Return the recipe of enlarged images of 8 px."""
    images = records.load_recipe(objects)
    fields: dict[str, Any] = {
        "name": NAME,
        "network": "nearest",
        "weights": "a" * 64,
        "step": 5,
        "scale": SCALE,
        "stored_size": SIDE,
        "self_ensemble": False,
        "precision": "float32",
        "images": images.digest,
        "shard_rows": images.shard_rows,
        "chunk_rows": images.chunk_rows,
        "format": images.format,
    }
    return UpscaledRecipe(**{**fields, **changes})


@dataclass
class UpscaleRun:
    """A run that was begun."""

    objects: Objects
    recipe: UpscaledRecipe
    plan: Plan
    work: NearestTaskConfig
    context: tuple[Objects, UpscaledRecipe, Plan] = field(init=False)

    def __post_init__(self) -> None:
        self.context = (self.objects, self.recipe, self.plan)

    def shard(self, number: int) -> str:
        """Return the name of a shard object."""
        return self.recipe.family.names.shard(
            self.recipe.name, self.plan.split, str(self.recipe.size), number
        )


def begin(store: str | Path, *, split: str = "train", **changes: Any) -> UpscaleRun:
    """Begin a run as the command does."""
    objects = open_objects(str(store))
    recipe, plan = recipe_of(objects, **changes), records.load_plan(objects, split)
    run = extract.new_run(recipe, split)
    objects = open_objects(str(store), run)
    objects.begin()
    extract.write_metadata(objects, recipe, plan, recipe.kinds)
    open_workspace.cache_clear()  # a test may have changed the store
    work = NearestTaskConfig(
        store=str(store), split=split, run=run, name=recipe.name, kinds=recipe.kinds
    )
    return UpscaleRun(objects, recipe, plan, work)


def make(
    store: str | Path,
    *,
    shards: Sequence[int] | None = None,
    finish: bool = True,
    repair: bool = False,
    threads: int = 1,
    **choices: Any,
) -> str:
    """Enlarge the images as the command does on a cluster; return the name of the set.

    Args:
        store: The store that holds the images.
        shards: The shards to compute, in this order (default: the missing ones).
        finish: Finish the run.
        repair: Read all objects first and compute damaged ones again.
        threads: Number of threads that compute a shard.
        choices: Further options, as for `begin`.
    """
    run = begin(store, **choices)
    kinds = run.recipe.kinds
    if repair:
        extract.remove_shards(*run.context, extract.damaged_objects(*run.context))
    missing = extract.missing_shards(*run.context, kinds)
    if missing:
        extract.remove_shards(*run.context, extract.obsolete_shards(*run.context, kinds))
    for shard in missing if shards is None else shards:
        compute_shard(run.work, shard, threads)
    if finish:
        extract.finish(*run.context)
    run.objects.end()
    return run.recipe.name


def files(store: str | Path) -> dict[str, bytes]:
    """Return the reproducible files of the set: all but the provenance in commits."""
    objects = open_objects(str(store))
    root = f"{upscaled.FAMILY.names.set_folder(NAME)}/"
    listed = [file.removeprefix(root) for file in objects.names(root.rstrip("/"))]
    return {file: objects.get(root + file) for file in listed if not file.startswith("commits/")}


def problems(store: str | Path) -> dict[str, str]:
    """Return the problems with all upscaled images of a store, by file."""
    objects = open_objects(str(store))
    reported: list[Problem | None] = []
    for name, splits in derived.splits_of(objects, upscaled.FAMILY).items():
        for split in splits:
            images = image_check.read_records(objects, split)
            rows = check_derived_records(objects, UpscaledRecipe, name, images)
            reported += rows.problems
            reported += [problem for _, problem in check_objects(objects, rows.objects)]
    return {problem.name: problem.description for problem in reported if problem is not None}
