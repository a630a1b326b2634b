"""The study of an adversarial loss for colourisation, at a small size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import StoreError
from pipeline.loader import Loader
from tests.workflows.training.small import small_store
from workflows.adversarial.trainer import AdversarialTrainer
from workflows.colourise.options import ColouriseOptions
from workflows.colourise.stage import Colourise
from workflows.studies.gans import adversarial, command
from workflows.studies.gans.adversarial import ColourArm, ColourExperiment, colour_statistics
from workflows.studies.gans.images import as_floats, open_images
from workflows.studies.gans.options import AdversarialOptions
from workflows.studies.results import ResultsFolder
from workflows.training.stage import Data
from workflows.training.world import World

TINY = {"image_size": 16, "width": 4, "batch_size": 8, "steps": 10, "seeds": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store with 80 training images and 18 of split val."""
    return str(small_store(tmp_path_factory.mktemp("images"), 80))


def make_experiment(store: str, folder: Path, **choices: Any) -> ColourExperiment:
    """Return a small experiment."""
    options = AdversarialOptions(store=store, held_out="val", out=folder, **{**TINY, **choices})
    images = open_images(store, "train", "val", image_size=16, max_images=1_000)
    folder.mkdir(exist_ok=True)
    results = ResultsFolder(folder)
    return ColourExperiment(options, images, results, torch.device("cpu"))


def test_controls_are_what_their_names_say(store: str, tmp_path: Path) -> None:
    """Grey has no saturation; shuffled colours are near, but on the wrong images."""
    experiment = make_experiment(store, tmp_path)
    grey, shuffled, real = (experiment.control(name, 0) for name in adversarial.CONTROLS)
    assert grey["saturation"] == pytest.approx(0, abs=1e-6)
    assert shuffled["colour distance"] < 0.5 * grey["colour distance"]
    assert shuffled["error"] > grey["error"]
    assert real["error"] != real["error"]  # NaN: they are other pictures
    true = experiment.measure(experiment.real)
    assert [true[m.name] for m in adversarial.METRICS] == pytest.approx([0, 1, 0, 0], abs=1e-5)


def test_the_metrics_are_those_of_the_stage(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error and saturation equal what the stage's own evaluation gives for the same images."""
    experiment = make_experiment(store, tmp_path)
    stages = []
    real_advance = Colourise.advance

    def advance(self: Colourise) -> dict[str, torch.Tensor]:
        stages[:] = [self]
        return real_advance(self)

    monkeypatch.setattr(Colourise, "advance", advance)
    arm = ColourArm(objective="lsgan", weight=0.1)
    metrics = experiment.run(arm, "lsgan", 0)
    assert metrics != experiment.run(arm, "lsgan", 1)
    assert metrics == experiment.run(arm, "lsgan", 0)  # it depends on the seed alone
    held_out = Loader(store, "val", size=16, batch_size=6, order="sequential")
    stage = stages[0]
    stage._evaluated = Data(held_out, held_out, ()).train
    evaluated, _ = stage.evaluate()
    assert metrics["error"] == pytest.approx(evaluated["train_error"], rel=1e-3)
    share = evaluated["saturation"] / evaluated["true_saturation"]
    assert metrics["saturation"] == pytest.approx(share, rel=1e-3)
    assert stage.world == World()


def test_grey_images_are_refused(store: str, tmp_path: Path) -> None:
    """Shares of no saturation, and distances in deviations of 0, would be meaningless."""
    images = open_images(store, "train", "val", image_size=16, max_images=1_000)
    grey = replace(images, held_out=images.held_out[:, :1].expand(-1, 3, -1, -1))
    options = AdversarialOptions(store=store, out=tmp_path)
    with pytest.raises(StoreError, match=r"the held-out images of .* are grey"):
        ColourExperiment(options, grey, ResultsFolder(tmp_path), torch.device("cpu"))


def test_arms_of_nearly_equal_weights_have_names_of_their_own(tmp_path: Path) -> None:
    """The folder would take one for the finished run of the other."""
    weights = (0.01, 1.0, 0.1234567, 0.1234568)
    options = AdversarialOptions(store="a", objectives=("wgan",), weights=weights)
    assert list(adversarial.arms_of(options)) == [
        "no critic",
        "wgan, weight 0.01",
        "wgan, weight 1",
        "wgan, weight 0.1234567",
        "wgan, weight 0.1234568",
    ]


def test_each_arm_trains_with_its_objective_and_weight(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arm without a critic never updates one."""
    experiment = make_experiment(store, tmp_path, objectives=("wgan",), weights=(0.3,))
    trained: list[tuple[str, float]] = []
    updates: list[str] = []
    real_init, real_update = Colourise.__init__, AdversarialTrainer.critic_update

    def init(self: Colourise, options: ColouriseOptions, *rest: Any) -> None:
        trained.append((options.objective, options.adversarial_weight))
        real_init(self, options, *rest)

    def critic_update(self: AdversarialTrainer, *inputs: Any, **choices: Any) -> Any:
        updates.append(trained[-1][0])
        return real_update(self, *inputs, **choices)

    monkeypatch.setattr(Colourise, "__init__", init)
    monkeypatch.setattr(AdversarialTrainer, "critic_update", critic_update)
    for name, arm in adversarial.arms_of(experiment.options).items():
        experiment.run(arm, name, 0)
    assert [weight for _, weight in trained] == [0.0, 0.3]
    assert updates == ["wgan"] * experiment.options.steps


def test_batches_are_keyed_by_seed_and_number(store: str) -> None:
    """Equal seeds give equal batches one after the other, which differ."""
    images = open_images(store, "train", "val", image_size=16, max_images=1_000)
    first, again, other = (
        adversarial._KeyedBatches(images, 8, seed, World()) for seed in (0, 0, 1)
    )
    batches = [first.take() for _ in range(3)]
    assert all(torch.equal(batch.images, again.take().images) for batch in batches)
    assert not torch.equal(batches[0].rows, batches[1].rows)
    assert not torch.equal(batches[0].rows, other.take().rows)
    for batch in batches:  # the images of these rows, none of which is held out
        torch.testing.assert_close(batch.images, as_floats(images.train[batch.rows]))
        assert torch.equal(batch.labels, images.labels[batch.rows])


def test_brightness_is_no_colour_statistic() -> None:
    """Grey images of any brightness have none, and a tint has one."""
    grey = torch.rand(4, 1, 8, 8).expand(4, 3, 8, 8)
    torch.testing.assert_close(colour_statistics(grey), torch.zeros(4, 4), atol=1e-6, rtol=0)
    tinted = grey + torch.tensor([0.2, 0.0, -0.1]).view(3, 1, 1)
    brighter = colour_statistics(tinted + 0.3)
    torch.testing.assert_close(brighter, colour_statistics(tinted))
    assert float(brighter[:, 0].min()) > 0 > float(brighter[:, 1].max())


def test_the_study_compares_each_weight_with_no_critic(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arms differ from no critic, which all objectives share, and the report has them all."""
    options = AdversarialOptions(
        store=store, held_out="val", out=tmp_path, objectives=("dcgan",), weights=(10.0,), **TINY
    )
    assert command.adversarial(options) == 0
    printed = capsys.readouterr().out
    assert "dcgan, weight 10, mean absolute error minus that of no critic" in printed
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * (3 + 2)
    errors = {(line["arm"], line["seed"]): line["metrics"].get("error") for line in lines}
    assert errors["no critic", 0] != errors["dcgan, weight 10", 0]
    assert errors["training images", 0] is None
    assert (tmp_path / "samples" / "no-critic.png").exists()
    assert (tmp_path / "error-and-colours.svg").exists()
