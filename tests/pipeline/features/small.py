"""Helpers that extract features of a small store with a small network, in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipeline.backbone.load import open_backbone
from pipeline.features import extract
from pipeline.features.shard_task import compute_shard
from pipeline.features.verify import check_derived_records
from pipeline.features.worker import FeatureTaskConfig, open_workspace
from pipeline.ingest import verify as image_check
from pipeline.ingest.worker import workspace as image_workspace
from pipeline.store import derived, features, layout, records
from pipeline.store.features import FeatureOptions, FeatureRecipe
from pipeline.store.integrity import Problem, check_objects
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.plan import Plan

FIRST = "layers.0"
"""The name of a block of the network."""
SIZE, ROWS, DIM = 16, 21, 12
"""21 rows make three shards of 8, 8 and 5 rows; the last chunk has one row of 4."""
BOTH = ("plain", "mirrored")


def small_trunk(folder: Path) -> Path:
    """Save a vision transformer of two thin layers for 16 px, and return its folder."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    thin = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(image_size=SIZE, patch_size=8, intermediate_size=16, **thin)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    transform = {
        "size": {"height": SIZE, "width": SIZE},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(transform))
    return folder


def change_weights(folder: Path, factor: float = 1.0001) -> None:
    """Multiply all weights, which gives another network."""
    file = folder / "model.safetensors"
    state = {name: value * factor for name, value in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})


@dataclass
class StartedRun:
    """A run that was started, with its store, network and options."""

    objects: Objects
    recipe: FeatureRecipe
    plan: Plan
    work: FeatureTaskConfig

    @property
    def context(self) -> tuple[Objects, FeatureRecipe, Plan]:
        """The arguments that functions of `extract` share."""
        return self.objects, self.recipe, self.plan

    def shard(self, kind: str, number: int) -> str:
        """Return the name of a shard object."""
        return layout.FEATURES.shard(self.recipe.name, self.plan.split, kind, number)


def begin(
    store: str | Path,
    trunk: Path,
    *,
    kinds: Sequence[str] = ("plain",),
    split: str = "train",
    cut: str | None = None,
    pooling: str = "end",
    **choices: Any,
) -> StartedRun:
    """Start a run as the command does."""
    objects = open_objects(str(store))
    backbone = open_backbone(trunk, cut=cut, pooling=pooling)
    recipe = extract.resolve_feature_recipe(objects, split, backbone, FeatureOptions(**choices))
    plan = records.load_plan(objects, split)
    run = extract.new_run(recipe, split)
    objects = open_objects(str(store), run)
    objects.begin()
    extract.write_metadata(objects, recipe, plan, kinds)
    open_workspace.cache_clear()  # a test may have changed the store or the network
    image_workspace.cache_clear()
    work = FeatureTaskConfig(
        store=str(store),
        split=split,
        run=run,
        name=recipe.name,
        trunk=str(trunk),
        kinds=tuple(kinds),
    )
    return StartedRun(objects, recipe, plan, work)


def make(
    store: str | Path,
    trunk: Path,
    *,
    kinds: Sequence[str] = ("plain",),
    shards: Sequence[int] | None = None,
    finish: bool = True,
    repair: bool = False,
    threads: int = 1,
    **choices: Any,
) -> str:
    """Make features as the command does on a cluster, and return their name.

    Args:
        store: The store that holds the images.
        trunk: The folder of the network.
        kinds: The kinds to make: `plain`, `mirrored`.
        shards: The shards to make, in this order (default: the missing ones).
        finish: Finish the run.
        repair: Read all objects first and make damaged ones again.
        threads: Number of threads that compute a shard.
        choices: Further options, as for `begin`.
    """
    run = begin(store, trunk, kinds=kinds, **choices)
    if repair:
        extract.remove_shards(*run.context, extract.damaged_objects(*run.context))
    missing_shards = extract.missing_shards(*run.context, kinds)
    if missing_shards:
        extract.remove_shards(*run.context, extract.obsolete_shards(*run.context, kinds))
    for shard in missing_shards if shards is None else shards:
        compute_shard(run.work, shard, threads)
    if finish:
        extract.finish(*run.context)
    run.objects.end()
    return run.recipe.name


def files(store: str | Path, name: str) -> dict[str, bytes]:
    """Return the reproducible files of features: all but the provenance in commits."""
    objects = open_objects(str(store))
    root = f"{layout.FEATURES.folder}/{name}/"
    listed = [file.removeprefix(root) for file in objects.names(root.rstrip("/"))]
    return {file: objects.get(root + file) for file in listed if not file.startswith("commits/")}


def problems(store: str | Path) -> dict[str, str]:
    """Return the problems with all features of a store, by file."""
    objects = open_objects(str(store))
    reported: list[Problem | None] = []
    for name, splits in derived.splits_of(objects, features.FAMILY).items():
        for split in splits:
            records = check_derived_records(
                objects, FeatureRecipe, name, image_check.read_records(objects, split)
            )
            reported += records.problems
            reported += [problem for _, problem in check_objects(objects, records.objects)]
    return {problem.name: problem.description for problem in reported if problem is not None}
