"""Networks that see, from a folder: small ones with random weights, and a real one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.backbone import new_backbone, open_backbone
from pipeline.errors import TesseraeError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer of two thin layers."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(image_size=32, patch_size=8, intermediate_size=32, **sizes)
    made = tmp_path_factory.mktemp("vit") / "tiny"
    ViTModel(config, add_pooling_layer=False).save_pretrained(made)
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

    def pictures(wnid: str) -> torch.Tensor:
        files = sorted((real_data / "imagenette" / "val" / wnid).glob("*.JPEG"))[:8]
        rows = [np.asarray(Image.open(file).convert("RGB").resize((224, 224))) for file in files]
        return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)

    dogs, trucks = (backbone.features(pictures(wnid)) for wnid in ("n02102040", "n03417042"))
    dogs, trucks = (torch.nn.functional.normalize(rows, dim=1) for rows in (dogs, trucks))
    within = (dogs @ dogs.T).fill_diagonal_(0).sum() / 56
    assert float(within) > float((dogs @ trucks.T).mean()) + 0.1


def test_a_cut_is_what_the_model_computes_there(folder: Path) -> None:
    """The block's own output, pooled; and what lies behind it is not computed."""
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    found = open_backbone(folder, cut="layers.0", pooling="mean")
    seen, later = [], []
    blocks = dict(found.model.named_modules())
    first = blocks["layers.0"].register_forward_hook(lambda *a: seen.append(a[2]), prepend=True)
    second = blocks["layers.1"].register_forward_hook(lambda *a: later.append(a[2]))
    features = found.features(images)
    first.remove()
    second.remove()
    hidden = seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]
    assert later == []
    torch.testing.assert_close(features, hidden.mean(1))
    assert found.dim == 16
    whole = open_backbone(folder, cut="layers.1", pooling="mean").features(images)
    assert not torch.allclose(features, whole)


def test_poolings_are_what_they_say(folder: Path) -> None:
    """Over places, of tokens; of maps by quarters."""
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)

    def pooled(pooling: str) -> torch.Tensor:
        return open_backbone(folder, cut="layers.1", pooling=pooling).features(images)

    found = open_backbone(folder, cut="layers.1")
    hidden = found.model(found.normal(images), output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(pooled("token"), hidden[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled("max"), hidden.amax(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled("end"), hidden.mean(1), rtol=1e-4, atol=1e-5)
    torch.manual_seed(1)
    maps = new_backbone(size=64, width=8, cut="encoder.stages.1", pooling="grid")
    whole = new_backbone(size=64, width=8, cut="encoder.stages.1", pooling="mean")
    whole.model.load_state_dict(maps.model.state_dict())
    grid = maps.features(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert grid.shape == (2, 4 * whole.dim)
    with pytest.raises(TesseraeError, match="has no tokens"):
        _ = new_backbone(pooling="token", width=8).dim
    with pytest.raises(TesseraeError, match="no map to pool by quarters"):
        _ = open_backbone(folder, pooling="grid").dim


def test_blocks_and_poolings_that_are_not_there_are_named(folder: Path) -> None:
    """With those that are."""
    with pytest.raises(TesseraeError, match=r"has no block 'layers.7': expected one of .*layers"):
        open_backbone(folder, cut="layers.7")
    with pytest.raises(TesseraeError, match="pooling is 'sum': expected one of end, mean"):
        open_backbone(folder, pooling="sum")


def test_its_digest_is_of_what_was_trained(folder: Path, tmp_path: Path) -> None:
    """The same each time it is opened; another for another weight."""
    assert open_backbone(folder).digest == open_backbone(folder).digest
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    state = load_file(changed / "model.safetensors")
    name = max(state)
    state[name] = state[name] + 1e-6
    save_file(state, changed / "model.safetensors", metadata={"format": "pt"})
    assert open_backbone(changed).digest != open_backbone(folder).digest


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
