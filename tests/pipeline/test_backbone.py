"""Networks that see, from a folder: small ones with random weights, and a real one."""

from __future__ import annotations

import json
import shutil
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
from pipeline.backbone.transform import Transform, transform_of
from pipeline.backbone.truncate import SHOWN, check_block, pool
from pipeline.errors import TesseraeError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer of two thin layers."""
    made = tmp_path_factory.mktemp("vit") / "tiny"
    vit(made)
    (made / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3],
                    "image_std": [1, 1, 2]})
    )  # fmt: skip
    return made


def test_features_are_those_of_the_model(folder: Path) -> None:
    """Of pixels as it wants them, whatever the batch; its name is told."""
    from transformers import ViTModel

    found = open_backbone(folder)
    assert found.name == "ViTModel (tiny)"
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    features = found.features(images)
    assert features.shape == (40, 16)
    torch.testing.assert_close(features[:3], found.features(images[:3]), rtol=1e-4, atol=1e-5)
    mean = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    pixels = (images[:3] / 255 - mean) / torch.tensor([1.0, 1, 2]).view(3, 1, 1)
    with torch.no_grad():
        expected = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()(pixels)
    # Its pooler was never trained, and would be another each time.
    torch.testing.assert_close(
        features[:3], expected.last_hidden_state.mean(1), rtol=1e-4, atol=1e-5
    )


def test_pictures_of_other_sizes_are_brought_to_its_own(folder: Path) -> None:
    """Enlarged or reduced."""
    found = open_backbone(folder)
    plain = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    for size in (8, 100):
        other = torch.full((1, 3, size, size), 90, dtype=torch.uint8)
        torch.testing.assert_close(
            found.features(plain), found.features(other), rtol=1e-3, atol=1e-4
        )


def test_what_is_no_backbone_is_refused(folder: Path, tmp_path: Path) -> None:
    """A pickle in place of safetensors among it."""
    for bad in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(TesseraeError, match="is no backbone"):
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
    with pytest.raises(TesseraeError, match="how pictures are to be normalised"):
        open_backbone(bare)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((folder / "config.json").read_text())
    torch.save({"x": torch.zeros(1)}, pickled / "pytorch_model.bin")
    with pytest.raises(TesseraeError, match="is no backbone"):
        open_backbone(pickled)


def test_a_real_one_tells_dogs_from_trucks(real_data: Path) -> None:
    """Pictures of a class are nearer to each other than to those of another."""
    backbone = open_backbone(real_data / "mobilenet_v1_0.75_224")
    assert backbone.name == "MobileNetV1Model (mobilenet_v1_0.75_224)"

    dogs, trucks = (
        backbone.features(pictures(real_data, wnid, 8)) for wnid in ("n02102040", "n03417042")
    )
    dogs, trucks = (torch.nn.functional.normalize(rows, dim=1) for rows in (dogs, trucks))
    within = (dogs @ dogs.T).fill_diagonal_(0).sum() / 56
    assert float(within) > float((dogs @ trucks.T).mean()) + 0.1


def test_a_cut_is_what_the_model_computes_there(folder: Path) -> None:
    """The block's own output, pooled; and what lies behind it is not computed."""
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    found = open_backbone(folder, cut="layers.0", pooling="mean")
    later = []
    blocks = dict(found.model.named_modules())
    with blocks["layers.1"].register_forward_hook(lambda *told: later.append(told)):
        features = found.features(images)
    assert later == []
    hidden = found.model(found.normal(images), output_hidden_states=True).hidden_states
    torch.testing.assert_close(features, hidden[1].mean(1), rtol=1e-4, atol=1e-5)
    assert found.dim == 16
    whole = open_backbone(folder, cut="layers.1", pooling="mean").features(images)
    assert not torch.allclose(features, whole)


def test_threads_may_cut_one_network_at_once(folder: Path) -> None:
    """Each gets what comes of its own pictures."""
    found = open_backbone(folder, cut="layers.0")
    batches = [torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8) for _ in range(40)]
    expected = [found.features(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for made, one in zip(pool.map(found.features, batches), expected, strict=True):
            torch.testing.assert_close(made, one, rtol=1e-4, atol=1e-5)


class Parts(nn.Module):
    """Blocks that give something else than a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.named, self.several, self.none, self.torn = (nn.Identity() for _ in range(4))
        self.unused = nn.Linear(2, 2)
        self.rows = nn.ModuleList([nn.Identity()])

    def forward(self, pixels: torch.Tensor) -> SimpleNamespace:
        made = self.first(pixels)
        self.named(SimpleNamespace(last_hidden_state=made))
        self.several((made, None))
        self.none(None)
        self.torn(made.flatten(0, 1)[:, None])
        return SimpleNamespace(last_hidden_state=self.rows[0](made))


def parts(cut: str) -> Backbone:
    half = (0.5,) * 3
    torch.manual_seed(0)
    return Backbone(
        Parts(), name="parts", transform=Transform(size=8, mean=half, std=half), cut=cut
    )


@pytest.mark.parametrize("cut", ["first", "named", "several", "rows.0"])
def test_a_block_may_give_its_output_in_parts(cut: str) -> None:
    """Of which the first, or the last hidden state, is taken."""
    torch.testing.assert_close(
        parts(cut).features(torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)),
        parts("first").features(torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)),
    )


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        ("none", "what comes out of block 'none' is NoneType"),
        ("unused", "block 'unused' takes no part"),
        ("torn", r"block 'torn' of parts gives 8 rows for 2 pictures"),
    ],
)
def test_a_block_that_gives_no_row_a_picture_is_refused(cut: str, says: str) -> None:
    """By its name."""
    with pytest.raises(TesseraeError, match=says):
        parts(cut).features(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_blocks_and_poolings_that_are_not_there_are_named(folder: Path) -> None:
    """With those that are; a list of blocks is none, and its blocks are named."""
    with pytest.raises(TesseraeError, match=r"has no block 'layers.7': expected one of .*layers.0"):
        open_backbone(folder, cut="layers.7")
    with pytest.raises(TesseraeError, match=r"has no block 'layers': .* layers.0, layers.1\.$"):
        open_backbone(folder, cut="layers")
    with pytest.raises(TesseraeError, match="has no block '': expected one of embeddings"):
        open_backbone(folder, cut="")
    with pytest.raises(TesseraeError) as caught:
        open_backbone(folder, cut="nosuch")
    named = str(caught.value).partition("expected one of ")[2].partition(", ... (")[0].split(", ")
    assert len(named) == SHOWN  # of any depth: those at the top are few
    for name in named:
        check_block(open_backbone(folder).model, "it", name)
    with pytest.raises(TesseraeError, match="pooling is 'sum': expected one of end, mean"):
        open_backbone(folder, pooling="sum")


@settings(max_examples=30)
@given(
    shape=st.sampled_from([(2, 3, 5, 4), (2, 3, 1, 1), (3, 2, 6, 6), (1, 4, 2, 2)]),
    seed=st.integers(0, 2**32),
)
def test_poolings_of_maps_are_what_they_say(shape: tuple[int, ...], seed: int) -> None:
    """Means, maxima, and means of quarters, as written by hand."""
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
        made = pool(torch.from_numpy(maps), pooling, "it").numpy()
        np.testing.assert_allclose(made, rows, rtol=1e-4, atol=1e-5)
    with pytest.raises(TesseraeError, match="it has no tokens there: use mean"):
        pool(torch.from_numpy(maps), "token", "it")


def test_poolings_of_tokens_are_what_they_say() -> None:
    """The mean, the maximum, the first; one row is that row already."""
    places = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float32)
    tensor = torch.from_numpy(places)
    for pooling, rows in (
        ("mean", places.mean(1)), ("end", places.mean(1)), ("max", places.max(1)),
        ("token", places[:, 0]),
    ):  # fmt: skip
        np.testing.assert_allclose(pool(tensor, pooling, "it").numpy(), rows, rtol=1e-5, atol=1e-6)
        assert torch.equal(pool(tensor[:, 0], pooling, "it"), tensor[:, 0])
    with pytest.raises(TesseraeError, match="no map to pool by quarters there: use mean"):
        pool(tensor, "grid", "it")
    with pytest.raises(TesseraeError, match=r"it gives \(1, 1, 3, 5, 7\) there"):
        pool(tensor[None, None], "mean", "it")


def test_a_pooler_counts_if_it_was_trained(tmp_path: Path) -> None:
    """Then the end is what it makes; else it is as if there were none."""
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    model = vit(tmp_path / "with", pooler=True)
    found = open_backbone(tmp_path / "with")
    with torch.no_grad():
        expected = model.eval()(found.normal(images))
    torch.testing.assert_close(found.features(images), expected.pooler_output)
    torch.testing.assert_close(
        open_backbone(tmp_path / "with", pooling="mean").features(images),
        expected.last_hidden_state.mean(1),
    )
    vit(tmp_path / "without", pooler=False)
    plain = open_backbone(tmp_path / "without")
    mean = open_backbone(tmp_path / "without", pooling="mean")
    assert torch.equal(plain.features(images), mean.features(images))
    for cut in ("pooler", "pooler.dense"):
        with pytest.raises(TesseraeError, match=f"no weights for block '{cut}': it was not"):
            open_backbone(tmp_path / "without", cut=cut)


def vit(folder: Path, *, pooler: bool = False, **choices: Any) -> Any:
    """A vision transformer in a folder."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(image_size=32, patch_size=8, intermediate_size=32, **sizes, **choices)
    model = ViTModel(config, add_pooling_layer=pooler)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3}))
    return model


def test_its_digest_is_of_what_decides_its_features(folder: Path, tmp_path: Path) -> None:
    """The same each time and wherever it is; another for another weight, or another setting."""
    first = open_backbone(folder)
    assert open_backbone(folder).digest == first.digest
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    settings_file = moved / "config.json"
    told = json.loads(settings_file.read_text())
    no_matter = {"transformers_version": "4.0.0", "id2label": {"0": "cat", "1": "dog"}}
    settings_file.write_text(json.dumps({**told, **no_matter}))
    assert open_backbone(moved).digest == first.digest
    settings_file.write_text(json.dumps({**told, "layer_norm_eps": 1e-3}))
    other = open_backbone(moved)
    assert other.digest != first.digest
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert not torch.equal(other.features(images), first.features(images))
    settings_file.write_text(json.dumps(told))
    state = load_file(moved / "model.safetensors")
    name = max(state)
    state[name] = state[name] + 1e-6
    save_file(state, moved / "model.safetensors", metadata={"format": "pt"})
    assert open_backbone(moved).digest != first.digest


def test_weights_that_are_stored_short_are_computed_with_at_length(tmp_path: Path) -> None:
    """In float32, whatever the file has; the processor would round each sum."""
    model = vit(tmp_path / "half").half()
    model.save_pretrained(tmp_path / "half")
    found = open_backbone(tmp_path / "half")
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.float().eval()(found.normal(images)).last_hidden_state.mean(1)
    assert torch.equal(found.features(images), expected)


def test_of_a_model_of_pictures_and_words_the_part_that_sees_is_taken(tmp_path: Path) -> None:
    """A CLIP model's pooled output; a model of words alone is refused."""
    from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

    thin = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16}  # fmt: skip
    seen = {**thin, "image_size": 32, "patch_size": 8}
    words = {**thin, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=words, vision_config=seen)).eval()
    model.save_pretrained(tmp_path / "clip")
    told = {"size": {"shortest_edge": 32}, "crop_size": 32, "image_mean": [0.4] * 3}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(told))
    found = open_backbone(tmp_path / "clip")
    assert (found.name, found.size) == ("CLIPVisionModel (clip)", 32)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.vision_model(pixel_values=found.normal(images)).pooler_output
    assert torch.equal(found.features(images), expected)
    BertModel(BertConfig(**{**thin, "vocab_size": 50})).save_pretrained(tmp_path / "bert")
    with pytest.raises(TesseraeError, match="is no vision model: it takes input_ids"):
        open_backbone(tmp_path / "bert")


def test_a_model_that_makes_nothing_of_such_pictures_says_so(tmp_path: Path) -> None:
    """Before the first task."""
    vit(tmp_path / "vit")
    told = {"size": {"height": 40, "width": 40}, "image_mean": [0.5] * 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(TesseraeError, match=r"makes nothing of a picture of 40 px \(ValueError"):
        _ = open_backbone(tmp_path / "vit").dim


@pytest.mark.parametrize(
    "told",
    [
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"image_mean": [0.1, 0.2, 0.3], "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [0.5] * 3, "image_std": [2.0] * 3},
        {"do_rescale": False, "image_mean": [100.0] * 3, "image_std": [50.0] * 3},
        {},
    ],
)
def test_pictures_are_normalised_as_the_models_own_processor_does(
    tmp_path: Path, told: dict[str, Any]
) -> None:
    """Whatever its file says, and what it leaves to the kind of processor."""
    from transformers import AutoImageProcessor

    vit(tmp_path / "vit")
    file = tmp_path / "vit" / "preprocessor_config.json"
    file.write_text(json.dumps({**told, "size": {"height": 32, "width": 32}}))
    found = open_backbone(tmp_path / "vit")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    processor: Any = AutoImageProcessor.from_pretrained(tmp_path / "vit")
    expected = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"])
    made = found.normal(torch.from_numpy(picture)[None].permute(0, 3, 1, 2))
    torch.testing.assert_close(made, expected.float(), rtol=1e-4, atol=1e-4)


def test_a_network_of_blue_green_and_red_is_given_them_so(tmp_path: Path) -> None:
    """MobileViT, which normalises nothing, by the kind of its processor alone."""
    from transformers import MobileViTConfig, MobileViTModel

    torch.manual_seed(0)
    thin = {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 4, 4, 4, 4, 8]}
    more = {"num_attention_heads": 2, "initializer_range": 0.5}
    model = MobileViTModel(MobileViTConfig(image_size=32, **thin, **more)).eval()
    model.save_pretrained(tmp_path / "it")
    told = {"do_flip_channel_order": True, "crop_size": 32, "size": 36}
    (tmp_path / "it" / "preprocessor_config.json").write_text(json.dumps(told))
    found = open_backbone(tmp_path / "it")
    assert found.transform == Transform(size=32, mean=(0.0,) * 3, std=(1.0,) * 3, channels="BGR")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected, other = (model(i.float() / 255).pooler_output for i in (images.flip(1), images))
    scale = 1 / expected.abs().max()  # of a network that has learned nothing they all but vanish
    torch.testing.assert_close(found.features(images) * scale, expected * scale)
    assert not torch.allclose(expected * scale, other * scale, rtol=1e-3)


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ({"crop_size": {"height": 24, "width": 24}, "size": {"shortest_edge": 32}}, 24),
        ({"crop_size": 24, "do_center_crop": False, "size": 30}, 30),
        ({"size": {"shortest_edge": 28}}, 28),
        ({}, 32),
    ],
)
def test_a_network_is_given_pictures_of_its_size(told: dict[str, Any], size: int) -> None:
    """What is cut out, if anything is; else what they are resized to; else what it was made for."""
    mean = {"image_mean": [0.5] * 3}
    assert transform_of({**told, **mean}, {"do_normalize": True}, "it", 32).size == size


def test_pictures_that_cannot_be_made_are_refused() -> None:
    """No square, or nothing said."""
    oblong = {"size": {"height": 32, "width": 64}, "image_mean": 0.5}
    with pytest.raises(TesseraeError, match="it takes pictures of 32 x 64 px: expected squares"):
        transform_of(oblong, {}, "it", None)
    with pytest.raises(TesseraeError, match="it takes pictures of 0 px"):
        transform_of({"image_mean": 0.5}, {}, "it", None)
    with pytest.raises(TesseraeError, match="it has no image_mean"):
        transform_of({"size": 32}, {}, "it", None)


def test_a_real_one_is_the_network_that_was_published(real_data: Path) -> None:
    """With TensorFlow's padding, which a setting decides: another network without."""
    from transformers import AutoModelForImageClassification

    folder = real_data / "mobilenet_v1_0.75_224"
    found = open_backbone(folder)
    assert found.digest == "bc84b3f94976607a6e0afdb3bb025e6644a83306331e80c0c4e65e9370c0bcfd"
    whole: Any = AutoModelForImageClassification.from_pretrained(folder).eval()
    images = pictures(real_data, "n01440764", 8)
    with torch.no_grad():
        expected = whole(found.normal(images), output_hidden_states=True)
        scores = whole.classifier(found.features(images))
    torch.testing.assert_close(scores, expected.logits, rtol=1e-3, atol=1e-3)
    assert (scores.argmax(1) == 0).sum() >= 7  # of 8 tenches
    for cut, place in (("layer.3", 3), ("layer.25", 25)):
        hidden = expected.hidden_states[place].mean((2, 3))
        made = open_backbone(folder, cut=cut).features(images)
        torch.testing.assert_close(made, hidden, rtol=1e-3, atol=1e-3)
    found.model.config.tf_padding = False
    other = Backbone(found.model, name="other", transform=found.transform)
    assert other.digest != found.digest


def pictures(real_data: Path, wnid: str, count: int) -> torch.Tensor:
    """(count, 3, 224, 224) uint8."""
    files = sorted((real_data / "imagenette" / "val" / wnid).glob("*.JPEG"))[:count]
    rows = [np.asarray(Image.open(file).convert("RGB").resize((224, 224))) for file in files]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


def test_a_new_one_has_learned_nothing_and_takes_gradients() -> None:
    """Its weights are those that torch draws then."""
    torch.manual_seed(5)
    one = new_backbone(size=32, width=8)
    torch.manual_seed(5)
    other = new_backbone(size=32, width=8)
    assert one.digest == other.digest
    assert one.dim == 64
    assert open_backbone("new").name == "new"
    one.model.train().requires_grad_(True)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    one.pooled(one.normal(images)).square().sum().backward()
    assert all(p.grad is not None for p in one.model.parameters())


@pytest.mark.parametrize("kind", ["vit", "no pooler", "clip", "bgr", "new"])
def test_what_is_saved_is_the_same_network_when_it_is_opened(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    """Weights, settings, and pictures as it takes them."""
    found = some_backbone(kind, folder, tmp_path / "first")
    save_backbone(found, tmp_path / "there" / "saved")
    opened = open_backbone(tmp_path / "there" / "saved")
    assert opened.digest == found.digest
    assert opened.transform == found.transform
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    torch.testing.assert_close(opened.features(images), found.features(images))
    assert [file.name for file in (tmp_path / "there").iterdir()] == ["saved"]
    with pytest.raises(TesseraeError, match="is there already"):
        save_backbone(found, tmp_path / "there" / "saved")


def some_backbone(kind: str, folder: Path, made: Path) -> Backbone:
    """One of a kind that is saved in its own way."""
    from transformers import CLIPConfig, CLIPModel, MobileViTConfig, MobileViTModel

    torch.manual_seed(1)
    told: dict[str, Any] = {"size": 32, "image_mean": [0.4] * 3, "image_std": [0.2, 0.3, 0.4]}
    if kind == "vit":
        return open_backbone(folder)
    if kind == "new":
        return new_backbone(size=48, width=8)
    if kind == "no pooler":
        vit(made, pooler=False)
        return open_backbone(made)
    if kind == "clip":
        thin = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 16}  # fmt: skip
        words = {**thin, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
        seen = {**thin, "image_size": 32, "patch_size": 8}
        CLIPModel(CLIPConfig(text_config=words, vision_config=seen)).save_pretrained(made)
    else:
        sizes = {"hidden_sizes": [8] * 3, "neck_hidden_sizes": [4] * 6 + [8]}
        MobileViTModel(
            MobileViTConfig(image_size=32, num_attention_heads=2, **sizes)
        ).save_pretrained(made)
        told = {"do_flip_channel_order": True, "crop_size": 32, "size": 36}
    (made / "preprocessor_config.json").write_text(json.dumps(told))
    return open_backbone(made)
