"""A small store of eight classes, and a network of bottlenecks that knows two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.backbone.save import save_model
from pipeline.backbone.transform import Transform
from tests.images import jpeg, prepare_inline
from workflows.studies.cut.images import ImageSet
from workflows.studies.cut.networks import Network, open_network
from workflows.studies.cut.options import CutOptions

SIZE = 16
WORDS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")
WNIDS = [f"n{label:08d}" for label in range(len(WORDS))]
KNOWN = 2
"""The number of classes that the network was trained on: the first ones."""


def small_network(folder: Path) -> Path:
    """Save a ResNet of five bottlenecks for 16 px with random weights; return its folder."""
    from pipeline.backbone.small_images import (
        Stem3ResNetConfig,
        Stem3ResNetForImageClassification,
    )

    torch.manual_seed(0)
    config = Stem3ResNetConfig(
        embedding_size=4, hidden_sizes=[8, 16], depths=[2, 3], layer_type="bottleneck",
        id2label=dict(enumerate(WORDS[:KNOWN])),
    )  # fmt: skip
    model = Stem3ResNetForImageClassification(config)
    with torch.no_grad():  # batch norm needs statistics of images, or features would vanish
        model.train()(torch.randn(64, 3, SIZE, SIZE))
    half = (0.5, 0.5, 0.5)
    save_model(model, model.state_dict(), Transform(size=SIZE, mean=half, std=half), folder)
    return folder


def small_files(root: Path) -> Path:
    """Create a store with 8 and 4 images of each class, a network and word vectors."""
    for split, count in (("train", 64), ("val", 32)):
        for index in range(count):
            file = root / "source" / split / WNIDS[index % len(WNIDS)] / f"{split}{index}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(index + 1_000 * (split == "val"), 20, 20))
        pairs = zip(WNIDS, WORDS, strict=True)
        (root / "source" / "words.txt").write_text("".join(f"{w}\t{n}\n" for w, n in pairs))
        prepare_inline(
            root / "source", str(root / "store"), split=split, sizes=(SIZE,), serves=SIZE
        )
    small_network(root / "trunk")
    rng = np.random.default_rng(5)
    lines = [f"{len(WORDS)} 6"]
    lines += [f"{word} {' '.join(f'{v:.4f}' for v in rng.standard_normal(6))}" for word in WORDS]
    (root / "words.txt").write_text("\n".join(lines) + "\n")
    return root


def small_options(root: Path, **choices: Any) -> CutOptions:
    """Return the options of a study of a small store."""
    return CutOptions(
        **{
            "store": str(root / "store"), "trunk": (str(root / "trunk"),),
            "word_vectors": str(root / "words.txt"), "out": root / "out", "seeds": 2,
            "unseen_classes": 2, "validation_classes": 2, **choices,
        }
    )  # fmt: skip


def opened_network(root: Path) -> Network:
    """Open the small network."""
    return open_network(str(root / "trunk"))


def random_images(num_train: int = 12, num_test: int = 6, classes: int = 3) -> ImageSet:
    """Return random images of a few classes, without a store."""
    labels = np.arange(num_train + num_test) % classes
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (len(labels), 3, SIZE, SIZE), generator=generator)
    return ImageSet(
        "random", ("a", "b"), tuple((wnid, wnid) for wnid in WNIDS[:classes]),
        pixels.to(torch.uint8), labels.astype(np.int64), num_train,
    )  # fmt: skip
