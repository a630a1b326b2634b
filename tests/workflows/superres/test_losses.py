"""Losses equal their formulas, and have finite gradients where images are equal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.backbone.load import new_backbone
from pipeline.backbone.network import Backbone
from pipeline.backbone.transform import Transform
from pipeline.errors import TesseraeError
from workflows.superres import choices, perceptual, pixel_losses
from workflows.superres.loss import ImageLoss
from workflows.superres.options import SuperresOptions
from workflows.superres.perceptual import FeatureExtractor, gram_error, root_mean_square


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images, originals = 255 * torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    return images, originals


def test_every_named_loss_has_a_function() -> None:
    """The options and the functions have the same names."""
    assert tuple(pixel_losses.PIXEL_LOSSES) == choices.PIXEL_LOSSES
    assert tuple(perceptual.FEATURE_LOSSES) == choices.FEATURE_LOSSES


def test_losses_of_pixels_equal_their_formulas() -> None:
    """They are sums over all values, written out."""
    images, originals = pair(2, 3, 4, 5)
    differences = [
        (a - b) / 255
        for a, b in zip(images.flatten().tolist(), originals.flatten().tolist(), strict=True)
    ]
    count = len(differences)
    expected = {
        "l1": sum(map(abs, differences)) / count,
        "l2": sum(d * d for d in differences) / count,
        "charbonnier": sum(math.sqrt(d * d + 1e-6) for d in differences) / count,
    }
    for name, value in expected.items():
        loss = pixel_losses.PIXEL_LOSSES[name](images, originals)
        assert float(loss) == pytest.approx(value, rel=1e-12)
    x = images.tolist()
    down = [abs(x[n][c][i + 1][j] - x[n][c][i][j]) for n in range(2) for c in range(3)
            for i in range(3) for j in range(5)]  # fmt: skip
    across = [abs(x[n][c][i][j + 1] - x[n][c][i][j]) for n in range(2) for c in range(3)
              for i in range(4) for j in range(4)]  # fmt: skip
    value = (sum(down) / len(down) + sum(across) / len(across)) / 255
    assert float(pixel_losses.total_variation(images)) == pytest.approx(value, rel=1e-12)


def test_losses_of_features_equal_their_formulas() -> None:
    """The root is of each image, and a Gram matrix is divided by the number of values."""
    features, targets = pair(2, 3, 4, 5)
    roots = [
        math.sqrt(sum(d * d for d in (features[n] - targets[n]).flatten().tolist()) / 60)
        for n in range(2)
    ]
    assert float(root_mean_square(features, targets)) == pytest.approx(sum(roots) / 2, rel=1e-12)
    value = 0.0
    for n in range(2):
        for i in range(3):
            for j in range(3):
                of_image, of_target = (
                    float((maps[n, i] * maps[n, j]).sum()) / 60 for maps in (features, targets)
                )
                value += (of_image - of_target) ** 2
    assert float(gram_error(features, targets)) == pytest.approx(value / 2, rel=1e-12)


@pytest.mark.parametrize("name", perceptual.FEATURE_LOSSES)
def test_equal_features_have_no_loss_and_a_finite_gradient(name: str) -> None:
    """The root of 0 has none of its own."""
    features = torch.rand(2, 3, 4, 4, requires_grad=True)
    targets = features.detach().clone()
    targets[1] += 1
    loss = perceptual.FEATURE_LOSSES[name](features, targets)
    assert float(loss.detach()) == pytest.approx(0.5)
    loss.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert not features.grad[0].any()
    assert features.grad[1].any()


def test_features_are_those_of_normalised_images_at_the_blocks() -> None:
    """They come in the order of the names, and gradients pass to the images."""
    backbone = new_backbone(size=32, width=4)
    blocks = ["encoder.stages.1", "embedder"]
    extract = FeatureExtractor(backbone, blocks)
    images = (255 * torch.rand(2, 3, 48, 40)).requires_grad_()
    late, early = extract(images)
    pixels = (images / 255 - 0.5) / 0.5
    expected = backbone.model.embedder(pixels)
    torch.testing.assert_close(early, expected)
    assert late.shape[1] == 8
    late.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    with pytest.raises(TesseraeError, match=r"has no block 'encoder\.9'"):
        FeatureExtractor(backbone, ["encoder.9"])
    backbone.model.pooler = torch.nn.Flatten()
    with pytest.raises(TesseraeError, match=r"'pooler' of new has the shape \(2, \d+\): expected"):
        FeatureExtractor(backbone, ["embedder", "pooler"])(images)


def test_a_network_for_bgr_images_gets_bgr() -> None:
    """Its means and deviations are those of red, green and blue, in this order."""
    model = new_backbone(size=32, width=4).model
    transform = Transform(size=32, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0), channels="BGR")
    backbone = Backbone(model, name="bgr", transform=transform)
    images = 255 * torch.rand(2, 3, 32, 32)
    (features,) = FeatureExtractor(backbone, ["embedder"])(images)
    red, green, blue = (images / 255).unbind(1)
    pixels = torch.stack([(blue - 0.3) / 4, (green - 0.2) / 2, red - 0.1], 1)
    torch.testing.assert_close(features, model.embedder(pixels))


def test_the_loss_is_the_sum_of_its_weighted_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts without a weight are not computed."""
    backbone = new_backbone(size=32, width=4)
    monkeypatch.setattr("workflows.superres.loss.open_backbone", lambda *_: backbone)
    blocks = ("embedder", "encoder.stages.0")
    images, originals = (each.float() for each in pair(2, 3, 32, 32))
    options = SuperresOptions(
        pixel_loss="l2", pixel_weight=2, variation_weight=0.5, perceptual="some/model",
        perceptual_blocks=blocks, perceptual_block_weights=(0.25, 0.75), perceptual_loss="squared",
        perceptual_weight=3, style_weight=5,
    )  # fmt: skip
    parts = ImageLoss(options, torch.device("cpu"), torch.float32)(images, originals)
    extract = FeatureExtractor(backbone, blocks)
    features = list(zip(extract(images), extract(originals), strict=True))
    expected = {
        "pixel_loss": 2 * pixel_losses.l2(images, originals),
        "variation_loss": 0.5 * pixel_losses.total_variation(images),
        "perceptual_loss": 3 * sum(
            w * (a - b).square().mean() for w, (a, b) in zip((0.25, 0.75), features, strict=True)
        ),
        "style_loss": 5 * sum(
            w * gram_error(a, b) for w, (a, b) in zip((0.25, 0.75), features, strict=True)
        ),
    }  # fmt: skip
    torch.testing.assert_close(parts, expected)
    alone = ImageLoss(SuperresOptions(), torch.device("cpu"), torch.float32)(images, originals)
    assert list(alone) == ["pixel_loss"]
