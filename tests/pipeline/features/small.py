"""Features of a small network over a small store, made in this process."""

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
from pipeline.features.extract import FeatureChoices
from pipeline.features.shard import FeatureWork, make_features, workspace
from pipeline.features.verify import check_objects, read_records
from pipeline.ingest import verify as image_check
from pipeline.ingest.shard import workspace as image_workspace
from pipeline.ingest.verify import Problem
from pipeline.store import features, layout, records
from pipeline.store.features import FeatureRecipe
from pipeline.store.objects import Objects, open_objects
from pipeline.store.plan import Plan

FIRST = "layers.0"
"""A block of the network."""
SIZE, ROWS, DIM = 16, 21, 12
"""Three shards of 8 rows, the last of 5, whose last chunk has one row of 4."""
BOTH = ("plain", "mirrored")


def small_trunk(folder: Path) -> Path:
    """A vision transformer of two thin layers, 16 px."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    thin = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(image_size=SIZE, patch_size=8, intermediate_size=16, **thin)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    told = {
        "size": {"height": SIZE, "width": SIZE},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


def change_weights(folder: Path, factor: float = 1.0001) -> None:
    """Make it another network."""
    file = folder / "model.safetensors"
    state = {name: value * factor for name, value in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})


@dataclass
class Begun:
    """A run that is begun."""

    objects: Objects
    recipe: FeatureRecipe
    plan: Plan
    work: FeatureWork

    @property
    def what(self) -> tuple[Objects, FeatureRecipe, Plan]:
        """What functions of `making` want to know."""
        return self.objects, self.recipe, self.plan

    def shard(self, kind: str, number: int) -> str:
        """The name of a shard object."""
        return layout.features_shard(self.recipe.name, self.plan.split, kind, number)


def begin(
    store: str | Path,
    trunk: Path,
    *,
    kinds: Sequence[str] = ("plain",),
    split: str = "train",
    cut: str | None = None,
    pooling: str = "end",
    **choices: Any,
) -> Begun:
    """Begin a run as the command does."""
    objects = open_objects(str(store))
    backbone = open_backbone(trunk, cut=cut, pooling=pooling)
    recipe = extract.settle(objects, split, backbone, FeatureChoices(**choices))
    plan = records.load_plan(objects, split)
    run = extract.new_run(recipe.name, split)
    objects = open_objects(str(store), run)
    objects.begin()
    extract.begin(objects, recipe, plan, kinds)
    workspace.cache_clear()  # a test may have changed what lies under it
    image_workspace.cache_clear()
    work = FeatureWork(
        store=str(store),
        split=split,
        run=run,
        name=recipe.name,
        trunk=str(trunk),
        kinds=tuple(kinds),
    )
    return Begun(objects, recipe, plan, work)


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
    """Make features as the command does on a cluster; returns their name.

    Args:
        store: Where the images are.
        trunk: The network.
        kinds: `plain`, `mirrored`.
        shards: Which are made, in this order (what is missing).
        finish: Whether the run comes to its end.
        repair: Whether all is read first.
        threads: That compute a shard.
        choices: As of `begin`.
    """
    run = begin(store, trunk, kinds=kinds, **choices)
    if repair:
        extract.clear(*run.what, extract.damaged(*run.what))
    todo = extract.missing(*run.what, kinds)
    if todo:
        extract.clear(*run.what, extract.leftovers(*run.what, kinds))
    for shard in todo if shards is None else shards:
        make_features(run.work, shard, threads)
    if finish:
        extract.finish(*run.what)
    run.objects.end()
    return run.recipe.name


def files(store: str | Path, name: str) -> dict[str, bytes]:
    """What is promised of features: all but what commits say of when and where."""
    objects = open_objects(str(store))
    root = f"{layout.FEATURES}/{name}/"
    listed = [file.removeprefix(root) for file in objects.names(root.rstrip("/"))]
    return {file: objects.get(root + file) for file in listed if not file.startswith("commits/")}


def problems(store: str | Path) -> dict[str, str]:
    """What is found wrong with any features, by file."""
    objects = open_objects(str(store))
    found: list[Problem | None] = []
    for name, splits in features.splits_of(objects).items():
        for split in splits:
            records = read_records(objects, name, image_check.read_records(objects, split))
            found += records.problems
            found += [problem for _, problem in check_objects(objects, records)]
    return {problem.name: problem.what for problem in found if problem is not None}
