"""A small store with features of a small network, and words for its classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.backbone.load import open_backbone
from pipeline.features import extract
from pipeline.features.loader import FeatureLoader
from pipeline.features.shard_task import compute_shard
from pipeline.features.worker import FeatureTaskConfig, open_workspace
from pipeline.store import records
from pipeline.store.features import FeatureOptions
from pipeline.store.open import open_objects
from tests.images import jpeg, prepare_inline
from workflows.devise.options import DeviseOptions
from workflows.devise.stage import Devise
from workflows.devise.word_space import FILE
from workflows.training.stage import Data
from workflows.training.world import World

SIZE, CLASSES = 32, 6
WORDS = ("ant", "bee", "great cat", "dog", "eel", "fox")
WNIDS = [f"n{label:08d}" for label in range(CLASSES)]
KINDS = ("plain", "mirrored")


@dataclass(frozen=True)
class Small:
    """The paths of a small store, a trunk and word vectors, and the name of the features."""

    root: Path
    store: Path
    trunk: Path
    words: Path
    features: str


def small_trunk(folder: Path) -> Path:
    """Save a MobileNet for 32 px with random weights; return its folder."""
    from transformers import MobileNetV1Config, MobileNetV1Model

    torch.manual_seed(3)
    config = MobileNetV1Config(image_size=SIZE, depth_multiplier=0.25, min_depth=4)
    model = MobileNetV1Model(config)
    with torch.no_grad():  # batch norm needs statistics of images, or features would vanish
        model.train()(torch.rand(64, 3, SIZE, SIZE) * 2 - 1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": SIZE, "width": SIZE}, "image_mean": [0.5] * 3,
                    "image_std": [0.5] * 3})
    )  # fmt: skip
    return folder


def small_words(file: Path, dim: int = 8) -> Path:
    """Write word vectors of the classes and other words in word2vec's text format."""
    rng = np.random.default_rng(5)
    tokens = ["ant", "bee", "great_cat", "dog", "eel", "fox", "boat", "engine"]
    lines = [f"{len(tokens)} {dim}"]
    lines += [f"{t} {' '.join(f'{v:.4f}' for v in rng.standard_normal(dim) + 1)}" for t in tokens]
    file.write_text("\n".join(lines) + "\n")
    return file


def make_small(root: Path, rows: int = 48) -> Small:
    """Create a store of six classes with splits train and val, and features of both kinds."""
    table = root / "source" / "words.txt"
    table.parent.mkdir(parents=True)
    pairs = zip(WNIDS, WORDS, strict=True)
    table.write_text("".join(f"{wnid}\t{words}\n" for wnid, words in pairs))
    for split, count in (("train", rows), ("val", 24)):
        for index in range(count):
            wnid = WNIDS[index % CLASSES]
            file = root / "source" / split / wnid / f"{split}{index}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(index + 1_000 * (split == "val"), 40, 40))
        prepare_inline(
            root / "source", str(root / "store"), split=split, sizes=(SIZE,), serves=SIZE
        )
    trunk = small_trunk(root / "trunk")
    names = [features_inline(root / "store", trunk, split) for split in ("train", "val")]
    assert names[0] == names[1]
    return Small(root, root / "store", trunk, small_words(root / "words.txt"), names[0])


def features_inline(store: Path, trunk: Path, split: str, **choices: Any) -> str:
    """Extract a split's features in this process; return their name."""
    objects = open_objects(str(store))
    backbone = open_backbone(trunk)
    recipe = extract.resolve_feature_recipe(objects, split, backbone, FeatureOptions(**choices))
    plan = records.load_plan(objects, split)
    run = extract.new_run(recipe, split)
    objects = open_objects(str(store), run)
    objects.begin()
    extract.write_metadata(objects, recipe, plan, KINDS)
    work = FeatureTaskConfig(
        store=str(store), split=split, run=run, name=recipe.name, trunk=str(trunk), kinds=KINDS
    )
    open_workspace.cache_clear()
    for shard in extract.missing_shards(objects, recipe, plan, KINDS):
        compute_shard(work, shard)
    extract.finish(objects, recipe, plan)
    objects.end()
    return recipe.name


SMALL = {
    "batch_size": 8,
    "hidden_units": 16,
    "threads_per_rank": 1,
    "steps": 12,
    "learning_rate": 1e-2,
}


def small_stage(small: Small, folder: Path, world: World | None = None, **choices: Any) -> Devise:
    """Return a stage before its first step; create the word space in *folder* if needed."""
    from workflows.devise.class_splits import SEEN, VALIDATION, class_parts
    from workflows.devise.data import load_class_vectors, seen_features
    from workflows.devise.word_space import load_word_space, make_word_space

    options = DeviseOptions(
        **{**SMALL, "trunk": str(small.trunk), "word_vectors": str(small.words), **choices}
    )
    listed = records.load_recipe(open_objects(str(small.store))).classes
    vectors = load_class_vectors(options, listed)
    parts = class_parts(
        vectors.wnids, vectors.has_vector, seen=options.seen_classes, unseen=options.unseen_classes,
        validation=options.validation_classes, seed=options.class_split_seed,
    )  # fmt: skip
    if not (folder / FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        seen = np.flatnonzero(parts == SEEN)
        features = seen_features(str(small.store), "train", small.features, seen)
        space = make_word_space(vectors, parts, features, centre=options.centre)
        (folder / FILE).write_bytes(space.encode())
    space = load_word_space(folder)
    train = FeatureLoader(
        small.store, small.features, batch_size=options.batch_size, seed=options.seed,
        mirrored=options.mirrored, include_labels=space.labels(SEEN).tolist(), rank=0, world=1,
    )  # fmt: skip
    held_out = FeatureLoader(
        small.store, small.features, "val", batch_size=8, order="sequential",
        include_labels=space.labels(SEEN, VALIDATION).tolist(), drop_last=False, rank=0, world=1,
    )  # fmt: skip
    torch.manual_seed(options.seed)
    return Devise(options, Data(train, held_out, WORDS, folder=str(folder)), world or World())
