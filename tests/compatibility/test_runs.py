"""Runs that earlier versions trained continue, and are evaluated, exported and sampled."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.compatibility.bundles import Bundle
from tests.compatibility.make_fixtures import FIRST_STEPS, LAST_STEPS, RUNS, SIDE, lengths
from workflows.devise.model import open_devise_model
from workflows.training.run_folder import RunFolder

STAGES = {run: str(stage) for run, (stage, *_) in RUNS.items()}
"""The stage of each run of a bundle."""


def losses(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the losses of each step, without the generation that logged them."""
    lines = [line for line in folder.metrics() if line.get("what", "") == ""]
    return [{k: v for k, v in line.items() if k != "generation"} for line in lines]


def written(folder: RunFolder) -> dict[str, Any]:
    """Return the options in `options.json` as they are written there."""
    document: dict[str, Any] = json.loads((folder.path / "options.json").read_text())
    options: dict[str, Any] = document["options"]
    return options


@pytest.mark.parametrize("run", RUNS)
def test_a_run_continues_to_the_recorded_result(bundle: Bundle, run: str) -> None:
    """Losses and weights are those that the earlier code computed when it continued the run.

    Another kind of processor than the one that made the bundle rounds in another way.
    """
    folder = RunFolder(bundle.root / "runs" / run)
    assert written(folder)["stage"].startswith(f"workflows.{STAGES[run]}.stage:")
    stage, *options = RUNS[run]
    words = ("train", stage, "store", *options, "--run", f"runs/{run}", "--steps", LAST_STEPS)
    assert bundle.tesserae(*words) == 0
    expected = bundle.expected["continued"][run]
    steps = losses(folder)
    assert [line["step"] for line in steps] == list(range(1, LAST_STEPS + 1))
    for line, before in zip(steps, expected["losses"], strict=True):
        values = {name: value for name, value in before.items() if name != "generation"}
        assert line == pytest.approx(values, rel=1e-3, abs=1e-5)
    newest = folder.newest_checkpoint()
    assert newest is not None
    assert newest.generation == 2
    state = folder.load(newest)["stage"]
    assert sorted(lengths(state)) == pytest.approx(expected["lengths"], rel=1e-3, abs=1e-5)
    assert (written(folder)["stage"], written(folder)["steps"]) == (stage, LAST_STEPS)


@pytest.mark.parametrize("run", RUNS)
def test_a_report_has_the_evaluation_of_the_stage(
    bundle: Bundle, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GAN and DeViSE are evaluated, each in its own way; colourisation is not."""
    assert bundle.tesserae("report", f"runs/{run}", "--samples", 12, "--store", "store") == 0
    metric = {"wgan": "sliced Wasserstein", "devise": "hit@1"}.get(STAGES[run])
    page = (bundle.root / "runs" / run / "report.html").read_text()
    assert (f"Evaluation at step {FIRST_STEPS}" in page) == (metric is not None)
    output = capsys.readouterr().out
    assert metric is None or metric in output
    assert "notice" not in output


def test_a_run_of_another_stage_is_refused(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names both stages as the command line does."""
    _, *options = RUNS["colourise"]
    words = ("train", "colourise", "store", *options, "--run", "runs/wgan")
    assert bundle.tesserae(*words) == 1
    assert "holds a run of the stage wgan, not of the stage colourise" in capsys.readouterr().err
    assert bundle.tesserae("search", "runs/wgan", "ant") == 1
    assert "is not a run of `tesserae train devise`" in capsys.readouterr().err


def test_a_trained_trunk_is_exported(bundle: Bundle) -> None:
    """The exported folder is a network with the weights of the run."""
    assert bundle.tesserae("export", "runs/devise-all", "--out", "exported") == 0
    weights = (bundle.root / "exported" / "model.safetensors").read_bytes()
    assert weights != (bundle.root / "trunk" / "model.safetensors").read_bytes()
    assert bundle.tesserae("features", "store", "--trunk", "exported", "--split", "val") == 0
    model = open_devise_model(bundle.root / "runs" / "devise-all", store=str(bundle.store))
    images = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    assert model.embed_images(images).shape == (2, model.dim)


def test_a_generator_makes_the_recorded_samples(bundle: Bundle) -> None:
    """Samples differ by rounding, at most one level of 255."""
    assert bundle.tesserae("sample-images", "runs/wgan", "-n", 4, "-o", "again.png") == 0
    again, before = (
        np.asarray(Image.open(bundle.root / name), np.int16)
        for name in ("again.png", "samples.png")
    )
    assert again.shape == before.shape
    assert np.abs(again - before).max() <= 1
