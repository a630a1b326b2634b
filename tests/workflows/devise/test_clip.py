"""A CLIP model from a folder, compared with the results of `transformers`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import TesseraeError
from tests.images import make_folder, prepare_inline
from tests.workflows.devise.tiny_clip import tiny_clip, tiny_siglip
from workflows.devise.clip import MEAN, STD, Clip

CLASSES = [("n1", "cat, kitty"), ("n2", "boat")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a tiny CLIP model with random weights and a tokenizer of letters."""
    return tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


def test_scores_are_those_of_the_model(folder: Path) -> None:
    """The scores are cosines of images and captions with the first names of classes."""
    from transformers import CLIPModel, CLIPTokenizer

    clip = Clip(folder)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    scores = clip.embed_images(images) @ clip.embed_class_names(CLASSES).T
    model = CLIPModel.from_pretrained(folder).eval()
    tokens = CLIPTokenizer.from_pretrained(folder)(
        ["a photo of a cat.", "a photo of a boat."], padding=True, return_tensors="pt"
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        expected = model(pixel_values=(images / 255 - mean) / std, **tokens)
    scale = model.logit_scale.exp().item()
    np.testing.assert_allclose(scores, expected.logits_per_image.numpy() / scale, atol=1e-5)


def test_scores_are_in_row_order(folder: Path, tmp_path: Path) -> None:
    """Quarantined rows have no scores."""
    from pipeline.store import arrays
    from pipeline.store.open import open_objects

    store = tmp_path / "store"
    prepare_inline(make_folder(tmp_path / "train", 10, bad=1), str(store), sizes=(16,))
    clip = Clip(folder)
    scores = clip.scores(str(store), "train", 16, CLASSES)
    objects = open_objects(str(store))
    readable = np.flatnonzero(arrays.read_small(objects, "train", "status") == 0)
    pixels = arrays.read_pixel_rows(objects, "train", 16, 0, 10)[readable]
    images = clip.embed_images(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    np.testing.assert_allclose(scores, images @ clip.embed_class_names(CLASSES).T, atol=1e-5)
    assert scores.shape == (9, 2)


def test_a_folder_without_a_clip_model_is_refused(tmp_path: Path) -> None:
    """An empty folder is one example."""
    with pytest.raises(TesseraeError, match="is not a CLIP model"):
        Clip(tmp_path)


def test_missing_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    """Missing weights are refused: random ones would give plausible scores."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "clip")
    file = tmp_path / "clip" / "model.safetensors"
    state = load_file(file)
    del state["visual_projection.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(TesseraeError, match=r"no weights for visual_projection\.weight"):
        Clip(tmp_path / "clip")


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def _narrow(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "projection_dim": 4}))


@pytest.mark.parametrize(
    ("spoil", "file", "expected"),
    [
        (_cut, "model.safetensors", "it is cut off or damaged"),
        (_narrow, "config.json", "does not match the weights"),
        (lambda folder: (folder / "vocab.json").write_text("{"), "vocab.json", "is not JSON"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"version https://git-lfs.x"),
            "model.safetensors",
            "is a pointer of Git LFS",
        ),
    ],
)
def test_a_broken_file_of_a_clip_model_is_named(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], object], file: str, expected: str
) -> None:
    """The error names the broken file, as for a backbone."""
    broken = Path(shutil.copytree(folder, tmp_path / "clip"))
    spoil(broken)
    with pytest.raises(TesseraeError) as refused:
        Clip(broken)
    assert str(broken / file) in str(refused.value)
    assert expected in str(refused.value)


def test_siglip_takes_texts_of_full_length_without_a_mask(tmp_path: Path) -> None:
    """The scores are those of `transformers`, with the preprocessing that the folder names."""
    from transformers import AutoTokenizer, SiglipModel

    folder = tiny_siglip(tmp_path / "siglip")
    clip = Clip(folder)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    texts = ["a boat", "a cat on a long wooden table"]
    scores = clip.embed_images(images) @ clip.embed_texts(texts).T
    model = SiglipModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", truncation=True, max_length=24, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(input_ids=tokens["input_ids"], pixel_values=(images / 255 - 0.5) / 0.5)
    logits = (
        expected.logits_per_image - model.logit_bias.detach()
    ) / model.logit_scale.exp().item()
    np.testing.assert_allclose(scores, logits.detach().numpy(), atol=1e-5)
    assert (clip.size, clip.dim) == (16, 16)


def test_texts_are_embedded_in_batches_and_one_by_one_alike(folder: Path) -> None:
    """Padding of shorter texts changes no vector; the end of a text that is too long is ignored."""
    clip = Clip(folder)
    texts = ["a" * length for length in range(1, 40)]
    together = clip.embed_texts(texts)
    apart = np.concatenate([clip.embed_texts([text]) for text in texts])
    np.testing.assert_allclose(together, apart, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.array_equal(clip.embed_texts(["a" * 45]), clip.embed_texts(["a" * 60]))


def test_the_digest_changes_with_a_weight(folder: Path, tmp_path: Path) -> None:
    """Two openings of a folder have the same digest, and another weight gives another."""
    from safetensors.torch import load_file, save_file

    assert Clip(folder).digest == Clip(folder).digest
    shutil.copytree(folder, tmp_path / "clip")
    file = tmp_path / "clip" / "model.safetensors"
    state = load_file(file)
    state["visual_projection.weight"][0, 0] += 1
    save_file(state, file, metadata={"format": "pt"})
    assert Clip(tmp_path / "clip").digest != Clip(folder).digest


def test_a_model_of_images_alone_is_refused(tmp_path: Path) -> None:
    """A backbone with a tokenizer is one that computes no vectors of texts."""
    from tests.workflows.devise.small import small_trunk

    trunk = small_trunk(tmp_path / "trunk")
    tiny_clip(tmp_path / "clip")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(tmp_path / "clip" / name, trunk)
    with pytest.raises(TesseraeError, match="MobileNetV1Model has no vectors of both"):
        Clip(trunk)


def test_the_preprocessing_of_the_folder_counts(tmp_path: Path) -> None:
    """Its crop and its order of channels do, and both are part of the identity."""
    plain, cropped, swapped = (tiny_clip(tmp_path / name) for name in ("plain", "crop", "bgr"))
    fields = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "crop_size": 16, "size": 16}
    for folder, more in (
        (plain, {}),
        (cropped, {"size": {"shortest_edge": 20}, "do_center_crop": True}),
        (swapped, {"do_flip_channel_order": True}),
    ):
        (folder / "preprocessor_config.json").write_text(json.dumps({**fields, **more}))
    models = [Clip(folder) for folder in (plain, cropped, swapped)]
    assert [model.crop_share for model in models] == [1.0, 0.8, 1.0]
    assert len({model.digest for model in models}) == 3
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    expected = models[0].embed_images(images.flip(1))
    np.testing.assert_allclose(models[2].embed_images(images), expected, atol=1e-6)
    assert not np.allclose(models[0].embed_images(images), expected)


def test_the_digest_changes_with_a_setting(folder: Path, tmp_path: Path) -> None:
    """Another activation gives other vectors of the same weights."""
    changed = Path(shutil.copytree(folder, tmp_path / "clip"))
    settings = json.loads((changed / "config.json").read_text())
    settings["vision_config"]["hidden_act"] = "relu"
    (changed / "config.json").write_text(json.dumps(settings))
    assert Clip(changed).digest != Clip(folder).digest


def test_the_digest_is_the_same_with_every_version_of_transformers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade must not make the vectors of every store outdated."""
    digest = Clip(folder).digest
    monkeypatch.setattr("transformers.configuration_utils.__version__", "99.0.0")
    clip = Clip(folder)
    assert "99.0.0" in clip._model.config.to_json_string()
    assert clip.digest == digest


def _without_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()


def _with_another_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))


def _with_a_larger_vocabulary(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    larger = {token: number + 1_000 for token, number in vocabulary.items()}
    (folder / "vocab.json").write_text(json.dumps(larger))


def _with_a_length_that_is_no_number(folder: Path) -> None:
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": "x"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_vocabulary, "has no tokenizer"),
        (_with_another_vocabulary, "tokenizer"),
        (_with_a_larger_vocabulary, "belongs to another one"),
        (_with_a_length_that_is_no_number, "is not a CLIP"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    """Otherwise all texts would have one vector, or a search would end with a traceback."""
    changed = Path(shutil.copytree(folder, tmp_path / "clip"))
    change(changed)
    with pytest.raises(TesseraeError, match=message):
        Clip(changed).embed_texts(["a dog"])


@pytest.mark.parametrize("kind", ["Flava", "Siglip2"])
def test_a_model_of_other_images_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    """It has vectors of images and texts, but no size of square images."""
    import transformers

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    text = {**tower, "vocab_size": 56, "projection_size": 16, "max_position_embeddings": 40}
    images = {**tower, "image_size": 16, "patch_size": 8, "num_patches": 4}
    towers = {
        "Flava": {"image_config": images, "multimodal_config": tower, "hidden_size": 16,
                  "projection_dim": 8},
        "Siglip2": {"vision_config": images},
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(text_config=text, **towers[kind])
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    (model / "model.safetensors").unlink()
    getattr(transformers, f"{kind}Model")(config).save_pretrained(model)
    settings = json.loads((model / "config.json").read_text())
    if kind == "Siglip2":
        settings["vision_config"].pop("image_size", None)
        (model / "config.json").write_text(json.dumps(settings))
    with pytest.raises(TesseraeError, match="is not a CLIP-like model of square images"):
        Clip(model)


def test_bytes_that_are_no_text_are_embedded_as_question_marks(folder: Path) -> None:
    """A terminal may pass them as lone surrogates, which no tokenizer takes."""
    clip = Clip(folder)
    vectors = clip.embed_texts(["a \udcff dog", "a ? dog"])
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_the_identity_of_texts_has_the_tokenizer(folder: Path, tmp_path: Path) -> None:
    """That of the images has not."""
    changed = Path(shutil.copytree(folder, tmp_path / "clip"))
    vocabulary = json.loads((changed / "vocab.json").read_text())
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (changed / "vocab.json").write_text(json.dumps(vocabulary))
    first, second = Clip(folder), Clip(changed)
    assert first.digest == second.digest
    assert first.text_digest != second.text_digest
    assert first.text_digest == Clip(folder).text_digest
