"""The study of losses for super-resolution, at a small size."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import StoreError, TesseraeError
from tests.workflows.training.small import small_store
from workflows.cli import main
from workflows.studies.perceptual import ADVERSARIAL, BICUBIC, PERCEPTUAL, PIXEL, experiment
from workflows.studies.perceptual.experiment import LossExperiment, metric_of_folder
from workflows.studies.perceptual.images import KeyedBatches, open_pairs
from workflows.studies.perceptual.judges import open_judges
from workflows.studies.perceptual.options import PerceptualOptions
from workflows.studies.perceptual.samples import (
    ORIGINAL,
    comparisons,
    detailed_square,
    write_crops,
)
from workflows.studies.perceptual.summary import answers_of, runs_with
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import StudyRun
from workflows.superres import bicubic
from workflows.superres.choices import BICUBIC as REDUCED
from workflows.superres.choices import STORED
from workflows.superres.evaluation import measure
from workflows.superres.loss import ImageLoss
from workflows.superres.pairs import Pair
from workflows.superres.stage import pair_maker
from workflows.training.world import World

CPU = torch.device("cpu")
BLOCKS = ("embedder", "encoder.stages.1")
TINY: dict[str, Any] = {
    "network": "fsrcnn", "patch_size": 12, "batch_size": 4, "steps": 4, "seeds": 1,
    "evaluated_images": 3, "learning_rate": 2e-3, "adversarial_weight": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store of 20 training images of 12 and 24 px, and 18 of split val."""
    return str(small_store(tmp_path_factory.mktemp("images"), 20, sizes=(12, 24)))


def save_network(folder: Path, model: Any) -> str:
    """Save a network for images of 32 px; return its folder."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5],'
        ' "image_std": [0.5, 0.5, 0.5]}'
    )
    return str(folder)


def save_resnet(folder: Path, seed: int) -> str:
    """Save a small network with random weights; return its folder."""
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    return save_network(folder, ResNetModel(config))


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the folders of two networks."""
    folder = tmp_path_factory.mktemp("judges")
    return save_resnet(folder / "one", 1), save_resnet(folder / "two", 2)


def make_experiment(
    store: str, judges: tuple[str, str], folder: Path, **choices: Any
) -> LossExperiment:
    """Return a small experiment."""
    options = PerceptualOptions(store=store, judges=judges, out=folder, **{**TINY, **choices})
    folder.mkdir(exist_ok=True)
    return LossExperiment(options, open_pairs(options), ResultsFolder(folder), CPU)


# --- the whole study ------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupted_study_continues_to_the_same_figures(
    store: str,
    judges: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Finished runs stay, and the report has every arm, table and picture."""
    words = ["study", "perceptual", "--store", store, "--judges", *judges, "--out", str(tmp_path)]
    for name, value in TINY.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    run, calls = LossExperiment.run, []

    def interrupted(self: LossExperiment, name: str, seed: int) -> Any:
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(self, name, seed)

    monkeypatch.setattr(LossExperiment, "run", interrupted)
    assert main(words) == 130
    assert f"continue: {tmp_path} has 2 runs that are finished" in capsys.readouterr().err
    assert main(words) == 0
    printed = capsys.readouterr().out
    arms = [BICUBIC, PIXEL, *(f"{loss}, {n}" for n in ("one", "two")
                              for loss in (PERCEPTUAL, ADVERSARIAL))]  # fmt: skip
    assert calls == [*arms[:3], *arms[2:]]  # finished ones are not run again
    records = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    metrics = {record["arm"]: record["metrics"] for record in records}
    assert list(metrics) == arms
    assert metrics[PIXEL]["steps"] == 4
    for in_loss, judge in (("one", "two"), ("two", "one")):
        title = f"{in_loss} in the loss, {judge} judges"
        assert f"{title}: {PERCEPTUAL}, distance by {judge} minus that of {PIXEL}: " in printed
    assert "one pair of runs has no interval" in printed
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 2 * 3
    assert (tmp_path / "samples" / "comparison_two_3.png").exists()
    assert (tmp_path / "loss-1.svg").exists()
    again = make_experiment(store, judges, tmp_path / "again")
    again.set_steps()
    torch.manual_seed(99)  # a run must not depend on what ran before
    name = f"{ADVERSARIAL}, one"
    repeated = again.run(name, 0)
    timed = ("step seconds", "training minutes")
    assert {k: v for k, v in repeated.items() if k not in timed} == {
        k: v for k, v in metrics[name].items() if k not in timed
    }
    assert repeated["generator_loss"] > 0
    assert again.run(f"{PERCEPTUAL}, one", 0)["psnr"] != repeated["psnr"]


def test_a_small_version_has_no_answers(store: str, judges: tuple[str, str]) -> None:
    """Its figures support none."""
    options = PerceptualOptions(store=store, judges=judges, quick=True)
    assert options.answers(["better"]) == options.cautions
    assert str(options.folder) == "runs/perceptual-quick"


# --- numbers of steps -----------------------------------------------------------------------------


def test_all_losses_get_the_same_time(
    store: str, judges: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is timed once; half of the steps of the adversarial loss are without it."""
    seconds = {
        PIXEL: 0.1, f"{PERCEPTUAL}, one": 0.2, f"{ADVERSARIAL}, one": 0.4,
        f"{PERCEPTUAL}, two": 1.0, f"{ADVERSARIAL}, two": 2.0,
    }  # fmt: skip
    monkeypatch.setattr(LossExperiment, "_measure_step_seconds", lambda self: seconds)
    first = make_experiment(store, judges, tmp_path, steps=None, minutes=0.5)
    first.set_steps()
    assert list(first.steps.values()) == [300, 150, 100, 30, 20]

    def measured(self: LossExperiment) -> None:
        raise AssertionError("a step was timed again")

    monkeypatch.setattr(LossExperiment, "_measure_step_seconds", measured)
    continued = make_experiment(store, judges, tmp_path, steps=None, minutes=0.5)
    continued.set_steps()
    assert continued.steps == first.steps
    short = make_experiment(store, judges, tmp_path, steps=None, minutes=0.03)
    with pytest.raises(ValueError, match=r"--minutes is 0\.03: a step of .*two takes 1\.50 s"):
        short.set_steps()
    equal = make_experiment(store, judges, tmp_path, steps=7)
    equal.set_steps()
    assert set(equal.steps.values()) == {7}


@pytest.mark.slow
def test_every_loss_is_timed(
    store: str, judges: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adversarial loss is timed with its critic, and all take turns."""
    monkeypatch.setattr(experiment, "ROUNDS", 1)
    monkeypatch.setattr(experiment, "TIMED_STEPS", 1)
    monkeypatch.setattr(experiment, "UNTIMED_STEPS", 1)
    small = make_experiment(store, judges, tmp_path)
    stages = []
    make_stage = LossExperiment._stage

    def recorded(self: LossExperiment, options: Any) -> Any:
        stages.append(make_stage(self, options))
        return stages[-1]

    monkeypatch.setattr(LossExperiment, "_stage", recorded)
    seconds = small._measure_step_seconds()
    assert [*seconds] == [arm.name for arm in small.trained_arms]
    assert min(seconds.values()) > 0
    assert [stage.step for stage in stages] == [2] * 5
    starts = [stage.options.critic_starts for stage in stages if stage.options.adversarial_weight]
    assert starts == [0, 0]


# --- losses and judges ----------------------------------------------------------------------------


def test_each_network_is_once_in_the_loss(
    store: str, judges: tuple[str, str], tmp_path: Path
) -> None:
    """The loss of pixels has no network, and equal seeds begin with equal weights and batches."""
    small = make_experiment(store, judges, tmp_path)
    options = {arm.name: small._stage_options(arm, seed=0, steps=8) for arm in small.trained_arms}
    assert options[PIXEL].perceptual is None
    assert options[PIXEL].pixel_weight == 1
    for name, folder in zip(("one", "two"), judges, strict=True):
        perceptual, adversarial = (options[f"{loss}, {name}"] for loss in (PERCEPTUAL, ADVERSARIAL))
        assert perceptual.perceptual == folder
        assert perceptual.pixel_weight == 0.01
        assert replace(adversarial, adversarial_weight=0.0) == perceptual
        assert adversarial.critic_starts == 4
    stages = []
    for arm in small.trained_arms[::2]:
        torch.manual_seed(3)
        stages.append(small._stage(replace(options[arm.name], seed=3)))
    batches = [stage.batches.take_sizes() for stage in stages]
    assert all(torch.equal(batch.rows, batches[0].rows) for batch in batches)
    weights = [torch.cat([p.flatten() for p in s.network.parameters()]) for s in stages]
    assert all(torch.equal(each, weights[0]) for each in weights)


def test_a_perceptual_loss_is_as_strong_as_one_of_pixels(
    store: str, judges: tuple[str, str], tmp_path: Path
) -> None:
    """Its gradient has the same norm, whatever the size of the features."""
    small = make_experiment(store, judges, tmp_path, perceptual_weight=3.0)
    batch = KeyedBatches(small.pairs, 4, 0, World()).take_sizes()
    norms = []
    for arm in small.trained_arms[:2]:
        options = replace(small._stage_options(arm, seed=0, steps=2), pixel_weight=1 / 3)
        low, high = pair_maker(options)(batch.images, batch.rows, 0)
        images = bicubic.enlarge(low, 2).requires_grad_()
        losses = ImageLoss(options, CPU, torch.float32)(images, high)
        (gradient,) = torch.autograd.grad([*losses.values()][-1], images)
        norms.append(float(gradient.norm()))
    assert norms[1] == pytest.approx(9 * norms[0], rel=1e-4)  # 3 times 3 thirds
    flat = replace(small.pairs, train=tuple(torch.zeros_like(each) for each in small.pairs.train))
    with pytest.raises(StoreError, match=r"equal their bicubic enlargements in pixels or in the"):
        LossExperiment(small.options, flat, small.results, CPU)


def test_metrics_are_those_of_the_evaluation(
    store: str, judges: tuple[str, str], tmp_path: Path
) -> None:
    """They equal what `tesserae report` computes for each image."""
    small = make_experiment(store, judges, tmp_path)
    low, high = small.pairs.held_out
    enlarged = bicubic.enlarge(low, 2)
    metrics = small.run(BICUBIC, 0)
    assert small.run(BICUBIC, 1) == metrics
    for network in small.networks:
        rows = np.array([
            measure(enlarged[i : i + 1], high[i : i + 1], 2, CPU, network.judge) for i in range(3)
        ])  # fmt: skip
        means = rows.mean(0)
        actual = [metrics[n] for n in ("psnr", "ssim", f"distance, {network.name}")]
        assert actual == pytest.approx([means[0], means[1], means[4]], rel=1e-5)


def test_blocks_are_the_last_of_each_resolution(judges: tuple[str, str]) -> None:
    """Others can be named; a missing one, and one network in two folders, are refused."""
    one, two = open_judges(judges, ((), BLOCKS), CPU)
    assert one.blocks == ("encoder.stages.0.layers.0", "encoder.stages.1.layers.0")
    assert two.blocks == BLOCKS
    with pytest.raises(TesseraeError, match=r"\(two\) has no block 'encoder\.9'"):
        open_judges(judges, ((), ("encoder.9",)), CPU)


def test_a_network_of_patches_is_no_judge(judges: tuple[str, str], tmp_path: Path) -> None:
    """It has no maps of features, and takes images of one size."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    folder = save_network(tmp_path / "vit", ViTModel(config))
    with pytest.raises(TesseraeError, match=r"\(vit\) has no list of blocks with maps of features"):
        open_judges((judges[0], folder), ((), ()), CPU)
    with pytest.raises(TesseraeError, match=r"\(vit\) fails on images of 128x128 pixels"):
        open_judges((judges[0], folder), ((), ("embeddings",)), CPU)


def test_a_network_does_not_judge_itself(judges: tuple[str, str], tmp_path: Path) -> None:
    """Its weights decide, not its folder."""
    copy = save_resnet(tmp_path / "copy", 1)
    with pytest.raises(TesseraeError, match=r"one and .*copy are the same network"):
        open_judges((judges[0], copy), ((), ()), CPU)
    with pytest.raises(TesseraeError, match=r"both of --judges are named 'one'"):
        open_judges((judges[0], save_resnet(tmp_path / "one", 3)), ((), ()), CPU)
    with pytest.raises(ValueError, match=r"--judges is 'a' twice"):
        PerceptualOptions(store="s", judges=("a", "a"))
    with pytest.raises(ValueError, match=r"--judges has 1 values: expected two"):
        PerceptualOptions(store="s", judges=("a",))


# --- images ---------------------------------------------------------------------------------------


def test_a_part_of_a_single_split_is_held_out(
    store: str, judges: tuple[str, str], tmp_path: Path
) -> None:
    """It is never trained on. With a split for it, that one is judged."""
    options = PerceptualOptions(store=store, judges=judges, patch_size=12)
    whole = open_pairs(options)
    assert (len(whole.train[0]), len(whole.held_out.low)) == (20, 18)
    alone = small_store(tmp_path, 20, sizes=(12, 24))
    for file in alone.glob("splits/val*"):
        file.unlink()
    single = open_pairs(replace(options, store=str(alone)))
    assert (len(single.train[1]), len(single.held_out.high)) == (18, 2)
    training = {image.numpy().tobytes() for image in single.train[1]}
    judged = {image.byte().numpy().tobytes() for image in single.held_out.high}
    assert not training & judged
    batches = KeyedBatches(single, 4, 0, World())
    first, second = batches.take_sizes(), batches.take_sizes()
    assert (first.epoch, second.epoch) == (0, 1)
    assert not torch.equal(first.rows, second.rows)
    assert torch.equal(first.images[1], single.train[1][first.rows])


def test_a_store_of_one_size_trains_on_reduced_images(
    judges: tuple[str, str], tmp_path: Path
) -> None:
    """What a store cannot serve is refused with its sizes and what to do."""
    store = str(small_store(tmp_path, 8, sizes=(24,), encoded=("jpeg:24@90",)))
    options = PerceptualOptions(store=store, judges=judges, patch_size=6, batch_size=4)
    pairs = open_pairs(options)
    assert (pairs.arrays.scale, pairs.arrays.degradation) == (4, REDUCED)
    torch.testing.assert_close(pairs.held_out.low, bicubic.reduce(pairs.held_out.high, 4))
    with pytest.raises(
        StoreError, match=r"images of 24 px.*: --degradation stored needs two sizes"
    ):
        open_pairs(replace(options, degradation=STORED))
    with pytest.raises(StoreError, match=r"the study reads stored squares of at least 48 px"):
        open_pairs(replace(options, patch_size=12))
    with pytest.raises(StoreError, match=r"8 training and 18 held-out images: expected at least a"):
        open_pairs(replace(options, batch_size=16))
    with pytest.raises(
        StoreError, match=r"--patch-size is 5: its original has 20 px, and the crit"
    ):
        make_experiment(store, judges, tmp_path / "small", patch_size=5)
    with pytest.raises(ValueError, match="--held-out is train, the split that is trained on"):
        PerceptualOptions(store=store, judges=judges, held_out="train")


def test_images_of_a_folder_are_judged_too(
    store: str, judges: tuple[str, str], tmp_path: Path
) -> None:
    """Their metrics have names of their own, and an unreadable image is refused by name."""
    folder = tmp_path / "Set2"
    folder.mkdir()
    pixels = torch.randint(256, (2, 40, 32, 3), generator=torch.Generator().manual_seed(0))
    for number, image in enumerate(pixels):
        Image.fromarray(image.byte().numpy()).save(folder / f"{number}.png")
    small = make_experiment(store, judges, tmp_path / "out", images=folder)
    metrics = small.run(BICUBIC, 0)
    high = pixels.permute(0, 3, 1, 2).float()
    low = bicubic.reduce(high, 2)
    values = [
        measure(bicubic.enlarge(low[i : i + 1], 2), high[i : i + 1], 2, CPU)[0] for i in range(2)
    ]
    assert metrics[metric_of_folder("psnr")] == pytest.approx(sum(values) / 2)
    assert small.settings()["images of the folder"] == 2
    (folder / "2.png").write_bytes(b"no image")
    with pytest.raises(TesseraeError, match=r"2\.png is not a readable image"):
        make_experiment(store, judges, tmp_path / "out", images=folder)


# --- reports --------------------------------------------------------------------------------------


def test_answers_are_of_the_network_that_is_not_in_the_loss(judges: tuple[str, str]) -> None:
    """Whatever their sign, in pairs of the same seed."""
    one, two = open_judges(judges, ((), ()), CPU)
    values = {
        PIXEL: (30.0, 0.5), f"{PERCEPTUAL}, one": (28.0, 0.2), f"{ADVERSARIAL}, one": (27.0, 0.7),
        f"{PERCEPTUAL}, two": (10.0, 9.0),
    }  # fmt: skip
    runs = [
        StudyRun(
            arm=arm, seed=seed, seconds=1,
            metrics={"psnr": psnr + seed + 0.01 * seed * (arm != PIXEL),
                     "distance, two": distance + seed + 0.01 * seed * (arm != PIXEL),
                     "distance, one": 0.0},
        )
        for seed in range(3) for arm, (psnr, distance) in values.items()
    ]  # fmt: skip
    answers = list(answers_of(runs_with(one, runs), two))
    assert len(answers) == 6
    assert answers[0].startswith(f"{PERCEPTUAL}, distance by two minus that of {PIXEL}: -0.29")
    assert answers[0].endswith(": better")
    assert answers[1].endswith(": worse")
    assert answers[2].startswith(f"{ADVERSARIAL}, distance by two minus that of {PERCEPTUAL}: +0.5")
    assert answers[3].startswith(f"{PERCEPTUAL}, PSNR, dB minus that of {PIXEL}: -1.99")
    assert answers[3].endswith(": worse")


def test_crops_are_of_the_most_detailed_square_and_side_by_side(tmp_path: Path) -> None:
    """Pixel for pixel, in the order of the arms."""
    original = torch.full((3, 150, 200), 100.0)
    steps = torch.arange(80)
    original[:, 40:120, 90:170] = 100 + 100.0 * ((steps[:, None] + steps) % 2)
    assert detailed_square(original) == (40, 90, 80)
    assert detailed_square(original[:, :50, :60])[2] == 50
    results = ResultsFolder(tmp_path)
    high = torch.stack([original, original.flip(2)])
    low = torch.zeros(2, 3, 75, 100)
    write_crops(results, BICUBIC, torch.full_like(high, 7), Pair(low, high))
    write_crops(results, "pixel", torch.full_like(high, 9), Pair(low, high))
    files = comparisons(results, ["low resolution", BICUBIC, "pixel", ORIGINAL])
    assert len(files) == 2
    row = np.asarray(Image.open(io.BytesIO(files[1])))
    assert row.shape == (80, 4 * 80 + 3 * 2, 3)
    assert [int(row[5, 82 * i + 3, 0]) for i in range(3)] == [0, 7, 9]
    assert np.array_equal(row[:, 3 * 82 :, 0], high[1, 0, 40:120, 30:110].numpy())
    assert comparisons(results, ["absent", ORIGINAL]) == []
