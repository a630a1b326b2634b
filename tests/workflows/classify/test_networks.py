"""Tests of the networks: their sizes, their parts, and what is refused."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.augment import IMAGENET_MEAN, IMAGENET_STD
from pipeline.backbone.load import load_pretrained, open_backbone
from pipeline.backbone.save import save_model
from pipeline.errors import TesseraeError
from tests.workflows.classify.small import CONFIGS, config_file, small_trunk
from workflows.classify.networks import (
    Classifier,
    UnknownClassesError,
    blocks_of,
    check_classifier,
    make_classifier,
    new_classifier,
    pretrained_classifier,
    pretrained_last_layer,
)
from workflows.classify.options import NETWORKS, ClassifyOptions

PUBLISHED = {
    "resnet18": (1_000, 11_689_512, 9),
    "resnet34": (1_000, 21_797_672, 17),
    "resnet50": (1_000, 25_557_032, 17),
    "resnet101": (1_000, 44_549_160, 34),
    "resnet152": (1_000, 60_192_808, 51),
    # the first layer has 3x3 x 3 weights for each channel in place of 7x7 x 3
    "resnet18-stem3": (1_000, 11_689_512 - 64 * 3 * (49 - 9), 9),
    "resnet34-stem3": (1_000, 21_797_672 - 64 * 3 * (49 - 9), 17),
    "resnet50-stem3": (1_000, 25_557_032 - 64 * 3 * (49 - 9), 17),
    "resnet101-stem3": (1_000, 44_549_160 - 64 * 3 * (49 - 9), 34),
    "resnet152-stem3": (1_000, 60_192_808 - 64 * 3 * (49 - 9), 51),
    "resnet9": (10, 6_573_120, 4),
    "convnext-tiny": (1_000, 28_589_128, 19),
    "convnext-small": (1_000, 50_223_688, 37),
    "vit-small": (1_000, 22_050_664, 13),
}
"""The number of classes, of parameters by torchvision, timm or the paper, and of blocks."""


def options_of(**choices: Any) -> ClassifyOptions:
    """Return the options of a network that takes images of 32 px."""
    return ClassifyOptions(**{"image_size": 32, "network": "resnet9", **choices})


def on_meta(network: str, classes: int, image_size: int = 224) -> Classifier:
    """Return a network without memory for its weights."""
    with torch.device("meta"):
        return new_classifier(network, [f"class {i}" for i in range(classes)],
                              image_size=image_size)  # fmt: skip


def test_every_network_is_in_the_table() -> None:
    """A new name needs a published number of parameters."""
    assert sorted(PUBLISHED) == sorted(NETWORKS)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(n, marks=[pytest.mark.slow] if n.startswith(("resnet10", "resnet15")) else [])
        for n in PUBLISHED
    ],
)
def test_a_network_has_its_published_parameters(network: str) -> None:
    """All of them are in one block of the trunk or in the last layers, in order."""
    classes, count, blocks = PUBLISHED[network]
    classifier = on_meta(network, classes)
    assert sum(p.numel() for p in classifier.model.parameters()) == count
    listed = blocks_of(classifier.trunk)
    assert len(listed) == blocks
    assert all(listed)
    in_order = [id(p) for block in listed for p in block] + [
        id(p) for p in classifier.last_layers()
    ]
    assert in_order == [id(p) for p in classifier.model.parameters()]
    assert classifier.last_layers()[0].shape[0] == classes
    with torch.no_grad():
        images = torch.zeros(2, 3, 224, 224, device="meta")
        assert classifier.logits(images).shape == (2, classes)


def test_resnet9_is_that_of_the_publication() -> None:
    """It equals the layers written out, with the factor on the outputs."""
    torch.manual_seed(0)
    classifier = new_classifier("resnet9", ["a", "b"], image_size=32, width=4)
    weights = list(classifier.model.parameters())[::-1]

    def layer(hidden: Tensor) -> Tensor:
        kernel, scale, shift = weights.pop(), weights.pop(), weights.pop()
        hidden = nn.functional.conv2d(hidden, kernel, padding=1)
        return nn.functional.batch_norm(
            hidden, torch.zeros(len(scale)), torch.ones(len(scale)), scale, shift
        ).relu()

    images = torch.randn(2, 3, 32, 32)
    hidden = nn.functional.max_pool2d(layer(layer(images)), 2)
    hidden = hidden + layer(layer(hidden))
    hidden = nn.functional.max_pool2d(layer(hidden), 2)
    hidden = nn.functional.max_pool2d(layer(hidden), 2)
    hidden = hidden + layer(layer(hidden))
    assert hidden.shape == (2, 32, 4, 4)
    expected = 0.125 * hidden.amax((2, 3)) @ weights.pop().T
    assert not weights
    classifier.model.eval()
    torch.testing.assert_close(classifier.logits(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", ["resnet9", "resnet18-stem3", "resnet18"])
def test_random_weights_suit_rectified_layers(network: str) -> None:
    """Convolutions are drawn as He et al. draw them, by outputs, and norms change nothing."""
    torch.manual_seed(0)
    classifier = new_classifier(network, ["a"] * 10, image_size=32, width=48)
    for module in classifier.model.modules():
        if isinstance(module, nn.Conv2d):
            size = module.kernel_size[0] * module.kernel_size[1]
            expected = (2 / (module.out_channels * size)) ** 0.5
            count = module.weight.numel()
            assert float(module.weight.detach().std()) == pytest.approx(
                expected, rel=4 / (2 * count) ** 0.5
            )
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight.detach(), torch.ones(module.num_features))
            assert not module.bias.detach().any()
    last = classifier.last_layers()[0].detach()
    limit = last.shape[1] ** -0.5
    assert 0.95 * limit < float(last.abs().max()) <= limit


def test_a_3x3_stem_is_the_only_difference() -> None:
    """The stages and the last layer are those of the ResNet of `transformers`."""
    torch.manual_seed(0)
    ours = new_classifier("resnet18-stem3", ["a", "b"], image_size=32, width=8).model.eval()
    theirs = new_classifier("resnet18", ["a", "b"], image_size=32, width=8).model.eval()
    theirs.resnet.encoder.load_state_dict(ours.backbone.encoder.state_dict())
    theirs.classifier[1].load_state_dict(ours.classifier.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        hidden = theirs.resnet.encoder(ours.backbone.embedder(images)).last_hidden_state
        expected = theirs.classifier(hidden.mean((2, 3)))
        torch.testing.assert_close(ours(images).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_3x3_stem_keeps_the_resolution() -> None:
    """The first stage has as many positions as the image, and the last an eighth on each side."""
    classifier = on_meta("resnet18-stem3", 10, 32)
    assert classifier.trunk.embedder(torch.zeros(1, 3, 32, 32, device="meta")).shape[2:] == (32, 32)
    output = classifier.trunk(torch.zeros(1, 3, 32, 32, device="meta"))
    assert output.last_hidden_state.shape == (1, 512, 4, 4)
    assert output.pooler_output.shape == (1, 512, 1, 1)


@pytest.mark.parametrize(
    ("network", "width", "parameters"),
    [("resnet9", 32, 1_646_112), ("resnet18", 32, None), ("convnext-tiny", 24, None),
     ("vit-small", 64, None)],
)  # fmt: skip
def test_the_width_scales_all_layers(network: str, width: int, parameters: int | None) -> None:
    """Half of the channels have about a quarter of the parameters."""
    with torch.device("meta"):
        whole, narrow = (
            new_classifier(network, ["a"] * 10, image_size=32, width=channels)
            for channels in (2 * width, width)
        )
    counts = [sum(p.numel() for p in c.model.parameters() if p.ndim > 1) for c in (whole, narrow)]
    assert counts[0] == pytest.approx(4 * counts[1], rel=0.1)
    if parameters is not None:
        assert sum(p.numel() for p in narrow.model.parameters()) == parameters


@pytest.mark.parametrize("image_size", [32, 64, 72, 96, 128, 224, 384])
def test_a_transformer_has_patches_for_every_size(image_size: int) -> None:
    """Images have 14 to 24 patches of whole pixels on each side."""
    config = on_meta("vit-small", 2, image_size).model.config
    assert image_size % config.patch_size == 0
    assert 14 <= image_size // config.patch_size <= 24


def test_classes_are_named_in_the_configuration() -> None:
    """Two classes may have the same name, as the cranes of ImageNet."""
    classifier = on_meta("resnet9", 2)
    assert classifier.model.config.id2label == {0: "class 0", 1: "class 1"}
    with torch.device("meta"):
        cranes = new_classifier("resnet9", ["crane", "crane", "ant"], image_size=32)
    assert cranes.model.config.num_labels == 3
    assert cranes.last_layers()[0].shape[0] == 3


# --- networks of a file, and pretrained ones ------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_a_network_may_be_that_of_a_file(tmp_path: Path, name: str) -> None:
    """Its images have the size of the option, whatever the file says."""
    classifier = new_classifier(config_file(tmp_path, name), ["a", "b"], image_size=32)
    assert classifier.logits(torch.zeros(2, 3, 32, 32)).shape == (2, 2)
    assert len(blocks_of(classifier.trunk)) == 3
    assert (classifier.transform.size, classifier.pretrained) == (32, False)
    check_classifier(options_of(network=config_file(tmp_path, name)), ["a", "b"])


def test_a_network_of_two_classes_of_transformers_needs_no_architecture(tmp_path: Path) -> None:
    """DeiT has one with a teacher and one without, which is the default."""
    small = {**CONFIGS["vit"], "model_type": "deit"}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(small))
    name = "DeiTForImageClassification"
    classifier = new_classifier(str(file), ["a", "b"], image_size=32)
    assert type(classifier.model).__name__ == name
    file.write_text(json.dumps({**small, "architectures": [name]}))
    assert type(new_classifier(str(file), ["a"], image_size=32).model).__name__ == name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--network is .*config.json: expected the config.json of an image classifier"),
        ("{", "--network is .*expected the config.json of an image classifier"),
        ("[1]", "--network is .*expected the config.json of an image classifier"),
        ("{}", "--network is .*expected the config.json of an image classifier"),
        ({"model_type": "nothing"}, "--network is .*Unrecognized model identifier: nothing"),
        ({"model_type": "bert"}, "is no image classifier of `transformers`"),
        ({"model_type": "siglip"}, "does not separate its last layers from the others"),
        ({**CONFIGS["vit"], "hidden_size": "16"}, "--network is .*expected int, got str"),
        ({**CONFIGS["vit"], "hidden_size": -16}, "is no image classifier"),
        ({**CONFIGS["resnet"], "num_channels": 4}, "--image-size is 32: .* fails on such images"),
        ({**CONFIGS["resnet"], "layer_type": "round"}, "layer_type"),
        ({"model_type": "bert", "auto_map": {"AutoModelForImageClassification": "x/y--m.Z"}},
         "is no image classifier of `transformers`"),
    ],
)  # fmt: skip
def test_an_unsuitable_file_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    """The error is one sentence; code that a file refers to is neither run nor asked for."""
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
        with pytest.raises(TesseraeError, match=message) as caught:
            check_classifier(options_of(network=str(file)), ["a", "b"])
    assert "\n" not in str(caught.value)


def test_a_network_that_needs_a_missing_package_is_refused(tmp_path: Path) -> None:
    """The sentence names the package."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "timm_wrapper", "architecture": "resnet18"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "timm", None)
        with pytest.raises(TesseraeError, match="timm"):
            new_classifier(str(file), ["a", "b"], image_size=32)


def test_a_network_without_scores_of_classes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose scores have another shape is refused."""
    classifier = new_classifier(config_file(tmp_path, "resnet"), ["a", "b"], image_size=32)
    scores = types.SimpleNamespace(logits=torch.zeros(2, 4, 2))
    monkeypatch.setattr(classifier.model, "forward", lambda _: scores)
    monkeypatch.setattr("workflows.classify.networks.make_classifier", lambda *_: classifier)
    with pytest.raises(TesseraeError, match=r"scores of the shape \(2, 4, 2\) for 2 images: expec"):
        check_classifier(options_of(), ["a", "b"])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_pretrained_network_keeps_the_weights_of_its_trunk(tmp_path: Path, name: str) -> None:
    """The trunk is bit-identical, and the last layer is drawn from torch's generator."""
    folder = small_trunk(tmp_path, name)
    source = open_backbone(folder)
    torch.manual_seed(3)
    classifier = pretrained_classifier(str(folder), ["x", "y"])
    weights = source.model.state_dict()
    trunk = classifier.trunk.state_dict()
    assert trunk
    assert all(torch.equal(value, weights[name]) for name, value in trunk.items())
    assert classifier.transform == source.transform
    assert classifier.pretrained
    assert classifier.last_layers()[0].shape[0] == 2
    torch.manual_seed(3)
    same = pretrained_classifier(str(folder), ["x", "y"])
    assert all(map(torch.equal, same.last_layers(), classifier.last_layers()))
    assert all(parameter.requires_grad for parameter in classifier.model.parameters())


def test_a_trunk_without_a_classifier_is_refused(tmp_path: Path) -> None:
    """The vision part of a model of images and text is refused, and a folder of nothing."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                              num_attention_heads=2, image_size=32, patch_size=16)  # fmt: skip
    CLIPVisionModel(config).save_pretrained(tmp_path / "clip")
    processor = {"size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(TesseraeError, match=r"is no image classifier|expected a model of which"):
        pretrained_classifier(str(tmp_path / "clip"), ["a", "b"])
    with pytest.raises(TesseraeError, match="is not a backbone"):
        pretrained_classifier(str(tmp_path / "nothing"), ["a", "b"])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_last_layer_of_a_trunk_is_that_of_its_classes(tmp_path: Path, name: str) -> None:
    """The scores of classes that a model knows are its own, in whatever order they are named."""
    folder = str(small_trunk(tmp_path, name))
    source, _ = load_pretrained(folder, classifier=True)
    classifier = pretrained_classifier(folder, ["c", "a"], new_last_layer=False)
    classifier.model.eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = source(images).logits[:, [2, 0]]
        torch.testing.assert_close(classifier.logits(images), expected)


def renamed(folder: Path, *names: str) -> str:
    """Give the classes of a saved model other names; return its folder."""
    write_labels(folder, dict(enumerate(names)))
    return str(folder)


def write_labels(folder: Path, labels: dict[Any, Any]) -> None:
    """Replace the names of classes by label in the configuration of a saved model."""
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = labels
    config["label2id"] = {str(name): label for label, name in labels.items()}
    (folder / "config.json").write_text(json.dumps(config))


def test_classes_that_a_trunk_does_not_know_are_refused(tmp_path: Path) -> None:
    """Names must tell classes apart, unless all are the same in the same order."""
    folder = small_trunk(tmp_path)
    for classes, message in (
        (["a", "z"], "the store has a class 'z', and .*resnet has no such class"),
        (["a", "a"], "the store has several classes 'a', and .*resnet one"),
    ):
        with pytest.raises(UnknownClassesError, match=message):
            pretrained_classifier(str(folder), classes, new_last_layer=False)
    cranes = ["crane", "bird", "crane"]
    renamed(folder, *cranes)
    weights = load_pretrained(str(folder), classifier=True)[0].state_dict()
    layers = pretrained_last_layer(str(folder), cranes)
    assert layers
    assert all(torch.equal(value, weights[name]) for name, value in layers.items())
    with pytest.raises(UnknownClassesError, match=r"a class 'crane', and .* has 2 classes of that"):
        pretrained_last_layer(str(folder), ["bird", "crane"])


def test_a_trunk_without_a_trained_linear_layer_is_refused(tmp_path: Path) -> None:
    """A trunk that was saved without its last layer has none, and labels must name its rows."""
    folder = small_trunk(tmp_path)
    backbone = open_backbone(folder)
    save_model(backbone.model, backbone.model.state_dict(), backbone.transform, tmp_path / "trunk")
    renamed(tmp_path / "trunk", "a", "b", "c")
    with pytest.raises(UnknownClassesError, match=r"trunk has no trained last layer"):
        pretrained_last_layer(str(tmp_path / "trunk"), ["a", "b"])
    for labels, message in (
        ({"0": ["a"], "1": {"b": 1}, "2": None}, "the store has a class 'a', and .* has no such"),
        ({"0": "a", "2": "b", "3": "c"}, "does not number its classes from 0"),
        ({"-1": "a", "0": "b", "1": "c"}, "does not number its classes from 0"),
    ):
        write_labels(folder, labels)
        with pytest.raises(UnknownClassesError, match=message):
            pretrained_last_layer(str(folder), ["a", "b"])


def test_a_damaged_trunk_is_not_one_that_does_not_know_the_classes(tmp_path: Path) -> None:
    """Its last layer is not replaced by a new one in silence."""
    folder = small_trunk(tmp_path)
    options = options_of(network=None, trunk=str(folder))
    assert options.for_classes(("c", "a")).last_layer == "pretrained"
    assert options.for_classes(("c", "d")).last_layer == "new"
    renamed(folder, "a", "b", "c", "d")  # of a last layer of three classes
    with pytest.raises(TesseraeError, match=r"config\.json does not match the weights"):
        options.for_classes(("c", "d"))
    renamed(folder, "a", "b", "c")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.1.bias"][1] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TesseraeError, match=r"NaN or infinity, in classifier\.1\.bias"):
        options.for_classes(("c", "a"))
    with pytest.raises(TesseraeError, match=r"gone is not a backbone \(there is no such folder\)"):
        options_of(network=None, trunk=str(tmp_path / "gone")).for_classes(("a",))


def test_two_last_layers_are_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a layer before the last one are no classes, even if it has as many."""
    folder = str(small_trunk(tmp_path))
    model, missing = load_pretrained(folder, classifier=True)
    flatten, last = model.classifier
    model.classifier = nn.Sequential(flatten, nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 3))
    monkeypatch.setattr(
        "workflows.classify.networks.load_pretrained", lambda *_, **__: (model, missing)
    )
    with pytest.raises(UnknownClassesError, match="ends in more than one linear layer"):
        pretrained_last_layer(folder, ["a", "b"])
    model.classifier = nn.Sequential(flatten, last)
    assert pretrained_last_layer(folder, ["a", "b"])


def test_freezing_counts_blocks(tmp_path: Path) -> None:
    """-1 freezes the whole trunk, and more blocks than there are are refused."""
    folder = str(small_trunk(tmp_path))
    for frozen, expected in ((0, 0), (1, 1), (3, 3), (-1, 3)):
        classifier = pretrained_classifier(folder, ["a", "b"])
        assert classifier.freeze(frozen) == 3
        states = [
            {parameter.requires_grad for parameter in block}
            for block in blocks_of(classifier.trunk)
        ]
        assert states == [{False}] * expected + [{True}] * (3 - expected)
        assert all(parameter.requires_grad for parameter in classifier.last_layers())
    options = options_of(network=None, trunk=folder, frozen_blocks=4)
    with pytest.raises(
        TesseraeError, match=r"--frozen-blocks is 4: ResNet.* has 3 blocks. Pass few"
    ):
        check_classifier(options, ["a", "b"])


def test_a_network_for_bgr_images_gets_bgr(tmp_path: Path) -> None:
    """The channels of normalised images are reversed for it."""
    classifier = pretrained_classifier(str(small_trunk(tmp_path)), ["a", "b"])
    images = torch.randn(2, 3, 16, 16)
    classifier.model.eval()
    expected = classifier.logits(images.flip(1))
    classifier.transform = replace(classifier.transform, channels="BGR")
    torch.testing.assert_close(classifier.logits(images), expected)


# --- checks ---------------------------------------------------------------------------------------


def test_a_check_needs_no_memory_for_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of the largest network, and of its images, is without storage."""
    devices: set[str] = set()
    original = nn.Module.register_parameter

    def record(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            devices.add(parameter.device.type)
        original(self, name, parameter)

    monkeypatch.setattr(nn.Module, "register_parameter", record)
    check_classifier(options_of(network="resnet152", width=256), ["a", "b"])
    assert devices == {"meta"}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"network": "vit-small", "evaluation_size": 40},
         "--evaluation-size is 40: ViT.* fails on such images .*Pass 32, or another network"),
        ({"network": "vit-small", "start_image_size": 24}, "--start-image-size is 24: ViT"),
        ({"network": "vit-small", "image_size": 97}, "--image-size is 97: vit-small would cut"),
        ({"network": "vit-small", "width": 100}, "--width is 100: expected a multiple of 64"),
        ({"network": "resnet9", "start_image_size": 9, "image_size": 10}, ""),
        ({"network": "convnext-tiny", "image_size": 16},
         "--image-size is 16: ConvNext.* fails on such images .*, or another network"),
    ],
)  # fmt: skip
def test_images_of_an_unsuitable_size_are_refused(choices: dict[str, Any], message: str) -> None:
    """The sentence names the option that selects the size."""
    if not message:
        check_classifier(options_of(**choices), ["a", "b"])
        return
    with pytest.raises(TesseraeError, match=message):
        check_classifier(options_of(**choices), ["a", "b"])


def test_a_trunk_for_images_of_another_size_is_refused(tmp_path: Path) -> None:
    """The cure is its own size."""
    folder = str(small_trunk(tmp_path, "vit"))
    options = options_of(network=None, trunk=folder, image_size=24)
    with pytest.raises(
        TesseraeError, match=r"--image-size is 24: ViT.*Pass 16, or another network"
    ):
        check_classifier(options, ["a", "b"])
    check_classifier(options_of(network=None, trunk=folder, image_size=16), ["a", "b"])


def test_a_width_belongs_to_named_networks(tmp_path: Path) -> None:
    """The network of a file has its own width."""
    options = options_of(network=config_file(tmp_path, "resnet"), width=16)
    with pytest.raises(TesseraeError, match=r"--width is 16: the network of .* has its own. Omit"):
        check_classifier(options, ["a", "b"])


def test_weights_are_drawn_from_the_global_generator() -> None:
    """Ranks with the same seed begin with the same weights."""
    options = options_of(width=8)
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(make_classifier(options, ["a", "b"]).model.state_dict())
    first, repeated, reseeded = (list(state.values()) for state in states)
    assert all(map(torch.equal, first, repeated))
    assert not all(map(torch.equal, first, reseeded))


@pytest.mark.parametrize("network", ["resnet9", "resnet18-stem3", "convnext-tiny", "vit-small"])
def test_a_saved_classifier_is_the_same_when_opened(tmp_path: Path, network: str) -> None:
    """`transformers` gives the same scores and names, and a backbone the features of the trunk."""
    from transformers import AutoModelForImageClassification

    torch.manual_seed(0)
    width = 64 if network == "vit-small" else 8
    classes = ("crane", "crane", "fox<b>")
    classifier = new_classifier(network, classes, image_size=32, width=width)
    model = classifier.model.eval()
    save_model(model, model.state_dict(), classifier.transform, tmp_path / "saved")
    opened = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    backbone = open_backbone(tmp_path / "saved")
    images = torch.randn(2, 3, 32, 32)
    close = {"rtol": 1e-4, "atol": 1e-5}
    with torch.no_grad():
        output = classifier.trunk(images)
        torch.testing.assert_close(opened(images).logits, model(images).logits, **close)
        features = getattr(output, "pooler_output", None)
        expected = output.last_hidden_state.mean(1) if features is None else features.flatten(1)
        torch.testing.assert_close(backbone.forward(images), expected, **close)
    assert opened.config.id2label == dict(enumerate(classes))
    assert backbone.size == 32
    assert (backbone.mean, backbone.std) == (IMAGENET_MEAN, IMAGENET_STD)
    weights = opened.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
