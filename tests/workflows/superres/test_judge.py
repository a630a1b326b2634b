"""The perceptual distance is that of its formula, by a network that is not in the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.backbone.load import new_backbone
from pipeline.errors import TesseraeError
from workflows.superres.judge import Judge, feature_distance, open_judge
from workflows.superres.options import SuperresOptions

CPU = torch.device("cpu")
BLOCKS = ("embedder", "encoder.stages.1")


def test_the_distance_of_features_is_that_of_their_directions() -> None:
    """The length of features does not count; blocks are summed, and positions averaged."""
    features = [torch.tensor([[3.0, 0.0], [4.0, 7.0]]).view(1, 2, 1, 2)]
    targets = [torch.tensor([[5.0, 2.0], [0.0, 0.0]]).view(1, 2, 1, 2)]
    # (0.6, 0.8) from (1, 0): 0.16 + 0.64; and (0, 1) from (1, 0): 2
    assert float(feature_distance(features, targets)) == pytest.approx((0.8 + 2) / 2)
    twice = feature_distance(features * 2, targets * 2)
    assert float(twice) == pytest.approx(0.8 + 2)
    opposite = feature_distance(features, [-each for each in features])
    assert float(opposite) == pytest.approx(4)


def test_a_judge_compares_the_features_at_its_blocks() -> None:
    """It equals the formula, written out with the modules of the network."""
    torch.manual_seed(0)
    backbone = new_backbone(size=32, width=4)
    judge = Judge(backbone, BLOCKS)
    images, originals = (255 * torch.rand(2, 2, 3, 40, 36)).round().byte()
    distances = []
    for image, original in zip(images, originals, strict=True):
        total = 0.0
        maps = []
        for each in (image, original):
            early = backbone.model.embedder((each[None] / 255 - 0.5) / 0.5)
            late = backbone.model.encoder.stages[1](backbone.model.encoder.stages[0](early))
            maps.append((early, late))
        for of_image, of_original in zip(*maps, strict=True):
            cosine = torch.cosine_similarity(of_image.double(), of_original.double(), dim=1)
            # A position without features has no direction, and no distance from another such one.
            is_zero = ((of_image == 0).all(1), (of_original == 0).all(1))
            assert not any(bool(each.any()) for each in is_zero)
            total += float((2 - 2 * cosine).mean())
        distances.append(total)
    torch.testing.assert_close(judge.distance(images, originals), torch.tensor(distances).double(),
                               rtol=1e-4, atol=1e-6)  # fmt: skip
    assert judge.distance(images, images).tolist() == [0, 0]


def save(model: Any, folder: Path) -> str:
    """Save a network for images of 32 px; return its folder."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5],'
        ' "image_std": [0.5, 0.5, 0.5]}'
    )
    return str(folder)


def save_resnet(folder: Path, seed: int) -> str:
    """Save a network with random weights; return its folder."""
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    return save(ResNetModel(config), folder)


def test_a_judge_is_not_the_network_of_the_loss(tmp_path: Path) -> None:
    """Its weights decide, not its folder; without a weight in the loss it may judge."""
    loss, copy, another = (
        save_resnet(tmp_path / name, seed)
        for name, seed in (("loss", 0), ("copy", 0), ("another", 1))
    )
    options = SuperresOptions(perceptual=loss, perceptual_blocks=("embedder",))
    with pytest.raises(TesseraeError, match=r"copy, the network of the run's own loss \(.*loss\)"):
        open_judge(copy, BLOCKS, options, CPU)
    assert open_judge(another, BLOCKS, options, CPU).blocks == BLOCKS
    unused = SuperresOptions(
        perceptual=loss, perceptual_blocks=("embedder",), perceptual_weight=0, style_weight=0
    )
    assert open_judge(copy, BLOCKS, unused, CPU).name == "ResNetModel (copy)"
    with pytest.raises(TesseraeError, match=r"--judge-blocks\. Its blocks are embedder, encoder\."):
        open_judge(another, (), options, CPU)
    with pytest.raises(TesseraeError, match=r"another\) has no block 'encoder\.9'"):
        open_judge(another, ("encoder.9",), options, CPU)
    gone = SuperresOptions(perceptual=str(tmp_path / "gone"), perceptual_blocks=("embedder",))
    with pytest.raises(TesseraeError, match=r"loss cannot be opened, and --judge must be another"):
        open_judge(another, BLOCKS, gone, CPU)


def test_a_network_of_one_size_is_no_judge(tmp_path: Path) -> None:
    """The error names the size of the images."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    folder = save(ViTModel(config), tmp_path / "vit")
    judge = open_judge(folder, ("embeddings",), SuperresOptions(),
                       CPU)  # fmt: skip
    with pytest.raises(
        TesseraeError, match=r"\(vit\) fails on images of 24x40 pixels \(\w+Error: "
    ):
        judge.distance(torch.zeros(1, 3, 40, 24), torch.zeros(1, 3, 40, 24))
