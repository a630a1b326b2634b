"""`tesserae export` of a GAN and of colourisation: ONNX Runtime computes what torch computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from pipeline.loader import Loader
from tests.workflows.training.small import (
    BATCH,
    SIZE,
    SMALL,
    small_store,
    train_here,
    train_rank,
)
from workflows.cli import main
from workflows.colourise.options import ColouriseOptions
from workflows.colourise.stage import ColourNetwork, to_grey
from workflows.training.image_grid import to_uint8
from workflows.training.run_folder import RunFolder
from workflows.training.stage import Data
from workflows.wgan.sampling import open_sampler

GENERATORS: dict[str, dict[str, Any]] = {
    "conv": {"extra_layers": 1},
    "conv-conditional": {"condition": "concatenation"},
    "residual": {"generator": "residual", "generator_norm": False},
    "residual-conditional": {"generator": "residual", "condition": "projection"},
    "perceptron": {"generator": "perceptron", "objective": "dcgan"},
    "perceptron-conditional": {"generator": "perceptron", "condition": "projection"},
}
"""The options of runs with each architecture, with labels and without."""
QUICK_GENERATORS = ("conv-conditional", "perceptron")
"""These differ most; an export of each takes a second."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small store of three classes."""
    return small_store(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """Return the folder of a finished run whose last weights are far from their average."""
    choices = {"generator": "perceptron", "learning_rate": 0.1, "steps": 2}
    return train_here(store, tmp_path_factory.mktemp("runs") / "gan", **choices).path


def run_file(file: Path, **inputs: torch.Tensor) -> NDArray[np.float32]:
    """Return what ONNX Runtime computes."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (images,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    assert isinstance(images, np.ndarray)
    assert images.dtype == np.float32
    return images


def metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a file as ONNX Runtime shows it."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    entries: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return entries


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[] if k in QUICK_GENERATORS else pytest.mark.slow) for k in GENERATORS],
)
def test_the_file_of_a_generator_computes_its_samples(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """Images of the same noise and labels are those of the run, for any number of them."""
    run, file = tmp_path / "run", tmp_path / "run" / "generator.onnx"
    train_here(store, run, steps=2, **GENERATORS[kind])
    assert main(["export", str(run)]) == 0
    out, err = capfd.readouterr()
    conditional = kind.endswith("-conditional")
    classes = " of 3 classes" if conditional else ""
    assert out.startswith(
        f"{file}: {kind.partition('-')[0]} generator of step 2 of {run}, for images of {SIZE}"
        f" px{classes}; within "
    )
    assert err == ""

    sampler = open_sampler(RunFolder(run))
    for count in (1, 5):
        noise = torch.randn(count, SMALL["latent_dim"])
        labels = torch.arange(count).flip(0) % 3
        images = run_file(file, noise=noise, **({"labels": labels} if conditional else {}))
        expected = sampler.generate(noise, labels)
        assert images.shape == (count, 3, SIZE, SIZE)
        np.testing.assert_allclose(images, (expected + 1) / 2, rtol=0, atol=2e-6)
        levels = np.rint(255 * images).transpose(0, 2, 3, 1)
        assert np.abs(levels - to_uint8(expected)).max() <= 1


def test_the_file_of_a_generator_has_the_averaged_weights(gan: Path, tmp_path: Path) -> None:
    """Its samples are those of the moving average, not of the last weights."""
    run, file = RunFolder(gan), tmp_path / "new" / "averaged.onnx"
    assert main(["export", str(gan), "--out", str(file)]) == 0
    newest = run.newest_checkpoint()
    assert newest is not None
    state = run.load(newest)["stage"]
    exported = [onnx.numpy_helper.to_array(value) for value in onnx.load(file).graph.initializer]

    def is_exported(value: torch.Tensor) -> bool:
        return any(np.array_equal(value.numpy(), weights) for weights in exported)

    parameters = state["game"]["generator"]
    assert parameters
    assert all(is_exported(state["average"][f"module.{name}"]) for name in parameters)
    assert not any(is_exported(value) for value in parameters.values())


def test_the_metadata_says_how_to_use_a_generator(store: Path, tmp_path: Path) -> None:
    """It has the noise, the classes by label, and the licence; the description is a card."""
    choices = {"generator": "perceptron", "condition": "projection", "learning_rate": 3e-4}
    run = train_here(store, tmp_path / "run", steps=2, **choices)
    file = tmp_path / "x.onnx"
    words = ["export", str(run.path), "--out", str(file), "--licence", "cc-by-4.0"]
    assert main(words) == 0
    entries = metadata(file)
    assert json.loads(entries.pop("classes")) == ["zero", "one", "two"]
    assert json.loads(entries.pop("wnids")) == ["n00000000", "n00000001", "n00000002"]
    assert entries == {
        "stage": "wgan", "network": "perceptron", "step": "2", "size": str(SIZE),
        "latent_dim": str(SMALL["latent_dim"]), "noise": "standard normal",
        "model_license": "cc-by-4.0",
    }  # fmt: skip
    page = onnx.load(file).doc_string
    assert page.startswith(f"# perceptron generator, for images of {SIZE} px of 3 classes\n\n")
    assert "| learning_rate | 0.0003 |" in page
    assert "| Evaluation during training, at step 2 | |" in page


def test_a_gan_that_cannot_be_exported_is_refused(
    gan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Existing files are kept, and nothing is written of weights that are not finite."""
    existing = tmp_path / "existing.onnx"
    existing.write_text("kept")
    assert main(["export", str(gan), "--out", str(existing)]) == 1
    assert "existing.onnx exists already: pass another --out." in capsys.readouterr().err
    assert existing.read_text() == "kept"

    run = RunFolder(shutil.copytree(gan, tmp_path / "run"))
    newest = run.newest_checkpoint()
    assert newest is not None
    state = run.load(newest)
    next(value for value in state["stage"]["average"].values() if value.dim())[:] = float("nan")
    run.save(newest, state, step=2)
    assert main(["export", str(run.path)]) == 1
    assert "contains NaN or infinity (average.module" in capsys.readouterr().err
    assert not list(run.path.glob("*.onnx"))

    RunFolder(tmp_path / "new").create_or_continue({"stage": "wgan"}, {})
    assert main(["export", str(tmp_path / "new")]) == 1
    assert "new has no checkpoint yet: train it first." in capsys.readouterr().err


def test_the_file_of_a_colouriser_computes_what_the_run_computes(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Grey images of any number, and of sides that are multiples of 4, are coloured alike."""
    options = ColouriseOptions(image_size=SIZE, batch_size=BATCH, width=4, steps=2)
    data = Data(
        Loader(store, size=SIZE, batch_size=BATCH),
        Loader(store, "val", size=SIZE, batch_size=BATCH, order="sequential"),
        (),
    )
    run, result = train_rank("colourise", options, data, tmp_path / "run")
    assert result == "done"
    assert main(["export", str(run.path)]) == 0
    out, err = capfd.readouterr()
    file = run.path / "colouriser.onnx"
    assert out.startswith(f"{file}: colourisation network of step 2 of {run.path}, trained on")
    assert err == ""
    assert metadata(file) == {
        "stage": "colourise", "step": "2", "size": str(SIZE), "model_license": "unknown",
    }  # fmt: skip

    newest = run.newest_checkpoint()
    assert newest is not None
    network = ColourNetwork(4).eval()
    network.load_state_dict(run.load(newest)["stage"]["game"]["generator"])
    for count, height, width in ((1, SIZE, SIZE), (5, 12, 28)):
        grey = to_grey(torch.rand(count, 3, height, width))
        with torch.no_grad():
            expected = (network(2 * grey - 1) + 1) / 2
        np.testing.assert_allclose(run_file(file, grey=grey), expected, rtol=0, atol=2e-6)
