"""`tesserae export` of a classifier: other programs and our own see what the run saw."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pipeline.backbone.load import open_backbone
from pipeline.errors import TesseraeError
from pipeline.loader import Loader
from pipeline.store import records
from pipeline.store.open import open_objects
from tests.workflows.classify.small import (
    CLASSES,
    ENCODED,
    class_store,
    small_trunk,
    train_inline,
)
from tests.workflows.training.inline import inline_ranks
from workflows.classify.model import open_classifier
from workflows.classify.networks import pretrained_classifier
from workflows.cli import main
from workflows.runs.model_card import model_description
from workflows.search.query_image import ImagePreprocessor, read_image
from workflows.training.run_folder import RunFolder

QUICK: tuple[object, ...] = ("--image-size", 16, "--epochs", 2, "--learning-rate", 0.1)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, and exported runs of several networks."""
    folder = tmp_path_factory.mktemp("export")
    store = class_store(folder, encoded=(ENCODED,))
    trunk = small_trunk(folder)
    kinds: dict[str, tuple[object, ...]] = {
        "resnet9": ("--network", "resnet9", "--evaluation-size", 18),
        "resnet18": ("--network", "resnet18", "--steps", 3, "--ema-decay", 0.5),
        "encoded": ("--network", "resnet18-stem3", "--steps", 3, "--encoded", ENCODED),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, words in kinds.items():
            assert train_inline(patch, store, folder / name, *QUICK, *words) == 0
            assert main(["export", str(folder / name)]) == 0
        line: list[object] = ["train", "classify", store, "--run", folder / "pretrained"]
        line += ["--trunk", trunk, "--frozen-blocks", -1, "--batch-size", 8, "--steps", 3]
        line += ["--threads-per-rank", 1, "--image-size", 12]
        with inline_ranks(patch):
            assert main([str(word) for word in line]) == 0
        assert main(["export", str(folder / "pretrained")]) == 0
    return folder


KINDS = ("resnet9", "resnet18", "encoded", "pretrained")


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_classifier_gives_the_same_scores(folder: Path, kind: str) -> None:
    """`transformers` opens it, with the names of classes; features are those of the trunk."""
    from transformers import AutoModelForImageClassification

    trained = open_classifier(folder / kind)
    opened = AutoModelForImageClassification.from_pretrained(folder / kind / "trunk").eval()
    backbone = open_backbone(folder / kind / "trunk")
    pixels = torch.randn(3, 3, trained.size, trained.size)
    with torch.no_grad():
        expected = trained.classifier.logits(pixels)
        torch.testing.assert_close(opened(pixels).logits, expected, **CLOSE)
        features = trained.classifier.trunk(pixels).pooler_output.flatten(1)
    torch.testing.assert_close(backbone.forward(pixels), features, **CLOSE)
    assert [opened.config.id2label[label] for label in range(6)] == list(CLASSES)
    weights = trained.classifier.model.state_dict()
    assert all(torch.equal(v, weights[name]) for name, v in opened.state_dict().items())
    assert backbone.size == trained.size


@pytest.mark.parametrize(
    ("kind", "size", "share"),
    [("resnet9", 18, 18 / 20), ("resnet18", 16, 1.0), ("encoded", 16, 0.875),
     ("pretrained", 12, 12 / 12)],
)  # fmt: skip
def test_the_exported_preprocessing_is_that_of_the_evaluation(
    folder: Path, kind: str, size: int, share: float
) -> None:
    """Its centre crop is the part of the stored squares that was evaluated."""
    trained = open_classifier(folder / kind)
    transform = open_backbone(folder / kind / "trunk").transform
    assert trained.crop_share == pytest.approx(share)
    assert (trained.size, transform.size) == (size, size)
    assert transform.crop_share == pytest.approx(size / round(size / share))


def test_a_program_that_follows_the_exported_preprocessing_scores_alike(folder: Path) -> None:
    """Images that are resized, cut and normalised as an image processor does score alike."""
    trained = open_classifier(folder / "resnet9")
    fields: dict[str, Any] = json.loads(
        (folder / "resnet9" / "trunk" / "preprocessor_config.json").read_text()
    )
    edge, crop = fields["size"]["shortest_edge"], fields["crop_size"]["height"]
    assert (edge, crop) == (20, 18)
    files = sorted((folder / "source" / "val").rglob("*.JPEG"))[:6]
    ours, theirs = [], []
    for file in files:
        with Image.open(file) as image:
            height, width = image.height, image.width
            scale = edge / min(height, width)
            resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling(
                fields["resample"]))  # fmt: skip
        left, top = (resized.width - crop) // 2, (resized.height - crop) // 2
        pixels = np.asarray(resized.crop((left, top, left + crop, top + crop)), np.float32)
        pixels = (pixels * fields["rescale_factor"] - fields["image_mean"]) / fields["image_std"]
        theirs.append(torch.from_numpy(pixels.transpose(2, 0, 1)).float())
    with torch.no_grad():
        scores = trained.classifier.logits(torch.stack(theirs))
    recipe = records.load_recipe(open_objects(str(folder / "store")))
    preprocessor = ImagePreprocessor(recipe, trained.stored_side)
    try:
        squares = [preprocessor.preprocess(read_image(str(file))) for file in files]
    finally:
        preprocessor.close()
    ours = trained.probabilities(torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2))
    torch.testing.assert_close(scores.softmax(1), ours, rtol=0, atol=0.06)


def test_the_output_says_what_was_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output names the network, and whether `transformers` alone knows it."""
    for kind, ours in (("resnet9", True), ("resnet18", False)):
        out = tmp_path / kind
        assert main(["export", str(folder / kind), "-o", str(out)]) == 0
        text = capsys.readouterr().out
        model = "ResNet9ForImageClassification" if ours else "ResNetForImageClassification"
        size = 18 if ours else 16
        steps = 8 if ours else 3
        assert text.startswith(
            f"{out}: {model} of step {steps} of {folder / kind}, with 6 classes, for images of"
            f" {size} px\n"
        )
        assert ("import pipeline.backbone.small_images" in text) == ours
        assert {path.name for path in out.iterdir()} == {
            "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
        }  # fmt: skip


def test_an_exported_classifier_is_a_trunk(folder: Path) -> None:
    """A new classifier of other classes keeps the weights of the trunk to the bit."""
    for kind in KINDS:
        source = open_classifier(folder / kind).classifier
        classifier = pretrained_classifier(str(folder / kind / "trunk"), ["x", "y"])
        weights = source.trunk.state_dict()
        state = classifier.trunk.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in state.items())
        assert state.keys() == weights.keys()


def test_a_run_that_cannot_be_exported_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An existing folder is kept; a run of another stage, or without a checkpoint, is named."""
    assert main(["export", str(folder / "resnet9")]) == 1
    assert "trunk exists already: pass another folder." in capsys.readouterr().err
    RunFolder(tmp_path / "own").create_or_continue({"stage": "mean"}, {})
    assert main(["export", str(tmp_path / "own")]) == 1
    assert (
        "own is a run of the stage mean: expected one of classify, colourise, devise, superres,"
        " wgan, whose networks can be exported."
    ) in capsys.readouterr().err
    RunFolder(tmp_path / "new").create_or_continue({"stage": "classify"}, {})
    assert main(["export", str(tmp_path / "new")]) == 1
    assert "new has no checkpoint yet: train it first." in capsys.readouterr().err
    assert not (tmp_path / "new" / "trunk").exists()


def test_a_run_is_refused_as_a_trunk(folder: Path) -> None:
    """The error names the command that exports the run."""
    with pytest.raises(TesseraeError, match="is a training run: `tesserae export"):
        open_backbone(folder / "resnet9")


def test_features_of_a_store_are_those_of_the_exported_trunk(folder: Path) -> None:
    """Images of the store are preprocessed as the exported folder says."""
    backbone = open_backbone(folder / "resnet18" / "trunk")
    trained = open_classifier(folder / "resnet18")
    loader = Loader(folder / "store", "val", size=16, batch_size=17, order="sequential")
    (batch,) = loader
    assert isinstance(batch.images, torch.Tensor)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.mean, backbone.std))
    with torch.no_grad():
        expected = trained.classifier.trunk((batch.images / 255 - mean) / std)
    torch.testing.assert_close(
        backbone.extract(batch.images), expected.pooler_output.flatten(1), **CLOSE
    )


def test_the_card_states_what_the_network_was_trained_with(folder: Path, tmp_path: Path) -> None:
    """Options, data, versions and the last evaluation of the run; the licence is an option."""
    run = folder / "resnet9"
    words = ("export", str(run), "--out", str(tmp_path / "model"), "--licence", "mit")
    assert main(list(words)) == 0

    _, header, page = (tmp_path / "model" / "README.md").read_text().split("---\n", 2)

    assert yaml.safe_load(header) == {
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["tesserae"],
    }
    record = RunFolder(run).read_options()
    look = [line for line in RunFolder(run).metrics() if line.get("what") == "look"][-1]
    assert f"| Evaluation during training, at step {look['step']:,} | |" in page
    assert f"| held_out_accuracy | {look['held_out_accuracy']:g} |" in page
    assert f"| network | {record['options']['network']} |" in page
    assert f"| plan | {record['data']['plan']} |" in page
    assert f"| torch | {record['versions']['torch']} |" in page
    assert "license: unknown" in (run / "trunk" / "README.md").read_text()
    assert f"| store | {Path(record['data']['store']).name} |" in page
    assert str(folder) not in page


def test_a_card_has_no_places_of_files(folder: Path, tmp_path: Path) -> None:
    """Of paths and URLs, which may have credentials, the last part is left."""
    run = Path(shutil.copytree(folder / "resnet9", tmp_path / "run"))
    record = json.loads((run / "options.json").read_text())
    record["data"] |= {"store": "s3://KEY:SECRET@host/bucket/photos?token=SECRET"}
    record["options"] |= {"a": "/home/me/words.bin", "b": ["../x/y", "~/z"], "c": "openai/clip"}
    (run / "options.json").write_text(json.dumps(record))
    page = model_description(RunFolder(run), title="A network", step=1)
    assert "| store | photos |" in page
    assert "| a | words.bin |" in page
    assert "| b | y, z |" in page
    assert "| c | openai/clip |" in page
    assert not re.search("SECRET|/home|store_from_run", page)
