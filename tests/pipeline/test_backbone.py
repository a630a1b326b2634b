"""Vision networks from a folder: small ones with random weights, and a published one."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.backbone.load import new_backbone, open_backbone
from pipeline.backbone.network import Backbone
from pipeline.backbone.save import save_backbone
from pipeline.backbone.transform import Transform, make_transform
from pipeline.backbone.truncate import (
    MAX_NAMED_BLOCKS,
    block_names,
    block_output,
    block_outputs,
    check_block,
    pool,
    replace_block_output,
)
from pipeline.errors import TesseraeError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a vision transformer of two thin layers, and return its folder."""
    path = tmp_path_factory.mktemp("vit") / "tiny"
    vit(path)
    (path / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3],
                    "image_std": [1, 1, 2]})
    )  # fmt: skip
    return path


def test_features_are_those_of_the_model(folder: Path) -> None:
    """Images are preprocessed as by the model, and the batch size does not matter."""
    from transformers import ViTModel

    backbone = open_backbone(folder)
    assert backbone.name == "ViTModel (tiny)"
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    features = backbone.extract(images)
    assert features.shape == (40, 16)
    torch.testing.assert_close(features[:3], backbone.extract(images[:3]), rtol=1e-4, atol=1e-5)
    mean = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    pixels = (images[:3] / 255 - mean) / torch.tensor([1.0, 1, 2]).view(3, 1, 1)
    with torch.no_grad():
        expected = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()(pixels)
    # Its pooler is untrained, and would be random.
    torch.testing.assert_close(
        features[:3], expected.last_hidden_state.mean(1), rtol=1e-4, atol=1e-5
    )


def test_images_of_other_sizes_are_resized(folder: Path) -> None:
    """Larger images are reduced, and smaller ones enlarged."""
    backbone = open_backbone(folder)
    plain = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    for size in (8, 100):
        resized = torch.full((1, 3, size, size), 90, dtype=torch.uint8)
        torch.testing.assert_close(
            backbone.extract(plain), backbone.extract(resized), rtol=1e-3, atol=1e-4
        )


def test_folders_without_a_usable_model_are_refused(folder: Path, tmp_path: Path) -> None:
    """One of these folders has a pickle instead of safetensors."""
    for bad in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(TesseraeError, match="is not a backbone"):
            open_backbone(bad)
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "query.weight" in name or "q_proj.weight" in name))
    partly = tmp_path / "partly"
    partly.mkdir()
    (partly / "config.json").write_text((folder / "config.json").read_text())
    save_file(weights, partly / "model.safetensors", {"format": "pt"})
    with pytest.raises(TesseraeError, match="has no weights for"):
        open_backbone(partly)
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(TesseraeError, match="how to normalise images"):
        open_backbone(bare)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((folder / "config.json").read_text())
    torch.save({"x": torch.zeros(1)}, pickled / "pytorch_model.bin")
    with pytest.raises(TesseraeError, match="is not a backbone"):
        open_backbone(pickled)


@pytest.mark.slow
def test_a_published_network_separates_dogs_from_trucks(real_data: Path) -> None:
    """Images of one class are more similar than images of two."""
    backbone = open_backbone(real_data / "mobilenet_v1_0.75_224")
    assert backbone.name == "MobileNetV1Model (mobilenet_v1_0.75_224)"

    dogs, trucks = (
        backbone.extract(pictures(real_data, wnid, 8)) for wnid in ("n02102040", "n03417042")
    )
    dogs, trucks = (torch.nn.functional.normalize(rows, dim=1) for rows in (dogs, trucks))
    within = (dogs @ dogs.T).fill_diagonal_(0).sum() / 56
    assert float(within) > float((dogs @ trucks.T).mean()) + 0.1


def test_a_truncated_network_gives_the_output_of_its_block(folder: Path) -> None:
    """The output is pooled, and later blocks are not computed."""
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    backbone = open_backbone(folder, cut="layers.0", pooling="mean")
    later = []
    blocks = dict(backbone.model.named_modules())
    with blocks["layers.1"].register_forward_hook(lambda *arguments: later.append(arguments)):
        features = backbone.extract(images)
    assert later == []
    hidden = backbone.model(backbone.normalise(images), output_hidden_states=True).hidden_states
    torch.testing.assert_close(features, hidden[1].mean(1), rtol=1e-4, atol=1e-5)
    assert backbone.dim == 16
    later_features = open_backbone(folder, cut="layers.1", pooling="mean").extract(images)
    assert not torch.allclose(features, later_features)


def test_threads_may_share_a_truncated_network(folder: Path) -> None:
    """Each thread gets the features of its own images."""
    backbone = open_backbone(folder, cut="layers.0")
    batches = [torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8) for _ in range(40)]
    expected = [backbone.extract(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for features, expected_features in zip(
            pool.map(backbone.extract, batches), expected, strict=True
        ):
            torch.testing.assert_close(features, expected_features, rtol=1e-4, atol=1e-5)


class Parts(nn.Module):
    """A network whose blocks return something other than a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.named, self.several, self.none, self.torn = (nn.Identity() for _ in range(4))
        self.unused = nn.Linear(2, 2)
        self.rows = nn.ModuleList([nn.Identity()])

    def forward(self, pixels: torch.Tensor) -> SimpleNamespace:
        output = self.first(pixels)
        self.named(SimpleNamespace(last_hidden_state=output))
        self.several((output, None))
        self.none(None)
        self.torn(output.flatten(0, 1)[:, None])
        return SimpleNamespace(last_hidden_state=self.rows[0](output))


def parts(cut: str) -> Backbone:
    half = (0.5,) * 3
    torch.manual_seed(0)
    return Backbone(
        Parts(), name="parts", transform=Transform(size=8, mean=half, std=half), cut=cut
    )


@pytest.mark.parametrize("cut", ["first", "named", "several", "rows.0"])
def test_a_block_may_have_a_structured_output(cut: str) -> None:
    """The first part of a tuple, or the last hidden state, is used."""
    torch.testing.assert_close(
        parts(cut).extract(torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)),
        parts("first").extract(torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)),
    )


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("none", "the output of block 'none' is NoneType"),
        ("unused", "block 'unused' is not used"),
        ("torn", r"block 'torn' of parts gives 8 rows for 2 images"),
    ],
)
def test_a_block_without_a_row_for_each_image_is_refused(cut: str, message: str) -> None:
    """The error names the block."""
    with pytest.raises(TesseraeError, match=message):
        parts(cut).extract(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


class InPlace(nn.Module):
    """A network that uses a block twice, and changes outputs of blocks in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last, self.unused = (
            nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self.first(pixels)
        hidden += pixels
        hidden = self.twice(self.relu(self.twice(hidden)))
        output: torch.Tensor = self.last(hidden)
        return output


def test_several_blocks_give_the_outputs_of_each_alone() -> None:
    """Those of first calls, in the order of the names, with their gradients."""
    torch.manual_seed(0)
    model = InPlace()
    pixels = torch.randn(2, 3, 6, 6, requires_grad=True)
    names = ["last", "twice", "first", "twice"]
    expected_first = model.first(pixels)
    expected_twice = model.twice(expected_first + pixels)
    expected_last = model.last(model.twice(expected_twice.relu()))
    expected = [expected_last, expected_twice, expected_first, expected_twice]
    outputs = block_outputs(model, names, pixels)
    for name, output, by_hand in zip(names, outputs, expected, strict=True):
        torch.testing.assert_close(output, by_hand)
        torch.testing.assert_close(block_output(model, name, pixels), by_hand)
    gradients = [
        torch.autograd.grad(sum(each.square().sum() for each in maps), pixels)[0]
        for maps in (outputs, expected)
    ]
    torch.testing.assert_close(*gradients)
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_is_computed_beyond_the_last_of_several_blocks() -> None:
    """Nor are hooks left behind after an error."""
    model = InPlace()
    calls = []
    model.last.register_forward_pre_hook(lambda *_: calls.append("last"))
    pixels = torch.zeros(1, 3, 6, 6)
    block_outputs(model, ["first", "twice"], pixels)
    assert calls == []
    with pytest.raises(TesseraeError, match="block 'unused' is not used when the network computes"):
        block_outputs(model, ["first", "unused"], pixels)
    assert calls == ["last"]
    with pytest.raises(TesseraeError, match="the output of block 'none' is NoneType"):
        block_outputs(Parts(), ["none", "named"], pixels)
    with pytest.raises(AttributeError):
        block_outputs(model, ["first", "nothing"], pixels)
    assert not any(module._forward_hooks for module in model.modules())


def test_unknown_blocks_and_poolings_are_refused(folder: Path) -> None:
    """The error lists the existing names, or the members of a list of blocks."""
    with pytest.raises(TesseraeError, match=r"has no block 'layers.7': expected one of .*layers.0"):
        open_backbone(folder, cut="layers.7")
    with pytest.raises(TesseraeError, match=r"has no block 'layers': .* layers.0, layers.1\.$"):
        open_backbone(folder, cut="layers")
    with pytest.raises(TesseraeError, match="has no block '': expected one of embeddings"):
        open_backbone(folder, cut="")
    with pytest.raises(TesseraeError) as caught:
        open_backbone(folder, cut="nosuch")
    suggested = (
        str(caught.value).partition("expected one of ")[2].partition(", ... (")[0].split(", ")
    )
    assert len(suggested) == MAX_NAMED_BLOCKS  # blocks of any depth, since there are few at the top
    model = open_backbone(folder).model
    for name in suggested:
        check_block(model, "it", name)
    with pytest.raises(TesseraeError, match="pooling is 'sum': expected one of end, mean"):
        open_backbone(folder, pooling="sum")


@settings(max_examples=min(30, settings().max_examples))
@given(
    shape=st.sampled_from([(2, 3, 5, 4), (2, 3, 1, 1), (3, 2, 6, 6), (1, 4, 2, 2)]),
    seed=st.integers(0, 2**32),
)
def test_poolings_of_maps_match_their_definitions(shape: tuple[int, ...], seed: int) -> None:
    """Means, maxima and means of quarters are computed by numpy."""
    maps = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    n, d, h, w = shape
    halves = [(0, -(-h // 2)), (h // 2, h)], [(0, -(-w // 2)), (w // 2, w)]
    quarters = [
        maps[:, :, top:bottom, left:right].mean((2, 3))
        for top, bottom in halves[0]
        for left, right in halves[1]
    ]
    expected = {
        "mean": maps.mean((2, 3)),
        "end": maps.mean((2, 3)),
        "max": maps.max((2, 3)),
        "grid": np.stack(quarters, 2).reshape(n, 4 * d),
    }
    for pooling, rows in expected.items():
        pooled = pool(torch.from_numpy(maps), pooling, "it").numpy()
        np.testing.assert_allclose(pooled, rows, rtol=1e-4, atol=1e-5)
    with pytest.raises(TesseraeError, match="it have no tokens: pass --pooling mean"):
        pool(torch.from_numpy(maps), "token", "it")


def test_poolings_of_tokens_match_their_definitions() -> None:
    """The poolings are the mean, the maximum and the first token; a single row is unchanged."""
    tokens = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float32)
    tensor = torch.from_numpy(tokens)
    for pooling, rows in (
        ("mean", tokens.mean(1)), ("end", tokens.mean(1)), ("max", tokens.max(1)),
        ("token", tokens[:, 0]),
    ):  # fmt: skip
        np.testing.assert_allclose(pool(tensor, pooling, "it").numpy(), rows, rtol=1e-5, atol=1e-6)
        assert torch.equal(pool(tensor[:, 0], pooling, "it"), tensor[:, 0])
    with pytest.raises(TesseraeError, match="no spatial dimensions to pool by quarters"):
        pool(tensor, "grid", "it")
    with pytest.raises(TesseraeError, match=r"it have shape \(1, 1, 3, 5, 7\)"):
        pool(tensor[None, None], "mean", "it")


def test_a_pooler_is_used_if_it_was_trained(tmp_path: Path) -> None:
    """The pooling `end` of a network without a trained pooler is the mean."""
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    model = vit(tmp_path / "with", pooler=True)
    backbone = open_backbone(tmp_path / "with")
    with torch.no_grad():
        expected = model.eval()(backbone.normalise(images))
    torch.testing.assert_close(backbone.extract(images), expected.pooler_output)
    torch.testing.assert_close(
        open_backbone(tmp_path / "with", pooling="mean").extract(images),
        expected.last_hidden_state.mean(1),
    )
    vit(tmp_path / "without", pooler=False)
    plain = open_backbone(tmp_path / "without")
    mean = open_backbone(tmp_path / "without", pooling="mean")
    assert torch.equal(plain.extract(images), mean.extract(images))
    for cut in ("pooler", "pooler.dense"):
        with pytest.raises(TesseraeError, match=f"no weights for block '{cut}': it was not"):
            open_backbone(tmp_path / "without", cut=cut)


@pytest.mark.parametrize("name", ["new", "a/hub-model"])
def test_a_missing_package_is_an_error_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is the same for a new network and for a pretrained one."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TesseraeError, match="make setup EXTRAS=train"):
        open_backbone(name)


def vit(folder: Path, *, pooler: bool = False, **choices: Any) -> Any:
    """Save a vision transformer in *folder*, and return the model."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(image_size=32, patch_size=8, intermediate_size=32, **sizes, **choices)
    model = ViTModel(config, add_pooling_layer=pooler)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3}))
    return model


def test_the_digest_covers_all_that_affects_features(folder: Path, tmp_path: Path) -> None:
    """Each weight and each relevant setting changes the digest, but the folder does not."""
    first = open_backbone(folder)
    assert open_backbone(folder).digest == first.digest
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    settings_file = moved / "config.json"
    settings = json.loads(settings_file.read_text())
    irrelevant = {"transformers_version": "4.0.0", "id2label": {"0": "cat", "1": "dog"}}
    settings_file.write_text(json.dumps({**settings, **irrelevant}))
    assert open_backbone(moved).digest == first.digest
    settings_file.write_text(json.dumps({**settings, "layer_norm_eps": 1e-3}))
    changed = open_backbone(moved)
    assert changed.digest != first.digest
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert not torch.equal(changed.extract(images), first.extract(images))
    settings_file.write_text(json.dumps(settings))
    state = load_file(moved / "model.safetensors")
    name = max(state)
    state[name] = state[name] + 1e-6
    save_file(state, moved / "model.safetensors", metadata={"format": "pt"})
    assert open_backbone(moved).digest != first.digest


def test_weights_stored_in_half_precision_compute_in_float32(tmp_path: Path) -> None:
    """Sums in half precision would be rounded on the processor."""
    model = vit(tmp_path / "half").half()
    model.save_pretrained(tmp_path / "half")
    backbone = open_backbone(tmp_path / "half")
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.float().eval()(backbone.normalise(images)).last_hidden_state.mean(1)
    assert torch.equal(backbone.extract(images), expected)


def test_the_vision_part_of_an_image_text_model_is_used(tmp_path: Path) -> None:
    """CLIP gives its pooled output; a text model is refused."""
    from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

    thin = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16}  # fmt: skip
    seen = {**thin, "image_size": 32, "patch_size": 8}
    words = {**thin, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=words, vision_config=seen)).eval()
    model.save_pretrained(tmp_path / "clip")
    processor = {"size": {"shortest_edge": 32}, "crop_size": 32, "image_mean": [0.4] * 3}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(processor))
    backbone = open_backbone(tmp_path / "clip")
    assert (backbone.name, backbone.size) == ("CLIPVisionModel (clip)", 32)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.vision_model(pixel_values=backbone.normalise(images)).pooler_output
    assert torch.equal(backbone.extract(images), expected)
    BertModel(BertConfig(**{**thin, "vocab_size": 50})).save_pretrained(tmp_path / "bert")
    with pytest.raises(TesseraeError, match="is not a vision model: its input is input_ids"):
        open_backbone(tmp_path / "bert")


def test_a_network_that_fails_on_images_of_its_size_is_refused(tmp_path: Path) -> None:
    """The error is raised before the first task."""
    vit(tmp_path / "vit")
    processor = {"size": {"height": 40, "width": 40}, "image_mean": [0.5] * 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(TesseraeError, match=r"fails on images of 40 px \(ValueError"):
        _ = open_backbone(tmp_path / "vit").dim


@pytest.mark.parametrize(
    "fields",
    [
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"image_mean": [0.1, 0.2, 0.3], "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [0.5] * 3, "image_std": [2.0] * 3},
        {"do_rescale": False, "image_mean": [100.0] * 3, "image_std": [50.0] * 3},
        {},
    ],
)
def test_images_are_normalised_as_by_the_models_processor(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    """Fields that the processor's file leaves out have the defaults of its kind."""
    from transformers import AutoImageProcessor

    vit(tmp_path / "vit")
    file = tmp_path / "vit" / "preprocessor_config.json"
    file.write_text(json.dumps({**fields, "size": {"height": 32, "width": 32}}))
    backbone = open_backbone(tmp_path / "vit")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    processor: Any = AutoImageProcessor.from_pretrained(tmp_path / "vit")
    expected = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"])
    pixels = backbone.normalise(torch.from_numpy(picture)[None].permute(0, 3, 1, 2))
    torch.testing.assert_close(pixels, expected.float(), rtol=1e-4, atol=1e-4)


def test_a_network_for_bgr_images_gets_bgr(tmp_path: Path) -> None:
    """MobileViT is such a network; its kind of processor implies that nothing is normalised."""
    from transformers import MobileViTConfig, MobileViTModel

    torch.manual_seed(0)
    thin = {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 4, 4, 4, 4, 8]}
    options = {"num_attention_heads": 2, "initializer_range": 0.5}
    model = MobileViTModel(MobileViTConfig(image_size=32, **thin, **options)).eval()
    model.save_pretrained(tmp_path / "it")
    processor = {"do_flip_channel_order": True, "crop_size": 32, "size": 36}
    (tmp_path / "it" / "preprocessor_config.json").write_text(json.dumps(processor))
    backbone = open_backbone(tmp_path / "it")
    assert backbone.transform == Transform(
        size=32, mean=(0.0,) * 3, std=(1.0,) * 3, channels="BGR", crop_share=0.8888889
    )
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected, unflipped = (
            model(i.float() / 255).pooler_output for i in (images.flip(1), images)
        )
    scale = 1 / expected.abs().max()  # the outputs of an untrained network are tiny
    torch.testing.assert_close(backbone.extract(images) * scale, expected * scale)
    assert not torch.allclose(expected * scale, unflipped * scale, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"crop_size": {"height": 24, "width": 24}, "size": {"shortest_edge": 32}}, 24),
        ({"crop_size": 24, "do_center_crop": False, "size": 30}, 30),
        ({"size": {"shortest_edge": 28}}, 28),
        ({}, 32),
    ],
)
def test_the_image_size_follows_from_the_processor(fields: dict[str, Any], size: int) -> None:
    """The size is that of the crop, otherwise of the resize, otherwise of the configuration."""
    mean = {"image_mean": [0.5] * 3}
    assert make_transform({**fields, **mean}, {"do_normalize": True}, "it", 32).size == size


def test_impossible_preprocessing_is_refused() -> None:
    """The images are not square, or fields are missing."""
    oblong = {"size": {"height": 32, "width": 64}, "image_mean": 0.5}
    with pytest.raises(TesseraeError, match="it takes images of 32 x 64 px: expected squares"):
        make_transform(oblong, {}, "it", None)
    with pytest.raises(TesseraeError, match="it takes images of 0 px"):
        make_transform({"image_mean": 0.5}, {}, "it", None)
    with pytest.raises(TesseraeError, match="it has no image_mean"):
        make_transform({"size": 32}, {}, "it", None)


def test_a_published_network_has_its_published_outputs(real_data: Path) -> None:
    """The network needs TensorFlow's padding, a setting that changes the digest."""
    from transformers import AutoModelForImageClassification

    folder = real_data / "mobilenet_v1_0.75_224"
    backbone = open_backbone(folder)
    assert backbone.digest == "bc84b3f94976607a6e0afdb3bb025e6644a83306331e80c0c4e65e9370c0bcfd"
    classifier: Any = AutoModelForImageClassification.from_pretrained(folder).eval()
    images = pictures(real_data, "n01440764", 8)
    with torch.no_grad():
        expected = classifier(backbone.normalise(images), output_hidden_states=True)
        scores = classifier.classifier(backbone.extract(images))
    torch.testing.assert_close(scores, expected.logits, rtol=1e-3, atol=1e-3)
    assert (scores.argmax(1) == 0).sum() >= 7  # of 8 tenches
    for cut, index in (("layer.3", 3), ("layer.25", 25)):
        hidden = expected.hidden_states[index].mean((2, 3))
        features = open_backbone(folder, cut=cut).extract(images)
        torch.testing.assert_close(features, hidden, rtol=1e-3, atol=1e-3)
    backbone.model.config.tf_padding = False
    without_padding = Backbone(backbone.model, name="other", transform=backbone.transform)
    assert without_padding.digest != backbone.digest


def pictures(real_data: Path, wnid: str, count: int) -> torch.Tensor:
    """Return (count, 3, 224, 224) uint8 images of a class."""
    files = sorted((real_data / "imagenette" / "val" / wnid).glob("*.JPEG"))[:count]
    rows = [np.asarray(Image.open(file).convert("RGB").resize((224, 224))) for file in files]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


def test_a_new_network_is_untrained_and_has_gradients() -> None:
    """Torch's generator at that moment determines the weights."""
    torch.manual_seed(5)
    first = new_backbone(size=32, width=8)
    torch.manual_seed(5)
    second = new_backbone(size=32, width=8)
    assert first.digest == second.digest
    assert first.dim == 64
    assert open_backbone("new").name == "new"
    first.model.train().requires_grad_(True)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    first.forward(first.normalise(images)).square().sum().backward()
    assert all(p.grad is not None for p in first.model.parameters())


@pytest.mark.parametrize("kind", ["vit", "no pooler", "clip", "bgr", "new"])
def test_a_saved_network_is_the_same_when_opened(folder: Path, tmp_path: Path, kind: str) -> None:
    """Weights, settings and preprocessing are equal."""
    backbone = some_backbone(kind, folder, tmp_path / "first")
    save_backbone(backbone, tmp_path / "there" / "saved")
    opened = open_backbone(tmp_path / "there" / "saved")
    assert opened.digest == backbone.digest
    assert opened.transform == backbone.transform
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    torch.testing.assert_close(opened.extract(images), backbone.extract(images))
    assert [file.name for file in (tmp_path / "there").iterdir()] == ["saved"]
    with pytest.raises(TesseraeError, match="exists already"):
        save_backbone(backbone, tmp_path / "there" / "saved")


def some_backbone(kind: str, folder: Path, path: Path) -> Backbone:
    """Return a network of a kind that has its own way of saving."""
    from transformers import CLIPConfig, CLIPModel, MobileViTConfig, MobileViTModel

    torch.manual_seed(1)
    processor: dict[str, Any] = {"size": 32, "image_mean": [0.4] * 3, "image_std": [0.2, 0.3, 0.4]}
    if kind == "vit":
        return open_backbone(folder)
    if kind == "new":
        return new_backbone(size=48, width=8)
    if kind == "no pooler":
        vit(path, pooler=False)
        return open_backbone(path)
    if kind == "clip":
        thin = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 16}  # fmt: skip
        words = {**thin, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
        seen = {**thin, "image_size": 32, "patch_size": 8}
        CLIPModel(CLIPConfig(text_config=words, vision_config=seen)).save_pretrained(path)
    else:
        sizes = {"hidden_sizes": [8] * 3, "neck_hidden_sizes": [4] * 6 + [8]}
        MobileViTModel(
            MobileViTConfig(image_size=32, num_attention_heads=2, **sizes)
        ).save_pretrained(path)
        processor = {"do_flip_channel_order": True, "crop_size": 32, "size": 36}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return open_backbone(path)


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, 0.875),
        ({"size": 256, "crop_size": 224}, 0.875),
        ({"size": 224, "crop_pct": 0.875}, 0.875),
        ({"size": {"shortest_edge": 224}, "crop_size": 224}, 1),
        ({"size": {"height": 256, "width": 256}, "crop_size": 224}, 1),
        ({"size": {"shortest_edge": 224}, "crop_size": 256}, 1),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_resize": False}, 1),
        ({"size": 224}, 1),
        ({"size": 224, "crop_size": 200, "do_center_crop": False}, 1),
        ({"size": 384, "crop_pct": 0.95}, 1),
        ({"size": 224, "crop_pct": 0}, 1),
        ({"size": 224, "crop_pct": "much"}, 1),
        ({"size": [256, 340], "crop_size": 224}, 1),
    ],
)
def test_the_share_of_the_centre_crop_is_that_of_the_processor(
    fields: dict[str, Any], share: float
) -> None:
    """What does not state a crop of the short side, or is invalid, is no crop."""
    means = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert make_transform({**means, **fields}, {}, "it", None).crop_share == share


def _bottlenecks() -> nn.Module:
    """Return a ResNet of five bottlenecks in two stages, with random weights."""
    from pipeline.backbone.small_images import Stem3ResNetConfig, Stem3ResNetModel

    torch.manual_seed(0)
    config = Stem3ResNetConfig(
        embedding_size=4, hidden_sizes=[8, 16], depths=[2, 3], layer_type="bottleneck"
    )
    return Stem3ResNetModel(config).eval()


def test_blocks_are_named_in_the_order_of_their_computation() -> None:
    """They are the stem and each bottleneck, and each separable block by its second half."""
    from transformers import MobileNetV1Config, MobileNetV1Model

    assert block_names(_bottlenecks()) == [
        "embedder",
        "encoder.stages.0.layers.0", "encoder.stages.0.layers.1",
        "encoder.stages.1.layers.0", "encoder.stages.1.layers.1", "encoder.stages.1.layers.2",
    ]  # fmt: skip
    mobile = MobileNetV1Model(MobileNetV1Config(depth_multiplier=0.25))
    assert block_names(mobile) == ["conv_stem", *(f"layer.{i}" for i in range(1, 26, 2))]
    assert block_names(nn.Sequential(nn.Conv2d(3, 3, 1))) == []


def test_a_vision_transformer_has_its_layers_as_blocks(folder: Path) -> None:
    """The embeddings are the stem."""
    names = block_names(open_backbone(folder).model)
    assert len(names) == 3
    assert names[0] == "embeddings"


def test_the_remaining_blocks_compute_with_a_replaced_output() -> None:
    """An equal output changes nothing, another one does, and afterwards nothing is replaced."""
    model, pixels = _bottlenecks(), torch.rand(2, 3, 16, 16)
    cut = "encoder.stages.0.layers.1"
    with torch.no_grad():
        expected = model(pixels).pooler_output
        with replace_block_output(model, cut, torch.clone):
            assert torch.equal(model(pixels).pooler_output, expected)
        with replace_block_output(model, cut, lambda hidden: hidden.mean((2, 3), keepdim=True)):
            pooled = model(pixels)
        assert pooled.last_hidden_state.shape[2:] == (1, 1)
        assert not torch.allclose(pooled.pooler_output, expected, rtol=0.01)
        assert torch.equal(model(pixels).pooler_output, expected)


def test_an_output_of_several_parts_is_not_replaced() -> None:
    """Which part the next block takes is not known."""

    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    model = nn.Sequential(Pair())
    with (
        pytest.raises(TesseraeError, match="'0' is tuple: expected a tensor"),
        replace_block_output(model, "0", torch.clone),
    ):
        model(torch.zeros(1))
